// engine/cpu/attention.c - attention of rows one by one.
//
// One row is bound by reading its keys: they are cut into parts, each an item that reads its tokens once for all query
// heads, a tile of 64 tokens at a time, and keeps a running softmax (maximum, sum, weighted values) per head. A second
// step merges the parts: with M the greatest maximum, part p counts exp(maximum_p - M). Full, window and selected
// attention differ only in which token comes n-th. Runs of many rows that select nothing go to prefill.c.
#include <math.h>
#include <string.h>

#include "engine/cpu/context.h"

enum {
    LEAST_PART_TOKENS = 128,    // per item: below, starting and merging it costs more than it saves
    RUN_ROWS = 8,               // rows of one sequence from which on tiles win over rows one by one
    CACHE_LINE = 64
};

// Rows that are attended one by one.
struct attention_task {
    struct backend_context *context;
    const struct batch *batch;
    const struct rows *rows;
    const struct kv_view *view;
    const struct selection *selection;          // NULL: all keys, or those of the window
    const struct op_window_attention *fresh;    // NULL: all keys lie in the view
    int32_t window;                             // INT32_MAX: all keys
    const float *q;
    float *out, *lse;    // lse may be NULL
    int32_t sets, n_heads, head_dim, group;
    int32_t n, parts;    // rows context->single_rows [n], each in so many parts
};

// What one row and set see: token number i is unit i / unit_tokens of the selection and so on, or first + i.
struct token_list {
    struct cpu_keys keys;
    int32_t n, first;
    const int32_t *unit;    // NULL: no selection
    int32_t unit_tokens;
};

static struct cpu_keys keys_of(const struct attention_task *task, int32_t seq)
{
    const struct batch_seq *sequence = &task->batch->seqs[seq];
    struct cpu_keys keys = {.batch = task->batch, .view = task->view, .seq = seq, .first_fresh = INT32_MAX};
    if (task->fresh) {
        keys.first_fresh = sequence->context_tokens;
        keys.fresh_head_bytes = (int64_t)task->head_dim * dtype_bytes(task->view->dtype);
        keys.fresh_row_bytes = keys.fresh_head_bytes * (task->n_heads / task->group);
        keys.fresh_k = (const unsigned char *)task->fresh->k + sequence->first_row * keys.fresh_row_bytes;
        keys.fresh_v = (const unsigned char *)task->fresh->v + sequence->first_row * keys.fresh_row_bytes;
    }
    return keys;
}

void cpu_locate(struct cpu_tile *tile, const struct cpu_keys *keys, int32_t token, int32_t n, int32_t kv_head)
{
    const struct kv_view *view = keys->view;
    n = n < CPU_TILE_KEYS ? n : CPU_TILE_KEYS;
    if (token >= keys->first_fresh) {
        int64_t at = (token - keys->first_fresh) * keys->fresh_row_bytes + kv_head * keys->fresh_head_bytes;
        for (int32_t i = 0; i < n; i++) {
            tile->key[i] = keys->fresh_k + at + i * keys->fresh_row_bytes;
            tile->value[i] = keys->fresh_v + at + i * keys->fresh_row_bytes;
        }
        tile->head_stride = keys->fresh_head_bytes;
        tile->n = n;
        return;
    }
    n = n < keys->first_fresh - token ? n : keys->first_fresh - token;
    for (int32_t i = 0; i < n;) {
        int32_t place = (token + i) % view->page_tokens;
        int32_t end = i + (view->page_tokens - place) < n ? i + (view->page_tokens - place) : n;
        int32_t page =
            view->ring
                ? keys->batch->seqs[keys->seq].slot
                : keys->batch->pages[(int64_t)keys->seq * keys->batch->max_pages + (token + i) / view->page_tokens];
        const unsigned char *first = view->data + page * view->page_stride, *base = first + kv_head * view->head_stride;
        const unsigned char *scales = first + view->scale_offset;
        for (; i < end; i++, place++) {
            tile->key[i] = base + place * view->token_stride;
            tile->value[i] = tile->key[i] + view->value_offset;
            tile->scales[i] = scales + place * view->scale_token_stride;
        }
    }
    tile->head_stride = view->head_stride;
    tile->n = n;
}

void cpu_scales(float *out, const struct cpu_tile *tile, const struct kv_view *view, int32_t kv_head, bool value)
{
    for (int32_t i = 0; i < tile->n; i++) {
        out[i] = kv_scale_to_f32(tile->scales[i][kv_head * view->scale_head_stride + value]);
    }
}

