// tests/bench/bench_decode.c - decode steps at a long context: what each stage reaches of this machine's bandwidth.
//
// The cache is filled with random keys and values instead of a prefill of minutes: timing depends on their place, not
// on their worth. Every step decodes the same position, reads all weights and so leaves little of the caches for the
// next one, as in a real answer; keys that several layers share may stay in a cache, and then a stage exceeds 100%.
// Bytes are those of engine/cost.h. The floor is what they take at the highest bandwidth that was seen at all, be it
// sim/device.h's measurement before the steps or one of the bursts between them: nothing may pass a floor but what
// caches hold. On a shared machine bandwidth changes from second to second, so the median burst is printed too, as what
// the same moments offered; where it is far from the highest, or stages pass it, the machine was not quiet enough for
// figures to keep.
// Appends a row per stage and step to tests/bench/results.tsv (--results); run from the top of the checkout.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "cli/options.h"
#include "engine/cpu/thread_pool.h"
#include "engine/forward.h"
#include "engine/model_file.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "engine/step_batch.h"
#include "sim/device.h"
#include "tests/bench/results.h"

enum { MAX_SAMPLES = 1 << 15, MAX_STEPS = 1000, WARM_UP_STEPS = 3, FILL_VALUES = 1 << 16 };
enum {
    STREAM_BYTES = 256 << 20,    // 8 times a last cache of 32 MB
    BURST_BYTES = 8 << 20,       // some 200 us
    BURSTS = 12,                 // timed after each step
    WAKING_BURSTS = 4,           // before those: the readers slept while the step ran
    STREAM_ITEM_BYTES = 256 << 10,
    STREAM_AHEAD_BYTES = 4096
};

struct options {
    const char *model, *methods, *backend;
    struct results *results;
    int32_t context, sequences, threads, steps;
    int64_t seed;
};

// What one stage took, every time it ran, and what it had to move.
struct stage_times {
    int32_t n;
    double us[MAX_SAMPLES];
    double bytes;    // summed over the samples
};

struct timing {
    struct stage_times stages[STAGE_COUNT];
    struct timespec begin;
};

struct run {
    const struct options *options;
    struct plan plan;
    struct model_file **models;      // [BACKBONE_COUNT] shared by all runs
    const struct backend *backend;
    struct backend_context *context;
    struct model_weights weights;
    struct kv_cache *cache;
    struct forward *forward;
    struct step_batch batch;
    struct timing timing;
    double step_ms[MAX_SAMPLES];
    struct thread_pool *readers;
    unsigned char *stream;           // [STREAM_BYTES]
    int64_t stream_at;               // where the next burst begins
    double read_bytes_per_s[MAX_STEPS * BURSTS], median_bytes_per_s, best_bytes_per_s;
    double host_bytes_per_s;
};

typedef uint64_t wide __attribute__((vector_size(16)));

// Item: a share of a burst, read in order by the strongest loop there is: a weak one would make every stage look good.
// Loads of 8 bytes, or no prefetching, read a half and four fifths as fast on the machine this was written on.
static void read_item(void *user, int32_t item, int32_t thread)
{
    const struct run *run = user;
    const unsigned char *from = run->stream + run->stream_at + (int64_t)item * STREAM_ITEM_BYTES;
    static _Thread_local volatile uint64_t sink;
    wide sum[4] = {{0}};
    (void)thread;
    for (int64_t at = 0; at < STREAM_ITEM_BYTES; at += (int64_t)sizeof sum) {
        const wide *word = (const wide *)(const void *)(from + at);
        __builtin_prefetch(from + at + STREAM_AHEAD_BYTES);
        for (int i = 0; i < 4; i++) {
            sum[i] ^= word[i];
        }
    }
    sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
    sink = sum[0][0] ^ sum[0][1];
    (void)sink;
}

static double elapsed_us(const struct timespec *begin)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - begin->tv_sec) * 1e6 + (double)(now.tv_nsec - begin->tv_nsec) * 1e-3;
}

static void stage_begin(void *user, const struct observed_stage *stage)
{
    (void)stage;
    clock_gettime(CLOCK_MONOTONIC, &((struct timing *)user)->begin);
}

static void stage_end(void *user, const struct observed_stage *stage)
{
    struct timing *timing = user;
    struct stage_times *times = &timing->stages[stage->stage];
    double us = elapsed_us(&timing->begin);
    if (times->n < MAX_SAMPLES) {
        times->us[times->n++] = us;
        times->bytes += (double)stage->bytes;
    }
}

