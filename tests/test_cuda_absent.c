// tests/test_cuda_absent.c - a GPU that cannot be used is told in one line before any work: another version's plug-in,
// a driver that is too old, too little memory. Libraries of our own stand in for the plug-in and the driver.
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

// What does not fit is told with what would; what was named as fitting then runs.
static void expect_room(const char *arguments, const char *asked, const char *fits)
{
    char line[256];
    snprintf(line, sizeof line, "run --model tiny --text hello --output 2 --device cuda %s", arguments);
    int status = clsa(line);
    const char *end = strchr(errors, '\n');
    CHECK_MESSAGE(status == 1 && end && !end[1] && !output[0], "%s: exit %d: %s%s", arguments, status, output, errors);
    CHECK_MESSAGE(strstr(errors, asked) && strstr(errors, "0.75 of 1.00 GiB are free") && strstr(errors, fits),
                  "%s: %s", arguments, errors);
}

// Rates are measured in a process that is not the one whose kernels are collected; if it fails, that is told.
static void expect_rates(void)
{
    static const char compare[] =
        "compare --model tiny --methods dense --text hello --context 40 --output 2 --device cuda";
    char line[256];
    int status = clsa(compare);
    CHECK_MESSAGE(status == 0 && strstr(output, "% of floor"), "compare: exit %d: %s%s", status, output, errors);
    snprintf(line, sizeof line, "%s:3", compare);
    status = clsa(line);
    CHECK_MESSAGE(status == 2 && strstr(errors, "no GPU 3"), "no such GPU: exit %d: %s", status, errors);
    snprintf(line, sizeof line, "%s:7", compare);
    status = clsa(line);
    CHECK_MESSAGE(status == 1 && strstr(errors, "ended before it told"), "a crash: exit %d: %s", status, errors);
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
    setenv("LD_LIBRARY_PATH", CLSA_MOCK_SMALL, 1);
    int status = clsa("run --model tiny --text hello --context 40 --output 2 --device cuda");
    CHECK_MESSAGE(status == 0, "enough for a short text: exit %d: %s", status, errors);
    expect_room("--method dense --context 20M", "a KV cache of 20", "one sequence of ");
    expect_room("--method clsa --context 100K --batch 500", "with the windows of 500 sequences", " sequences of ");
    expect_rates();
    cli_close();
    return check_end();
}
