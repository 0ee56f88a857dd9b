// tests/test_device.c - the table of devices: what is shipped, what is refused and in which words; the host's rates.
#include <dirent.h>
#include <errno.h>

#include "engine/status.h"
#include "sim/device.h"
#include "tests/check.h"

static char text[1 << 17];

// A figure, and a device around what is under test.
#define FIGURE "{\"value\": 1e12, \"provenance\": \"datasheet\", \"source\": \"s\"}"
#define DEVICE(more) "{\"devices\": [{\"name\": \"X1\", " more "}]}"
#define RATES "\"bytes_per_s\": " FIGURE ", \"flops_per_s\": {\"bf16\": " FIGURE "}"

static void expect_refused(const char *json, const char *words)
{
    struct device *table = (struct device *)text;
    int32_t n = -7;
    int error = device_table_parse(&table, &n, json, strlen(json), "mine.json");
    CHECK_MESSAGE(error == -EINVAL && table == NULL && n == 0, "accepted or left output: %s", json);
    CHECK_MESSAGE(strstr(status_text(), "mine.json") != NULL, "no file in: %s", status_text());
    char copy[256];
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        CHECK_MESSAGE(strstr(status_text(), word) != NULL, "\"%s\" is not in: %s", word, status_text());
    }
    free(error ? NULL : table);
}

static void refusals(void)
{
    expect_refused("", "mine.json:1");
    expect_refused("{\"devices\": [", "mine.json:1");
    expect_refused("[]", "devices");
    expect_refused("{\"devices\": []}", "1 to 1024");
    expect_refused("{\"devices\": [], \"devices\": []}", "duplicate");
    expect_refused("{\"devices\": [1]}", "device 0|object");
    expect_refused("{\"devices\": [{}]}", "device 0|name");
    expect_refused("{\"devices\": [{\"name\": \"\"}]}", "device 0|name");
    expect_refused("{\"devices\": [{\"name\": \"a\\u001b[2J\"}]}", "name|printable");
    expect_refused("{\"devices\": [{\"name\": \"Host\"}]}", "host");
    expect_refused("{\"devices\": [{\"name\": \"a,b\"}]}", "comma");
    expect_refused(DEVICE("\"flops_per_s\": {}"), "X1|bytes_per_s|missing");
    expect_refused(DEVICE("\"bytes_per_s\": " FIGURE), "X1|flops_per_s|missing");
    expect_refused(DEVICE("\"bytes_per_s\": 3e12"), "X1|bytes_per_s|object");
    expect_refused(DEVICE(RATES ", \"speed\": 1"), "X1|unknown key|speed|launch_s");
    expect_refused(DEVICE("\"bytes_per_s\": " FIGURE ", \"flops_per_s\": {\"fp4\": " FIGURE "}"), "X1|fp4|bf16");
    expect_refused(DEVICE(RATES ", \"launch_s\": {\"value\": -1, \"provenance\": \"measured\", \"source\": \"s\"}"),
                   "X1|launch_s|above 0");
    expect_refused(DEVICE(RATES ", \"launch_s\": {\"value\": 0, \"provenance\": \"measured\", \"source\": \"s\"}"),
                   "X1|launch_s|leave out");
    expect_refused(DEVICE(RATES ", \"launch_s\": {\"value\": 2, \"provenance\": \"measured\", \"source\": \"s\"}"),
                   "X1|launch_s|at most 1");
    expect_refused(DEVICE(RATES ", \"launch_s\": {\"value\": \"1\", \"provenance\": \"measured\", \"source\": \"s\"}"),
                   "X1|launch_s|number");
    expect_refused(DEVICE(RATES ", \"launch_s\": {\"value\": 1e-6, \"provenance\": \"rumour\", \"source\": \"s\"}"),
                   "X1|launch_s|provenance|measured");
    expect_refused(DEVICE(RATES ", \"launch_s\": {\"value\": 1e-6, \"provenance\": \"measured\"}"),
                   "X1|launch_s|source");
    expect_refused(
        DEVICE(RATES ", \"curve\": [{\"bytes\": 2, \"bytes_per_s\": 9e12}, {\"bytes\": 1, \"bytes_per_s\": 8e12}]"),
        "X1|curve|grow");
    expect_refused(
        DEVICE(RATES ", \"curve\": [{\"bytes\": 1, \"bytes_per_s\": 8e12}, {\"bytes\": 2, \"bytes_per_s\": 9e12}]"),
        "X1|curve|point 1");
    expect_refused(DEVICE(RATES ", \"curve\": [{\"bytes\": 1, \"bytes_per_s\": 1e11}]"), "X1|curve|below");
    expect_refused("{\"devices\": [{\"name\": \"X1\", " RATES "}, {\"name\": \"x1\", " RATES "}]}", "x1|twice");
}

