// tests/cuda/bench_score.c - what scoring and selecting cost in the prefill of one prompt of 131072 tokens, per layer.
//
// A prompt's rows go in tiles whose scores fit a buffer. The time of one tile is measured at several contexts,
// multiplied by the tiles of that part of the prompt and summed: milliseconds per layer, and the rate of the
// products.
#include "tests/cuda/gpu.h"

enum { CONTEXT = 131072, PARTS = 8, PAGE = 64, DIM = 128, MOST_ROWS = 8192 };

struct score_case {
    struct index_score_params score;
    struct top_k_params select;
    bool do_score, do_select;
};

struct method {
    const char *name;
    enum index_score score;
    enum dtype dtype;
    int32_t heads, sets, unit_tokens, k;
    bool maxima;
};

static int run_tile(void *context, int call, cudaStream_t stream)
{
    struct score_case *c = context;
    (void)call;
    int error = c->do_score ? index_score_launch(&c->score, stream) : 0;
    return error || !c->do_select ? error : top_k_launch(&c->select, stream);
}

struct score_memory {
    struct paged paged;
    struct buffer seq, position, keys, q, gate, scores, maxima, unit, count, nan;
};

// Keys without codes that are not numbers, and scales as a quantiser chooses them.
static struct buffer fp8_keys(void)
{
    struct buffer keys = buffer_new((int64_t)CONTEXT * (DIM + 4));
    unsigned char *page = keys.host;
    for (int32_t p = 0; p < CONTEXT / PAGE; p++, page += PAGE * (DIM + 4)) {
        for (int32_t i = 0; i < PAGE * DIM; i++) {
            page[i] = (unsigned char)(check_random() & 0xb7);    // one bit of the exponent clear: never NaN
        }
        for (int32_t i = 0; i < PAGE; i++) {
            float scale = 0.005f + 0.01f * (float)check_uniform();
            memcpy(page + PAGE * DIM + i * 4, &scale, sizeof scale);
        }
    }
    buffer_up(&keys);
    return keys;
}

static void memory_new(struct score_memory *m, const struct method *method, int64_t buffer_bytes)
{
    memset(m, 0, sizeof *m);
    m->paged = paged_new((int32_t[]){CONTEXT}, 1, PAGE);
    m->seq = buffer_new(MOST_ROWS * 4);
    m->position = buffer_new(MOST_ROWS * 4);
    buffer_up(&m->seq);
    int64_t lists = (int64_t)MOST_ROWS * method->sets;
    m->keys = method->dtype == DTYPE_FP8 ? fp8_keys() : device_random((int64_t)CONTEXT * DIM * 2, 1);
    m->q = device_random((int64_t)MOST_ROWS * method->heads * DIM * 2, 1);
    m->gate = device_random((int64_t)MOST_ROWS * method->heads * 4, 1);
    m->scores = device_random(buffer_bytes, 1);
    m->maxima = device_random(buffer_bytes / 8, 1);
    m->unit = device_random(lists * method->k * 4, 1);
    m->count = device_random(lists * 4, 1);
    m->nan = buffer_new(4);
}

static void memory_free(struct score_memory *m)
{
    struct buffer *all[] = {&m->seq,    &m->position, &m->keys, &m->q,     &m->gate,
                            &m->scores, &m->maxima,   &m->unit, &m->count, &m->nan};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&m->paged);
}

