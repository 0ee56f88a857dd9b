// cli/command_calibrate.c - clsa calibrate: traces in, a calibration with its residuals out.
//
// The rates that the roofline needs are this machine's, measured now, for traces of its processor, and otherwise those
// of a device in the table: the one that its driver calls as the traces do, or that --device-name names. Both errors
// are printed, of the bare roofline and of the calibrated one, each with the point in question left out.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "cli/calibrated.h"
#include "cli/command.h"
#include "cli/table.h"
#include "engine/status.h"
#include "traces/trace.h"

enum { MAX_RATES = 64 };

struct calibrate {
    const char *out, *device_name, *devices_file, *commit;
    bool json, means, undisturbed;
};

static const struct table_column profile_columns[] = {
    {"device", "device", -1},
    {"backend", "backend", -1},
    {"threads", "threads", 0},
    {"models", "models", -1},
    {"prefill_overhead_us", "prefill overhead us", 1},
    {"decode_overhead_us", "decode overhead us", 1},
    {"per_sequence_us", "per sequence us", 2},
    {"settle_us_per_gb", "after prompts us/GB", 0}, {"settle_ms", "for ms", 0},
    {"settle_sequences", "below sequences", 0}, {"mark_us", "a mark us", 2}, {"chunk_mark_us", "in prefill us", 2},
    {"steps", "steps", 0},
};

static const struct table_column stage_columns[] = {
    {"backend", "backend", -1},
    {"phase", "rows as in", -1},
    {"stage", "stage", -1},
    {"layer", "beside", -1},
    {"unit_tokens", "unit", 0},
    {"dtype", "type", -1},
    {"points", "points", 0},
    {"samples", "samples", 0},
    {"floor_us", "floor us", 2},
    {"efficiency_min", "efficiency", 3},
    {"efficiency_max", "to", 3},
    {"roofline_error_median", "roofline error %", 1},
    {"roofline_error_p95", "P95 %", 1},
    {"calibrated_error_median", "calibrated error %", 1},
    {"calibrated_error_p95", "P95 %", 1},
};

static int read_traces(struct calibration_fit *fit, char **paths, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        struct sample_sink sink = calibration_fit_sink(fit);
        struct trace_stats stats;
        int error = calibration_fit_trace(fit, paths[i]);
        error = error ? error : trace_read(paths[i], &sink, &stats);
        if (error) {
            return error;
        }
        if (stats.dropped > 0 || stats.invalid > 0) {
            fprintf(stderr, "clsa calibrate: %s lost %.0f records of its device's work: its stages are too short\n",
                    paths[i], (double)stats.dropped + (double)stats.invalid);
        }
    }
    return 0;
}

// Whether samples with that device ("AMD EPYC, 2 threads") can come from this machine. Scalar code does not name its.
static bool from_here(const struct sample_source *source, const char *host)
{
    size_t length = strlen(host);
    return strncmp(source->backend, "reference", 9) == 0 ||
           (strncmp(source->device, host, length) == 0 && source->device[length] == ',');
}

static int find_rates(struct device *out, const struct calibrate *calibrate, const struct sample_source *source)
{
    char host[DEVICE_NAME_BYTES];
    calibrated_host_name(host, sizeof host);
    if (strncmp(source->backend, "cuda", 4) != 0 && from_here(source, host)) {
        int error = device_find(out, "host", source->threads);
        snprintf(out->name, sizeof out->name, "%s", calibrate->device_name ? calibrate->device_name : host);
        return error;
    }
    struct device *table;
    int32_t n;
    int error = device_table_load(&table, &n, calibrate->devices_file);
    if (error) {
        return error;
    }
    if (calibrate->device_name) {
        error = device_table_find(out, table, n, calibrate->device_name);
        error = error ? status_prefix(error, "--device-name ") : 0;
    } else if (!device_table_find_driver(out, table, n, source->device)) {
        error = status_fail(-EINVAL,
                            "%.90s was recorded elsewhere: its rates are unknown here; name a device of the table "
                            "(clsa devices) with --device-name",
                            source->device);
    }
    free(table);
    return error;
}

