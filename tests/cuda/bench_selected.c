// tests/cuda/bench_selected.c - attention of prompt rows over their selections: a quarter of one layer's prefill.
//
// Four steps of 8192 rows whose contexts begin at 1/16, 5/16, 9/16 and 13/16 of 131072 tokens stand for the sixteen
// steps of the layer: it takes four times as long. Neighbouring rows share a given part of their selection; what they
// do not share is drawn anew, one unit from each of as many equal parts of the context as there are units. `rows` is
// the kernel that takes row by row, over the first 1024 rows of each step. Floor: every key and value of the context
// once.
#include "tests/cuda/gpu.h"

enum {
    CONTEXT = 131072, TOP_K = 2048, HEADS = 20, KV_HEADS = 4, HEAD_DIM = 128,
    ROWS = 8192, STEPS = 4, SOME_ROWS = 1024
};

struct selected_bench {
    struct prefill_selected_params step[STEPS];
    struct buffer unit, count, seq, position, kv, q, out, work;
    struct paged paged;
};

static int run_selected(void *context, int call, cudaStream_t stream)
{
    struct selected_bench *b = context;
    (void)call;
    int error = 0;
    for (int i = 0; i < STEPS && !error; i++) {
        error = prefill_selected_launch(&b->step[i], stream);
    }
    return error;
}

static int run_rows(void *context, int call, cudaStream_t stream)
{
    struct selected_bench *b = context;
    (void)call;
    int error = 0;
    for (int i = 0; i < STEPS && !error; i++) {
        const struct prefill_selected_params *p = &b->step[i];
        struct attention_params a = {.rows = p->rows, .q = p->q, .view = p->view, .over = ATTEND_SELECTED,
                                     .selection = p->selection, .n_heads = HEADS, .n_kv_heads = KV_HEADS,
                                     .head_dim = HEAD_DIM, .out = p->out, .workspace = p->workspace};
        a.rows.n = SOME_ROWS;
        error = attention_launch(&a, stream);
    }
    return error;
}

// Selections of one step; `shared` of them are the row's before.
static void select_step(int32_t *unit, int32_t context, int32_t sets, int32_t unit_tokens, double shared)
{
    const int32_t budget = TOP_K / unit_tokens, part = context / unit_tokens / budget, keep = (int32_t)(shared * 65536);
    for (int32_t r = 0; r < ROWS; r++) {
        for (int32_t i = 0; i < sets * budget; i++) {
            uint64_t draw = check_random();
            int32_t *to = unit + (int64_t)r * sets * budget + i;
            bool old = r > 0 && (int32_t)(draw & 0xffff) < keep;
            *to = old ? to[-sets * budget] : i % budget * part + (int32_t)((draw >> 32) % (uint64_t)part);
        }
    }
}

static void bench_case(const char *name, int32_t sets, int32_t unit_tokens, double shared, bool by_rows)
{
    if (!bench_wanted(name)) {
        return;
    }
    const int64_t token_bytes = 2 * KV_HEADS * HEAD_DIM * 2, head = HEAD_DIM * 2, width = HEADS * HEAD_DIM;
    const bool head_major = unit_tokens > 1;
    const int32_t tokens = CONTEXT, page = head_major ? unit_tokens : 64, budget = TOP_K / unit_tokens;
    const int64_t units = (int64_t)ROWS * sets * budget;
    struct selected_bench b = {.paged = paged_new(&tokens, 1, page)};
    b.unit = buffer_new(STEPS * units * 4);
    b.count = buffer_new((int64_t)ROWS * sets * 4);
    b.seq = buffer_new(ROWS * 4);
    b.position = buffer_new((int64_t)STEPS * ROWS * 4);
    b.kv = device_random(CONTEXT * token_bytes, 1);
    b.q = device_random(ROWS * width * 2, 1);
    b.out = device_random(ROWS * width * 2, 1);
    for (int32_t i = 0; i < ROWS * sets; i++) {
        ((int32_t *)b.count.host)[i] = budget;
    }
    for (int32_t s = 0; s < STEPS; s++) {
        int32_t context = CONTEXT / 16 * (4 * s + 1);
        select_step((int32_t *)b.unit.host + s * units, context, sets, unit_tokens, shared);
        for (int32_t i = 0; i < ROWS; i++) {
            ((int32_t *)b.position.host)[s * ROWS + i] = context + i;
        }
        b.step[s] = (struct prefill_selected_params){
            .rows = b.paged.rows, .n_seqs = 1, .q = b.q.device, .n_heads = HEADS, .n_kv_heads = KV_HEADS,
            .head_dim = HEAD_DIM, .out = b.out.device,
            .view = {.data = b.kv.device, .dtype = DTYPE_BF16, .page_tokens = page, .page_stride = token_bytes * page,
                     .token_stride = head_major ? head : token_bytes,
                     .head_stride = head_major ? 2 * head * page : head,
                     .value_offset = head_major ? head * page : KV_HEADS * head},
            .selection = {.unit = (int32_t *)b.unit.device + s * units, .count = b.count.device, .sets = sets,
                          .unit_tokens = unit_tokens, .stride = budget}};
        b.step[s].rows.n = ROWS;
        b.step[s].rows.seq = b.seq.device;
        b.step[s].rows.position = (int32_t *)b.position.device + s * ROWS;
    }
    int64_t work_bytes = prefill_selected_workspace_bytes(&b.step[0]);
    int64_t row_bytes = attention_workspace_bytes(SOME_ROWS, HEADS, KV_HEADS, HEAD_DIM, sets);
    b.work = device_random(work_bytes > row_bytes ? work_bytes : row_bytes, 1);
    for (int32_t s = 0; s < STEPS; s++) {
        b.step[s].workspace = b.work.device;
    }
    buffer_up(&b.unit);
    buffer_up(&b.count);
    buffer_up(&b.seq);
    buffer_up(&b.position);
    bench_report(name, STEPS * (by_rows ? SOME_ROWS : ROWS), CONTEXT / 2 * STEPS * token_bytes,
           by_rows ? run_rows : run_selected, &b, 1);
    struct buffer *all[] = {&b.unit, &b.count, &b.seq, &b.position, &b.kv, &b.q, &b.out, &b.work};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        buffer_free(all[i]);
    }
    paged_free(&b.paged);
}

void bench_selected(void)
{
    bench_case("prefill_tokens_rows", 1, 1, 0, true);
    bench_case("prefill_tokens_shared_0", 1, 1, 0, false);
    bench_case("prefill_tokens_shared_50", 1, 1, 0.5, false);
    bench_case("prefill_tokens_shared_90", 1, 1, 0.9, false);
    bench_case("prefill_blocks_rows", KV_HEADS, 128, 0, true);
    bench_case("prefill_blocks_shared_0", KV_HEADS, 128, 0, false);
    bench_case("prefill_blocks_shared_50", KV_HEADS, 128, 0.5, false);
    bench_case("prefill_blocks_shared_90", KV_HEADS, 128, 0.9, false);
    bench_case("prefill_pages_shared_90", HEADS, 16, 0.9, false);
}
