// tests/test_corpus_import.c - every file that the fuzzer of imports found worth keeping is imported again.
#include <dirent.h>
#include <errno.h>

#include "engine/status.h"
#include "tests/check.h"
#include "traces/import.h"
#include "traces/summary.h"

static const char folder[] = "tests/fuzz/corpus/import";

static void try_rules(const char *path)
{
    static char text[1 << 16];
    struct import_rules *rules;
    FILE *stream = fopen(path, "rb");
    size_t n = stream ? fread(text, 1, sizeof text, stream) : 0;
    CHECK(n > 5);
    int error = import_rules_parse(&rules, text + 5, n - 5, path);
    CHECK_MESSAGE(error == 0 || (error == -EINVAL && strstr(status_text(), path)), "%s: %d %s", path, error,
                  status_text());
    import_rules_free(rules);
    fclose(stream);
}

static void try_recording(const char *path, const struct import_rules *rules)
{
    struct trace_summary *summary;
    struct import_report report;
    CHECK(trace_summary_open(&summary) == 0);
    struct sample_sink sink = trace_summary_sink(summary);
    int error = import_read(&report, path, &(struct import_options){.rules = rules}, &sink);
    CHECK_MESSAGE(error == 0 || (error == -EINVAL && strstr(status_text(), path)), "%s: %d %s", path, error,
                  status_text());
    CHECK(trace_summary_update(summary) == 0 && trace_summary_orphans(summary) == 0);
    trace_summary_close(summary);
}

int main(void)
{
    check_begin();
    struct import_rules *rules;
    CHECK(import_rules_load(&rules, NULL) == 0);
    DIR *directory = opendir(folder);
    CHECK_MESSAGE(directory != NULL, "%s: cannot read", folder);
    int files = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.') {
            continue;
        }
        if (strncmp(entry->d_name, "rules", 5) == 0) {
            try_rules(path);
        } else {
            try_recording(path, rules);
        }
        files++;
    }
    if (directory) {
        closedir(directory);
    }
    CHECK_MESSAGE(files >= 10, "%d files in %s", files, folder);
    import_rules_free(rules);
    return check_end();
}