static int fit_all(struct calibration **out, const struct calibrate *calibrate, struct calibration_fit *fit)
{
    static struct device rates[MAX_RATES];
    if (calibration_fit_profiles(fit) > MAX_RATES) {
        return status_fail(-EINVAL, "more than %d devices and backends; calibrate from fewer traces", MAX_RATES);
    }
    for (int32_t p = 0; p < calibration_fit_profiles(fit); p++) {
        int error = find_rates(&rates[p], calibrate, calibration_fit_source(fit, p));
        if (error) {
            return error;
        }
    }
    char date[CALIBRATION_DATE_BYTES], command[CALIBRATION_TEXT_BYTES] = "clsa calibrate";
    if (calibrate->commit) {
        snprintf(command, sizeof command, "clsa calibrate, traces of %.64s", calibrate->commit);
    }
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &utc));
    return calibration_fit_finish(out, fit, rates, date, command);
}

static void add_curve(struct table *table, const struct calibration_profile *profile,
                      const struct calibration_curve *curve)
{
    double least = INFINITY, most = 0, samples = 0;
    for (int32_t i = 0; i < curve->n_points; i++) {
        least = fmin(least, curve->points[i].efficiency);
        most = fmax(most, curve->points[i].efficiency);
        samples += (double)curve->points[i].samples;
    }
    table_row(table);
    table_text(table, "backend", profile->backend);
    table_text(table, "phase", phase_name(curve->phase));
    table_text(table, "stage", stage_name(curve->stage));
    if (curve->layer != LAYER_ANY) {
        table_text(table, "layer", calibration_layer_name(curve->layer));
    }
    if (calibration_depends_on_unit(curve->stage)) {
        table_number(table, "unit_tokens", curve->unit_tokens);
    }
    table_text(table, "dtype", dtype_name(curve->dtype));
    table_number(table, "points", curve->n_points);
    table_number(table, "samples", samples);
    table_number(table, "floor_us", 1e6 * curve->floor_s);
    table_number(table, "efficiency_min", least);
    table_number(table, "efficiency_max", most);
    table_number(table, "roofline_error_median", 100 * curve->roofline.median);
    table_number(table, "roofline_error_p95", 100 * curve->roofline.p95);
    if (curve->calibrated.n > 0) {
        table_number(table, "calibrated_error_median", 100 * curve->calibrated.median);
        table_number(table, "calibrated_error_p95", 100 * curve->calibrated.p95);
    }
}

static int print_all(const struct calibrate *calibrate, const struct calibration *calibration, int64_t dropped)
{
    struct table *profiles =
        table_open("profiles", profile_columns, sizeof profile_columns / sizeof profile_columns[0]);
    struct table *stages = table_open("calibration", stage_columns, sizeof stage_columns / sizeof stage_columns[0]);
    int error = profiles && stages ? 0 : status_fail(-ENOMEM, "no memory for a table");
    for (int32_t p = 0; !error && p < calibration->n_profiles; p++) {
        const struct calibration_profile *profile = &calibration->profiles[p];
        table_row(profiles);
        table_text(profiles, "device", profile->rates.name);
        table_text(profiles, "backend", profile->backend);
        table_number(profiles, "threads", profile->threads);
        table_text(profiles, "models", profile->models);
        table_number(profiles, "prefill_overhead_us",
                     profile->n_steps[PHASE_PREFILL] ? 1e6 * profile->overhead_s[PHASE_PREFILL] : NAN);
        table_number(profiles, "decode_overhead_us",
                     profile->n_steps[PHASE_DECODE] ? 1e6 * profile->overhead_s[PHASE_DECODE] : NAN);
        table_number(profiles, "per_sequence_us",
                     profile->overhead_per_seq_s > 0 ? 1e6 * profile->overhead_per_seq_s : NAN);
        table_number(profiles, "settle_us_per_gb", profile->settle_s > 0 ? 1e15 * profile->settle_s_per_byte : NAN);
        table_number(profiles, "settle_ms", profile->settle_s > 0 ? 1e3 * profile->settle_s : NAN);
        table_number(profiles, "settle_sequences",
                     profile->settle_seqs > 0 ? (double)profile->settle_seqs : (double)NAN);
        const double *mark_s = profile->mark_s;
        table_number(profiles, "mark_us", mark_s[PHASE_DECODE] > 0 ? 1e6 * mark_s[PHASE_DECODE] : NAN);
        table_number(profiles, "chunk_mark_us", mark_s[PHASE_PREFILL] > 0 ? 1e6 * mark_s[PHASE_PREFILL] : NAN);
        table_number(profiles, "steps", (double)(profile->n_steps[PHASE_PREFILL] + profile->n_steps[PHASE_DECODE]));
        for (int32_t c = 0; c < profile->n_curves; c++) {
            add_curve(stages, profile, &profile->curves[c]);
        }
    }
    const struct table *both[] = {profiles, stages};
    if (!error && calibrate->json) {
        tables_print_json(both, 2, stdout);
    } else if (!error) {
        table_print(profiles, stdout);
        printf("\n");
        table_print(stages, stdout);
        printf("\nerror: |predicted / measured - 1| over points (an eighth of an octave of work each); calibrated:\n"
               "each point predicted from the others. rows as in decode: one per sequence. overhead: of a step\n"
               "outside its stages. after prompts: what a step that decodes takes longer at first, decaying. a mark:\n"
               "what telling a stage's time adds to it where a GPU replays steps; taken off again. host, beside\n"
               "selections: what a replayed step takes longer than its stages, for each layer that selects.\n");
    }
    if (!error && dropped > 0) {
        fprintf(stderr, "clsa calibrate: %lld samples were of no use: without cost, duration or a whole step\n",
                (long long)dropped);
    }
    table_close(profiles);
    table_close(stages);
    return error;
}