// Selected tokens one by one. Pages are nearly always a power of two of tokens, which spares a division a token.
static void locate_tokens(struct cpu_tile *tile, const struct kv_view *view, const int32_t *pages, const int32_t *token)
{
    uint32_t page_tokens = (uint32_t)view->page_tokens;
    int32_t shift = (page_tokens & (page_tokens - 1)) == 0 ? __builtin_ctz(page_tokens) : -1;
    for (int32_t i = 0; i < tile->n; i++) {
        uint32_t page = shift >= 0 ? (uint32_t)token[i] >> shift : (uint32_t)token[i] / page_tokens;
        uint32_t place = (uint32_t)token[i] - page * page_tokens;
        const unsigned char *base = view->data + pages[page] * view->page_stride;
        tile->key[i] = base + place * view->token_stride;
        tile->value[i] = tile->key[i] + view->value_offset;
        tile->scales[i] = base + view->scale_offset + place * view->scale_token_stride;
    }
}

// Selected units, in runs that end where a unit or a page does.
static void locate_units(struct cpu_tile *tile, const struct token_list *list, const int32_t *pages, int32_t from)
{
    const struct kv_view *view = list->keys.view;
    for (int32_t i = 0; i < tile->n;) {
        int32_t unit = (from + i) / list->unit_tokens, rest = (from + i) % list->unit_tokens;
        int32_t token = list->unit[unit] * list->unit_tokens + rest;
        int32_t page = token / view->page_tokens, place = token % view->page_tokens;
        int32_t run =
            list->unit_tokens - rest < view->page_tokens - place ? list->unit_tokens - rest : view->page_tokens - place;
        int32_t end = i + run < tile->n ? i + run : tile->n;
        const unsigned char *base = view->data + pages[page] * view->page_stride;
        for (; i < end; i++, place++) {
            tile->key[i] = base + place * view->token_stride;
            tile->value[i] = tile->key[i] + view->value_offset;
            tile->scales[i] = base + view->scale_offset + place * view->scale_token_stride;
        }
    }
}

// Fills the tile with list entries [from, from + n) at most, for KV head 0.
static void locate_list(struct cpu_tile *tile, const struct token_list *list, int32_t from, int32_t n)
{
    if (!list->unit) {
        cpu_locate(tile, &list->keys, list->first + from, n, 0);
        return;
    }
    const int32_t *pages = list->keys.batch->pages + (int64_t)list->keys.seq * list->keys.batch->max_pages;
    tile->n = n < CPU_TILE_KEYS ? n : CPU_TILE_KEYS;
    tile->head_stride = list->keys.view->head_stride;
    if (list->unit_tokens == 1) {
        locate_tokens(tile, list->keys.view, pages, list->unit + from);
    } else {
        locate_units(tile, list, pages, from);
    }
}

static struct token_list list_of(const struct attention_task *task, int32_t row, int32_t set)
{
    const struct selection *selection = task->selection;
    struct token_list list = {.keys = keys_of(task, task->rows->seq[row]), .unit_tokens = 1};
    int32_t position = task->rows->position[row];
    if (!selection) {
        list.first = position >= task->window ? position - task->window + 1 : 0;
        list.n = position + 1 - list.first;
        return list;
    }
    int64_t at = (int64_t)row * selection->sets + set;
    int32_t count = selection->count[at];
    list.unit = selection->unit + at * selection->stride;
    list.unit_tokens = selection->unit_tokens;
    if (count > 0) {
        // Ascending: only the last unit can reach past the row's own position.
        int32_t last_first = list.unit[count - 1] * list.unit_tokens;
        int32_t last_n = position + 1 - last_first < list.unit_tokens ? position + 1 - last_first : list.unit_tokens;
        list.n = (count - 1) * list.unit_tokens + last_n;
    }
    return list;
}

// The running state of a set's heads over a part of its tokens.
struct part {
    float *queries;             // [n_heads][padded] packed
    float *sum;                 // [n_heads][padded] packed
    float *greatest, *total;    // [n_heads]
    float *scores;              // [group][CPU_TILE_KEYS]
};

// Weights [n_heads][CPU_TILE_KEYS] of a tile's tokens, times the scales of their fp8 keys, or of their values.
static void multiply_scales(float *weights, int32_t n_heads, const struct cpu_tile *tile, const struct kv_view *view,
                            int32_t kv_head, bool value)
{
    float scale[CPU_TILE_KEYS];
    cpu_scales(scale, tile, view, kv_head, value);
    for (int32_t h = 0; h < n_heads; h++) {
        for (int32_t i = 0; i < tile->n; i++) {
            weights[h * CPU_TILE_KEYS + i] *= scale[i];
        }
    }
}

