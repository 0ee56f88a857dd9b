// cli/paper.c - one engine per method, all contexts and batches through it.
//
// Of each context one prompt is prefilled; it decodes alone, then beside its forks. Steps that are timed are those that
// are replayed whole: the first few of a batch (which are recorded) and those that tell their stages are left out.
// End-to-end throughput of requests that are prefilled one after the other and then decode together: output tokens over
// batch * prefill + tokens * step, where the step is taken at the middle of the answer, by the cost model's bytes.
#include "cli/paper.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/interrupt.h"
#include "cli/paper_figures.h"
#include "cli/progress.h"
#include "cupti/collector.h"
#include "engine/cost.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "sim/predict.h"

enum { BATCHES = 4, TIMED_STEPS = 20, WARM_STEPS = 4, STAGE_EVERY = 8, SMALL_BATCH = 8 };    // and the paper's 32
enum {
    ANSWER_TOKENS = BATCHES * (TIMED_STEPS + WARM_STEPS + 8)
};    // that are decoded; 8: steps that tell their stages

static const struct table_column measured_columns[] = {
    {"method", "method", -1},
    {"context", "context", 0},
    {"sequences", "sequences", 0},
    {"prefill_s", "prefill s", 3},
    {"decode_step_ms", "step ms", 3},
    {"spread_ms", "+-", 3},
    {"decode_step_floor_ms", "floor ms", 3},
    {"floor_percent", "% of floor", 0},
    {"decode_tokens_per_s", "decode tok/s", 1},
    {"speedup", "vs dense", 2},
    {"end_to_end_tokens_per_s", "end to end tok/s", 1},
    {"end_to_end_speedup", "vs dense", 2},
    {"kv_mib", "KV MiB", 0},
};

static const struct table_column slow_columns[] = {
    {"method", "method", -1},         {"context", "context", 0},
    {"sequences", "sequences", 0},    {"index_select_ms", "selection ms", 3},
    {"decode_step_ms", "step ms", 3}, {"slow_select_ms", "paper-like selection ms", 3},
    {"slow_step_ms", "step ms", 3},   {"slow_speedup", "vs dense", 2},
};

static const struct table_column published_columns[] = {
    {"method", "method (paper's, B200)", -1},
    {"context", "context", 0},
    {"prefill_tokens_per_s", "prefill tok/s", 0},
    {"decode_tokens_per_s", "decode tok/s", 0},
    {"speedup", "vs dense", 2},
    {"end_to_end_tokens_per_s", "end to end tok/s", 0},
    {"end_to_end_speedup", "vs dense", 2},
};

// What the stream of samples says of the steps of one batch.
struct watch {
    double steps_s[TIMED_STEPS];
    int32_t n_steps, n_seen;
    double prefill_s;
    // Of a step that told its stages, all layers; the last: of none.
    double stage_ns[STAGE_COUNT + 1], pending_ns[STAGE_COUNT + 1];
    bool staged;
    bool replays;    // on a GPU a step that tells its stages is slower than one that does not
};

struct paper {
    const struct paper_options *options;
    struct engine *engine;
    struct collector *collector;
    struct watch watch;
    struct table **tables;
    int32_t *prompt;                                      // [longest context]
    double prefill_s;                                     // of the prompt that runs
    struct paper_point dense[PAPER_CONTEXTS][BATCHES];    // .batch 0: not measured
};

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct watch *watch = user;
    watch->staged = true;
    watch->pending_ns[sample->stage] += (double)sample->duration_ns;
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct watch *watch = user;
    double seconds = (double)sample->duration_ns * 1e-9;
    if (sample->phase != PHASE_DECODE) {
        watch->prefill_s += seconds;
    } else if (watch->staged && watch->replays) {
        memcpy(watch->stage_ns, watch->pending_ns, sizeof watch->stage_ns);
    } else if (watch->n_seen++ >= WARM_STEPS && watch->n_steps < TIMED_STEPS) {
        watch->steps_s[watch->n_steps++] = seconds;
        if (!watch->replays) {
            memcpy(watch->stage_ns, watch->pending_ns, sizeof watch->stage_ns);
        }
    }
    watch->staged = false;
    memset(watch->pending_ns, 0, sizeof watch->pending_ns);
}

