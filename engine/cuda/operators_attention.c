// engine/cuda/operators_attention.c - which attention kernel reads which rows of a batch.
//
// Of a batch that mixes them, prompts go to the kernels for many rows, sequences that decode to those for single ones.
// The former read bf16: fp8 pages are widened for them first, one sequence and layer at a time, which moves three bytes
// for every cached element: 0.16 ms for a layer of paper-4b at 131072 tokens on an H200.
#include <errno.h>

#include "engine/cuda/context.h"

enum { PROMPT_ROWS = 16 };      // rows of one sequence from which on they share keys

// A part of a batch: sequences [begin, end) that lie side by side, all prompts or all with few rows.
struct part {
    int32_t begin, end, first_row, n_rows;
    bool prompts;
};

// The part that begins with sequence `begin` of rows that are all of the batch's. `alone`: a prompt has its own.
static struct part part_of(const struct batch *batch, int32_t begin, bool alone)
{
    const struct batch_seq *seqs = batch->seqs;
    struct part part = {begin, begin, seqs[begin].first_row, 0, seqs[begin].n_rows >= PROMPT_ROWS};
    while (part.end < batch->n_seqs && (seqs[part.end].n_rows >= PROMPT_ROWS) == part.prompts &&
           (part.end == begin || !alone || !part.prompts)) {
        part.n_rows += seqs[part.end++].n_rows;
    }
    return part;
}

static struct attention_params attention_params(const struct backend_context *c, struct gpu_rows rows, const void *q,
                                                void *out)
{
    const struct model_shape *shape = &c->plan->shape;
    return (struct attention_params){.rows = rows,
                                     .q = q,
                                     .slot = c->mirror.slot,
                                     .first_row = c->mirror.first_row,
                                     .context = c->mirror.context,
                                     .window_tokens = shape->window_tokens,
                                     .n_heads = shape->n_heads,
                                     .n_kv_heads = shape->n_kv_heads,
                                     .head_dim = shape->head_dim,
                                     .out = out,
                                     .workspace = c->attention};
}

// The rows of one part by themselves: everything that is indexed by row begins at its first.
static struct attention_params part_params(const struct attention_params *all, const struct part *part)
{
    struct attention_params p = *all;
    int64_t first = part->first_row, width = (int64_t)p.n_heads * p.head_dim * 2;
    p.rows.n = part->n_rows;
    p.rows.seq += first;
    p.rows.position += first;
    p.q = (const char *)p.q + first * width;
    p.out = (char *)p.out + first * width;
    p.lse = p.lse ? p.lse + first * p.n_heads : NULL;
    p.selection.unit = p.selection.unit ? p.selection.unit + first * p.selection.sets * p.selection.stride : NULL;
    p.selection.count = p.selection.count ? p.selection.count + first * p.selection.sets : NULL;
    return p;
}

// Full or window attention of prompts.
static int attend_prompts(struct backend_context *c, const struct batch *batch, const struct attention_params *all,
                          const struct part *part)
{
    struct prefill_attention_params p = {.rows = all->rows,
                                         .seqs = batch->seqs + part->begin,
                                         .n_seqs = part->end - part->begin,
                                         .q = all->q,
                                         .over = all->over,
                                         .view = all->view,
                                         .fresh_k = all->fresh_k,
                                         .fresh_v = all->fresh_v,
                                         .window_tokens = all->window_tokens,
                                         .n_heads = all->n_heads,
                                         .n_kv_heads = all->n_kv_heads,
                                         .head_dim = all->head_dim,
                                         .out = all->out,
                                         .lse = all->lse};
    p.rows.pages += (int64_t)part->begin * p.rows.max_pages;
    return prefill_attention_launch(&p, c->stream);
}

// Attention of prompts over what was selected for each row.
static int attend_selected_prompts(struct backend_context *c, const struct batch *batch,
                                   const struct attention_params *all, const struct part *part)
{
    struct attention_params rows = part_params(all, part);
    struct prefill_selected_params p = {.rows = rows.rows,
                                        .n_seqs = batch->n_seqs,
                                        .q = rows.q,
                                        .view = rows.view,
                                        .selection = rows.selection,
                                        .n_heads = rows.n_heads,
                                        .n_kv_heads = rows.n_kv_heads,
                                        .head_dim = rows.head_dim,
                                        .out = rows.out,
                                        .lse = rows.lse,
                                        .workspace = c->attention};
    return prefill_selected_launch(&p, c->stream);
}

