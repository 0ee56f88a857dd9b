// tests/test_corpus_trace.c - every file that the fuzzer found worth keeping is read, checked and summarised again.
#include <dirent.h>
#include <errno.h>

#include "engine/status.h"
#include "tests/check.h"
#include "traces/summary.h"
#include "traces/trace.h"

int main(void)
{
    check_begin();
    static const char folder[] = "tests/fuzz/corpus/trace";
    DIR *directory = opendir(folder);
    CHECK_MESSAGE(directory != NULL, "%s: cannot read", folder);
    int files = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        struct trace_summary *summary;
        CHECK(trace_summary_open(&summary) == 0);
        struct sample_sink sink = trace_summary_sink(summary);
        struct trace_stats stats;
        int error = trace_read(path, &sink, &stats);
        CHECK_MESSAGE(error == 0 || (error == -EINVAL && strstr(status_text(), path)), "%s: %d %s", path, error,
                      status_text());
        CHECK(trace_summary_update(summary) == 0);
        trace_summary_close(summary);
        int found = trace_check(path, NULL, NULL);
        CHECK_MESSAGE(found >= 0 || found == -EINVAL, "%s: check says %d", path, found);
        files++;
    }
    if (directory) {
        closedir(directory);
    }
    CHECK_MESSAGE(files >= 10, "%d files in %s", files, folder);
    return check_end();
}
