// tests/bench/bench_record.c - traces of batches over a grid of contexts, to calibrate from or to judge predictions by.
//
// Per method one engine and one trace, FOLDER/NAME-METHOD.pftrace. At each context a prompt is run, chunk by chunk,
// then forked into batches that decode: the cache is copied, so that each sequence reads its own. Of decode only steps
// are kept that a GPU replays from a recording, one in --every of them with the times of its stages: those before load
// kernels, run eagerly or record. Batches that do not fit are left out and named. Contexts should not lie shortly below
// a power of two: a recording is for one, and a longer context needs the next. The prompt is made up; weights are
// random. What it costs is the prompts, so longest contexts come last. --prompts are run by themselves, --mixed while
// each batch decodes: a service's steps have both, and chunks of any length. Each comes four times, every other one
// without its stages told, as a service on a GPU runs. --held-contexts, --held-batches and
// --held-prompts go to a trace of their own, FOLDER/held-METHOD.pftrace, from the same engine: opening one takes
// longer. --passes runs all of it again, every other time with contexts and prompts in reverse, into traces that end in
// -2, -3 ...: what a hot GPU or a neighbour did to one reading is seen beside the other.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/measure.h"
#include "cupti/collector.h"
#include "engine/status.h"
#include "traces/trace.h"
#include "tests/bench/results.h"

enum { MAX_POINTS = 64, REPEATS = 4 };

struct list {
    int32_t n, values[MAX_POINTS];
};

// What goes to one trace.
struct grid {
    const char *contexts_text, *batches_text, *prompts_text, *mixed_text;
    struct list contexts, batches, prompts, mixed;
};

enum { FITTED, HELD, GRIDS };

struct bench {
    const char *model, *methods, *device, *folder, *name;
    int32_t steps, every, chunk, threads, passes;
    struct grid grids[GRIDS];
    const struct grid *grid;   // the one that is run
    int32_t pass;              // for the how manieth time, from 0
    struct sample_source source;
    struct plan_flags flags;
    struct model_file *files[BACKBONE_COUNT];
    struct engine *engine;
    struct sample_sink out;    // the trace's
    bool cold;
    const struct observer *collecting;    // the collector's
    struct observer observer;  // the same, now and then without the stages of a GPU
    bool keep;                 // whether samples go there
    int32_t *prompt;           // [longest context]
};

static int parse_list(struct list *out, const char *flag, const char *text)
{
    char copy[512];
    char *rest = NULL;
    if (!text) {
        return 0;
    }
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        int64_t value;
        if (!options_whole(word, &value) || value < 1 || value > 1 << 24 || out->n == MAX_POINTS) {
            return status_fail(-EINVAL, "--%s %s: expected up to %d whole numbers from 1 on", flag, text, MAX_POINTS);
        }
        out->values[out->n++] = (int32_t)value;
    }
    return out->n ? 0 : status_fail(-EINVAL, "--%s: expected a list of whole numbers", flag);
}

static int32_t largest(const struct list *list)
{
    int32_t most = 0;
    for (int32_t i = 0; i < list->n; i++) {
        most = list->values[i] > most ? list->values[i] : most;
    }
    return most;
}

// ---------------------------------------------------------------------------------------------------------------------
// A sink that passes on what is to be kept

