// tests/cuda/bench.c - every kernel at the sizes of a 4B model at 131072 tokens: time, floor, percent of floor.
//
// The floor is what an ideal kernel reads (weights, keys and values, index keys and scores once) over the read
// bandwidth measured first in the same run. Calls are replayed in a CUDA graph and rotate over inputs larger than L2.
// FILE.tsv gets one line per row in the columns of tests/bench/results.tsv; the caller fills commit and driver.
#include "tests/cuda/gpu.h"

enum { CONTEXT = 131072, TOP_K = 2048, HEADS = 20, KV_HEADS = 4, HEAD_DIM = 128, PAGE = 64, ROTATE_BYTES = 256 << 20 };

static double bandwidth_bytes_per_us;
static const char *only;
static FILE *tsv_file;
static char device_name[256];

void bench_report(const char *name, int32_t sequences, int64_t bytes, int (*body)(void *, int, cudaStream_t),
                  void *context, int calls)
{
    struct timing t = time_graph(body, context, calls);
    double floor_us = bandwidth_bytes_per_us > 0 ? (double)bytes / bandwidth_bytes_per_us : 0;
    printf("%-44s %4d %10.2f us  +-%4.1f%%  floor %9.2f us  %5.1f%%  %6.0f GB/s\n", name, sequences, t.median_us,
           t.spread_percent, floor_us, 100 * floor_us / t.median_us, (double)bytes / t.median_us / 1e3);
    fflush(stdout);
    if (tsv_file) {
        time_t now = time(NULL);
        char date[32];
        strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
        fprintf(tsv_file, "%s\tCOMMIT\t%s\tDRIVER\tcuda_kernels bench\tpaper-4b\t-\t%d\t%d\tkernel.%s\t%.2f\t%.2f\t%.2f"
                "\tus\n", date, device_name, CONTEXT, sequences, name, t.median_us,
                t.median_us * t.spread_percent / 100, floor_us);
    }
}

bool bench_wanted(const char *name)
{
    return strstr(name, only) != NULL;
}

struct stream_case {
    struct buffer data;
};

static int run_stream(void *context, int call, cudaStream_t stream)
{
    struct stream_case *c = context;
    (void)call;
    return stream_launch(c->data.device, c->data.bytes, c->data.device, stream);
}

static void bench_stream(void)
{
    struct stream_case c = {device_random((int64_t)4 << 30, 1)};
    struct timing t = time_graph(run_stream, &c, 4);
    bandwidth_bytes_per_us = (double)c.data.bytes / t.median_us;
    printf("%-44s      %10.2f us  +-%4.1f%%  %.0f GB/s\n", "read stream, 4 GiB", t.median_us, t.spread_percent,
           bandwidth_bytes_per_us / 1e3);
    cudaFree(c.data.device);
}

struct linear_case {
    struct linear_params p;
    char *weights;
    int64_t bytes;
    int sets;
};

static int run_linear(void *context, int call, cudaStream_t stream)
{
    struct linear_case *c = context;
    struct linear_params p = c->p;
    char *at = c->weights + call % c->sets * c->bytes;
    for (int32_t s = 0; s < p.n_segments; s++) {
        p.segments[s].weight = at;
        at += (int64_t)p.segments[s].n_out * p.n_in * 2;
    }
    return linear_launch(&p, stream);
}

static void bench_linear(const char *name, int32_t n_in, const int32_t *n_out, int32_t n_segments,
                         enum linear_epilogue epilogue, int32_t rows)
{
    if (!bench_wanted(name)) {
        return;
    }
    struct linear_case c = {.p = {.n_rows = rows, .n_in = n_in, .n_segments = n_segments, .epilogue = epilogue}};
    struct buffer x = device_random((int64_t)rows * n_in * 2, 1), out[LINEAR_MAX_SEGMENTS] = {{0}};
    for (int32_t s = 0; s < n_segments; s++) {
        out[s] = device_random((int64_t)rows * n_out[s] * 4, 1);
        c.p.segments[s] = (struct linear_segment){NULL, out[s].device, n_out[s]};
        c.bytes += (int64_t)n_out[s] * n_in * 2;
    }
    c.sets = 1 + (int)(ROTATE_BYTES / c.bytes);
    struct buffer weights = device_random(c.bytes * c.sets, 0.02f);
    c.weights = weights.device;
    c.p.x = x.device;
    bench_report(name, rows, c.bytes, run_linear, &c, 24);
    cudaFree(weights.device);
    cudaFree(x.device);
    for (int32_t s = 0; s < n_segments; s++) {
        cudaFree(out[s].device);
    }
}

