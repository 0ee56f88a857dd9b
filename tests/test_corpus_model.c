// tests/test_corpus_model.c - the corpora of config.json and safetensors, and mutations of them, under any build.
//
// Whatever the bytes, a parser accepts or refuses with a text; sanitizers see what else could go wrong. Each input is a
// heap block of exactly its size, so that a read past its end is caught.
#include <dirent.h>
#include <errno.h>

#include "engine/input_file.h"
#include "engine/model_config.h"
#include "engine/safetensors.h"
#include "engine/status.h"
#include "tests/check.h"

enum { MUTATIONS = 300 };    // of each file

static int64_t accepted, refused;

static void parse_config(const char *data, size_t length)
{
    struct model_config config;
    int error = model_config_parse(&config, data, length, "corpus");
    CHECK_MESSAGE(error == 0 || (error == -EINVAL && strstr(status_text(), "corpus: ")), "returned %d: %s", error,
                  status_text());
    CHECK(error != 0 || plan_check(&config.native) == 0);
    accepted += error == 0;
    refused += error != 0;
}

static void parse_safetensors(const char *data, size_t length)
{
    struct safetensors table;
    int error = safetensors_parse(&table, data, (int64_t)length, "corpus");
    CHECK_MESSAGE(error == 0 || (error == -EINVAL && strstr(status_text(), "corpus: ")), "returned %d: %s", error,
                  status_text());
    int64_t end = table.data_offset;
    for (int32_t i = 0; i < table.n_tensors; i++) {
        end += table.tensors[i].bytes;
    }
    CHECK(error != 0 || end == (int64_t)length);
    accepted += error == 0;
    refused += error != 0;
    safetensors_free(&table);
}

// One to four changes: a byte replaced, a run removed or repeated, the end cut off.
static char *mutate(const char *data, size_t *length)
{
    size_t n = *length;
    char *copy = malloc(2 * n + 64);
    memcpy(copy, data, n);
    for (int32_t changes = check_range(1, 4); changes > 0 && n > 0; changes--) {
        size_t at = check_random() % n, run = 1 + check_random() % 16;
        run = run > n - at ? n - at : run;
        switch (check_range(0, 4)) {
        case 0: copy[at] = (char)check_random(); break;
        case 1: copy[at] = "0123456789-{}[]\",:e."[check_random() % 20]; break;
        case 2:
            memmove(copy + at, copy + at + run, n - at - run);
            n -= run;
            break;
        case 3:
            memmove(copy + at + run, copy + at, n - at);    // at most 16 more bytes, four times
            n += run;
            break;
        default: n = at; break;
        }
    }
    char *exact = malloc(n ? n : 1);
    memcpy(exact, copy, n);
    free(copy);
    *length = n;
    return exact;
}

static void replay(const char *folder, void (*parse)(const char *data, size_t length))
{
    DIR *directory = opendir(folder);
    int32_t n_files = 0;
    for (struct dirent *item; directory && (item = readdir(directory));) {
        char path[512], *text;
        size_t length;
        snprintf(path, sizeof path, "%s/%s", folder, item->d_name);
        if (item->d_name[0] == '.' || input_file_read(&text, &length, path, 1 << 20) != 0) {
            continue;
        }
        n_files++;
        char *exact = malloc(length ? length : 1);
        memcpy(exact, text, length);
        parse(exact, length);
        free(exact);
        for (int i = 0; i < MUTATIONS; i++) {
            size_t mutated_length = length;
            char *mutated = mutate(text, &mutated_length);
            parse(mutated, mutated_length);
            free(mutated);
        }
        free(text);
    }
    if (directory) {
        closedir(directory);
    }
    CHECK_MESSAGE(n_files >= 8, "%s: only %d files", folder, n_files);
    CHECK_MESSAGE(accepted > 0 && refused > 0, "%s: %lld accepted, %lld refused", folder, (long long)accepted,
                  (long long)refused);
    accepted = refused = 0;
}

int main(void)
{
    check_begin();
    replay("tests/fuzz/corpus/config", parse_config);
    replay("tests/fuzz/corpus/safetensors", parse_safetensors);
    return check_end();
}
