// tests/test_calibration_file.c - calibrations as files: they come back bit by bit, the same samples give the same
// ones, and damaged ones are refused.
#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "tests/calibration_law.h"

static char *read_back(const char *path, size_t *length)
{
    FILE *stream = fopen(path, "rb");
    char *text = calloc(1, 1 << 22);
    *length = stream ? fread(text, 1, 1 << 22, stream) : 0;
    if (stream) {
        fclose(stream);
    }
    return text;
}

static void check_profile_equal(const struct calibration_profile *a, const struct calibration_profile *b)
{
    CHECK(strcmp(a->device, b->device) == 0 && strcmp(a->backend, b->backend) == 0 && strcmp(a->models,
                                                                                             b->models) == 0);
    CHECK(a->threads == b->threads && a->n_curves == b->n_curves && strcmp(a->rates.name, b->rates.name) == 0);
    CHECK(memcmp(a->overhead_s, b->overhead_s, sizeof a->overhead_s) == 0);
    CHECK(memcmp(a->n_steps, b->n_steps, sizeof a->n_steps) == 0);
    CHECK(a->rates.bytes_per_s.value == b->rates.bytes_per_s.value && a->rates.threads == b->rates.threads);
    for (int d = 0; d < DTYPE_COUNT; d++) {
        CHECK(a->rates.flops_per_s[d].value == b->rates.flops_per_s[d].value);
    }
    for (int32_t c = 0; c < a->n_curves && c < b->n_curves; c++) {
        const struct calibration_curve *x = &a->curves[c], *y = &b->curves[c];
        CHECK(x->stage == y->stage && x->phase == y->phase && x->unit_tokens == y->unit_tokens && x->dtype == y->dtype);
        CHECK(x->floor_s == y->floor_s && x->n_points == y->n_points);
        CHECK(x->roofline.n == y->roofline.n && x->roofline.median == y->roofline.median);
        CHECK(x->roofline.p95 == y->roofline.p95);
        CHECK(x->calibrated.n == y->calibrated.n && x->calibrated.median == y->calibrated.median &&
              x->calibrated.p95 == y->calibrated.p95);
        for (int32_t i = 0; i < x->n_points; i++) {
            CHECK(x->points[i].rows == y->points[i].rows && x->points[i].work == y->points[i].work);
            CHECK(x->points[i].efficiency == y->points[i].efficiency && x->points[i].samples == y->points[i].samples);
        }
    }
}

// What a parser says to a text: its status, and on refusal a text that names the file.
static int parse(const char *text, size_t length)
{
    struct calibration *calibration = (struct calibration *)&step_number;
    char *exact = malloc(length ? length : 1);    // so that a read past the end is caught
    memcpy(exact, text, length);
    int error = calibration_parse(&calibration, exact, length, "given.json");
    free(exact);
    if (error) {
        CHECK(error == -EINVAL && calibration == NULL && strstr(status_text(), "given.json"));
    }
    if (!error) {
        calibration_free(calibration);
    }
    return error;
}