struct attention_case {
    struct attention_params p;
    struct buffer units;
    int lists;
};

static int run_attention(void *context, int call, cudaStream_t stream)
{
    struct attention_case *c = context;
    struct attention_params p = c->p;
    if (p.over == ATTEND_SELECTED) {
        p.selection.unit += (int64_t)(call % c->lists) * p.rows.n * p.selection.sets * p.selection.stride;
    }
    return attention_launch(&p, stream);
}

// Random codes are any numbers; scales are those of keys about 1 in size.
static void fill_scales(const struct kv_view *view, int32_t n_pages)
{
    const bool head_major = view->scale_token_stride == 2;
    gpu_must(head_major ? cudaMemset2D(view->data + view->scale_offset, (size_t)view->page_stride, 121,
                                       (size_t)(2 * KV_HEADS * view->page_tokens), (size_t)n_pages)
                        : cudaMemset2D(view->data + view->scale_offset, (size_t)view->token_stride, 121, 2 * KV_HEADS,
                                       (size_t)n_pages * (size_t)view->page_tokens), "scales");
}

static struct kv_view bench_view(void *data, int32_t page_tokens, bool head_major, bool fp8)
{
    int64_t head = HEAD_DIM * (fp8 ? 1 : 2), token = 2 * KV_HEADS * head;
    int64_t run = fp8 ? (token + 2 * KV_HEADS + 15) / 16 * 16 : token;
    return (struct kv_view){
        .data = data, .dtype = fp8 ? DTYPE_FP8 : DTYPE_BF16, .page_tokens = page_tokens,
        .page_stride = run * page_tokens,
        .token_stride = head_major ? head : run, .head_stride = head_major ? 2 * head * page_tokens : head,
        .value_offset = head_major ? head * page_tokens : KV_HEADS * head,
        .scale_offset = head_major ? token * page_tokens : token, .scale_token_stride = head_major ? 2 : run,
        .scale_head_stride = head_major ? 2 * page_tokens : 2};
}

// sets 0: all tokens.
static void bench_attention(const char *name, int32_t n, int32_t sets, int32_t unit_tokens, int lists, bool fp8)
{
    if (!bench_wanted(name)) {
        return;
    }
    int32_t tokens[64];
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = CONTEXT;
    }
    struct paged paged = paged_new(tokens, n, unit_tokens > PAGE ? unit_tokens : PAGE);
    struct kv_view view = bench_view(NULL, paged.page_tokens, unit_tokens > 1, fp8);
    const int64_t token_bytes = view.page_stride / view.page_tokens, width = HEADS * HEAD_DIM;
    struct buffer kv = device_random(paged.n_pages * paged.page_tokens * token_bytes, 1);
    struct buffer q = device_random(n * width * 2, 1), out = device_random(n * width * 2, 1);
    int64_t work_bytes = attention_workspace_bytes(n, HEADS, KV_HEADS, HEAD_DIM, sets ? sets : 1);
    struct buffer work = device_random(work_bytes, 1);
    int32_t budget = sets ? TOP_K / unit_tokens : 1, all_sets = sets ? sets : 1;
    struct attention_case c = {.units = buffer_new((int64_t)lists * n * all_sets * budget * 4), .lists = lists};
    struct buffer count = buffer_new((int64_t)n * all_sets * 4);
    int32_t n_units = CONTEXT / unit_tokens;
    for (int64_t i = 0; i < (int64_t)lists * n * all_sets; i++) {
        int32_t part = n_units / budget;    // one unit of each equal part: ascending without a sort
        for (int32_t j = 0; j < budget; j++) {
            ((int32_t *)c.units.host)[i * budget + j] = j * part + check_range(0, part - 1);
        }
    }
    for (int32_t i = 0; i < n * all_sets; i++) {
        ((int32_t *)count.host)[i] = budget;
    }
    buffer_up(&c.units);
    buffer_up(&count);
    view.data = kv.device;
    if (fp8) {
        fill_scales(&view, paged.n_pages);
    }
    c.p = (struct attention_params){
        .rows = paged.rows, .q = q.device, .view = view, .over = sets ? ATTEND_SELECTED : ATTEND_ALL, .n_heads = HEADS,
        .n_kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .out = out.device, .workspace = work.device,
        .selection = {.unit = c.units.device, .count = count.device, .sets = all_sets, .unit_tokens = unit_tokens,
                      .stride = budget}};
    int64_t bytes = n * (sets ? TOP_K * token_bytes * (sets > KV_HEADS ? sets / KV_HEADS : 1) : CONTEXT * token_bytes);
    bench_report(name, n, bytes, run_attention, &c, sets ? 32 : n >= 8 ? 3 : 6);
    struct buffer *all[] = {&c.units, &count};
    for (size_t i = 0; i < 2; i++) {
        buffer_free(all[i]);
    }
    cudaFree(kv.device);
    cudaFree(q.device);
    cudaFree(out.device);
    cudaFree(work.device);
    paged_free(&paged);
}

