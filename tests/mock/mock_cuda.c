// tests/mock/mock_cuda.c - a plug-in of another version than the program's; (MOCK_DRIVER) a driver that is too old;
// (MOCK_SMALL) a plug-in that is the reference backend with a little memory of its own, and that no process opens in
// which rates were measured; it has none to tell of GPU 7, where its process ends.
#ifdef MOCK_DRIVER

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);

int cuInit(unsigned flags)
{
    (void)flags;
    return 0;
}

int cuDriverGetVersion(int *version)
{
    *version = 12040;
    return 0;
}

#elif defined MOCK_SMALL

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/backend.h"
#include "engine/status.h"

const struct backend *clsa_cuda_backend(void);

static bool measured;

static int rates(struct backend_rates *out, int32_t device)
{
    if (device == 7) {
        _exit(3);
    }
    measured = true;
    *out = (struct backend_rates){.read_bytes_per_s = 3e9, .bf16_flops_per_s = 7e9, .launch_s = 1e-6};
    snprintf(out->name, sizeof out->name, "mock GPU");
    return device == 0 ? 0 : status_fail(-EINVAL, "no GPU %d", device);
}

static int open_context(struct backend_context **out, const struct backend_options *options)
{
    return measured ? status_fail(-EIO, "rates were measured in this process") : backend_reference.open(out, options);
}

static int memory(struct backend_context *context, int64_t *free_bytes, int64_t *total_bytes)
{
    (void)context;
    *free_bytes = (int64_t)3 << 28;    // 0.75 of 1 GiB
    *total_bytes = (int64_t)1 << 30;
    return 0;
}

const struct backend *clsa_cuda_backend(void)
{
    static struct backend table;
    table = backend_reference;    // the program's
    table.name = "cuda";
    table.memory = memory;
    table.rates = rates;
    table.open = open_context;
    return &table;
}

#else

#include "engine/backend.h"

const struct backend *clsa_cuda_backend(void);

const struct backend *clsa_cuda_backend(void)
{
    static const struct backend table = {.abi = BACKEND_ABI + 1, .name = "cuda"};
    return &table;
}

#endif
