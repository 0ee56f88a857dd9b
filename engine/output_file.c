// engine/output_file.c - write beside, sync, rename.
#include "engine/output_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/status.h"

static void forget(struct output_file *file)
{
    free(file->path);
    free(file->part);
    *file = (struct output_file){0};
}

static void remove_part(const struct output_file *file)
{
    if (file->part) {
        unlink(file->part);
    }
}

int output_file_open(struct output_file *file, const char *path)
{
    *file = (struct output_file){0};
    struct stat info;
    bool there = stat(path, &info) == 0;
    if (!*path) {
        return status_fail(-EINVAL, "an empty name; name a file to write");
    }
    if (there && S_ISDIR(info.st_mode)) {
        return status_fail(-EISDIR, "%s: is a directory; name a file to write", path);
    }
    bool in_place = there && !S_ISREG(info.st_mode);
    file->path = strdup(path);
    if (!file->path || (!in_place && asprintf(&file->part, "%s.part-%ld", path, (long)getpid()) < 0)) {
        file->part = NULL;
        forget(file);
        return status_fail(-ENOMEM, "%s: out of memory", path);
    }
    file->stream = fopen(in_place ? path : file->part, "wbe");
    if (!file->stream) {
        int error = errno;
        forget(file);
        return status_fail(-error, "%s: cannot write: %s", path, strerror(error));
    }
    return 0;
}

int output_file_check(const char *path)
{
    struct stat info;
    struct output_file file;
    bool there = stat(path, &info) == 0;
    if (there && !S_ISDIR(info.st_mode) && access(path, W_OK) != 0) {
        return status_fail(-errno, "%s: cannot write: %s", path, strerror(errno));
    }
    if (there && !S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) {
        return 0;    // written in place; to open a pipe would wait for its reader
    }
    int error = output_file_open(&file, path);
    if (!error) {
        output_file_abandon(&file);
    }
    return error;
}

int output_file_commit(struct output_file *file)
{
    // Order matters: data must be on the disk before the name points to it.
    int error = 0;
    if (ferror(file->stream)) {
        error = EIO;
    }
    if (fflush(file->stream) != 0 || (file->part && fsync(fileno(file->stream)) != 0)) {
        error = errno;
    }
    if (fclose(file->stream) != 0 && !error) {
        error = errno;
    }
    file->stream = NULL;
    if (!error && file->part && rename(file->part, file->path) != 0) {
        error = errno;
    }
    int result = 0;
    if (error) {
        result = status_fail(-error, "%s: cannot write: %s%s", file->path, strerror(error),
                             file->part ? "; nothing was left behind" : "");
        remove_part(file);
    }
    forget(file);
    return result;
}

void output_file_abandon(struct output_file *file)
{
    if (file->stream) {
        fclose(file->stream);
        remove_part(file);
    }
    forget(file);
}