static struct score_case case_of(struct score_memory *m, const struct method *method, int32_t context, int32_t n)
{
    int32_t units = (context + method->unit_tokens - 1) / method->unit_tokens, stride = (units + 15) / 16 * 16;
    int64_t key_bytes = method->dtype == DTYPE_FP8 ? DIM + 4 : DIM * 2;
    struct gpu_rows rows = m->paged.rows;
    for (int32_t i = 0; i < n; i++) {
        ((int32_t *)m->position.host)[i] = context - n + i;
    }
    buffer_up(&m->position);
    rows.n = n;
    rows.seq = m->seq.device;
    rows.position = m->position.device;
    float *maxima = method->maxima ? m->maxima.device : NULL;
    return (struct score_case){.score = {.rows = rows,
                                         .n = n,
                                         .q = m->q.device,
                                         .gate = m->gate.device,
                                         .score = method->score,
                                         .heads = method->heads,
                                         .sets = method->sets,
                                         .unit_tokens = method->unit_tokens,
                                         .max_context = context,
                                         .scores = m->scores.device,
                                         .stride = stride,
                                         .maxima = maxima,
                                         .maxima_stride = stride / 16,
                                         .keys = {.data = m->keys.device,
                                                  .dtype = method->dtype,
                                                  .page_tokens = PAGE,
                                                  .dim = DIM,
                                                  .page_stride = PAGE * key_bytes,
                                                  .scale_offset = PAGE * DIM}},
                               .select = {.rows = rows,
                                          .n = n,
                                          .scores = m->scores.device,
                                          .stride = stride,
                                          .sets = method->sets,
                                          .unit_tokens = method->unit_tokens,
                                          .maxima = maxima,
                                          .maxima_stride = stride / 16,
                                          .k = method->k,
                                          .keep_local = method->unit_tokens > 1,
                                          .max_units = units,
                                          .nan_row = m->nan.device,
                                          .out = {.unit = m->unit.device,
                                                  .count = m->count.device,
                                                  .sets = method->sets,
                                                  .unit_tokens = method->unit_tokens,
                                                  .stride = method->k}}};
}

static double tile_ms(struct score_case *c, bool do_score, bool do_select)
{
    c->do_score = do_score;
    c->do_select = do_select;
    return time_graph(run_tile, c, 2).median_us / 1e3;
}

static void bench_layer(const struct method *method, int64_t buffer_bytes, FILE *tsv, const char *device)
{
    struct score_memory m;
    memory_new(&m, method, buffer_bytes);
    double score_ms = 0, select_ms = 0, both_ms = 0;
    for (int part = 1; part <= PARTS; part++) {
        int32_t context = CONTEXT / PARTS * part - CONTEXT / PARTS / 2;    // the middle of the part
        int64_t fitting = buffer_bytes / 4 / method->sets / ((context / method->unit_tokens + 15) / 16 * 16);
        int32_t n = (int32_t)(fitting < MOST_ROWS ? fitting : MOST_ROWS);
        n = n < context ? n : context;
        struct score_case c = case_of(&m, method, context, n);
        double tiles = (double)CONTEXT / PARTS / n;
        score_ms += tiles * tile_ms(&c, true, false);
        select_ms += tiles * tile_ms(&c, false, true);
        both_ms += tiles * tile_ms(&c, true, true);
    }
    double flops = (double)CONTEXT * CONTEXT * method->heads * DIM;
    printf("rows_%-18s scores in %4d MB: %8.2f ms a layer, score %8.2f (%4.0f TFLOP/s), select %8.2f\n", method->name,
           (int)(buffer_bytes >> 20), both_ms, score_ms, flops / score_ms / 1e9, select_ms);
    fflush(stdout);
    if (tsv) {
        time_t now = time(NULL);
        char date[32];
        strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
        fprintf(tsv, "%s\tCOMMIT\t%s\tDRIVER\tcuda_kernels bench\tpaper-4b\t-\t%d\t1\tkernel.rows_%s_%d_mb\t%.2f\t0"
                     "\t0\tms\n",
                date, device, CONTEXT, method->name, (int)(buffer_bytes >> 20), both_ms);
    }
    memory_free(&m);
}

void bench_score(const char *filter, FILE *tsv, const char *device)
{
    static const struct method methods[] = {
        {"token", INDEX_DOT, DTYPE_BF16, 1, 1, 1, 2048, true},
        {"token_no_maxima", INDEX_DOT, DTYPE_BF16, 1, 1, 1, 2048, false},
        {"token_fp8", INDEX_DOT, DTYPE_FP8, 1, 1, 1, 2048, true},
        {"block", INDEX_DOT, DTYPE_BF16, 4, 4, 128, 16, false},
        {"dsa", INDEX_GATED_RELU, DTYPE_FP8, 64, 1, 1, 2048, true},
    };
    // Of the scores; the engine's is the first.
    const int64_t sizes[] = {(int64_t)256 << 20, (int64_t)512 << 20, (int64_t)1 << 30};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "rows_%s", methods[i].name);
        bool every = strcmp(methods[i].name, "token") == 0;    // the others show what they show in one
        for (size_t j = 0; j < (every ? sizeof sizes / sizeof sizes[0] : 1) && strstr(name, filter); j++) {
            bench_layer(&methods[i], sizes[j], tsv, device);
        }
    }
}