// What sim/device.c would refuse when the calibration is read again.
static int check_name(const char *name)
{
    bool printable = name[0] && strlen(name) < DEVICE_NAME_BYTES;
    for (const char *at = name; *at && printable; at++) {
        printable = *at >= ' ' && *at <= '~' && *at != ',';
    }
    if (!printable || strcasecmp(name, "host") == 0) {
        return status_fail(-EINVAL,
                           "--device-name: expected up to %d characters of ASCII without a comma, and not \"host\", "
                           "which is whichever machine one is on",
                           DEVICE_NAME_BYTES - 1);
    }
    return 0;
}

static int run(const struct calibrate *calibrate, char **paths, int32_t n)
{
    struct calibration_fit *fit = NULL;
    struct calibration *calibration = NULL;
    int error = calibrate->out ? calibration_fit_open(&fit)
                               : status_fail(-EINVAL, "--out FILE is missing: where the calibration goes");
    error = error || !calibrate->device_name ? error : check_name(calibrate->device_name);
    error = error ? error : read_traces(fit, paths, n);
    if (!error && calibrate->means && calibrate->undisturbed) {
        error = status_fail(-EINVAL, "--means, --undisturbed: expected at most one of them");
    }
    if (!error) {
        calibration_fit_by(fit, calibrate->means         ? CALIBRATION_BY_MEAN
                                : calibrate->undisturbed ? CALIBRATION_BY_LOWER_QUARTILE
                                                         : CALIBRATION_BY_MEDIAN);
    }
    error = error ? error : fit_all(&calibration, calibrate, fit);
    error = error ? error : calibration_save(calibration, calibrate->out);
    error = error ? error : print_all(calibrate, calibration, calibration_fit_dropped(fit));
    calibration_free(calibration);
    calibration_fit_close(fit);
    return error;
}

int command_calibrate(int argc, char **argv)
{
    struct calibrate calibrate = {0};
    const struct option_spec options[] = {
        {"out", OPTION_OUTPUT, &calibrate.out, 0, 0, "FILE", "the calibration to write"},
        {"commit", OPTION_TEXT, &calibrate.commit, 0, 0, "ID",
         "of the program that wrote the traces, to be kept in the file"},
        {"device-name", OPTION_TEXT, &calibrate.device_name, 0, 0, "NAME",
         "what predictions call the device (default: the processor's name); for a GPU, one of clsa devices"},
        {"devices", OPTION_TEXT, &calibrate.devices_file, 0, 0, "FILE",
         "a table of your own, in the form of sim/devices.json"},
        {"means", OPTION_FLAG, &calibrate.means, 0, 0, NULL,
         "of samples, not medians: what steps take with a busy machine's disturbances"},
        {"undisturbed", OPTION_FLAG, &calibrate.undisturbed, 0, 0, NULL,
         "lower quartiles of samples: what stages take where a machine's neighbours leave it alone"},
        {"json", OPTION_FLAG, &calibrate.json, 0, 0, NULL, "print JSON"},
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {
        "calibrate", "Learns from traces what share of a device's peaks each stage reaches.", "TRACE...", 1, 4096,
        options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    error = error ? error : run(&calibrate, argv + 1, n_positional);
    return error ? command_fail("calibrate", error) : EXIT_DONE;
}
