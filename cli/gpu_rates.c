// cli/gpu_rates.c - the backend's own measurement, as figures with a source.
//
// It is made in a process of its own, which leaves nothing behind: CUPTI records no kernel of a context that was made
// while it did not look (CUDA 13.0), so kernels could not be collected in a process that had measured before.
#include "cli/gpu_rates.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/backend.h"
#include "engine/status.h"

// What the process tells: less than a pipe hands over in one piece.
struct told {
    int error;
    char text[512];    // of the error
    struct backend_rates rates;
};

static struct device_figure measured(double value, const char *how)
{
    struct device_figure figure = {.value = value, .provenance = PROVENANCE_MEASURED};
    snprintf(figure.source, sizeof figure.source, "%s", how);
    return figure;
}

_Noreturn static void measure(int pipe, int32_t number)
{
    static struct told told;
    const struct backend *backend;
    told.error = backend_find(&backend, "cuda");
    told.error = told.error ? told.error : backend->rates(&told.rates, number);
    if (told.error) {
        snprintf(told.text, sizeof told.text, "%s", status_text());
    }
    _exit(write(pipe, &told, sizeof told) == (ssize_t)sizeof told ? 0 : 1);
}

static int ask(struct backend_rates *out, int32_t number)
{
    struct told told = {.error = 0};
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return status_fail(-errno, "a pipe to measure the GPU's rates: %s", strerror(errno));
    }
    pid_t child = fork();
    if (child == 0) {
        measure(ends[1], number);
    }
    int failed = child < 0 ? errno : 0;
    close(ends[1]);
    ssize_t n = 0;
    do {
        n = failed ? 0 : read(ends[0], &told, sizeof told);
    } while (n < 0 && errno == EINTR);
    close(ends[0]);
    while (!failed && waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
    if (failed) {
        return status_fail(-failed, "a process to measure the GPU's rates: %s", strerror(failed));
    }
    if (n != (ssize_t)sizeof told) {
        return status_fail(-EIO, "the process that measures the GPU's rates ended before it told them");
    }
    *out = told.rates;
    return told.error ? status_fail(told.error, "%s", told.text) : 0;
}

int gpu_rates(struct device *out, int32_t number)
{
    struct backend_rates rates;
    int error = ask(&rates, number);
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
