// cli/command_profile.c - run, collect, write a Perfetto trace.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/interrupt.h"
#include "cli/measure.h"
#include "cli/recording.h"
#include "cli/stages.h"
#include "engine/status.h"
#include "traces/summary.h"

struct profile {
    const char *model, *methods, *prompt, *text, *device;
    int32_t context, output, batch, chunk, threads;
    int64_t seed;
    bool json;
    struct plan_flags flags;
    struct collect_flags collect;
    int32_t *tokens, n_tokens;
    struct recording_flags record;
    struct recording *recording;
    struct trace_summary *summary;
    struct table *counting[COUNTING_TABLES];    // NULL: nothing is counted
    bool told;                                  // of a trace that failed
};

// One method's model and plan; only looked at where `run` is false.
static int profile_method(struct profile *profile, const char *method, bool run)
{
    struct model_file *file;
    struct plan plan;
    struct measurement measured = {0};
    int error = command_model_open(&file, profile->model, method, &profile->flags, (uint64_t)profile->seed);
    if (error) {
        return error;
    }
    error = command_plan_build(&plan, file, method, &profile->flags);
    if (!error && run) {
        struct sample_sink sinks[] = {recording_sink(profile->recording), trace_summary_sink(profile->summary)};
        struct measure_options options = {
            .plan = &plan, .model = file, .device = profile->device, .threads = profile->threads,
            .batch = profile->batch, .chunk_tokens = profile->chunk, .text = profile->tokens,
            .n_text = profile->n_tokens, .context_tokens = profile->context, .output_tokens = profile->output,
            .sinks = sinks, .n_sinks = 2, .collect = profile->collect.mode, .stage_every = profile->collect.every,
        };
        error = measure(&measured, &options);
        if (!error && profile->counting[0]) {
            counting_tables_add(profile->counting, plan.method, &measured.counting);
        }
    }
    measurement_free(&measured);
    model_file_close(file);
    return error;
}

static int profile_all(struct profile *profile, bool run)
{
    char list[512];
    if (snprintf(list, sizeof list, "%s", profile->methods) >= (int)sizeof list) {
        return status_fail(-EINVAL, "--method: longer than %zu characters", sizeof list);
    }
    int error = 0;
    int32_t n = 0;
    char *rest = NULL;
    for (char *name = strtok_r(list, ",", &rest); name && !error; name = strtok_r(NULL, ",", &rest)) {
        error = profile_method(profile, name, run);
        n++;
    }
    return n > 0 ? error : status_fail(-EINVAL, "--method: none named");
}

// The summary and, where something was counted, what.
static void print_tables(const struct profile *profile, const struct table *summary, bool written)
{
    const struct table *tables[1 + COUNTING_TABLES] = {summary};
    int32_t n = 1;
    for (int32_t i = 0; i < COUNTING_TABLES; i++) {
        if (profile->counting[i] && table_rows(profile->counting[i]) > 0) {
            tables[n++] = profile->counting[i];
        }
    }
    if (profile->json) {
        tables_print_json(tables, n, stdout);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        fputs(i > 0 ? "\n" : "", stdout);
        table_print(tables[i], stdout);
    }
    struct summary_loss loss = trace_summary_loss(profile->summary);
    if (loss.dropped > 0 || loss.invalid > 0) {
        fflush(stdout);
        fprintf(stderr, "\nlost: of the device's work %lld records, and %lld without times; its stages are too short\n",
                (long long)loss.dropped, (long long)loss.invalid);
    }
    if (written) {
        fflush(stdout);    // the hint stands below the tables, also where both go to one place
        fprintf(stderr, "\n%s: open it in https://ui.perfetto.dev, or: clsa top --replay %s\n", profile->record.out,
                profile->record.out);
    }
}

// Keeps the text of `error`, the run's own, if it has failed.
static int close_recording(struct profile *profile, int error)
{
    char why[512];
    snprintf(why, sizeof why, "%s", status_text());
    int close_error = recording_close(profile->recording, &profile->told);
    profile->told = profile->told && !error;
    if (error == -EINTR && !close_error) {
        return status_fail(error, "interrupted; %s holds what was recorded until then", profile->record.out);
    }
    return error ? status_fail(error, "%s", why) : close_error;
}

