// tests/test_calibrate_cli.c - clsa calibrate and its users: profile, calibrate, predict, compare, and wrong input.
#include <jansson.h>
#include <unistd.h>

#include "tests/cli.h"

static void expect_done(const char *arguments)
{
    int status = clsa(arguments);
    CHECK_MESSAGE(status == 0, "clsa %s: exit %d: %s", arguments, status, errors);
}

// The predictions' sum over stages of one row of `clsa sim --stages --json`, and the row of the request.
static double decode_ms(const char *arguments, const char **figures)
{
    static char kept[64];
    json_error_t error;
    expect_done(arguments);
    json_t *root = json_loads(output, JSON_REJECT_DUPLICATES, &error);
    const json_t *row = json_array_get(json_object_get(root, "sim"), 0);
    double ms = json_number_value(json_object_get(row, "first_decode_step_ms"));
    const char *text = json_string_value(json_object_get(row, "provenance"));
    snprintf(kept, sizeof kept, "%s", text ? text : "");
    *figures = kept;
    json_decref(root);
    return ms;
}

static void calibrates(void)
{
    expect_done("profile --model tiny --method clsa,dense --device reference --text abcdefgh --context 96 --output 40 "
                "--batch 2 --chunk 32 --threads 1 --out a.pftrace");
    expect_done("profile --model tiny --method clsa,dense --device reference --text abcdefgh --context 200 --output 40 "
                "--batch 1 --chunk 64 --threads 1 --out b.pftrace");
    expect_done("calibrate a.pftrace b.pftrace --out c.json --device-name bench --json");
    json_error_t error;
    json_t *root = json_loads(output, JSON_REJECT_DUPLICATES, &error), *row;
    json_t *rows = json_object_get(root, "calibration");
    size_t i;
    int attention = 0;
    CHECK(json_array_size(json_object_get(root, "profiles")) == 1 && json_array_size(rows) > 10);
    json_array_foreach(rows, i, row)
    {
        double least = json_number_value(json_object_get(row, "efficiency_min"));
        double most = json_number_value(json_object_get(row, "efficiency_max"));
        CHECK(least > 0 && least <= most && json_number_value(json_object_get(row, "points")) >= 1);
        CHECK(json_is_number(json_object_get(row, "roofline_error_median")));
        attention += strcmp(json_string_value(json_object_get(row, "stage")), "attention") == 0;
    }
    // Full in prefill and decode; selected only with one row per sequence, in decode and after a prompt.
    CHECK(attention == 4);
    json_decref(root);
}

// Scalar code is far slower than the machine: calibrated predictions say so, and say how they know.
static void predicts(void)
{
    const char *figures;
    double bare = decode_ms("sim --model tiny --method clsa --context 96 --output 8 --threads 1 --json", &figures);
    double fitted = decode_ms("sim --model tiny --method clsa --device bench --context 96 --output 8 "
                              "--calibration c.json --json", &figures);
    CHECK_MESSAGE(fitted > 2 * bare && bare > 0, "%g ms calibrated, %g ms roofline", fitted, bare);
    CHECK_MESSAGE(strcmp(figures, "datasheet") != 0 && strcmp(figures, "roofline") != 0, "%s", figures);
    double foreign = decode_ms("sim --model tiny --method clsa --device h100 --context 96 --output 8 "
                               "--calibration c.json --json", &figures);
    CHECK(foreign > 0 && strcmp(figures, "extrapolated") == 0);
    expect_done("sim --model tiny --method dsa --device bench --context 96 --output 8 --calibration c.json --stages");
    CHECK(strstr(output, "calibrated") && strstr(output, "host"));
    expect_done("compare --model tiny --methods clsa --device reference --threads 1 --text abcdefgh --context 64 "
                "--output 8 --calibration c.json --sim-device bench");
    CHECK(strstr(output, "predicted: calibrated"));
}

static void wrong_input(void)
{
    expect_refused("calibrate a.pftrace", "--out");
    expect_refused("calibrate --out d.json", "TRACE");
    expect_refused("calibrate nowhere.pftrace --out d.json", "nowhere.pftrace");
    expect_refused("calibrate c.json --out d.json", "c.json");
    expect_refused("calibrate a.pftrace --out d.json --device-name a,b", "--device-name");
    expect_refused("calibrate a.pftrace --out d.json --means --undisturbed", "--undisturbed");
    expect_refused("sim --model tiny --calibration a.pftrace", "a.pftrace");
    expect_refused("sim --model tiny --calibration nowhere.json", "nowhere.json");
    expect_refused("compare --model tiny --text ab --context 32 --output 2 --calibration a.pftrace", "a.pftrace");
    CHECK(clsa("calibrate a.pftrace --out no/such/folder/d.json") == 2 && strstr(errors, "no/such/folder"));
    char path[256];
    snprintf(path, sizeof path, "%s/d.json", folder);
    CHECK(access(path, F_OK) != 0);
}

int main(void)
{
    check_begin();
    if (!cli_open()) {
        return check_skip("CLSA_BINARY does not name the program");
    }
    calibrates();
    predicts();
    wrong_input();
    cli_close();
    return check_end();
}