static int run_widen(void *context, int call, cudaStream_t stream)
{
    (void)call;
    return kv_widen_launch(context, stream);
}

// One sequence's fp8 pages of one layer, before its prompt attends to them.
static void bench_widen(void)
{
    if (!bench_wanted("kv_widen")) {
        return;
    }
    struct paged paged = paged_new((int32_t[]){CONTEXT}, 1, PAGE);
    struct kv_view from = bench_view(NULL, PAGE, false, true), to = bench_view(NULL, PAGE, false, false);
    struct buffer coded = device_random(from.page_stride * paged.n_pages, 1);
    struct buffer wide = device_random(to.page_stride * paged.n_pages, 1);
    from.data = coded.device;
    to.data = wide.device;
    struct kv_widen_params p = {.from = from, .to = to, .pages = paged.pages.device, .n_tokens = CONTEXT,
                                .n_kv_heads = KV_HEADS, .head_dim = HEAD_DIM};
    bench_report("kv_widen", 1, coded.bytes + wide.bytes, run_widen, &p, 6);
    cudaFree(coded.device);
    cudaFree(wide.device);
    paged_free(&paged);
}

struct window_case {
    struct attention_params p;
    int64_t layer_bytes;
    int layers;
};

static int run_window(void *context, int call, cudaStream_t stream)
{
    struct window_case *c = context;
    struct attention_params p = c->p;
    p.view.data += call % c->layers * c->layer_bytes;
    return attention_launch(&p, stream);
}

static void bench_window(const char *name, int32_t n)
{
    enum { WINDOW = 512 };
    if (!bench_wanted(name)) {
        return;
    }
    int32_t tokens[64];
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = CONTEXT - i;
    }
    const int64_t token_bytes = 2 * KV_HEADS * HEAD_DIM * 2, width = HEADS * HEAD_DIM;
    struct paged paged = paged_new(tokens, n, PAGE);
    struct window_case c = {.layer_bytes = n * WINDOW * token_bytes};
    c.layers = 1 + (int)(ROTATE_BYTES / c.layer_bytes);
    struct buffer kv = device_random(c.layer_bytes * c.layers, 1), q = device_random(n * width * 2, 1);
    struct buffer out = device_random(n * width * 2, 1), fresh = device_random(n * token_bytes, 1);
    struct buffer work = device_random(attention_workspace_bytes(n, HEADS, KV_HEADS, HEAD_DIM, 1), 1);
    struct buffer context = buffer_new(4 * n);
    for (int32_t i = 0; i < n; i++) {
        ((int32_t *)context.host)[i] = tokens[i] - 1;
    }
    buffer_up(&context);
    c.p = (struct attention_params){
        .rows = paged.rows, .q = q.device, .over = ATTEND_WINDOW, .n_heads = HEADS, .n_kv_heads = KV_HEADS,
        .head_dim = HEAD_DIM, .out = out.device, .workspace = work.device, .fresh_k = fresh.device,
        .fresh_v = fresh.device, .slot = paged.seq.device, .first_row = paged.seq.device, .context = context.device,
        .window_tokens = WINDOW,
        .view = {.data = kv.device, .dtype = DTYPE_BF16, .page_tokens = WINDOW, .page_stride = token_bytes * WINDOW,
                 .token_stride = token_bytes, .head_stride = HEAD_DIM * 2, .value_offset = KV_HEADS * HEAD_DIM * 2,
                 .ring = true}};
    bench_report(name, n, c.layer_bytes, run_window, &c, 32);
    buffer_free(&context);
    cudaFree(kv.device);
    cudaFree(q.device);
    cudaFree(out.device);
    cudaFree(fresh.device);
    cudaFree(work.device);
    paged_free(&paged);
}

struct index_case {
    struct index_score_params p;
    int64_t bytes;
    int copies;
};

static int run_index(void *context, int call, cudaStream_t stream)
{
    struct index_case *c = context;
    struct index_score_params p = c->p;
    p.keys.data += call % c->copies * c->bytes;
    return index_score_launch(&p, stream);
}

