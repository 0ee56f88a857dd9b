// tests/mock/mock_cuda.c - a plug-in of another version than the program's, and (MOCK_DRIVER) a driver that is too old.
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

#else

#include "engine/backend.h"

const struct backend *clsa_cuda_backend(void);

const struct backend *clsa_cuda_backend(void)
{
    static const struct backend table = {.abi = BACKEND_ABI + 1, .name = "cuda"};
    return &table;
}

#endif