// Random contents for `bytes` bytes of elements of `dtype`, from a block of random values written over and over.
static void fill(void *memory, int64_t bytes, enum dtype dtype)
{
    static unsigned char block[FILL_VALUES * sizeof(float)];
    int64_t block_bytes = (int64_t)FILL_VALUES * dtype_bytes(dtype);
    for (int32_t i = 0; i < FILL_VALUES; i++) {
        dtype_store(block, i, dtype, (float)rand() / (float)RAND_MAX * 4 - 2);
    }
    for (int64_t at = 0; at < bytes; at += block_bytes) {
        memcpy((unsigned char *)memory + at, block, (size_t)(bytes - at < block_bytes ? bytes - at : block_bytes));
    }
}

static void fill_cache(const struct run *run, int32_t n_pages)
{
    const struct plan *plan = &run->plan;
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        bool window = plan->layers[l].attention == ATTENTION_WINDOW;
        if (window) {
            struct kv_view ring = kv_cache_ring(run->cache, l);
            fill(ring.data, ring.page_stride * run->options->sequences, ring.dtype);
        }
        if ((!window && plan_has_own_kv(plan, l)) || l == plan_memory_layer(plan)) {
            struct kv_view view = kv_cache_pages(run->cache, l);
            fill(view.data, view.page_stride * n_pages, view.dtype);
        }
        if (!plan_runs_indexer(plan, l)) {
            continue;
        }
        if (plan->index.score == INDEX_PAGE_BOUND) {
            struct bound_view bounds = kv_cache_bounds(run->cache, l);
            fill(bounds.data, bounds.page_stride * n_pages, DTYPE_F32);
            continue;
        }
        struct index_view keys = kv_cache_index(run->cache, l);
        for (int32_t page = 0; page < n_pages; page++) {
            unsigned char *at = keys.data + page * keys.page_stride;
            fill(at, (int64_t)keys.page_tokens * keys.dim * dtype_bytes(keys.dtype), keys.dtype);
            for (int32_t i = 0; keys.dtype == DTYPE_FP8 && i < keys.page_tokens; i++) {
                memcpy(at + keys.scale_offset + i * 4, &(const float){1.0f}, sizeof(float));
            }
        }
    }
}

static void load_matrix(const struct run *run, struct matrix *matrix)
{
    if (matrix->data) {
        struct matrix host = *matrix;
        if (run->backend->weight_load(run->context, matrix, &host)) {
            fprintf(stderr, "bench_decode: %s\n", status_text());
            exit(1);
        }
    }
}

static void load_weights(struct run *run)
{
    struct model_weights *w = &run->weights;
    struct matrix *const outside[] = {&w->embedding, &w->memory_norm, &w->memory_k,
                                      &w->memory_v,  &w->final_norm,  &w->head};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        load_matrix(run, outside[i]);
    }
    for (int32_t l = 0; l < run->plan.shape.n_layers; l++) {
        struct layer_weights *layer = &w->layers[l];
        struct matrix *const inside[] = {
            &layer->attention_norm, &layer->q, &layer->k, &layer->v, &layer->output, &layer->q_norm, &layer->k_norm,
            &layer->ffn_norm, &layer->gate, &layer->up, &layer->down, &layer->index.q, &layer->index.k,
            &layer->index.gate, &layer->index.k_norm, &layer->index.k_norm_bias};
        for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
            load_matrix(run, inside[i]);
        }
    }
}

static void close_run(struct run *run)
{
    thread_pool_close(run->readers);
    free(run->stream);
    forward_close(run->forward);
    step_batch_close(&run->batch);
    kv_cache_close(run->cache);
    if (run->context) {
        run->backend->close(run->context);
    }
}

