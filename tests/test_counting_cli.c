// tests/test_counting_cli.c - clsa profile --collect counters without a GPU: it counts, or says why not, and runs on.
#include <jansson.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"

static char folder[] = "/tmp/clsa-counting-XXXXXX";
static char output[1 << 20], errors[1 << 16];

static void read_into(const char *name, char *buffer, size_t bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *stream = fopen(path, "r");
    size_t n = stream ? fread(buffer, 1, bytes - 1, stream) : 0;
    buffer[n] = 0;
    if (stream) {
        fclose(stream);
    }
}

static int clsa(const char *arguments)
{
    char line[4096];
    snprintf(line, sizeof line, "cd %s && %s %s >stdout 2>stderr </dev/null", folder, getenv("CLSA_BINARY"), arguments);
    int status = system(line);
    read_into("stdout", output, sizeof output);
    read_into("stderr", errors, sizeof errors);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

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
    if (!getenv("CLSA_BINARY")) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    CHECK(mkdtemp(folder) != NULL);
    counts_or_says_why("cpu");
    counts_or_says_why("reference");
    int status = clsa("profile --model tiny --text hello --collect counter");
    CHECK_MESSAGE(status == 2 && strstr(errors, "counters"), "exit %d: %s", status, errors);
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    CHECK(system(line) == 0);
    return check_end();
}
