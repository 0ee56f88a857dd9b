// tests/fuzz/fuzz_trace.c - any bytes as a trace: read, checked, summarised; refused or understood, never a crash.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "traces/summary.h"
#include "traces/trace_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FILE *stream = fmemopen((void *)(uintptr_t)data, size ? size : 1, "rb");    // it does not open 0 bytes
    struct trace_summary *summary;
    if (!stream || trace_summary_open(&summary) != 0) {
        abort();
    }
    struct sample_sink sink = trace_summary_sink(summary);
    struct trace_stats stats;
    trace_read_stream(stream, (int64_t)size, "fuzz", &sink, &stats);
    if (stats.bytes > (int64_t)size || trace_summary_update(summary) != 0) {
        abort();
    }
    trace_summary_close(summary);
    rewind(stream);
    trace_check_stream(stream, (int64_t)size, "fuzz", NULL, NULL);
    fclose(stream);
    return 0;
}