static int print(const struct profile *profile, bool written)
{
    struct table *table = stages_of_all("summary", profile->summary, NULL, STAGES_BY_ORDER);
    if (!table) {
        return status_fail(-ENOMEM, "out of memory for the table");
    }
    print_tables(profile, table, written);
    table_close(table);
    return 0;
}

static int run(struct profile *profile)
{
    int error = plan_flags_resolve(&profile->flags);
    error = error ? error : collect_resolve(&profile->collect, profile->device);
    error = error ? error
                  : command_prompt(&profile->tokens, &profile->n_tokens, &profile->context, profile->prompt,
                                   profile->text);
    error = error ? error : profile_all(profile, false);    // wrong input must not replace an older trace
    error = error ? error : trace_summary_open(&profile->summary);
    if (!error && profile->collect.mode == COLLECT_COUNTERS) {
        error = counting_tables_open(profile->counting, strncmp(profile->device, "cuda", 4) == 0);
    }
    interrupt_catch();
    error = error ? error
                  : recording_open(&profile->recording, &profile->record, "profile", profile->device,
                                   profile->threads);
    if (error) {
        return error;
    }
    error = profile_all(profile, true);
    // Also after a failure: what was recorded until then is a whole trace.
    int close_error = close_recording(profile, error);
    error = error ? error : trace_summary_update(profile->summary);
    if (error || (close_error && !profile->told)) {
        return error ? error : close_error;
    }
    error = print(profile, !close_error);
    return error ? error : close_error;
}

int command_profile(int argc, char **argv)
{
    struct profile profile = {
        .model = "demo-8m", .methods = "clsa", .device = "cpu", .record.out = "clsa.pftrace", .output = 64, .batch = 1,
        .seed = 1, .flags = plan_flags_default(),
    };
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &profile.model, 0, 0, "NAME|FOLDER", "a size (random weights) or a model folder"},
        {"method", OPTION_TEXT, &profile.methods, 0, 0, "M[,M...]", "methods, profiled one after the other"},
        {"prompt", OPTION_TEXT, &profile.prompt, 0, 0, "FILE", "text to process; repeated up to --context"},
        {"text", OPTION_TEXT, &profile.text, 0, 0, "TEXT", "the same, given here"},
        {"context", OPTION_INT, &profile.context, 1, 1 << 27, "tokens", "prompt length (default: the whole text)"},
        {"output", OPTION_INT, &profile.output, 1, 1 << 24, "tokens", "tokens to decode"},
        {"batch", OPTION_INT, &profile.batch, 1, 1024, "sequences", "sequences decoded together"},
        {"chunk", OPTION_INT, &profile.chunk, 0, 1 << 20, "tokens", "rows of one prefill step; 0: 512, on a GPU 8192"},
        {"device", OPTION_TEXT, &profile.device, 0, 0, "cpu|reference|cuda[:N]", "backend"},
        {"threads", OPTION_INT, &profile.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        COLLECT_OPTIONS(profile.collect, "64, or of fewer than 256 a quarter"),
        {"seed", OPTION_LONG, &profile.seed, 0, 9e18, "N", "of random weights"},
        RECORDING_OPTIONS(profile.record),
        {"json", OPTION_FLAG, &profile.json, 0, 0, NULL, "print JSON"},
        PLAN_OPTIONS(profile.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"profile", "Run, collect, and write a Perfetto trace.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    error = error ? error : run(&profile);
    trace_summary_close(profile.summary);
    for (int32_t i = 0; i < COUNTING_TABLES; i++) {
        table_close(profile.counting[i]);
    }
    free(profile.tokens);
    if (error && profile.told) {
        return EXIT_FAILED;    // in one line, when it happened
    }
    return error ? command_fail("profile", error) : EXIT_DONE;
}
