// traces/import.c - from places to samples.
#include "traces/import.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cost.h"
#include "engine/status.h"
#include "traces/import_internal.h"

enum { MAX_PRICED_SEQS = 4096 };    // larger batches are priced by nobody

// What is known while one device's steps are told.
struct teller {
    struct import_join *join;
    const struct import_options *options;
    const struct sample_sink *sink;
    struct import_report *report;
    bool *launched;          // [n_launches] told already, owned
    struct work *work;       // [MAX_PRICED_SEQS], owned
    int32_t source;
    int64_t n_decoded;       // steps that decoded, of this device
};

static void tell_source(const struct teller *teller, int32_t device, int32_t n_layers)
{
    const struct import_options *options = teller->options;
    const struct plan *plan = options->plan;
    const struct import_events *events = teller->join->events;
    const int32_t n_named = sizeof events->devices / sizeof *events->devices;
    const char *name = options->device                            ? options->device
                       : device < n_named && events->devices[device][0] ? events->devices[device]
                                                                  : "unknown";
    struct sample_source source = {
        .id = teller->source, .n_layers = plan ? plan->shape.n_layers : n_layers, .threads = 1,
        .weight_dtype = plan ? plan->weight_dtype : DTYPE_BF16, .kv_dtype = plan ? plan->kv_dtype : DTYPE_BF16,
        .index_dtype = plan ? plan->index.key_dtype : DTYPE_BF16,
    };
    if (plan && plan->index.budget_tokens > 0) {
        source.top_k = plan->index.budget_tokens;
        source.unit_tokens = plan->index.unit_tokens;
        source.index_sets = plan->index.sets;
    }
    snprintf(source.device, sizeof source.device, "%s", name);
    snprintf(source.backend, sizeof source.backend, "%s", options->backend ? options->backend : "kineto");
    snprintf(source.model, sizeof source.model, "%s", options->model ? options->model : "unknown");
    snprintf(source.method, sizeof source.method, "%s", options->method ? options->method : "unknown");
    if (teller->sink->source) {
        teller->sink->source(teller->sink->user, &source);
    }
}

static void tell_launch(struct teller *teller, const struct import_place *place)
{
    const struct import_events *events = teller->join->events;
    const struct import_launch *launch = place->launch;
    if (!launch || teller->launched[launch - events->launches]) {
        return;
    }
    teller->launched[launch - events->launches] = true;
    teller->report->n_launches++;
    if (teller->sink->launch) {
        struct launch_sample sample = {.source = teller->source, .launch = launch->correlation, .step = place->step,
                                       .name = events->names.entries[launch->name].text, .thread = launch->thread,
                                       .begin_ns = launch->begin_ns, .duration_ns = launch->duration_ns};
        teller->sink->launch(teller->sink->user, &sample);
    }
}

