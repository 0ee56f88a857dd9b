// cli/gpu_rates.c - the backend's own measurement, as figures with a source.
#include "cli/gpu_rates.h"

#include <errno.h>
#include <stdio.h>

#include "engine/backend.h"
#include "engine/status.h"

static struct device_figure measured(double value, const char *how)
{
    struct device_figure figure = {.value = value, .provenance = PROVENANCE_MEASURED};
    snprintf(figure.source, sizeof figure.source, "%s", how);
    return figure;
}

int gpu_rates(struct device *out, int32_t number)
{
    const struct backend *backend;
    struct backend_rates rates;
    int error = backend_find(&backend, "cuda");
    error = error ? error : backend->rates(&rates, number);
    if (error) {
        return error;
    }
    *out = (struct device){
        .bytes_per_s = measured(rates.read_bytes_per_s, "one kernel reads 2 GiB once; best of ten"),
        .memory_bytes = measured((double)rates.memory_bytes, "cudaMemGetInfo"),
        .launch_s = measured(rates.launch_s, "one kernel of a graph of 256 that do nothing; best of ten"),
    };
    out->flops_per_s[DTYPE_BF16] =
        measured(rates.bf16_flops_per_s, "a product of 8192 x 8192 matrices through cuBLASLt; "
                                         "best of ten");
    snprintf(out->name, sizeof out->name, "%.63s", rates.name);
    return 0;
}