// Steps until `enough` of this batch were timed.
static int decode(struct paper *paper, struct paper_point *point)
{
    struct watch *watch = &paper->watch;
    const struct engine_output *outputs;
    *watch = (struct watch){.replays = watch->replays};
    while (watch->n_steps < TIMED_STEPS) {
        int n = engine_step(paper->engine, &outputs);
        int error = n < 0 ? n : interrupt_check();
        if (error) {
            return error;
        }
    }
    sort_doubles(watch->steps_s, TIMED_STEPS);
    point->step_s = watch->steps_s[TIMED_STEPS / 2];
    point->spread_s = watch->steps_s[TIMED_STEPS * 3 / 4] - watch->steps_s[TIMED_STEPS / 4];
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        point->stage_s[stage] = watch->stage_ns[stage] * 1e-9;
    }
    return 0;
}

// Bytes and operations of a step over the measured rates.
static double floor_s(const struct paper *paper, const struct plan *plan, int32_t context, int32_t batch)
{
    struct device ideal = *paper->options->rates;
    struct step_prediction step;
    struct work *work = calloc((size_t)batch, sizeof *work);
    ideal.launch_s.value = 0;
    ideal.calibration = NULL;
    for (int32_t i = 0; work && i < batch; i++) {
        work[i] = (struct work){context, 1, 1};
    }
    bool known = work && predict_step(&step, &ideal, plan, work, batch) == 0;
    free(work);
    return known ? step.seconds : NAN;
}

static int32_t longest_answer(const struct paper_options *options)
{
    return options->output_tokens > ANSWER_TOKENS ? options->output_tokens : ANSWER_TOKENS;
}

static int32_t indexers(const struct plan *plan)
{
    int32_t n = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        n += plan_runs_indexer(plan, layer);
    }
    return n;
}

// The dense method's point with as many sequences; NULL: there is none.
static const struct paper_point *dense_point(const struct paper *paper, int32_t c, int32_t batch)
{
    for (int32_t b = 0; b < BATCHES; b++) {
        if (paper->dense[c][b].batch == batch) {
            return &paper->dense[c][b];
        }
    }
    return NULL;
}

static void add_slow_point(struct table *table, const struct paper_point *point, double dense_s)
{
    double slow_s = indexers(point->plan) * paper_select_s((double)point->batch * point->context);
    double select_s = point->stage_s[STAGE_INDEX_SELECT], step_s = point->step_s - select_s + slow_s;
    table_row(table);
    table_text(table, "method", point->plan->method);
    table_number(table, "context", point->context);
    table_number(table, "sequences", point->batch);
    table_number(table, "index_select_ms", select_s * 1e3);
    table_number(table, "decode_step_ms", point->step_s * 1e3);
    table_number(table, "slow_select_ms", slow_s * 1e3);
    table_number(table, "slow_step_ms", step_s * 1e3);
    table_number(table, "slow_speedup", dense_s / step_s);
}

static void add_point(struct paper *paper, int32_t c, const struct paper_point *point)
{
    struct table *table = paper->tables[PAPER_MEASURED];
    const struct paper_point *dense = dense_point(paper, c, point->batch), *most = &paper->dense[c][BATCHES - 1];
    double dense_s = dense ? dense->step_s : NAN;
    int64_t kv = point->batch *
                 (plan_kv_bytes_per_token(point->plan) * point->context + plan_kv_bytes_per_sequence(point->plan));
    table_row(table);
    table_text(table, "method", point->plan->method);
    table_number(table, "context", point->context);
    table_number(table, "sequences", point->batch);
    table_number(table, "prefill_s", point->prefill_s);
    table_number(table, "decode_step_ms", point->step_s * 1e3);
    table_number(table, "spread_ms", point->spread_s * 1e3);
    table_number(table, "decode_step_floor_ms", point->floor_s * 1e3);
    table_number(table, "floor_percent", 100 * point->floor_s / point->step_s);
    table_number(table, "decode_tokens_per_s", point->batch / point->step_s);
    table_number(table, "speedup", dense_s / point->step_s);
    table_number(table, "end_to_end_tokens_per_s", point->end_to_end);
    table_number(table, "end_to_end_speedup", most->batch > 0 ? point->end_to_end / most->end_to_end : NAN);
    table_number(table, "kv_mib", (double)kv / 0x1p20);
    if (indexers(point->plan) > 0) {
        add_slow_point(paper->tables[PAPER_SLOW_SELECTION], point, dense_s);
    }
    if (paper->options->point) {
        paper->options->point(paper->options->user, point);
    }
}

