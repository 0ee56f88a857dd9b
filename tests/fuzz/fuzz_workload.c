// tests/fuzz/fuzz_workload.c - any bytes as a workload: a list within its promises or an error, never a crash or a
// leak; and a description fitted to the list is a good one.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "workloads/workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_list(const struct workload *workload)
{
    struct workload_statistics statistics;
    for (int64_t i = 0; i < workload->n; i++) {
        const struct workload_request *request = &workload->requests[i];
        if (request->prompt_tokens < 1 || request->output_tokens < 1 || request->arrival_ns < 0 ||
            request->think_tokens > request->output_tokens || request->prefix_tokens > request->prompt_tokens ||
            request->reused_tokens > request->prompt_tokens || request->class_index >= workload->n_classes ||
            request->first_block < 0 || request->n_blocks < 0 ||
            (int64_t)request->first_block + request->n_blocks > workload->n_blocks ||
            (i > 0 && request->arrival_ns < workload->requests[i - 1].arrival_ns)) {
            abort();
        }
        if (workload_key(workload, i, request->prompt_tokens) != workload_key(workload, i, request->prompt_tokens)) {
            abort();
        }
    }
    if (workload->n < 1 || workload_measure(&statistics, workload) != 0 || statistics.n != workload->n) {
        abort();
    }
}

static void check_fit(const struct workload *workload)
{
    struct workload again;
    char *text;
    if (workload_fit(&text, workload) == 0) {    // a name that is no UTF-8 is refused
        if (workload_parse(&again, text, strlen(text), "fit", NULL) != 0 || again.n != workload->n) {
            abort();
        }
        workload_close(&again);
        free(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct workload_options options = {.max_requests = 64};
    struct workload workload;
    char *text = malloc(size + 1);
    if (!text) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = 0;
    if (workload_parse(&workload, text, size, "fuzz", &options) == 0) {
        check_list(&workload);
        check_fit(&workload);
    }
    workload_close(&workload);
    free(text);
    return 0;
}