static int open_run(struct run *run, const char *method, const struct observer *observer)
{
    const struct options *o = run->options;
    const struct model_shape *shape = plan_find_model(o->model);
    if (!shape) {
        return status_fail(-1, "no model is called '%s'", o->model);
    }
    int error = plan_build(&run->plan, shape, method, NULL);
    struct model_file **model = &run->models[run->plan.shape.backbone];
    if (!error && !*model) {
        error = model_file_random(model, &run->plan.shape, run->plan.weight_dtype, (uint64_t)o->seed);
    }
    error = error ? error : model_file_weights(*model, &run->plan, &run->weights);
    error = error ? error : backend_find(&run->backend, o->backend);
    if (error) {
        return error;
    }
    int32_t pages = o->context / run->plan.page_tokens + 1, n_pages = pages * o->sequences;
    const struct backend_options backend = {.plan = &run->plan, .threads = o->threads, .max_rows = o->sequences,
                                            .max_seqs = o->sequences, .max_context = o->context + 1};
    error = run->backend->open(&run->context, &backend);
    error = error ? error : kv_cache_open(&run->cache, run->backend, run->context, &run->plan, n_pages, o->sequences);
    error = error ? error : step_batch_open(&run->batch, o->sequences, o->sequences, pages);
    error = error ? error : thread_pool_open(&run->readers, o->threads ? o->threads : thread_pool_processors());
    if (error) {
        return error;
    }
    run->stream = aligned_alloc(2 << 20, STREAM_BYTES);
    if (!run->stream) {
        return status_fail(-ENOMEM, "no memory to measure the bandwidth");
    }
    madvise(run->stream, STREAM_BYTES, MADV_HUGEPAGE);
    memset(run->stream, 1, STREAM_BYTES);
    load_weights(run);
    fill_cache(run, n_pages);
    const struct forward_options forward = {
        .backend = run->backend, .context = run->context, .plan = &run->plan, .weights = &run->weights,
        .observer = observer, .max_rows = o->sequences, .max_logit_rows = o->sequences,
        .max_context = o->context + 1};
    error = forward_open(&run->forward, &forward);
    if (!error) {
        forward_use_cache(run->forward, run->cache);
    }
    return error;
}

// One decode step of all sequences at the full context; the page tables are scattered as a used cache's are.
static int step(struct run *run, int32_t number)
{
    const struct options *o = run->options;
    int32_t pages = o->context / run->plan.page_tokens + 1, token = 65;
    int32_t *table = malloc((size_t)pages * sizeof *table), *drawn = malloc((size_t)o->sequences * sizeof *drawn);
    struct sampling *sampling = calloc((size_t)o->sequences, sizeof *sampling);
    step_batch_clear(&run->batch, number);
    for (int32_t s = 0; s < o->sequences; s++) {
        for (int32_t p = 0; p < pages; p++) {
            table[p] = p * o->sequences + s;    // sequences that grew together
        }
        sampling[s] = (struct sampling){.top_p = 1};
        step_batch_add(&run->batch, s, o->context, &token, 1, 1, table, pages);
    }
    int error = forward_begin(run->forward, &run->batch.batch, run->batch.work);
    error = error ? error : forward_run(run->forward, sampling, drawn);
    error = error ? error : forward_end(run->forward);
    free(table);
    free(drawn);
    free(sampling);
    return error;
}

// One line on the screen and one in the results. values [n] are sorted here; `bytes` is what one of them moves.
static void report(const struct run *run, const char *quantity, double *values, int32_t n, double bytes,
                   const char *unit)
{
    const struct options *o = run->options;
    double unit_s = strcmp(unit, "ms") == 0 ? 1e-3 : 1e-6;
    sort_doubles(values, n);
    double median = values[n / 2], spread = values[n * 3 / 4] - values[n / 4];    // between the quartiles
    double floor = bytes / run->best_bytes_per_s / unit_s, rate = bytes / (median * unit_s);
    printf("  %-24s %10.2f %s  least %10.2f  floor %10.2f  %7.2f GB/s  %5.1f%% of the floor, of the median burst "
           "%5.1f%%\n",
           quantity, median, unit, values[0], floor, rate * 1e-9, 100 * floor / median,
           100 * rate / run->median_bytes_per_s);
    char device[128], variant[128], name[260];
    run->backend->describe(run->context, device, variant, sizeof device);
    snprintf(name, sizeof name, "%s, %s", device, variant);
    results_add(o->results, &(struct result){.device = name,
                                             .command = "bench_decode",
                                             .model = o->model,
                                             .method = run->plan.method,
                                             .context = o->context,
                                             .sequences = o->sequences,
                                             .quantity = quantity,
                                             .median = median,
                                             .spread = spread,
                                             .floor = floor,
                                             .unit = unit});
}