// Forks of request `of` until `batch` run.
static int widen(struct paper *paper, int64_t of, int32_t batch)
{
    int error = 0;
    while (!error && engine_stats(paper->engine).running < batch) {
        int64_t id;
        error = engine_fork(paper->engine, of, &id);
    }
    return error;
}

static int prefill(struct paper *paper, int32_t context, int64_t *id)
{
    const struct engine_output *outputs;
    struct engine_request request = {.prompt = paper->prompt, .n_prompt = context, .max_output_tokens = ANSWER_TOKENS};
    paper->watch = (struct watch){.replays = paper->watch.replays};
    int n = 0, error = engine_submit(paper->engine, &request, id);
    while (!error && n == 0) {
        n = engine_step(paper->engine, &outputs);
        error = n < 0 ? n : interrupt_check();
    }
    paper->prefill_s = paper->watch.prefill_s;
    return error;
}

// Runs on until all requests have ended.
static int drain(struct paper *paper)
{
    const struct engine_output *outputs;
    int n;
    while ((n = engine_step(paper->engine, &outputs)) >= 0) {
    }
    return n == -ENODATA ? 0 : n;
}

// One batch of the prompt `id`, which runs already.
static int run_batch(struct paper *paper, int64_t id, struct paper_point *point)
{
    const struct paper_options *o = paper->options;
    int error = widen(paper, id, point->batch);
    error = error ? error : decode(paper, point);
    double floor = floor_s(paper, point->plan, point->context, point->batch);
    double middle = floor_s(paper, point->plan, point->context + o->output_tokens / 2, point->batch);
    double requests_s = point->batch * paper->prefill_s + o->output_tokens * point->step_s * middle / floor;
    point->floor_s = floor;
    point->end_to_end = (double)point->batch * o->output_tokens / requests_s;
    return error;
}

// As many sequences as are wanted and could have their longest text beside the weights: each takes room for its windows
// from the first on, which would be missing where texts are kept.
static int32_t most_sequences(const struct paper_options *o, const struct plan *plan)
{
    double context = o->contexts[PAPER_CONTEXTS - 1] + longest_answer(o);
    double left = o->rates->memory_bytes.value - (double)plan_weight_bytes(plan);
    double fit = left / ((double)plan_kv_bytes_per_token(plan) * context + (double)plan_kv_bytes_per_sequence(plan));
    return fit >= 1 && fit < o->max_batch ? (int32_t)fit : o->max_batch;
}

static int run_context(struct paper *paper, const struct plan *plan, int32_t c)
{
    const struct paper_options *o = paper->options;
    int32_t context = o->contexts[c], page = plan->page_tokens;
    int32_t fits = engine_stats(paper->engine).cache_tokens / ((context + longest_answer(o) + page - 1) / page * page);
    int32_t bound = most_sequences(o, plan), most = fits < bound ? fits : bound;
    int64_t id;
    int error =
        most < 1 ? status_fail(-ENOMEM, "no sequence of %d tokens fits", context) : prefill(paper, context, &id);
    const int32_t batches[BATCHES] = {most > 1 ? 1 : 0, most > SMALL_BATCH ? SMALL_BATCH : 0,
                                      most > PAPER_BATCH ? PAPER_BATCH : 0, most};    // 0: as a later one
    for (int32_t b = 0; b < BATCHES && !error; b++) {
        struct paper_point point = {.plan = plan, .context = context, .batch = batches[b]};
        error = point.batch > 0 ? run_batch(paper, id, &point) : 0;
        if (error || point.batch == 0) {
            continue;
        }
        point.prefill_s = point.batch == 1 ? paper->prefill_s : NAN;
        point.end_to_end = b == BATCHES - 1 ? point.end_to_end : NAN;
        if (strcmp(plan->method, "dense") == 0) {
            paper->dense[c][b] = point;
        }
        add_point(paper, c, &point);
    }
    return error || c == PAPER_CONTEXTS - 1 ? error : drain(paper);    // with the last one the engine goes
}

