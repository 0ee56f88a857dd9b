// cli/shipped.c - where the trained models are.
#include "cli/shipped.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool shipped_is_pair(const char *name)
{
    return strcmp(name, "demo") == 0;
}

// The folder of the running program, or "." where the system does not tell.
static void program_folder(char *folder, size_t bytes)
{
    ssize_t length = readlink("/proc/self/exe", folder, bytes - 1);
    if (length > 0) {
        folder[length] = 0;
        char *slash = strrchr(folder, '/');
        if (slash) {
            *slash = 0;
            return;
        }
    }
    strcpy(folder, ".");
}

static bool find_in(char path[PATH_MAX], const char *parent, const char *name, const char *half)
{
    struct stat info;
    int length = snprintf(path, PATH_MAX, "%s/workloads/models/%s%s", parent, name, half);
    return length < PATH_MAX && stat(path, &info) == 0;
}

bool shipped_folder(char path[PATH_MAX], const char *name, enum backbone backbone)
{
    char program[PATH_MAX];
    const char *half = !shipped_is_pair(name) ? "" : backbone == BACKBONE_YOCO ? "-yoco" : "-transformer";
    program_folder(program, sizeof program - sizeof "/..");
    strcat(program, "/..");
    // A name that climbs out of the folder is not one of ours.
    bool plain = *name && name[0] != '.' && !strchr(name, '/');
    bool found = find_in(path, program, name, half) && plain;
    return found || (find_in(path, ".", name, half) && plain);
}
