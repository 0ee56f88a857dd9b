// tests/cuda/test_small.c - the elementwise kernels.
#include "tests/cuda/gpu.h"

int test_small(void)
{
    check_begin();
    return check_end();
}
