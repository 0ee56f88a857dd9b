// tests/model_folder.c - see model_folder.h.
#include "tests/model_folder.h"

#include <dirent.h>
#include <unistd.h>

#include "engine/input_file.h"
#include "engine/status.h"
#include "tests/check.h"

char place[] = "/tmp/clsa-model-XXXXXX";

const char *path_of(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", place, name);
    return path;
}

int write_random(const char *folder, const struct model_shape *shape, enum dtype weight_dtype, uint64_t seed,
                 const struct plan *const *plans, int32_t n_plans, int64_t max_shard_bytes)
{
    const struct model_file_random_options options = {
        .shape = shape, .weight_dtype = weight_dtype, .seed = seed, .plans = plans, .n_plans = n_plans,
        .max_shard_bytes = max_shard_bytes,
    };
    return model_file_write(folder, &options);
}

void clear_folder(const char *path)
{
    DIR *directory = opendir(path);
    for (struct dirent *item; directory && (item = readdir(directory));) {
        char inner[512];
        snprintf(inner, sizeof inner, "%s/%s", path, item->d_name);
        if (item->d_name[0] != '.' && unlink(inner) != 0) {
            clear_folder(inner);
        }
    }
    if (directory) {
        closedir(directory);
    }
    rmdir(path);
}

int items_in(const char *path)
{
    DIR *directory = opendir(path);
    int n = 0;
    for (struct dirent *item; directory && (item = readdir(directory));) {
        n += item->d_name[0] != '.';
    }
    if (directory) {
        closedir(directory);
    }
    return n;
}

char *slurp(const char *path, size_t *length)
{
    char *text = NULL;
    CHECK_MESSAGE(input_file_read(&text, length, path, 1 << 30) == 0, "%s", status_text());
    if (!text) {
        exit(check_end());
    }
    return text;
}

void spill(const char *path, const void *data, size_t length)
{
    FILE *stream = fopen(path, "wb");
    CHECK(stream && fwrite(data, 1, length, stream) == length);
    if (stream) {
        fclose(stream);
    }
}

void check_text(const char *words)
{
    char copy[512];
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        CHECK_MESSAGE(strstr(status_text(), word) != NULL, "\"%s\" is not in: %s", word, status_text());
    }
}

struct model_file *open_model(const char *folder)
{
    struct model_file *file;
    CHECK_MESSAGE(model_file_open(&file, folder) == 0, "%s", status_text());
    if (!file) {
        exit(check_end());
    }
    return file;
}
