// tests/cuda/bench_prefill.c - attention of a 131072-token prompt, one layer, in the chunks of a prefill.
//
// Dense rows: the sum over all chunks, beside the operations of the causal half. Window rows: one chunk in the middle
// of the prompt, beside the operations within the band. torch_prefill.py in tests/bench/peers times PyTorch at these
// shapes.
#include "tests/cuda/gpu.h"

enum {
    CONTEXT = 131072,
    HEADS = 20,
    KV_HEADS = 4,
    HEAD_DIM = 128,
    PAGE = 64,
    WINDOW = 512,
    TOKEN_BYTES = 2 * KV_HEADS * HEAD_DIM * 2
};

struct prefill_bench {
    struct prefill_attention_params p;
    struct batch_seq seq;
    int32_t chunk;
};

static int run_chunk(void *context, int call, cudaStream_t stream)
{
    struct prefill_bench *c = context;
    if (c->p.over == ATTEND_ALL) {
        c->seq.context_tokens = call * c->chunk;
    }
    return prefill_attention_launch(&c->p, stream);
}

static void report(const char *name, struct prefill_bench *c, double flops, int calls, FILE *tsv, const char *device)
{
    struct timing t = time_graph(run_chunk, c, calls);
    double us = c->p.over == ATTEND_ALL ? t.median_us * calls : t.median_us;
    printf("%-44s %4d %10.2f us  +-%4.1f%%  %6.0f TFLOP/s\n", name, 1, us, t.spread_percent, flops / us / 1e6);
    fflush(stdout);
    if (tsv) {
        time_t now = time(NULL);
        char date[32];
        strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
        fprintf(tsv, "%s\tCOMMIT\t%s\tDRIVER\tcuda_kernels bench\tpaper-4b\t-\t%d\t1\tkernel.%s\t%.2f\t%.2f\t-\tus\n",
                date, device, CONTEXT, name, us, us * t.spread_percent / 100);
    }
}

static void bench_chunks(const char *name, int32_t chunk, bool window, FILE *tsv, const char *device)
{
    const int64_t width = HEADS * HEAD_DIM;
    struct paged paged = paged_new((int32_t[]){CONTEXT}, 1, PAGE);
    struct buffer kv = device_random((int64_t)CONTEXT * TOKEN_BYTES, 1), q = device_random(chunk * width * 2, 1);
    struct buffer out = device_random(chunk * width * 2, 1), fresh = device_random((int64_t)chunk * TOKEN_BYTES, 1);
    struct prefill_bench c = {.chunk = chunk, .seq = {.n_rows = chunk, .context_tokens = CONTEXT / 2}};
    paged.rows.n = chunk;
    c.p = (struct prefill_attention_params){.rows = paged.rows,
                                            .seqs = &c.seq,
                                            .n_seqs = 1,
                                            .q = q.device,
                                            .over = window ? ATTEND_WINDOW : ATTEND_ALL,
                                            .fresh_k = fresh.device,
                                            .fresh_v = (char *)fresh.device + (int64_t)chunk * TOKEN_BYTES / 2,
                                            .window_tokens = WINDOW,
                                            .n_heads = HEADS,
                                            .n_kv_heads = KV_HEADS,
                                            .head_dim = HEAD_DIM,
                                            .out = out.device,
                                            .view = {.data = kv.device,
                                                     .dtype = DTYPE_BF16,
                                                     .page_tokens = window ? WINDOW : PAGE,
                                                     .token_stride = TOKEN_BYTES,
                                                     .head_stride = HEAD_DIM * 2,
                                                     .value_offset = KV_HEADS * HEAD_DIM * 2,
                                                     .ring = window}};
    c.p.view.page_stride = c.p.view.page_tokens * (int64_t)TOKEN_BYTES;
    double pairs = window ? (double)chunk * WINDOW : (double)CONTEXT * (CONTEXT + 1) / 2;
    report(name, &c, 4.0 * HEADS * HEAD_DIM * pairs, window ? 16 : CONTEXT / chunk, tsv, device);
    cudaFree(kv.device);
    cudaFree(q.device);
    cudaFree(out.device);
    cudaFree(fresh.device);
    paged_free(&paged);
}

void bench_prefill(const char *filter, FILE *tsv, const char *device)
{
    static const struct {
        const char *name;
        int32_t chunk;
        bool window;
    } rows[] = {
        {"prefill_dense_131072_by_4096", 4096, false},
        {"prefill_dense_131072_by_8192", 8192, false},
        {"prefill_window_512_rows_2048", 2048, true},
        {"prefill_window_512_rows_8192", 8192, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strstr(rows[i].name, filter)) {
            bench_chunks(rows[i].name, rows[i].chunk, rows[i].window, tsv, device);
        }
    }
}