// One tile for heads [first, end), which share the KV head that the tile's addresses are of.
static void attend_tile(const struct attention_task *task, const struct part *part, const struct cpu_tile *tile,
                        const struct cpu_ahead ahead[2], int32_t first, int32_t end)
{
    const struct cpu_kernels *kernels = task->context->kernels;
    int32_t dim = task->head_dim, padded = cpu_padded(dim), n_heads = end - first;
    kernels->dots_list(part->scores, CPU_TILE_KEYS, part->queries + (int64_t)first * padded, padded, n_heads, tile->key,
                       tile->n, dim, task->view->dtype, &ahead[0]);
    bool fp8 = task->view->dtype == DTYPE_FP8;
    if (fp8) {
        multiply_scales(part->scores, n_heads, tile, task->view, first / task->group, false);
    }
    float scale = (float)(1.0 / sqrt((double)dim));
    for (int32_t h = first; h < end; h++) {
        float *sum = part->sum + (int64_t)h * padded;
        float factor = kernels->softmax(part->scores + (h - first) * CPU_TILE_KEYS, tile->n, scale, &part->greatest[h],
                                        &part->total[h]);
        if (factor < 1.0f) {    // the maximum rose
            for (int32_t d = 0; d < padded; d++) {
                sum[d] *= factor;
            }
        }
    }
    if (fp8) {
        multiply_scales(part->scores, n_heads, tile, task->view, first / task->group, true);
    }
    kernels->weigh_list(part->sum + (int64_t)first * padded, padded, part->scores, CPU_TILE_KEYS, n_heads, tile->value,
                        tile->n, dim, task->view->dtype, &ahead[1]);
}

// What to prefetch while KV head number `index` of n_kv computes: the next tile's keys and values of the same head; or,
// where a token's keys and values of all heads are one run, a share of whole tokens, in the order in which they lie.
static void choose_ahead(struct cpu_ahead ahead[2], const struct attention_task *task, const struct cpu_tile *next,
                         int32_t index, int32_t n_kv)
{
    const struct kv_view *view = task->view;
    int32_t head_bytes = task->head_dim * dtype_bytes(view->dtype);
    if (task->sets == 1 && view->head_stride == head_bytes && view->value_offset == (int64_t)n_kv * head_bytes) {
        int32_t first = next->n * 2 * index / (2 * n_kv), middle = next->n * (2 * index + 1) / (2 * n_kv);
        int32_t end = next->n * (index + 1) / n_kv;
        ahead[0] = (struct cpu_ahead){next->token + first, middle - first, 2 * n_kv * head_bytes};
        ahead[1] = (struct cpu_ahead){next->token + middle, end - middle, 2 * n_kv * head_bytes};
    } else {
        ahead[0] = (struct cpu_ahead){next->key, next->n, head_bytes};
        ahead[1] = (struct cpu_ahead){next->value, next->n, head_bytes};
    }
}

static void move_tile(struct cpu_tile *tile, int32_t heads)
{
    for (int32_t i = 0; i < tile->n; i++) {    // an empty tile has no stride either
        tile->key[i] += heads * tile->head_stride;
        tile->value[i] += heads * tile->head_stride;
    }
}

// The first tile of a part, which nothing before it could prefetch, all at once.
static void prefetch_tile(const struct cpu_tile *tile, int32_t n_kv, int32_t head_bytes)
{
    for (int32_t i = 0; i < tile->n; i++) {
        for (int32_t kv = 0; kv < n_kv; kv++) {
            for (int32_t at = 0; at < head_bytes; at += CACHE_LINE) {
                __builtin_prefetch(tile->key[i] + kv * tile->head_stride + at, 0, 2);
                __builtin_prefetch(tile->value[i] + kv * tile->head_stride + at, 0, 2);
            }
        }
    }
}

