// tests/test_counting_cli.c - clsa profile --collect counters without a GPU: it counts, or says why not, and runs on.
#include <jansson.h>
#include <unistd.h>

#include "tests/cli.h"

// Either every decode stage has its rates, or one line says what stands in the way.
static void counts_or_says_why(const char *device)
{
    char arguments[256];
    json_error_t error;
    snprintf(arguments, sizeof arguments,
             "profile --model tiny --text hello --context 40 --output 4 --collect counters --json --out "
             "counted.pftrace --device %s",
             device);
    int status = clsa(arguments);
    CHECK_MESSAGE(status == 0, "clsa %s: exit %d: %s", arguments, status, errors);
    json_t *root = json_loads(output, JSON_REJECT_DUPLICATES, &error);
    CHECK_MESSAGE(root, "%s", error.text);
    CHECK(json_array_size(json_object_get(root, "summary")) > 0);
    const json_t *sampled = json_object_get(root, "sampled");
    CHECK_MESSAGE((sampled != NULL) != (strstr(errors, "not counted: CPU counters: ") != NULL), "neither or both: %s",
                  errors);
    for (size_t i = 0; i < json_array_size(sampled); i++) {
        double cycles = json_number_value(json_object_get(json_array_get(sampled, i), "g_cycles_per_s"));
        CHECK_MESSAGE(cycles > 0 && cycles < 1e4, "row %zu: %g", i, cycles);
    }
    CHECK(!json_object_get(root, "counted"));    // nothing but a GPU counts bytes
    json_decref(root);
    CHECK_MESSAGE(clsa("trace check counted.pftrace") == 0, "%s", errors);
}

int main(void)
{
    check_begin();
    if (!cli_open()) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    counts_or_says_why("cpu");
    counts_or_says_why("reference");
    int status = clsa("profile --model tiny --text hello --collect counter");
    CHECK_MESSAGE(status == 2 && strstr(errors, "counters"), "exit %d: %s", status, errors);
    cli_close();
    return check_end();
}