static int run_method(struct run *run, const char *method)
{
    struct observer observer = {.user = &run->timing, .stage_begin = stage_begin, .stage_end = stage_end};
    int error = open_run(run, method, &observer);
    for (int32_t i = 0; i < WARM_UP_STEPS + run->options->steps && !error; i++) {
        if (i == WARM_UP_STEPS) {
            memset(run->timing.stages, 0, sizeof run->timing.stages);
        }
        struct timespec begin;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        error = step(run, i);
        int32_t kept = i < WARM_UP_STEPS ? 0 : i - WARM_UP_STEPS;
        run->step_ms[kept] = elapsed_us(&begin) * 1e-3;
        for (int32_t burst = -WAKING_BURSTS; burst < BURSTS; burst++) {
            clock_gettime(CLOCK_MONOTONIC, &begin);
            thread_pool_run(run->readers, read_item, run, BURST_BYTES / STREAM_ITEM_BYTES);
            if (burst >= 0) {
                run->read_bytes_per_s[kept * BURSTS + burst] = BURST_BYTES / (elapsed_us(&begin) * 1e-6);
            }
            run->stream_at = (run->stream_at + BURST_BYTES) % STREAM_BYTES;
        }
    }
    if (error) {
        return error;
    }
    int32_t n = run->options->steps * BURSTS;
    sort_doubles(run->read_bytes_per_s, n);
    run->median_bytes_per_s = run->read_bytes_per_s[n / 2];
    run->best_bytes_per_s = run->read_bytes_per_s[n - 1];
    if (run->host_bytes_per_s > run->best_bytes_per_s) {
        run->best_bytes_per_s = run->host_bytes_per_s;
    }
    char name[64];
    printf("%s: memory reads at %.1f GB/s at most, at %.1f GB/s in the median between the steps\n", method,
           run->best_bytes_per_s * 1e-9, run->median_bytes_per_s * 1e-9);
    for (int s = 0; s < STAGE_COUNT; s++) {
        struct stage_times *times = &run->timing.stages[s];
        if (times->n > 0 && times->bytes > 0) {
            snprintf(name, sizeof name, "stage.%s", stage_name((enum stage)s));
            report(run, name, times->us, times->n, times->bytes / times->n, "us");
        }
    }
    struct stage_cost all = step_cost(&run->plan, run->batch.work, run->batch.batch.n_seqs);
    report(run, "decode_step", run->step_ms, run->options->steps, (double)all.bytes, "ms");
    return 0;
}

int main(int argc, char **argv)
{
    struct results results = RESULTS_DEFAULT;
    struct options o = {.model = "bench-100m",
                        .methods = "dense,yoco,clsa,token,block,indexcache",
                        .backend = "cpu",
                        .results = &results,
                        .context = 32768,
                        .sequences = 1,
                        .steps = 30,
                        .seed = 1};
    const struct option_spec specs[] = {
        {"model", OPTION_TEXT, &o.model, 0, 0, "NAME", "size of the model"},
        {"methods", OPTION_TEXT, &o.methods, 0, 0, "NAMES", "separated by commas"},
        {"backend", OPTION_TEXT, &o.backend, 0, 0, "NAME", "cpu or reference"},
        {"context", OPTION_INT, &o.context, 1, 1 << 24, "tokens", "in the cache before each step"},
        {"sequences", OPTION_INT, &o.sequences, 1, 1024, "sequences", "decoded together"},
        {"threads", OPTION_INT, &o.threads, 0, 1024, "threads", "0: all that the process may use"},
        {"steps", OPTION_INT, &o.steps, 1, MAX_STEPS, "steps", "timed for each method"},
        {"seed", OPTION_LONG, &o.seed, 0, 1e15, "number", "of the random weights"},
        RESULTS_OPTIONS(results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {.name = "bench_decode", .summary = "decode steps against the host's bandwidth",
                                         .options = specs};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    struct device host;
    error = error ? error : device_measure_host(&host, o.threads);
    error = error ? error : results_open(&results);
    if (error) {
        return bench_end("bench_decode", error);
    }
    printf("host at its best reads %.1f GB/s with %d threads; %s, context %d, %d sequences\n",
           host.bytes_per_s.value * 1e-9, host.threads, o.model, o.context, o.sequences);
    struct model_file *models[BACKBONE_COUNT] = {NULL};
    char *methods = strdup(o.methods), *rest = methods;
    for (char *method = strtok_r(rest, ",", &rest); method && !error; method = strtok_r(NULL, ",", &rest)) {
        struct run *run = calloc(1, sizeof *run);
        run->options = &o;
        run->host_bytes_per_s = host.bytes_per_s.value;
        run->models = models;
        error = run_method(run, method);
        close_run(run);
        free(run);
    }
    free(methods);
    for (int32_t i = 0; i < BACKBONE_COUNT; i++) {
        model_file_close(models[i]);
    }
    return bench_end("bench_decode", results_close(&results, error));
}
