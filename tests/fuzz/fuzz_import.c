// tests/fuzz/fuzz_import.c - any bytes as a recording of another engine, or as rules: refused or understood, never a
// crash.
//
// A text that begins with "rules" is taken for rules and a recording that they are tried on; all else for a recording.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "traces/import.h"
#include "traces/summary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void import(const struct import_rules *rules, const void *bytes, size_t size)
{
    struct trace_summary *summary;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) != 0 ||
        trace_summary_open(&summary) != 0) {
        abort();
    }
    struct sample_sink sink = trace_summary_sink(summary);
    struct import_report report;
    import_read_fd(&report, fd, "fuzz", &(struct import_options){.rules = rules}, &sink);
    if (trace_summary_update(summary) != 0 || trace_summary_orphans(summary) != 0) {
        abort();
    }
    trace_summary_close(summary);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct import_rules *shipped;
    static const char recording[] =
        "[{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"nvjet_a\",\"ts\":1,\"dur\":2},"
        "{\"ph\":\"X\",\"cat\":\"user_annotation\","
        "\"name\":\"execute_context_0(0)_generation_2(2)\",\"ts\":0,\"dur\":9}]";
    if (!shipped && import_rules_load(&shipped, NULL) != 0) {
        abort();
    }
    if (size > 5 && memcmp(data, "rules", 5) == 0) {
        struct import_rules *rules;
        if (import_rules_parse(&rules, (const char *)data + 5, size - 5, "fuzz") == 0) {
            import(rules, recording, sizeof recording - 1);
            import_rules_free(rules);
        }
        return 0;
    }
    import(shipped, data, size);
    return 0;
}