static void tell_kernel(struct teller *teller, const struct import_place *place)
{
    const struct import_work *work = place->work;
    struct import_report *report = teller->report;
    struct kernel_sample sample = {
        .source = teller->source, .work = work->work, .step = place->step, .stage = place->stage, .layer = place->layer,
        .phase = place->step >= 0 ? teller->join->steps[place->step].phase : PHASE_DECODE,
        .name = teller->join->events->names.entries[work->name].text, .device = work->device, .context = work->context,
        .stream = work->stream, .launch = place->launch ? work->correlation : 0, .registers = work->registers,
        .dynamic_shared_bytes = work->shared_bytes, .bytes = work->bytes, .begin_ns = work->begin_ns,
        .duration_ns = work->duration_ns,
    };
    memcpy(sample.grid, work->grid, sizeof sample.grid);
    memcpy(sample.block, work->block, sizeof sample.block);
    report->n_kernels += work->work == WORK_KERNEL;
    report->n_copies += work->work != WORK_KERNEL;
    report->kernel_ns += work->duration_ns;
    report->n_outside += place->step < 0;
    report->outside_ns += place->step < 0 ? work->duration_ns : 0;
    report->n_unmatched += place->stage == STAGE_COUNT;
    report->unmatched_ns += place->stage == STAGE_COUNT ? work->duration_ns : 0;
    if (teller->sink->kernel) {
        teller->sink->kernel(teller->sink->user, &sample);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What a step worked on

static int32_t small(int64_t value)
{
    return value < 0 ? 0 : value > INT32_MAX / 2 ? INT32_MAX / 2 : (int32_t)value;
}

// Adds n sequences that share rows and keys evenly. False: too many, or nothing is known of their keys.
static bool add_work(struct work *work, int32_t *n_work, int64_t n, int64_t rows, int64_t keys, bool prompts)
{
    if (n == 0) {
        return true;
    }
    if (n > MAX_PRICED_SEQS - *n_work || rows < n || (keys > 0 && keys < rows)) {
        return false;
    }
    int64_t held = keys > 0 ? keys - rows : 0;
    for (int64_t i = 0; i < n; i++) {
        work[*n_work + i] = (struct work){small(held / n), small(rows / n + (i < rows % n)), 1};
    }
    *n_work += (int32_t)n;
    return keys > 0 || prompts;
}

// The work of a step; false where it is not known well enough to be priced.
static bool describe(const struct teller *teller, const struct import_step *step, int32_t *n_work)
{
    const int64_t *f = step->fields;
    int64_t answer_rows = f[IMPORT_ANSWER_TOKENS] > 0 ? f[IMPORT_ANSWER_TOKENS] : f[IMPORT_ANSWERS];
    int64_t keys = f[IMPORT_ANSWER_KEYS];
    if (keys == 0 && teller->options->context_tokens > 0 && f[IMPORT_ANSWERS] <= MAX_PRICED_SEQS) {
        keys = f[IMPORT_ANSWERS] * (teller->options->context_tokens + teller->n_decoded) + answer_rows;
    }
    *n_work = 0;
    return teller->options->plan && f[IMPORT_PROMPTS] + f[IMPORT_ANSWERS] > 0 &&
           add_work(teller->work, n_work, f[IMPORT_PROMPTS], f[IMPORT_PROMPT_TOKENS], f[IMPORT_PROMPT_KEYS], true) &&
           add_work(teller->work, n_work, f[IMPORT_ANSWERS], answer_rows, keys, false);
}

// ---------------------------------------------------------------------------------------------------------------------
// Steps

// The runs of one step: kernels of one stage and layer that follow each other on the device.
static void tell_stages(const struct teller *teller, const struct import_place *places, int64_t n,
                        const struct step_sample *step, bool priced, int32_t n_work)
{
    bool costed[STAGE_COUNT][PLAN_MAX_LAYERS + 1] = {{false}};
    for (int64_t i = 0, end; i < n; i = end) {
        const struct import_place *first = &places[i];
        int64_t reached_ns = first->work->begin_ns, busy_ns = 0;
        for (end = i; end < n && places[end].stage == first->stage && places[end].layer == first->layer; end++) {
            int64_t begin_ns = places[end].work->begin_ns, end_ns = begin_ns + places[end].work->duration_ns;
            begin_ns = begin_ns > reached_ns ? begin_ns : reached_ns;
            busy_ns += end_ns > begin_ns ? end_ns - begin_ns : 0;
            reached_ns = end_ns > reached_ns ? end_ns : reached_ns;
        }
        if (first->stage >= STAGE_COUNT || !teller->sink->stage) {
            continue;
        }
        struct stage_sample sample = {
            .source = teller->source, .step = step->step, .phase = step->phase, .stage = first->stage,
            .layer = first->layer, .n_seqs = step->n_seqs, .n_tokens = step->n_tokens,
            .context_tokens = step->context_tokens, .begin_ns = first->work->begin_ns, .duration_ns = busy_ns,
        };
        struct stage_cost cost = {0};
        // What a stage of a layer costs in all stands at its first run.
        if (priced && first->layer < PLAN_MAX_LAYERS && !costed[first->stage][first->layer + 1]) {
            costed[first->stage][first->layer + 1] = true;
            if (stage_cost(&cost, teller->options->plan, first->stage, first->layer, teller->work, n_work) == 0) {
                sample.bytes = cost.bytes;
                sample.flops = cost.flops;
            }
        }
        if (first->stage == STAGE_HEAD || first->stage == STAGE_SAMPLE) {
            sample.n_tokens = step->n_seqs;
        }
        teller->sink->stage(teller->sink->user, &sample);
    }
}

static void tell_step(struct teller *teller, const struct import_place *places, int64_t n, int32_t n_layers)
{
    const struct import_step *step = &teller->join->steps[places->step];
    int32_t n_work = 0;
    bool known = describe(teller, step, &n_work);
    bool priced = known && n_layers == teller->options->plan->shape.n_layers;
    int64_t end_ns = places->work->begin_ns, rows = step->fields[IMPORT_PROMPT_TOKENS];
    int64_t seqs = step->fields[IMPORT_PROMPTS] + step->fields[IMPORT_ANSWERS];
    rows += step->fields[IMPORT_ANSWER_TOKENS] > 0 ? step->fields[IMPORT_ANSWER_TOKENS] : step->fields[IMPORT_ANSWERS];
    struct step_sample sample = {
        .source = teller->source, .step = places->step, .phase = step->phase, .n_seqs = small(seqs),
        .n_tokens = small(rows), .begin_ns = places->work->begin_ns,
    };
    for (int32_t i = 0; known && i < n_work; i++) {
        int32_t context = small((int64_t)teller->work[i].context_tokens + teller->work[i].new_tokens);
        sample.context_tokens = context > sample.context_tokens ? context : sample.context_tokens;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t this_ns = places[i].work->begin_ns + places[i].work->duration_ns;
        end_ns = this_ns > end_ns ? this_ns : end_ns;
    }
    sample.duration_ns = end_ns - sample.begin_ns;
    tell_stages(teller, places, n, &sample, priced, n_work);
    if (teller->sink->step) {
        teller->sink->step(teller->sink->user, &sample);
    }
    teller->n_decoded += step->fields[IMPORT_ANSWERS] > 0;
    teller->report->n_steps++;
    teller->report->n_priced_steps += priced;
}

static int32_t count_layers(const struct import_place *places, int64_t n)
{
    int32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        most = places[i].layer + 1 > most ? places[i].layer + 1 : most;
    }
    return most;
}

// One device's places: first their stages, by which its layers are known, then its samples step by step.
static int tell_device(struct teller *teller, struct import_place *places, int64_t n)
{
    int32_t n_layers = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && places[end].step == places[i].step; end++) {
        }
        int error = import_find_stages(teller->join, &places[i], end - i);
        if (error) {
            return error;
        }
        int32_t layers = places[i].step >= 0 ? count_layers(&places[i], end - i) : 0;
        n_layers = layers > n_layers ? layers : n_layers;
    }
    tell_source(teller, places->work->device, n_layers);
    teller->n_decoded = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && places[end].step == places[i].step; end++) {
            tell_launch(teller, &places[end]);
            tell_kernel(teller, &places[end]);
        }
        if (places[i].step >= 0) {
            tell_step(teller, &places[i], end - i, count_layers(&places[i], end - i));
        }
    }
    teller->source++;
    teller->report->n_devices++;
    return 0;
}