static void check_refused(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    CHECK_MESSAGE(at != NULL, "the file has no %s", from);
    if (at) {
        char *changed = malloc(strlen(text) + strlen(to) + 1);
        sprintf(changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
        CHECK_MESSAGE(parse(changed, strlen(changed)) == -EINVAL, "accepted with %s", to);
        free(changed);
    }
}

static void check_file(void)
{
    struct calibration *calibration = make_law(2, 0.1), *again = NULL;
    char path[64], second[64];
    snprintf(path, sizeof path, "/tmp/test_calibration-%ld.json", (long)getpid());
    snprintf(second, sizeof second, "/tmp/test_calibration-%ld-2.json", (long)getpid());
    CHECK(calibration_save(calibration, path) == 0 && calibration_load(&again, path) == 0);
    CHECK(again && strcmp(again->date, "2026-01-02") == 0 && strcmp(again->command, "test") == 0);
    CHECK(again && again->n_traces == 1 && strcmp(again->traces[0], "some.pftrace") == 0 && again->n_profiles == 1);
    if (again) {
        check_profile_equal(&calibration->profiles[0], &again->profiles[0]);
        CHECK(calibration_save(again, second) == 0);
    }
    size_t length, second_length;
    char *text = read_back(path, &length), *same = read_back(second, &second_length);
    CHECK(length > 0 && length == second_length && memcmp(text, same, length) == 0);
    CHECK(parse(text, length) == 0);
    for (int i = 0; i < 300; i++) {    // cut anywhere before the closing brace
        CHECK(parse(text, (size_t)check_range(0, (int32_t)length - 3)) == -EINVAL);
    }
    for (int i = 0; i < 300; i++) {    // any byte changed: accepted or refused, never worse
        char *changed = malloc(length);
        memcpy(changed, text, length);
        changed[check_random() % length] = (char)check_random();
        parse(changed, length);
        free(changed);
    }
    check_refused(text, "clsa calibration", "other");
    check_refused(text, "\"version\": 1", "\"version\": 2");
    check_refused(text, "\"version\": 1", "\"version\": 1, \"more\": 1");
    check_refused(text, "\"stage\": \"ffn\"", "\"stage\": \"fnf\"");
    check_refused(text, "\"phase\": \"decode\"", "\"phase\": \"answer\"");
    check_refused(text, "\"floor_s\": ", "\"floor_s\": -1");
    check_refused(text, "\"seconds\": ", "\"seconds\": \"x\", \"y\": ");
    check_refused(text, "\"threads\": 2", "\"threads\": 2.5");
    check_refused(text, "\"bytes_per_s\"", "\"bytes_per_m\"");
    check_refused(text, "\"date\": \"2026", "\"date\": \"\\u001b2026");
    calibration_free(again);
    CHECK(calibration_load(&again, "/nowhere/at/all.json") == -EINVAL && again == NULL);
    CHECK(calibration_load(&again, "/tmp") == -EINVAL && again == NULL);
    unlink(path);
    unlink(second);
    free(text);
    free(same);
    calibration_free(calibration);
}

static void check_found(void)
{
    struct calibration *calibration = make_law(1, 0);
    CHECK(calibration_find(calibration, "some cpu", NULL) == &calibration->profiles[0]);
    CHECK(calibration_find(calibration, "Some CPU", "cpu") != NULL);
    CHECK(calibration_find(calibration, "Some CPU", "cuda") == NULL);
    CHECK(calibration_find(calibration, "Some", NULL) == NULL);
    snprintf(calibration->profiles[0].rates.name, DEVICE_NAME_BYTES, "renamed");
    CHECK(calibration_find(calibration, "Some CPU", NULL) == &calibration->profiles[0]);    // by what the samples say
    struct device far = make_rates("Other");
    far.bytes_per_s.value *= 30;
    CHECK(calibration_nearest(calibration, &far) == &calibration->profiles[0]);
    calibration_free(calibration);
    calibration_free(NULL);
}

// The same samples in the same order, and in another: the same bits.
static void check_deterministic(void)
{
    struct calibration *made[2];
    int64_t bytes[200];
    double seconds[200];
    for (int i = 0; i < 200; i++) {
        bytes[i] = 1 << check_range(10, 20);
        seconds[i] = law_s((double)bytes[i]) * (1 + check_uniform());
    }
    for (int pass = 0; pass < 2; pass++) {
        struct calibration_fit *fit = open_fit();
        for (int i = 0; i < 200; i++) {
            int at = pass ? 199 - i : i;
            feed(fit, STAGE_OUTPUT, 1 + at % 3, 1 + at % 3, bytes[at], bytes[at], seconds[at], at);
        }
        made[pass] = finish(fit);
    }
    check_profile_equal(&made[0]->profiles[0], &made[1]->profiles[0]);
    calibration_free(made[0]);
    calibration_free(made[1]);
}

// What fuzzing starts from and has found, under this build's sanitizers.
static void check_corpus(void)
{
    static const char folder[] = "tests/fuzz/corpus/calibration";
    DIR *directory = opendir(folder);
    int accepted = 0, refused = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory)) != NULL;) {
        char path[512];
        size_t length;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.') {
            char *text = read_back(path, &length);
            int error = parse(text, length);
            accepted += error == 0;
            refused += error != 0;
            free(text);
        }
    }
    CHECK_MESSAGE(accepted > 0 && refused > 0, "%s: %d accepted, %d refused; run from the top of the checkout", folder,
                  accepted, refused);
    if (directory) {
        closedir(directory);
    }
}

int main(void)
{
    check_begin();
    check_file();
    check_found();
    check_deterministic();
    check_corpus();
    return check_end();
}