static int run_method(struct paper *paper, const struct paper_method *method, struct progress *progress, int32_t done)
{
    const struct paper_options *o = paper->options;
    struct engine_options options = {
        .plan = method->plan,
        .model = method->model,
        .backend = o->backend,
        .threads = o->threads,
        .device = o->device,
        .max_seqs = most_sequences(o, method->plan),
        .max_context = o->contexts[PAPER_CONTEXTS - 1] + longest_answer(o),
        .max_step_tokens = o->chunk_tokens,
        .cache_tokens = strcmp(o->backend, "cuda") == 0 ? CACHE_ALL_FREE : 0,
        .observer = collector_observer(paper->collector),
        .stage_every = STAGE_EVERY,
    };
    struct sample_source source;
    int error = engine_open(&paper->engine, &options);
    if (!error) {
        engine_source(paper->engine, &source);
        collector_set_source(paper->collector, &source);
        paper->watch.replays = source.graph;
    }
    int32_t longest = o->contexts[PAPER_CONTEXTS - 1];
    int64_t id;
    // Before anything is timed, one chunk: what is loaded or chosen at first use.
    error = error ? error : prefill(paper, o->chunk_tokens < longest ? o->chunk_tokens : longest, &id);
    error = error ? error : drain(paper);
    for (int32_t c = 0; c < PAPER_CONTEXTS && !error; c++) {
        progress_update(progress, done + c);
        error = run_context(paper, method->plan, c);
    }
    engine_close(paper->engine);
    paper->engine = NULL;
    return error ? status_prefix(error, "%s: ", method->plan->method) : 0;
}

static void add_published(struct table *table)
{
    const struct paper_figures *dense = NULL;
    for (int i = 0; i < PAPER_FIGURES; i++) {
        const struct paper_figures *row = &paper_figures[i];
        dense = strcmp(row->method, "dense") == 0 ? row : dense;
        table_row(table);
        table_text(table, "method", row->method);
        table_number(table, "context", row->context);
        table_number(table, "prefill_tokens_per_s", row->prefill);
        table_number(table, "decode_tokens_per_s", row->decode);
        table_number(table, "speedup", row->decode / dense->decode);
        table_number(table, "end_to_end_tokens_per_s", row->end_to_end);
        table_number(table, "end_to_end_speedup", row->end_to_end / dense->end_to_end);
    }
}

int paper_run(struct table **tables, const struct paper_options *options)
{
    struct paper paper = {.options = options, .tables = tables};
    struct sample_sink sink = {.user = &paper.watch, .stage = on_stage, .step = on_step};
    struct progress progress;
    int32_t longest = options->contexts[PAPER_CONTEXTS - 1];
    tables[PAPER_MEASURED] =
        table_open("measured", measured_columns, sizeof measured_columns / sizeof measured_columns[0]);
    tables[PAPER_SLOW_SELECTION] =
        table_open("slow_selection", slow_columns, sizeof slow_columns / sizeof slow_columns[0]);
    tables[PAPER_PUBLISHED] =
        table_open("published", published_columns, sizeof published_columns / sizeof published_columns[0]);
    paper.prompt = malloc((size_t)longest * sizeof *paper.prompt);
    if (!tables[0] || !tables[1] || !tables[2] || !paper.prompt) {
        free(paper.prompt);
        return status_fail(-ENOMEM, "out of memory for the experiment's tables");
    }
    for (int32_t t = 0; t < longest; t++) {
        paper.prompt[t] = options->text[t % options->n_text];
    }
    add_published(tables[PAPER_PUBLISHED]);
    interrupt_catch();
    int error = collector_open(&paper.collector, COLLECTOR_CPU_CLOCK, &sink);
    progress_begin(&progress, "the paper's experiment", (int64_t)options->n_methods * PAPER_CONTEXTS);
    for (int32_t m = 0; m < options->n_methods && !error; m++) {
        error = run_method(&paper, &options->methods[m], &progress, m * PAPER_CONTEXTS);
    }
    progress_end(&progress);
    collector_close(paper.collector);
    free(paper.prompt);
    return error;
}