static int tell_all(struct import_join *join, struct import_report *report, const struct sample_sink *sink)
{
    const struct import_events *events = join->events;
    struct teller teller = {.join = join, .options = join->options, .sink = sink, .report = report};
    size_t fits = (size_t)events->names.n * (size_t)join->options->rules->n_kernels + 1;
    join->fits = malloc(fits);
    teller.launched = calloc((size_t)events->n_launches + 1, sizeof *teller.launched);
    teller.work = calloc(MAX_PRICED_SEQS, sizeof *teller.work);
    int error = join->fits && teller.launched && teller.work ? 0 : status_fail(-ENOMEM, "out of memory for an import");
    if (!error) {
        memset(join->fits, -1, fits);
    }
    for (int64_t i = 0, end; i < events->n_works && !error; i = end) {
        for (end = i; end < events->n_works && join->places[end].work->device == join->places[i].work->device; end++) {
        }
        error = tell_device(&teller, &join->places[i], end - i);
    }
    free(teller.launched);
    free(teller.work);
    return error;
}

int import_read_fd(struct import_report *report, int fd, const char *name, const struct import_options *options,
                   const struct sample_sink *sink)
{
    struct import_events events;
    struct import_join join = {.events = &events, .options = options};
    *report = (struct import_report){0};
    int error = import_events_read(&events, fd, name);
    if (!error && events.n_works == 0) {
        error = status_fail(-EINVAL, "%s: no kernel, copy or fill of a GPU among %lld events; record with "
                                     "ProfilerActivity.CUDA", name, (long long)events.n_events);
    }
    error = error ? error : import_find_steps(&join);
    report->n_events = events.n_events;
    report->n_other = events.n_other;
    report->n_invalid = events.n_invalid;
    report->by_gaps = join.by_gaps;
    error = error ? error : tell_all(&join, report, sink);
    free(join.steps);
    free(join.places);
    free(join.fits);
    import_events_free(&events);
    return error;
}

int import_read(struct import_report *report, const char *path, const struct import_options *options,
                const struct sample_sink *sink)
{
    *report = (struct import_report){0};
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return status_fail(-EINVAL, "%s: cannot read it: %s", path, strerror(errno));
    }
    if (fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) {
        close(fd);
        return status_fail(-EINVAL, "%s: a folder; expected a file", path);
    }
    return import_read_fd(report, fd, path, options, sink);
}