// The pages of fp8 view `from` widened: laid out alike, without scales.
static struct kv_view widened_view(const struct backend_context *c, const struct kv_view *from)
{
    const struct model_shape *shape = &c->plan->shape;
    struct kv_view view = {.data = c->widened, .dtype = DTYPE_BF16, .page_tokens = from->page_tokens};
    int64_t head_bytes = shape->head_dim * 2, key_bytes = shape->n_kv_heads * head_bytes;
    bool head_major = from->token_stride == shape->head_dim;
    view.token_stride = head_major ? head_bytes : 2 * key_bytes;
    view.value_offset = head_major ? head_bytes * view.page_tokens : key_bytes;
    view.head_stride = head_major ? 2 * view.value_offset : head_bytes;
    view.page_stride = 2 * key_bytes * view.page_tokens;
    return view;
}

// Widens the pages of one sequence and has `p` read those.
static int widen_sequence(struct backend_context *c, const struct batch *batch, struct attention_params *p, int32_t seq)
{
    struct kv_widen_params widen = {.from = p->view,
                                    .to = widened_view(c, &p->view),
                                    .pages = p->rows.pages + (int64_t)seq * p->rows.max_pages,
                                    .n_tokens = batch->seqs[seq].context_tokens + batch->seqs[seq].n_rows,
                                    .n_kv_heads = p->n_kv_heads,
                                    .head_dim = p->head_dim};
    p->view = widen.to;
    p->rows.pages = c->widened_pages - (int64_t)seq * p->rows.max_pages;    // so that this sequence's begin there
    p->early = false;    // what it reads is made by the kernel before
    return kv_widen_launch(&widen, c->stream);
}

static int attend(struct backend_context *c, const struct batch *batch, const struct attention_params *all)
{
    int error = 0;
    bool fp8 = all->view.dtype == DTYPE_FP8;
    if (all->rows.n != batch->all.n) {    // one row of each sequence
        return attention_launch(all, c->stream);
    }
    for (int32_t begin = 0; begin < batch->n_seqs && !error;) {
        struct part part = part_of(batch, begin, fp8);
        struct attention_params of = *all;
        if (part.prompts && fp8 && c->widened) {
            error = widen_sequence(c, batch, &of, begin);
            if (error) {
                return error;
            }
        }
        error = -ENOTSUP;
        if (part.prompts && of.view.dtype == DTYPE_BF16) {
            error = all->over == ATTEND_SELECTED ? attend_selected_prompts(c, batch, &of, &part)
                                                 : attend_prompts(c, batch, &of, &part);
        }
        if (error == -ENOTSUP) {
            struct attention_params p = part_params(&of, &part);
            error = attention_launch(&p, c->stream);
        }
        begin = part.end;
    }
    return error;
}

// Where no sequence has more than one row, the attention finishes the heads and keeps the row's key and value in the
// ring itself: the token they replace has left the window.
int cuda_window_attention(struct backend_context *c, const struct batch *batch, const struct op_window_attention *op)
{
    struct attention_params p = attention_params(c, cuda_rows(c, &batch->all), op->q, op->out);
    p.over = ATTEND_WINDOW;
    p.fresh_k = op->k;
    p.fresh_v = op->v;
    p.view = op->ring;
    p.finishes = batch->all.n == batch->n_seqs && c->heads_wait && c->heads.q == op->q && c->heads.k == op->k;
    c->ring_written = p.finishes ? op->ring.data : NULL;
    if (p.finishes) {
        p.finish = (struct head_finish){c->heads.q_norm, c->heads.k_norm, c->heads.eps, c->heads.theta};
        p.early = c->qkv_last;
        c->heads_wait = false;
    }
    int error = cuda_settle(c);
    return error ? error : attend(c, batch, &p);
}

int cuda_attention(struct backend_context *c, const struct batch *batch, const struct op_attention *op)
{
    int error = cuda_settle(c);
    struct attention_params p = attention_params(c, cuda_rows(c, op->rows), op->q, op->out);
    p.over = op->selection ? ATTEND_SELECTED : ATTEND_ALL;
    p.view = op->view;
    p.lse = op->lse;
    if (op->selection) {
        p.selection = *op->selection;
        p.early = c->qkv_last;    // an index of this layer would have come between
    }
    return error ? error : attend(c, batch, &p);
}