static void on_source(void *user, const struct sample_source *source)
{
    struct bench *record = user;
    record->source = *source;    // every trace is told of it when it begins
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct bench *record = user;
    if (record->keep) {
        record->out.stage(record->out.user, sample);
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct bench *record = user;
    if (record->keep) {
        record->out.step(record->out.user, sample);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Runs

// Steps until one puts something out (`until_output`), or `n` of them.
static int run_steps(struct bench *record, int32_t n, bool until_output)
{
    const struct engine_output *outputs;
    for (int32_t i = 0; until_output || i < n; i++) {
        int given = engine_step(record->engine, &outputs);
        int error = given < 0 ? given : interrupt_check();
        if (error || (until_output && given > 0)) {
            return error;
        }
    }
    return 0;
}

static int drain(struct bench *record)
{
    const struct engine_output *outputs;
    int n;
    while ((n = engine_step(record->engine, &outputs)) >= 0) {
    }
    return n == -ENODATA ? 0 : n;
}

// Steps before a batch's are kept: eager ones and those that record, with marks and without.
static int32_t warm_steps(const struct bench *record)
{
    return 2 * record->every + 1;
}

static int32_t most_seqs(const struct bench *record)
{
    int32_t fitted = largest(&record->grids[FITTED].batches), held = largest(&record->grids[HELD].batches);
    return fitted > held ? fitted : held;
}

// More steps than a prompt takes beside a batch.
static int32_t mixed_steps(const struct bench *record, int32_t tokens)
{
    return tokens / (record->chunk - most_seqs(record)) + 3;
}

static int32_t answer_tokens(const struct bench *record, const struct grid *grid)
{
    int32_t steps = warm_steps(record) + record->steps;
    for (int32_t i = 0; i < grid->mixed.n; i++) {
        steps += REPEATS * mixed_steps(record, grid->mixed.values[i]);
    }
    return grid->batches.n * steps + 2;
}

// A prompt that is answered by one token, beside whatever decodes.
static int run_prompt(struct bench *record, int32_t tokens)
{
    struct engine_request request = {.prompt = record->prompt, .n_prompt = tokens, .max_output_tokens = 1};
    int32_t before = engine_stats(record->engine).running;
    int64_t id;
    int error = engine_submit(record->engine, &request, &id);
    int32_t most = mixed_steps(record, tokens);
    for (int32_t step = 0; !error && step < most; step++) {
        error = run_steps(record, 1, false);
        struct engine_stats stats = engine_stats(record->engine);
        if (stats.waiting == 0 && stats.running <= before) {
            return error;
        }
    }
    return error ? error : status_fail(-EAGAIN, "a prompt of %d tokens did not end beside %d sequences", tokens,
                                       before);
}

// The i-th value that is run in this pass.
static int32_t in_turn(const struct bench *record, const struct list *list, int32_t i)
{
    return list->values[record->pass % 2 ? list->n - 1 - i : i];
}

static int run_prompts(struct bench *record, const struct list *lengths)
{
    int error = 0;
    for (int32_t i = 0; i < REPEATS * lengths->n && !error; i++) {
        record->observer.device_stages = i % 2 == 0 ? record->collecting->device_stages : NULL;
        error = run_prompt(record, in_turn(record, lengths, i / REPEATS));
    }
    record->observer.device_stages = record->collecting->device_stages;
    return error;
}

static int run_context(struct bench *record, const struct plan *plan, int32_t context)
{
    const struct grid *grid = record->grid;
    int32_t page = plan->page_tokens, length = context + answer_tokens(record, grid);
    int32_t beside = grid->mixed.n > 0 ? largest(&grid->mixed) + page : 0;
    int32_t fits = (engine_stats(record->engine).cache_tokens - beside) / ((length + page - 1) / page * page);
    struct engine_request request = {
        .prompt = record->prompt, .n_prompt = context, .max_output_tokens = answer_tokens(record, grid)};
    int64_t first, id;
    if (fits < 1) {
        fprintf(stderr, "%s: no sequence of %d tokens fits\n", plan->method, context);
        return 0;
    }
    int error = engine_submit(record->engine, &request, &first);
    record->keep = true;
    error = error ? error : run_steps(record, 0, true);
    for (int32_t b = 0; b < grid->batches.n && !error; b++) {
        int32_t batch = grid->batches.values[b];
        if (batch > fits) {
            fprintf(stderr, "%s: of %d tokens fit %d sequences, not %d\n", plan->method, context, fits, batch);
            continue;
        }
        while (!error && engine_stats(record->engine).running < batch) {
            error = engine_fork(record->engine, first, &id);
        }
        record->keep = false;
        error = error ? error : run_steps(record, warm_steps(record), false);
        record->keep = true;
        error = error ? error : run_steps(record, record->steps, false);
        error = error ? error : run_prompts(record, &grid->mixed);
    }
    record->keep = false;
    return error ? error : drain(record);
}

static int32_t longest_prompt(const struct bench *record)
{
    int32_t longest = 0;
    for (int g = 0; g < GRIDS; g++) {
        const struct grid *grid = &record->grids[g];
        const int32_t each[] = {largest(&grid->contexts), largest(&grid->prompts), largest(&grid->mixed)};
        for (int i = 0; i < 3; i++) {
            longest = each[i] > longest ? each[i] : longest;
        }
    }
    return longest;
}

static int32_t longest_sequence(const struct bench *record)
{
    int32_t fitted = answer_tokens(record, &record->grids[FITTED]), held = answer_tokens(record, &record->grids[HELD]);
    return longest_prompt(record) + (fitted > held ? fitted : held);
}

// Runs one grid into one trace.
static int run_grid(struct bench *record, const struct plan *plan, struct trace_writer *writer, const struct grid *grid)
{
    record->out = trace_writer_sink(writer);
    record->out.source(record->out.user, &record->source);
    record->grid = grid;
    record->keep = true;
    int error = run_prompts(record, &grid->prompts);
    record->keep = false;
    for (int32_t c = 0; c < grid->contexts.n && !error; c++) {
        error = run_context(record, plan, in_turn(record, &grid->contexts, c));
    }
    return error;
}

// All grids once, each into a trace of its own, which is whole as soon as its grid has run.
static int run_pass(struct bench *record, const struct plan *plan)
{
    int error = 0;
    for (int g = 0; g < GRIDS && !error; g++) {
        const struct grid *grid = &record->grids[g];
        char path[512], number[16] = "";
        struct trace_writer_options options = {.path = path, .command = "bench_record"};
        struct trace_writer *writer = NULL;
        if (grid->contexts.n == 0 && grid->prompts.n == 0) {
            continue;
        }
        if (record->pass > 0) {
            snprintf(number, sizeof number, "-%d", record->pass + 1);
        }
        snprintf(path, sizeof path, "%s/%s-%s%s.pftrace", record->folder, g == HELD ? "held" : record->name,
                 plan->method, number);
        error = trace_writer_open(&writer, &options);
        error = error ? error : run_grid(record, plan, writer, grid);
        int close_error = trace_writer_close(writer);
        error = error ? error : close_error;
        if (!error) {
            printf("%s\n", path);
            fflush(stdout);
        }
    }
    return error;
}

static int run_engine(struct bench *record, const struct plan *plan, struct model_file *model,
                      struct collector *collector)
{
    char backend[32];
    int32_t number;
    int error = measure_device(backend, sizeof backend, &number, record->device);
    bool gpu = strcmp(backend, "cuda") == 0;
    record->collecting = collector_observer(collector);
    record->observer = *record->collecting;
    struct engine_options options = {
        .plan = plan,
        .model = model,
        .backend = backend,
        .device = number,
        .threads = record->threads,
        .max_seqs = most_seqs(record) + 1,
        .max_context = longest_sequence(record),
        .max_step_tokens = record->chunk,
        .cache_tokens = gpu ? CACHE_ALL_FREE : 0,
        .observer = &record->observer,
        .stage_every = record->every,
    };
    error = error ? error : engine_open(&record->engine, &options);
    if (error) {
        return error;
    }
    struct sample_source source;
    engine_source(record->engine, &source);
    collector_set_source(collector, &source);
    record->keep = false;
    // Batches record themselves before their steps are kept.
    error = record->cold ? 0 : engine_warm(record->engine, options.max_context);
    for (record->pass = 0; record->pass < record->passes && !error; record->pass++) {
        error = run_pass(record, plan);
    }
    struct engine_stats stats = engine_stats(record->engine);
    if (gpu && !error) {
        fprintf(stderr,
                "%s: %.1f MB of device memory in use, weights %.1f, cache %.1f of %d tokens, chunk %d, %d sequences\n",
                plan->method, 1e-6 * (double)engine_device_bytes(record->engine), 1e-6 * (double)stats.weight_bytes,
                1e-6 * (double)stats.kv_bytes_allocated, stats.cache_tokens, options.max_step_tokens, options.max_seqs);
    }
    engine_close(record->engine);
    record->engine = NULL;
    return error;
}

static int run_method(struct bench *record, const char *name)
{
    static struct plan plan;
    const struct method_info *method = plan_find_method(name);
    if (!method) {
        return status_fail(-EINVAL, "--methods: %s is no method", name);
    }
    struct model_file **file = &record->files[method->backbone];
    int error = *file ? 0 : command_model_open(file, record->model, name, &record->flags, 1);
    error = error ? error : command_plan_build(&plan, *file, name, &record->flags);
    if (error) {
        return error;
    }
    struct collector *collector = NULL;
    struct sample_sink sink = {.user = record, .source = on_source, .stage = on_stage, .step = on_step};
    error = collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink);
    error = error ? error : run_engine(record, &plan, *file, collector);
    collector_close(collector);
    return error ? status_prefix(error, "%s: ", name) : 0;
}

static int run(struct bench *record)
{
    char list[256], *rest = NULL;
    int error = plan_flags_resolve(&record->flags);
    for (int g = 0; g < GRIDS && !error; g++) {
        struct grid *grid = &record->grids[g];
        error = parse_list(&grid->contexts, g == HELD ? "held-contexts" : "contexts", grid->contexts_text);
        error = error ? error : parse_list(&grid->batches, g == HELD ? "held-batches" : "batches", grid->batches_text);
        error = error ? error : parse_list(&grid->prompts, g == HELD ? "held-prompts" : "prompts", grid->prompts_text);
        error = error ? error : parse_list(&grid->mixed, "mixed", grid->mixed_text);
    }
    if (!error && record->grids[HELD].contexts.n > 0 && record->grids[HELD].batches.n == 0) {
        error = status_fail(-EINVAL, "--held-contexts: expected --held-batches, too");
    }
    if (error) {
        return error;
    }
    record->chunk = record->chunk ? record->chunk : measure_chunk(record->device);
    if (record->chunk <= most_seqs(record)) {
        return status_fail(-EINVAL, "--chunk: expected more than the largest batch");
    }
    int32_t longest = longest_prompt(record);
    record->prompt = malloc((size_t)longest * sizeof *record->prompt);
    if (!record->prompt) {
        return status_fail(-ENOMEM, "no memory for a prompt of %d tokens", longest);
    }
    for (int32_t t = 0; t < longest; t++) {
        record->prompt[t] = 'a' + (int32_t)((uint32_t)t * 2654435761U >> 28);    // some letter, not a short cycle
    }
    interrupt_catch();
    snprintf(list, sizeof list, "%s", record->methods);
    for (char *name = strtok_r(list, ",", &rest); name && !error; name = strtok_r(NULL, ",", &rest)) {
        error = run_method(record, name);
    }
    for (int b = 0; b < BACKBONE_COUNT; b++) {
        model_file_close(record->files[b]);
    }
    free(record->prompt);
    return error;
}

int main(int argc, char **argv)
{
    struct bench record = {.model = "bench-100m", .methods = "clsa,dense", .device = "cpu", .folder = ".",
                            .name = "grid", .steps = 16, .every = 4, .passes = 1, .flags = plan_flags_default()};
    struct grid *fitted = &record.grids[FITTED], *held = &record.grids[HELD];
    fitted->contexts_text = "512,1K,2K,4K";
    fitted->batches_text = "1,2,4";
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &record.model, 0, 0, "NAME", "a size (random weights)"},
        {"methods", OPTION_TEXT, &record.methods, 0, 0, "M[,M...]", "methods, one trace each"},
        {"device", OPTION_TEXT, &record.device, 0, 0, "cpu|reference|cuda[:N]", "backend"},
        {"contexts", OPTION_TEXT, &fitted->contexts_text, 0, 0, "N[,N...]", "lengths of prompts"},
        {"batches", OPTION_TEXT, &fitted->batches_text, 0, 0, "N[,N...]", "sequences that decode, ascending"},
        {"prompts", OPTION_TEXT, &fitted->prompts_text, 0, 0, "N[,N...]", "lengths of prompts that run alone"},
        {"mixed", OPTION_TEXT, &fitted->mixed_text, 0, 0, "N[,N...]", "lengths of prompts that run beside each batch"},
        {"held-contexts", OPTION_TEXT, &held->contexts_text, 0, 0, "N[,N...]", "as --contexts, into held-METHOD"},
        {"held-batches", OPTION_TEXT, &held->batches_text, 0, 0, "N[,N...]", "as --batches"},
        {"held-prompts", OPTION_TEXT, &held->prompts_text, 0, 0, "N[,N...]", "as --prompts"},
        {"steps", OPTION_INT, &record.steps, 1, 4096, "steps", "kept of each batch"},
        {"every", OPTION_INT, &record.every, 1, 1024, "steps", "on a GPU one in so many tells its stages"},
        {"passes", OPTION_INT, &record.passes, 1, 16, "times", "all of it is run, each into traces of its own"},
        {"chunk", OPTION_INT, &record.chunk, 0, 1 << 20, "tokens", "rows of one prefill step; 0: 512, on a GPU 8192"},
        {"threads", OPTION_INT, &record.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        {"cold", OPTION_FLAG, &record.cold, 0, 0, NULL, "the first prompts pay for what is loaded at first use"},
        {"folder", OPTION_TEXT, &record.folder, 0, 0, "FOLDER", "where traces go"},
        {"name", OPTION_TEXT, &record.name, 0, 0, "NAME", "how they begin"},
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_record", "Traces over a grid of contexts and batches.", NULL, 0, 0,
                                         options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&record);
    return bench_end("bench_record", error);
}
