// tests/test_arrows.c - who may include whom. Reads every source of every room and checks its #include lines.
#include <dirent.h>

#include "tests/check.h"

// The pure part of the engine: no tensors, no clock; every room may use it.
static const char *const pure[] = {"plan", "plan_check", "stage", "cost", "sample", "observer", "scheduler", "kv_pages",
                                   "page_index", "prefix", "dtype", "status", "status_list", "sort", "input_file",
                                   "output_file", "model_config", NULL};

static const struct {
    const char *room;
    const char *may[8];    // "engine": any header of it; "engine-pure": the list above
} arrows[] = {
    {"engine", {"engine"}},
    {"workloads", {"workloads", "engine-pure"}},
    {"sim", {"sim", "engine-pure", "workloads"}},
    {"traces", {"traces", "engine-pure"}},
    {"cupti", {"cupti", "engine-pure"}},
    {"tui", {"tui", "engine", "sim", "traces", "workloads"}},
    {"cli", {"cli", "engine", "sim", "traces", "cupti", "tui", "workloads"}},
};

static int32_t files_read;

static bool is_pure(const char *file)
{
    for (int i = 0; pure[i]; i++) {
        size_t length = strlen(pure[i]);
        if (strncmp(file, pure[i], length) == 0 && file[length] == '.') {
            return true;
        }
    }
    return false;
}

static bool allowed(size_t room, const char *from_file, const char *included_room, const char *included_file)
{
    bool from_pure = strcmp(arrows[room].room, "engine") == 0 && is_pure(from_file);
    if (from_pure) {
        return strcmp(included_room, "engine") == 0 && is_pure(included_file);
    }
    for (int i = 0; i < 8 && arrows[room].may[i]; i++) {
        const char *may = arrows[room].may[i];
        if (strcmp(may, included_room) == 0 ||
            (strcmp(may, "engine-pure") == 0 && strcmp(included_room, "engine") == 0 && is_pure(included_file))) {
            return true;
        }
    }
    return false;
}

static void check_line(size_t room, const char *path, const char *file, const char *line)
{
    char included[256];
    if (sscanf(line, " # include <%255[^>]>", included) == 1) {
        CHECK_MESSAGE(!strstr(included, "curses") || strcmp(path, "tui/draw.c") == 0,
                      "%s includes <%s>; only tui/draw.c may", path, included);
        return;
    }
    if (sscanf(line, " # include \"%255[^\"]\"", included) != 1) {
        return;
    }
    char *slash = strchr(included, '/');
    if (!slash) {
        return;    // a generated header of the same room (trace.pb-c.h)
    }
    *slash = 0;
    CHECK_MESSAGE(allowed(room, file, included, slash + 1), "%s may not include %s/%s", path, included, slash + 1);
}

static void check_folder(size_t room, const char *folder)
{
    DIR *directory = opendir(folder);
    CHECK_MESSAGE(directory != NULL, "%s: cannot read", folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[512], line[1024];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        const char *dot = strrchr(entry->d_name, '.');
        if (entry->d_name[0] != '.' && entry->d_type == DT_DIR) {
            check_folder(room, path);
        } else if (dot && (strcmp(dot, ".c") == 0 || strcmp(dot, ".h") == 0 || strncmp(dot, ".cu", 3) == 0)) {
            FILE *stream = fopen(path, "r");
            CHECK_MESSAGE(stream != NULL, "%s: cannot read", path);
            while (stream && fgets(line, sizeof line, stream)) {
                check_line(room, path, entry->d_name, line);
            }
            if (stream) {
                fclose(stream);
                files_read++;
            }
        }
    }
    if (directory) {
        closedir(directory);
    }
}

int main(void)
{
    check_begin();
    CHECK(allowed(0, "plan.c", "engine", "stage.h") && !allowed(0, "plan.c", "engine", "backend.h"));
    CHECK(!allowed(2, "predict.c", "engine", "engine.h") && allowed(2, "predict.c", "engine", "cost.h"));
    for (size_t room = 0; room < sizeof arrows / sizeof arrows[0]; room++) {
        check_folder(room, arrows[room].room);
    }
    CHECK_MESSAGE(files_read > 30, "only %d files found: run from the top of the checkout", files_read);
    return check_end();
}