static void shipped_table(void)
{
    struct device *table;
    int32_t n;
    CHECK(device_table_load(&table, &n, NULL) == 0 && n >= 10);
    for (int32_t i = 0; i < n; i++) {
        const struct device *device = &table[i];
        const struct device_figure *bf16 = &device->flops_per_s[DTYPE_BF16], *fp8 = &device->flops_per_s[DTYPE_FP8];
        CHECK_MESSAGE(device->bytes_per_s.value > 1e11 && device->bytes_per_s.value < 1e14, "%s", device->name);
        CHECK_MESSAGE(bf16->value > 1e14 && bf16->value < 1e16 && bf16->source[0], "%s", device->name);
        CHECK_MESSAGE(fp8->value == 0 || fabs(fp8->value / bf16->value - 2) < 0.05,
                      "%s: a dense fp8 rate is twice bf16's", device->name);
        CHECK_MESSAGE(device->memory_bytes.value > 4e10 && device->memory_bytes.source[0], "%s", device->name);
        CHECK(device->threads == 0 && device->n_curve == 0);
    }
    free(table);

    struct device device = {.name = "poison"};
    CHECK(device_find(&device, "h100", 0) == 0 && strcmp(device.name, "H100-SXM") == 0);
    CHECK(device.bytes_per_s.value == 3.35e12 && device.flops_per_s[DTYPE_FP8].value == 1978e12);
    CHECK(device_find(&device, "A100-80gb", 0) == 0 && device.flops_per_s[DTYPE_FP8].value == 0);
    CHECK(device_find(&device, "MI300X", 0) == 0 && device.launch_s.value == 0);
    CHECK(device_find(&device, "H", 0) == -EINVAL && strstr(status_text(), "H100-SXM") &&
          strstr(status_text(), "host"));
    CHECK(device_find(&device, "", 0) == -EINVAL && strcmp(device.name, "MI300X") == 0);
}

static void own_file(void)
{
    static const char two[] =
        "{\"devices\": [{\"name\": \"Z-1\", " RATES "}, {\"name\": \"Z-2\", " RATES
        ", \"curve\": [{\"bytes\": 1e6, \"bytes_per_s\": 5e12}, {\"bytes\": 2e6, \"bytes_per_s\": 2e12}]}]}";
    char path[] = "/tmp/clsa-devices-XXXXXX";
    int file = mkstemp(path);
    FILE *stream = file < 0 ? NULL : fdopen(file, "w");
    CHECK(stream && fwrite(two, 1, sizeof two - 1, stream) == sizeof two - 1 && fclose(stream) == 0);
    struct device *table, device;
    int32_t n;
    CHECK(device_table_load(&table, &n, path) == 0 && n == 2);
    CHECK(device_table_find(&device, table, n, "z") == -EINVAL && strstr(status_text(), "several"));
    CHECK(device_table_find(&device, table, n, "z-2") == 0);
    CHECK(device_bandwidth(&device, 0) == 5e12 && device_bandwidth(&device, 1e6) == 5e12);
    CHECK(device_bandwidth(&device, 1e6 + 1) == 2e12 && device_bandwidth(&device, 2.1e6) == 1e12);
    free(table);
    remove(path);
    CHECK(device_table_load(&table, &n, path) == -EINVAL && strstr(status_text(), path) && table == NULL);
    CHECK(device_table_load(&table, &n, "/tmp") == -EINVAL && strstr(status_text(), "/tmp"));
}

