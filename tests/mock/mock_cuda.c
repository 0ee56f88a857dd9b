// tests/mock/mock_cuda.c - a plug-in of another version than the program's; (MOCK_DRIVER) a driver that is too old;
// (MOCK_SMALL) a plug-in that is the reference backend with a little memory of its own.
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

#include "engine/backend.h"

const struct backend *clsa_cuda_backend(void);

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