// Tokens [from, end) of the list for the heads of `set`.
static void attend_part(const struct attention_task *task, const struct part *part, const struct token_list *list,
                        int32_t set, int32_t from, int32_t end)
{
    int32_t first_head = set * (task->n_heads / task->sets), end_head = first_head + task->n_heads / task->sets;
    int32_t first_kv = first_head / task->group, n_kv = (end_head - 1) / task->group + 1 - first_kv;
    struct cpu_tile tiles[2], *tile = &tiles[0], *next = &tiles[1];
    struct cpu_ahead ahead[2];
    locate_list(next, list, from, end - from);
    move_tile(next, first_kv);
    prefetch_tile(next, n_kv, task->head_dim * dtype_bytes(task->view->dtype));
    while (next->n > 0) {
        struct cpu_tile *swap = tile;
        tile = next;
        next = swap;
        from += tile->n;
        next->n = 0;
        if (from < end) {
            locate_list(next, list, from, end - from);
            memcpy(next->token, next->key, (size_t)next->n * sizeof *next->token);
            move_tile(next, first_kv);
        }
        for (int32_t h = first_head, kv = first_kv; h < end_head; kv++) {
            int32_t last = (kv + 1) * task->group < end_head ? (kv + 1) * task->group : end_head;
            choose_ahead(ahead, task, next, kv - first_kv, n_kv);
            attend_tile(task, part, tile, ahead, h, last);
            move_tile(tile, 1);
            move_tile(next, 1);
            h = last;
        }
        move_tile(next, -n_kv);
    }
}

// Where item's state lives: in the context, for the merge, or with the thread if the row is in one part.
static struct part begin_part(const struct attention_task *task, int32_t item, int32_t thread, int32_t row, int32_t set)
{
    struct backend_context *context = task->context;
    struct cpu_scratch scratch = cpu_scratch_of(context, thread);
    int32_t padded = cpu_padded(task->head_dim), n = task->n_heads / task->sets;
    int64_t head_bytes = task->n_heads * (int64_t)sizeof(float);
    struct part part = {
        .queries = cpu_scratch_take(&scratch, head_bytes * padded),
        .scores = cpu_scratch_take(&scratch, head_bytes * CPU_TILE_KEYS),
    };
    if (task->parts > 1) {
        int64_t at = ((int64_t)(item / task->parts / task->sets) * task->parts + item % task->parts) * task->n_heads;
        part.sum = context->partial_sum + at * padded;
        part.greatest = context->partial_greatest + at;
        part.total = context->partial_total + at;
    } else {
        part.sum = cpu_scratch_take(&scratch, head_bytes * padded);
        part.greatest = cpu_scratch_take(&scratch, head_bytes);
        part.total = cpu_scratch_take(&scratch, head_bytes);
    }
    for (int32_t h = set * n; h < (set + 1) * n; h++) {
        const float *q = task->q + ((int64_t)row * task->n_heads + h) * task->head_dim;
        context->kernels->pack(part.queries + (int64_t)h * padded, q, task->head_dim, task->view->dtype);
        memset(part.sum + (int64_t)h * padded, 0, (size_t)padded * sizeof(float));
        part.greatest[h] = -INFINITY;
        part.total[h] = 0;
    }
    return part;
}

// out and lse of one head from its final state.
static void finish_head(const struct attention_task *task, int32_t row, int32_t h, const float *sum, float greatest,
                        float total)
{
    int64_t at = (int64_t)row * task->n_heads + h;
    bool none = total <= 0 && greatest <= -INFINITY;    // no key at all; NaN is neither
    task->context->kernels->unpack(task->out + at * task->head_dim, sum, task->head_dim, task->view->dtype,
                                   none ? 0.0f : 1.0f / total);
    if (task->lse) {
        task->lse[at] = none ? -INFINITY : greatest + logf(total);
    }
}

// Item: (row, set, part).
static void attend_item(void *user, int32_t item, int32_t thread)
{
    const struct attention_task *task = user;
    int32_t index = item % task->parts, set = item / task->parts % task->sets;
    int32_t row = task->context->single_rows[item / task->parts / task->sets];
    int32_t padded = cpu_padded(task->head_dim), n = task->n_heads / task->sets;
    struct token_list list = list_of(task, row, set);
    struct part part = begin_part(task, item, thread, row, set);
    int64_t share = list.n;
    if (task->parts > 1) {
        share = (share + task->parts - 1) / task->parts;
        share = (share + CPU_TILE_KEYS - 1) / CPU_TILE_KEYS * CPU_TILE_KEYS;
        share = share > LEAST_PART_TOKENS ? share : LEAST_PART_TOKENS;
    }
    int64_t from = index * share, end = from + share < list.n ? from + share : list.n;
    if (from < end) {
        attend_part(task, &part, &list, set, (int32_t)from, (int32_t)end);
    }
    for (int32_t h = set * n; task->parts == 1 && h < (set + 1) * n; h++) {
        finish_head(task, row, h, part.sum + (int64_t)h * padded, part.greatest[h], part.total[h]);
    }
}