static void parse_and_forget(const char *bytes, size_t n_bytes)
{
    struct device *table;
    int32_t n;
    int error = device_table_parse(&table, &n, bytes, n_bytes, "corpus");
    CHECK(error == 0 || error == -EINVAL);
    CHECK((error == 0) == (table != NULL));
    free(table);
}

// Kept inputs of the fuzzer, whole and with some bytes changed or cut off.
static void corpus(void)
{
    static const char folder[] = "tests/fuzz/corpus/devices";
    DIR *directory = opendir(folder);
    int files = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *stream = entry->d_name[0] == '.' ? NULL : fopen(path, "rb");
        size_t n = stream ? fread(text, 1, sizeof text, stream) : 0;
        if (stream) {
            fclose(stream);
            files++;
            parse_and_forget(text, n);
        }
        for (int i = 0; n > 0 && i < 300; i++) {
            text[check_random() % n] = (char)check_random();
            parse_and_forget(text, i % 3 ? n : (size_t)(check_random() % n));
        }
    }
    if (directory) {
        closedir(directory);
    }
    CHECK_MESSAGE(files >= 5, "only %d files in %s: run from the top of the checkout", files, folder);
}

static void host(void)
{
    struct device one, all, again;
    CHECK(device_measure_host(&one, -1) == -EINVAL);
    CHECK(device_measure_host(&one, 1) == 0 && one.threads == 1);
    CHECK(device_find(&all, "HOST", 0) == 0 && all.threads >= 1);
    CHECK(device_measure_host(&again, 0) == 0 && again.bytes_per_s.value == all.bytes_per_s.value);
    for (int i = 0; i < 2; i++) {
        const struct device *device = i ? &all : &one;
        double f32 = device->flops_per_s[DTYPE_F32].value;
        // Wide margins: sanitizers, emulators and busy neighbours slow it down; nothing makes it faster than these.
        CHECK_MESSAGE(device->bytes_per_s.value > 1e7 && device->bytes_per_s.value < 1e13, "%g B/s",
                      device->bytes_per_s.value);
        CHECK_MESSAGE(f32 > 1e7 && f32 < 200e9 * 2 * device->threads, "%g flop/s in %d threads", f32, device->threads);
        CHECK(device->flops_per_s[DTYPE_BF16].value > 0 && device->flops_per_s[DTYPE_FP8].value == 0);
        CHECK(device->launch_s.value > 0 && device->launch_s.value < 1);
        CHECK(device->memory_bytes.value > 1e8);
        CHECK(device->bytes_per_s.provenance == PROVENANCE_MEASURED && strstr(device->bytes_per_s.source, " thread"));
        CHECK(device->n_curve >= 1);
        for (int32_t p = 1; p < device->n_curve; p++) {
            CHECK(device->curve_bytes[p] > device->curve_bytes[p - 1]);
            CHECK(device->curve_bytes_per_s[p] <= device->curve_bytes_per_s[p - 1]);
        }
        CHECK(device->curve_bytes_per_s[device->n_curve - 1] >= device->bytes_per_s.value);
    }
}

int main(void)
{
    check_begin();
    refusals();
    shipped_table();
    own_file();
    corpus();
    host();
    CHECK(provenance_weaker(PROVENANCE_MEASURED, PROVENANCE_DATASHEET) == PROVENANCE_DATASHEET);
    CHECK(provenance_weaker(PROVENANCE_EXTRAPOLATED, PROVENANCE_INTERPOLATED) == PROVENANCE_EXTRAPOLATED);
    CHECK(strcmp(provenance_name(PROVENANCE_INTERPOLATED), "interpolated") == 0);
    return check_end();
}