static void bench_index(const char *name, int32_t n, enum index_score score, enum dtype dtype, int32_t heads,
                        int32_t unit_tokens)
{
    if (!bench_wanted(name)) {
        return;
    }
    int32_t tokens[64];
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = CONTEXT;
    }
    struct paged paged = paged_new(tokens, n, PAGE);
    int64_t key_bytes = dtype == DTYPE_FP8 ? 132 : 256;
    struct index_case c = {.bytes = key_bytes * CONTEXT * n};
    c.copies = 1 + (int)(ROTATE_BYTES / c.bytes);
    int32_t sets = score == INDEX_DOT ? heads : 1;
    struct buffer keys = device_random(c.bytes * c.copies, 1), q = device_random((int64_t)n * heads * 128 * 2, 1);
    struct buffer gate = device_random((int64_t)n * heads * 4, 1);
    struct buffer scores = device_random((int64_t)n * sets * CONTEXT * 4, 1);
    c.p = (struct index_score_params){
        .rows = paged.rows, .n = n, .q = q.device, .gate = gate.device, .score = score, .heads = heads, .sets = sets,
        .unit_tokens = unit_tokens, .max_context = CONTEXT, .scores = scores.device, .stride = CONTEXT / unit_tokens,
        .keys = {.data = keys.device, .dtype = dtype, .page_tokens = PAGE, .dim = 128, .page_stride = PAGE * key_bytes,
                 .scale_offset = PAGE * 128}};
    bench_report(name, n, c.bytes + (int64_t)n * sets * (CONTEXT / unit_tokens) * 4, run_index, &c, n > 8 ? 8 : 24);
    cudaFree(keys.device);
    cudaFree(q.device);
    cudaFree(gate.device);
    cudaFree(scores.device);
    paged_free(&paged);
}

struct top_k_case {
    struct top_k_params p;
    int64_t floats;
    int copies;
};

static int run_top_k(void *context, int call, cudaStream_t stream)
{
    struct top_k_case *c = context;
    struct top_k_params p = c->p;
    p.scores += call % c->copies * c->floats;
    return top_k_launch(&p, stream);
}

static void bench_top_k(const char *name, int32_t n, int32_t units, int32_t k, int32_t sets, int32_t unit_tokens)
{
    if (!bench_wanted(name)) {
        return;
    }
    int32_t tokens[64];
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = units * unit_tokens;
    }
    struct paged paged = paged_new(tokens, n, PAGE);
    struct top_k_case c = {.floats = (int64_t)n * sets * units};
    c.copies = 1 + (int)((32 << 20) / (c.floats * 4));
    struct buffer scores = buffer_new(c.floats * c.copies * 4), unit = buffer_new((int64_t)n * sets * k * 4);
    struct buffer count = buffer_new((int64_t)n * sets * 4), nan = buffer_new(4);
    fill_f32(&scores, 1);
    c.p = (struct top_k_params){.rows = paged.rows, .n = n, .scores = scores.device, .stride = units, .sets = sets,
                                .unit_tokens = unit_tokens, .k = k, .max_units = units, .nan_row = nan.device,
                                .out = {.unit = unit.device, .count = count.device, .sets = sets,
                                        .unit_tokens = unit_tokens, .stride = k}};
    bench_report(name, n, c.floats * 4, run_top_k, &c, 32);
    struct buffer *all[] = {&scores, &unit, &count, &nan};
    for (size_t i = 0; i < 4; i++) {
        buffer_free(all[i]);
    }
    paged_free(&paged);
}

struct bound_case {
    struct page_bound_params p;
};

static int run_bounds(void *context, int call, cudaStream_t stream)
{
    struct bound_case *c = context;
    (void)call;
    return page_bound_launch(&c->p, stream);
}

static void bench_bounds(const char *name, int32_t n)
{
    if (!bench_wanted(name)) {
        return;
    }
    int32_t tokens[64];
    for (int32_t i = 0; i < n; i++) {
        tokens[i] = CONTEXT;
    }
    struct paged paged = paged_new(tokens, n, PAGE);
    int64_t unit_bytes = 2 * KV_HEADS * HEAD_DIM * 4, bytes = n * (int64_t)(CONTEXT / 16) * unit_bytes;
    struct buffer bounds = device_random(bytes, 1), q = device_random((int64_t)n * HEADS * HEAD_DIM * 2, 1);
    struct buffer scores = device_random((int64_t)n * HEADS * (CONTEXT / 16) * 4, 1);
    struct bound_case c = {.p = {.rows = paged.rows, .n = n, .q = q.device, .n_heads = HEADS, .n_kv_heads = KV_HEADS,
                                 .head_dim = HEAD_DIM, .max_context = CONTEXT, .scores = scores.device,
                                 .stride = CONTEXT / 16,
                                 .bounds = {.data = bounds.device, .page_tokens = PAGE, .unit_tokens = 16,
                                            .page_stride = PAGE / 16 * unit_bytes}}};
    bench_report(name, n, bytes + (int64_t)n * HEADS * (CONTEXT / 16) * 4, run_bounds, &c, 12);
    cudaFree(bounds.device);
    cudaFree(q.device);
    cudaFree(scores.device);
    paged_free(&paged);
}