// Item: (row, head). The parts' states become one.
static void merge_item(void *user, int32_t item, int32_t thread)
{
    const struct attention_task *task = user;
    struct backend_context *context = task->context;
    int32_t i = item / task->n_heads, h = item % task->n_heads, padded = cpu_padded(task->head_dim);
    int64_t first = (int64_t)i * task->parts * task->n_heads + h;
    float weight[CPU_SPLITS], greatest = -INFINITY, total = 0;
    for (int32_t p = 0; p < task->parts; p++) {
        float other = context->partial_greatest[first + p * task->n_heads];
        greatest = other > greatest ? other : greatest;
    }
    for (int32_t p = 0; p < task->parts; p++) {
        float other = context->partial_greatest[first + p * task->n_heads];
        float part_total = context->partial_total[first + p * task->n_heads];
        // A part without keys counts nothing. One whose scores are all NaN has no maximum either, but a NaN total.
        weight[p] = other > -INFINITY ? expf(other - greatest) : isnan(part_total) ? part_total : 0.0f;
        total += weight[p] * part_total;
    }
    struct cpu_scratch scratch = cpu_scratch_of(context, thread);
    float *sum = cpu_scratch_take(&scratch, padded * (int64_t)sizeof(float));
    context->kernels->merge(sum, context->partial_sum + first * padded, (int64_t)task->n_heads * padded, weight,
                            task->parts, padded);
    finish_head(task, context->single_rows[i], h, sum, greatest, total);
}

// Runs of rows that select nothing go to the tiles; the rest is left in context->single_rows.
static void attend_runs(struct attention_task *task)
{
    struct backend_context *context = task->context;
    const struct rows *rows = task->rows;
    task->n = 0;
    for (int32_t first = 0, end; first < rows->n; first = end) {
        end = first + 1;
        while (end < rows->n && rows->seq[end] == rows->seq[first]) {
            end++;
        }
        if (!task->selection && end - first >= RUN_ROWS && cpu_prefill_fits(context->plan)) {
            struct cpu_run run = {
                .rows = rows,
                .first = first,
                .n = end - first,
                .window = task->window,
                .keys = keys_of(task, rows->seq[first]),
                .q = task->q,
                .out = task->out,
                .lse = task->lse,
            };
            cpu_prefill_attention(context, &run);
            continue;
        }
        for (int32_t row = first; row < end; row++) {
            context->single_rows[task->n++] = row;
        }
    }
}

static void attend_all(struct attention_task *task)
{
    struct backend_context *context = task->context;
    const struct model_shape *shape = &context->plan->shape;
    task->sets = task->selection ? task->selection->sets : 1;
    task->n_heads = shape->n_heads;
    task->head_dim = shape->head_dim;
    task->group = shape->n_heads / shape->n_kv_heads;
    attend_runs(task);
    if (task->n == 0) {
        return;
    }
    // Parts are as many as the longest row deserves: a row of few tokens leaves most of them empty.
    int32_t longest = 0;
    for (int32_t i = 0; i < task->n; i++) {
        for (int32_t set = 0; set < task->sets; set++) {
            int32_t n = list_of(task, context->single_rows[i], set).n;
            longest = n > longest ? n : longest;
        }
    }
    task->parts = CPU_SPLITS / task->n;
    int32_t useful = (longest + LEAST_PART_TOKENS - 1) / LEAST_PART_TOKENS;
    task->parts = task->parts < useful ? task->parts : useful;
    task->parts = task->parts > 1 ? task->parts : 1;
    thread_pool_run(context->pool, attend_item, task, task->n * task->sets * task->parts);
    if (task->parts > 1) {
        thread_pool_run(context->pool, merge_item, task, task->n * task->n_heads);
    }
}

int cpu_attention(struct backend_context *context, const struct batch *batch, const struct op_attention *op)
{
    struct attention_task task = {
        .context = context,
        .batch = batch,
        .rows = op->rows,
        .view = &op->view,
        .selection = op->selection,
        .window = INT32_MAX,
        .q = op->q,
        .out = op->out,
        .lse = op->lse,
    };
    attend_all(&task);
    return 0;
}

int cpu_window_attention(struct backend_context *context, const struct batch *batch,
                         const struct op_window_attention *op)
{
    struct attention_task task = {
        .context = context,
        .batch = batch,
        .rows = &batch->all,
        .view = &op->ring,
        .fresh = op,
        .window = context->plan->shape.window_tokens,
        .q = op->q,
        .out = op->out,
    };
    attend_all(&task);
    return 0;
}

int64_t cpu_attention_scratch_bytes(const struct plan *plan)
{
    const struct model_shape *shape = &plan->shape;
    return (int64_t)shape->n_heads * (2 * cpu_padded(shape->head_dim) + CPU_TILE_KEYS + 2) * (int64_t)sizeof(float) +
           512;
}
