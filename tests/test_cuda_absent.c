// tests/test_cuda_absent.c - a GPU that cannot be used is told in one line before any work: another version's plug-in, a
// driver that is too old, no device. Libraries of our own stand in for the plug-in and the driver.
#include <stdlib.h>

#include "tests/cli.h"

static void expect_line(const char *what, const char *word, const char *other)
{
    int status = clsa("run --model tiny --text hello --context 40 --output 2 --device cuda");
    const char *end = strchr(errors, '\n');
    CHECK_MESSAGE(status == 1 && end && !end[1] && !output[0], "%s: exit %d: %s%s", what, status, output, errors);
    CHECK_MESSAGE(strstr(errors, word) && strstr(errors, other), "%s: %s", what, errors);
    status = clsa("run --model tiny --text hello --context 40 --output 2");
    CHECK_MESSAGE(status == 0, "%s: the CPU is still there: exit %d: %s", what, status, errors);
    status = clsa("devices");
    CHECK_MESSAGE(status == 0 && strstr(output, word), "%s: clsa devices, exit %d: %s", what, status, output);
}

int main(void)
{
    check_begin();
    if (!cli_open()) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    setenv("LD_LIBRARY_PATH", CLSA_MOCK_PLUGIN, 1);
    expect_line("another version", "speaks version", "rebuild it");
#ifdef CLSA_MOCK_DRIVER
    setenv("LD_LIBRARY_PATH", CLSA_MOCK_DRIVER, 1);
    expect_line("an old driver", "knows CUDA 12.4", "update it");
#endif
    cli_close();
    return check_end();
}