int bench(const char *filter, const char *tsv)
{
    struct cudaDeviceProp properties;
    gpu_must(cudaGetDeviceProperties(&properties, 0), "device");
    snprintf(device_name, sizeof device_name, "%s", properties.name);
    only = filter;
    if (tsv && !(tsv_file = fopen(tsv, "w"))) {
        perror(tsv);
        return 1;
    }
    if (tsv_file) {
        setvbuf(tsv_file, NULL, _IOLBF, 1 << 12);    // a run that is cut short leaves what it measured
    }
    printf("%s, %d multiprocessors, L2 %d MB\n", properties.name, properties.multiProcessorCount,
           properties.l2CacheSize >> 20);
    bench_stream();
    static const int32_t rows[] = {1, 8, 16, 32, 64}, batches[] = {1, 8, 32};
    for (int i = 0; i < 5; i++) {
        bench_linear("linear_ffn_2560_15360", 2560, (int32_t[]){15360}, 1, LINEAR_STORE_BF16, rows[i]);
        bench_linear("linear_swiglu_2560_7680x2", 2560, (int32_t[]){7680, 7680}, 2, LINEAR_SWIGLU, rows[i]);
        bench_linear("linear_qkv_2560_3584", 2560, (int32_t[]){2560, 512, 512}, 3, LINEAR_STORE_BF16, rows[i]);
        bench_linear("linear_down_7680_2560", 7680, (int32_t[]){2560}, 1, LINEAR_ADD_F32, rows[i]);
        bench_linear("linear_head_2560_131072", 2560, (int32_t[]){131072}, 1, LINEAR_STORE_F32, rows[i]);
    }
    for (int i = 0; i < 3; i++) {
        int32_t n = batches[i];
        bench_attention("attention_dense", n, 0, 1, 1, false);
        bench_attention("attention_dense_fp8", n, 0, 1, 1, true);
        bench_attention("attention_dense_head_major_fp8", n, 0, 128, 1, true);
        bench_index("index_bf16", n, INDEX_DOT, DTYPE_BF16, 1, 1);
        bench_index("index_fp8", n, INDEX_DOT, DTYPE_FP8, 1, 1);
        bench_index("index_dsa_64_heads_fp8", n, INDEX_GATED_RELU, DTYPE_FP8, 64, 1);
        bench_index("index_block_4_sets_bf16", n, INDEX_DOT, DTYPE_BF16, 4, 128);
        bench_top_k("top_2048_of_131072", n, CONTEXT, TOP_K, 1, 1);
        bench_top_k("top_16_of_1024_blocks_4_sets", n, CONTEXT / 128, 16, 4, 128);
        bench_top_k("top_128_of_576_pages_20_sets", n, 576, TOP_K / 16, HEADS, 16);
        bench_attention("attention_2048_tokens", n, 1, 1, n == 1 ? 64 : 8, false);
        bench_attention("attention_2048_tokens_fp8", n, 1, 1, n == 1 ? 64 : 8, true);
        bench_attention("attention_2048_tokens_L2_warm", n, 1, 1, 1, false);
        bench_attention("attention_2048_tokens_L2_warm_fp8", n, 1, 1, 1, true);
        bench_attention("attention_16_blocks_4_sets", n, 4, 128, n == 1 ? 64 : 8, false);
        bench_attention("attention_16_blocks_4_sets_fp8", n, 4, 128, n == 1 ? 64 : 8, true);
        bench_window("attention_window_512", n);
        if (n > 1) {    // one sequence's bounds would stay in L2
            bench_bounds("page_bounds_16_20_heads", n);
            bench_top_k("top_128_of_8192_pages_20_sets", n, CONTEXT / 16, TOP_K / 16, HEADS, 16);
        }
    }
    bench_widen();
    bench_prefill(filter, tsv_file, device_name);
    bench_selected();
    bench_score(filter, tsv_file, device_name);
    return tsv_file ? fclose(tsv_file) != 0 : 0;
}
