// engine/forward.c - the forward pass, top to bottom.
//
// forward_run at the end of this file is the whole model: embed, the layers, the head, the draw. Before it, one
// function per stage tells the observer, calls the backend's operator and tells the observer again. Nothing is
// allocated during a step, but for the list of stages that an asynchronous backend times, which grows to its longest.
//
// On an asynchronous backend a pass is marked between its stages, and what they took is told when it has ended. A step
// that decodes is recorded and replayed: the same functions then run without their operators, to say which stages the
// recording holds and what they cost this time.
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/forward_state.h"
#include "engine/status.h"

// ---------------------------------------------------------------------------------------------------------------------
// Observation

// The first `part` of `of` rows' share of a cost. Floating point, because cost times rows can pass 64 bits; differences
// of shares still add up to the whole.
static int64_t share(int64_t cost, int32_t part, int32_t of)
{
    return (int64_t)((double)cost * part / of);
}

// Every operator goes through here: in a replayed pass it has already run.
#define OPERATOR(f, slot, ...)                                                                                         \
    ((f)->replayed ? 0 : (f)->options.backend->slot((f)->options.context, (f)->batch, __VA_ARGS__))

static int grow_device_stages(struct forward *f)
{
    int32_t capacity = f->device_capacity ? 2 * f->device_capacity : 512;
    struct device_stage *stages = realloc(f->on_device, (size_t)capacity * sizeof *stages);
    f->on_device = stages ? stages : f->on_device;
    int64_t *marks = realloc(f->mark_ns, ((size_t)capacity + 1) * sizeof *marks);
    f->mark_ns = marks ? marks : f->mark_ns;
    if (!stages || !marks) {
        return status_fail(-ENOMEM, "no memory for the times of %d stages", capacity);
    }
    f->device_capacity = capacity;
    return 0;
}

// Notes the stage that ends here, and the moment.
static int mark_stage(struct forward *f)
{
    int error = f->n_on_device == f->device_capacity ? grow_device_stages(f) : 0;
    if (!error) {
        f->on_device[f->n_on_device++].stage = f->stage;
        error = f->replayed ? 0 : f->options.backend->mark(f->options.context, f->n_on_device);
    }
    return error;
}

// Opens a stage over `rows`, of which [first, first + n) run now: its cost is shared out by rows, without loss.
static void enter_tile(struct forward *f, enum stage stage, int32_t layer, enum part part, const struct rows *rows,
                       int32_t first, int32_t n)
{
    const struct observer *observer = f->options.observer;
    f->stage = (struct observed_stage){.stage = stage, .layer = layer, .n_tokens = n};
    if (!f->timed && !f->announced) {
        return;
    }
    for (int32_t r = first; r < first + n; r++) {
        f->stage.n_seqs += r == first || rows->seq[r] != rows->seq[r - 1];
        if (rows->position[r] >= f->stage.context_tokens) {
            f->stage.context_tokens = rows->position[r] + 1;
        }
    }
    if (rows->n > 0) {
        struct stage_cost cost = *forward_cost(f, layer, stage, part);
        f->stage.bytes = share(cost.bytes, first + n, rows->n) - share(cost.bytes, first, rows->n);
        f->stage.flops = share(cost.flops, first + n, rows->n) - share(cost.flops, first, rows->n);
    }
    if (f->announced) {
        observer->enqueue_begin(observer->user, &f->stage, f->replayed);
    } else if (observer->stage_begin && !f->options.backend->asynchronous) {
        observer->stage_begin(observer->user, &f->stage);
    }
}

static void enter(struct forward *f, enum stage stage, int32_t layer, enum part part, const struct rows *rows)
{
    enter_tile(f, stage, layer, part, rows, 0, rows->n);
}

// Closes the stage; a failure gets the layer's number.
static int leave(struct forward *f, int error)
{
    const struct observer *observer = f->options.observer;
    if (f->announced && observer->enqueue_end) {
        observer->enqueue_end(observer->user, &f->stage, f->replayed);
    }
    if (f->timed && f->options.backend->asynchronous) {
        error = error ? error : mark_stage(f);
    } else if (f->timed && observer->stage_end) {
        observer->stage_end(observer->user, &f->stage);
    }
    return error && f->stage.layer >= 0 ? status_prefix(error, "layer %d: ", f->stage.layer) : error;
}

static void layer_begin(const struct forward *f, int32_t layer)
{
    if (f->options.observer && f->options.observer->layer_begin) {
        f->options.observer->layer_begin(f->options.observer->user, layer);
    }
}

static void layer_end(const struct forward *f, int32_t layer)
{
    if (f->options.observer && f->options.observer->layer_end) {
        f->options.observer->layer_end(f->options.observer->user, layer);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Stages

static int embed(struct forward *f)
{
    enter(f, STAGE_EMBED, -1, PART_LAYER, f->rows);
    return leave(f, OPERATOR(f, embed, &f->options.weights->embedding, f->x));
}

// From here on only the rows that leave logits run.
static int keep_last_rows(struct forward *f)
{
    const struct model_shape *shape = &f->options.plan->shape;
    int error = 0;
    f->rows = &f->batch->last;
    if (f->batch->last.n < f->batch->all.n) {
        error = OPERATOR(f, take_rows, f->x_last, f->x_all, (int64_t)shape->hidden * 4);
        f->x = f->x_last;
        if (!error && f->options.plan->index.query_from == HIDDEN_SHARED_MEMORY) {
            error = OPERATOR(f, take_rows, f->memory_last, f->memory_all,
                             (int64_t)shape->hidden * f->options.backend->activation_bytes);
            f->memory = f->memory_last;
        }
    }
    return error;
}

// Whether the layer's indexer reads the layer's own input.
static bool indexes_input(const struct plan *plan, int32_t layer)
{
    return plan_runs_indexer(plan, layer) && plan->index.score != INDEX_PAGE_BOUND &&
           (plan->index.query_from == HIDDEN_LAYER_INPUT || plan->index.key_from == HIDDEN_LAYER_INPUT);
}

static int project_layer(struct forward *f, int32_t layer)
{
    const struct plan *plan = f->options.plan;
    const struct layer_weights *weights = &f->options.weights->layers[layer];
    bool window = plan->layers[layer].attention == ATTENTION_WINDOW, own = plan_has_own_kv(plan, layer);
    bool yoco = plan->shape.backbone == BACKBONE_YOCO, first_cross = layer == plan_first_cross_layer(plan);
    enter(f, STAGE_QKV, layer, PART_LAYER, first_cross ? &f->batch->last : f->rows);
    int error = first_cross ? keep_last_rows(f) : 0;
    struct op_qkv op = {
        .x = f->x,
        .norm = &weights->attention_norm,
        .q = &weights->q,
        .k = own ? &weights->k : NULL,
        .v = own ? &weights->v : NULL,
        .q_norm = &weights->q_norm,
        .k_norm = &weights->k_norm,
        .rope_theta = window ? plan->shape.rope_theta_window : yoco ? 0 : plan->shape.rope_theta_global,
        .position = f->rows->position,
        .n = f->rows->n,
        .normed = indexes_input(plan, layer) ? f->normed : NULL,
        .q_out = f->q,
        .k_out = f->k,
        .v_out = f->v,
    };
    return leave(f, error ? error : OPERATOR(f, qkv, &op));
}

// Window attention, and only then the ring: it would overwrite keys that this step's first rows still see.
static int attend_window(struct forward *f, int32_t layer)
{
    struct kv_view ring = kv_cache_ring(f->cache, layer);
    struct op_window_attention attend = {.q = f->q, .k = f->k, .v = f->v, .ring = ring, .out = f->attended};
    struct op_kv_write write = {.k = f->k, .v = f->v, .view = ring};
    enter(f, STAGE_WINDOW_ATTENTION, layer, PART_LAYER, f->rows);
    int error = leave(f, OPERATOR(f, window_attention, &attend));
    if (error) {
        return error;
    }
    enter(f, STAGE_KV_WRITE, layer, PART_LAYER, f->rows);
    return leave(f, OPERATOR(f, kv_write, &write));
}

// The shared memory: a norm of its own over the self-decoder's output, keys and values without position.
static int project_memory(struct forward *f, int32_t layer)
{
    const struct model_weights *weights = f->options.weights;
    struct op_qkv project = {
        .x = f->x,
        .norm = &weights->memory_norm,
        .k = &weights->memory_k,
        .v = &weights->memory_v,
        .position = f->rows->position,
        .n = f->rows->n,
        .normed = f->memory_all,
        .k_out = f->k,
        .v_out = f->v,
    };
    struct op_kv_write write = {.k = f->k, .v = f->v, .view = kv_cache_pages(f->cache, layer)};
    enter(f, STAGE_QKV, layer, PART_MEMORY, f->rows);
    int error = leave(f, OPERATOR(f, qkv, &project));
    if (error) {
        return error;
    }
    enter(f, STAGE_KV_WRITE, layer, PART_MEMORY, f->rows);
    return leave(f, OPERATOR(f, kv_write, &write));
}

static int project_index(struct forward *f, int32_t layer, const void *hidden, enum part part, bool query, bool key)
{
    bool gated = f->options.plan->index.score == INDEX_GATED_RELU;
    struct op_index_project op = {
        .hidden = hidden,
        .weights = &f->options.weights->layers[layer].index,
        .position = f->rows->position,
        .n = f->rows->n,
        .q = query ? f->index_q : NULL,
        .gate = query && gated ? f->index_gate : NULL,
        .k = key ? f->index_k : NULL,
    };
    enter(f, STAGE_INDEX_PROJECT, layer, part, f->rows);
    return leave(f, OPERATOR(f, index_project, &op));
}

// The index keys that layers above the memory make of it, for all rows, before most of them leave.
static int index_memory(struct forward *f)
{
    const struct plan *plan = f->options.plan;
    int error = 0;
    for (int32_t l = plan_first_cross_layer(plan); l < plan->shape.n_layers && !error; l++) {
        if (!plan_runs_indexer(plan, l)) {
            continue;
        }
        layer_begin(f, l);
        error = project_index(f, l, f->memory_all, PART_MEMORY, false, true);
        if (!error) {
            struct op_index_write write = {.k = f->index_k, .view = kv_cache_index(f->cache, l)};
            enter(f, STAGE_KV_WRITE, l, PART_MEMORY, f->rows);
            error = leave(f, OPERATOR(f, index_write, &write));
        }
        layer_end(f, l);
    }
    return error;
}

// A layer's own keys and values, and its index keys or page bounds.
static int write_cache(struct forward *f, int32_t layer)
{
    const struct plan *plan = f->options.plan;
    bool index_keys = plan_runs_indexer(plan, layer) && plan->index.score != INDEX_PAGE_BOUND;
    int error = 0;
    enter(f, STAGE_KV_WRITE, layer, PART_LAYER, f->rows);
    if (plan_has_own_kv(plan, layer)) {
        struct op_kv_write op = {.k = f->k,
                                 .v = f->v,
                                 .view = kv_cache_pages(f->cache, layer),
                                 .bounds = kv_cache_bounds(f->cache, layer)};
        error = OPERATOR(f, kv_write, &op);
    }
    if (!error && index_keys) {
        struct op_index_write op = {.k = f->index_k, .view = kv_cache_index(f->cache, layer)};
        error = OPERATOR(f, index_write, &op);
    }
    return leave(f, error);
}

// Scores and selection, a tile of rows at a time.
static int select_units(struct forward *f, int32_t layer)
{
    const struct plan *plan = f->options.plan;
    bool bounds = plan->index.score == INDEX_PAGE_BOUND;
    int32_t units = plan_units(plan, f->batch->context_bound);
    int32_t stride = (units + SCORE_ALIGNMENT - 1) / SCORE_ALIGNMENT * SCORE_ALIGNMENT;
    int64_t fitting = f->score_capacity / ((int64_t)plan->index.sets * stride);
    int32_t tile = fitting < f->rows->n ? (int32_t)fitting : f->rows->n;
    for (int32_t first = 0; first < f->rows->n; first += tile) {
        int32_t n = f->rows->n - first < tile ? f->rows->n - first : tile;
        struct op_index_score score = {
            .rows = f->rows,
            .first = first,
            .n = n,
            .q = bounds ? f->q : f->index_q,
            .gate = plan->index.score == INDEX_GATED_RELU ? f->index_gate : NULL,
            .keys = kv_cache_index(f->cache, layer),
            .bounds = kv_cache_bounds(f->cache, layer),
            .scores = f->scores,
            .stride = stride,
        };
        struct op_index_select select = {.layer = layer, .rows = f->rows, .first = first, .n = n, .scores = f->scores,
                                         .stride = stride, .out = f->selections[layer]};
        enter_tile(f, STAGE_INDEX_SCORE, layer, PART_LAYER, f->rows, first, n);
        int error = leave(f, OPERATOR(f, index_score, &score));
        if (!error) {
            enter_tile(f, STAGE_INDEX_SELECT, layer, PART_LAYER, f->rows, first, n);
            error = leave(f, OPERATOR(f, index_select, &select));
        }
        if (error) {
            return error;
        }
    }
    return 0;
}

static int attend_global(struct forward *f, int32_t layer)
{
    const struct plan *plan = f->options.plan;
    const struct layer_plan *self = &plan->layers[layer];
    bool indexer = plan_runs_indexer(plan, layer), cross = layer >= plan_first_cross_layer(plan);
    bool index_keys = indexer && plan->index.score != INDEX_PAGE_BOUND;
    int error = 0;
    if (index_keys) {
        bool from_memory = plan->index.query_from == HIDDEN_SHARED_MEMORY;
        error = project_index(f, layer, from_memory ? f->memory : f->normed, PART_LAYER, true, !cross);
    }
    if (!error && (plan_has_own_kv(plan, layer) || (index_keys && !cross))) {
        error = write_cache(f, layer);
    }
    if (!error && indexer) {
        error = select_units(f, layer);
    }
    if (error) {
        return error;
    }
    struct op_attention op = {
        .rows = f->rows,
        .q = f->q,
        .view = kv_cache_pages(f->cache, self->kv_from),
        .selection = self->attention == ATTENTION_SELECTED ? &f->selections[self->index_from] : NULL,
        .out = f->attended,
    };
    enter(f, STAGE_ATTENTION, layer, PART_LAYER, f->rows);
    error = f->probing && op.selection ? forward_probe_layer(f, layer, &op) : 0;
    return leave(f, error ? error : OPERATOR(f, attention, &op));
}

// The norm that reads the residual stream after a layer.
static const struct matrix *norm_after(const struct forward *f, int32_t layer)
{
    const struct model_weights *weights = f->options.weights;
    return layer == plan_memory_layer(f->options.plan)          ? &weights->memory_norm
           : layer + 1 == f->options.plan->shape.n_layers       ? &weights->final_norm
                                                                : &weights->layers[layer + 1].attention_norm;
}

static int mix_and_feed(struct forward *f, int32_t layer)
{
    const struct layer_weights *w = &f->options.weights->layers[layer];
    struct op_output output = {.attention = f->attended, .weight = &w->output, .n = f->rows->n, .x = f->x,
                               .next_norm = &w->ffn_norm};
    struct op_ffn ffn = {.norm = &w->ffn_norm, .gate = &w->gate, .up = &w->up, .down = &w->down, .n = f->rows->n,
                         .x = f->x, .next_norm = norm_after(f, layer)};
    enter(f, STAGE_OUTPUT, layer, PART_LAYER, f->rows);
    int error = leave(f, OPERATOR(f, output, &output));
    if (error) {
        return error;
    }
    enter(f, STAGE_FFN, layer, PART_LAYER, f->rows);
    return leave(f, OPERATOR(f, ffn, &ffn));
}

static int head(struct forward *f)
{
    enter(f, STAGE_HEAD, -1, PART_LAYER, &f->batch->last);
    int error = f->rows == &f->batch->last ? 0 : keep_last_rows(f);
    struct op_head op = {.x = f->x,
                         .norm = &f->options.weights->final_norm,
                         .weight = &f->options.weights->head,
                         .n = f->rows->n,
                         .logits = f->logits};
    return leave(f, error ? error : OPERATOR(f, head, &op));
}

static int sample(struct forward *f, const struct sampling *sampling, int32_t *token)
{
    struct op_sample op = {.logits = f->logits, .sampling = sampling, .token = token};
    enter(f, STAGE_SAMPLE, -1, PART_LAYER, f->rows);
    return leave(f, OPERATOR(f, sample, &op));
}

// ---------------------------------------------------------------------------------------------------------------------
// The pass

// Behind layers 0, 3, 15, ... (1, 4, 16 done): launching a kernel that is followed takes some 2.5 us on the host, and
// it runs for some 10, so that a piece can be three times as long as those before it and still comes in time.
static int cut_behind(const struct forward *f, int32_t layer)
{
    int32_t done = layer + 1;
    while (done % 4 == 0) {
        done /= 4;
    }
    return done == 1 ? f->options.backend->record_cut(f->options.context) : 0;
}

static int run_layer(struct forward *f, int32_t layer)
{
    const struct plan *plan = f->options.plan;
    bool window = plan->layers[layer].attention == ATTENTION_WINDOW;
    layer_begin(f, layer);
    int error = project_layer(f, layer);
    error = error ? error : window ? attend_window(f, layer) : attend_global(f, layer);
    error = error ? error : mix_and_feed(f, layer);
    if (!error && layer == plan_memory_layer(plan)) {
        error = project_memory(f, layer);
    }
    layer_end(f, layer);
    return error || !f->cut ? error : cut_behind(f, layer);
}

static bool announces(const struct forward *f)
{
    return f->options.backend->asynchronous && f->options.observer && f->options.observer->enqueue_begin;
}

// Marks slow a step down that is replayed: only every stage_every-th has them.
static bool times_stages(const struct forward *f, int64_t step, bool decodes)
{
    const struct observer *observer = f->options.observer;
    int32_t every = f->options.stage_every;
    if (!observer || !f->options.backend->asynchronous) {
        return observer && (observer->stage_begin || observer->stage_end);
    }
    return observer->device_stages && (!decodes || (every > 0 && step % every == 0));
}

const struct observer *forward_observe(struct forward *f, const struct observer *observer)
{
    const struct observer *before = f->options.observer;
    f->options.observer = observer;
    return before;
}

bool forward_tells_stages(const struct forward *f, int64_t step, bool decodes)
{
    return (announces(f) && !f->options.observer->device_stages) || times_stages(f, step, decodes);
}

// One row of each sequence, all leaving logits.
static bool batch_decodes(const struct batch *batch)
{
    return batch->all.n == batch->n_seqs && batch->last.n == batch->n_seqs;
}

int forward_begin(struct forward *f, const struct batch *batch, const struct work *work)
{
    assert(batch->all.n <= f->options.max_rows && batch->last.n <= f->options.max_logit_rows);
    f->batch = batch;
    f->work = work;
    f->rows = &batch->all;
    f->x = f->x_all;
    f->memory = f->memory_all;
    f->timed = times_stages(f, batch->step, batch_decodes(batch));
    f->announced = announces(f);
    f->clocked = f->announced && !f->timed && f->options.observer->in_pieces;
    f->device_ns = 0;
    f->replayed = false;
    f->n_on_device = 0;
    f->probing = f->probe && batch_decodes(batch);
    return f->options.backend->begin_step(f->options.context, batch);
}

static int run_layers(struct forward *f, const struct sampling *sampling, int32_t *token)
{
    const struct plan *plan = f->options.plan;
    int32_t n_layers = plan->shape.n_layers, first_cross = plan_first_cross_layer(plan);
    int error = embed(f);
    for (int32_t l = 0; l < first_cross && !error; l++) {
        error = run_layer(f, l);
    }
    error = error ? error : index_memory(f);
    if (error || f->batch->last.n == 0) {
        return error;    // a chunk before a prompt's last: its rows are in the caches, nothing follows from them yet
    }
    for (int32_t l = first_cross; l < n_layers && !error; l++) {
        error = run_layer(f, l);
    }
    error = error ? error : head(f);
    return error ? error : sample(f, sampling, token);
}

// A pass whose stages are timed has marks behind each of them, one that is clocked a second mark behind the last.
static int run_pass(struct forward *f, const struct sampling *sampling, int32_t *token)
{
    const struct backend *backend = f->options.backend;
    bool marked = !f->replayed && (f->clocked || (f->timed && backend->asynchronous));
    int error = f->timed || f->announced ? forward_price(f) : 0;
    error = error || !marked ? error : backend->mark(f->options.context, 0);
    error = error ? error : run_layers(f, sampling, token);
    return error || !marked || !f->clocked ? error : backend->mark(f->options.context, 1);
}

int forward_run(struct forward *f, const struct sampling *sampling, int32_t *token)
{
    const struct backend *backend = f->options.backend;
    if (!backend->asynchronous || f->options.eager || !batch_decodes(f->batch) || f->probing) {
        return run_pass(f, sampling, token);
    }
    struct op_sample op = {.logits = f->logits, .sampling = sampling, .token = token};
    enum record kind = f->timed                                                ? RECORD_MARKED
                       : f->options.observer && f->options.observer->in_pieces ? RECORD_PIECES
                                                                               : RECORD_PLAIN;
    int found = backend->replay(f->options.context, &op, kind);
    if (found < 0) {
        return found;
    }
    if (found) {    // the device is at work: what its stages cost is told meanwhile
        f->replayed = true;
        return f->timed || f->announced ? run_pass(f, sampling, token) : 0;
    }
    int recording = backend->record_begin(f->options.context, kind);
    if (recording < 0) {
        return recording;
    }
    f->cut = recording && kind == RECORD_PIECES;
    int error = run_pass(f, sampling, token);
    f->cut = false;
    return recording ? backend->record_end(f->options.context, error) : error;
}

// What the marks say of the stages of a pass that has ended.
static int tell_device_stages(struct forward *f)
{
    const struct observer *observer = f->options.observer;
    int error = f->options.backend->marks(f->options.context, f->mark_ns, f->n_on_device + 1);
    for (int32_t i = 0; i < f->n_on_device && !error; i++) {
        f->on_device[i].begin_ns = f->mark_ns[i];
        f->on_device[i].end_ns = f->mark_ns[i + 1];
    }
    if (!error) {
        observer->device_stages(observer->user, f->on_device, f->n_on_device);
    }
    return error;
}

int forward_end(struct forward *f)
{
    int64_t ns[2] = {0};
    int error = f->options.backend->end_step(f->options.context);
    f->work = NULL;
    if (!error && f->clocked) {
        error = f->options.backend->marks(f->options.context, ns, 2);
        f->device_ns = ns[1];
    }
    return error || f->n_on_device == 0 ? error : tell_device_stages(f);
}

int64_t forward_device_ns(const struct forward *f)
{
    return f->device_ns;
}

const float *forward_logits(const struct forward *f)
{
    return f->logits;
}

const struct selection *forward_selection(const struct forward *f, int32_t index_from)
{
    return index_from >= 0 && f->selections[index_from].unit ? &f->selections[index_from] : NULL;
}

bool forward_selects_last(const struct forward *f, int32_t index_from)
{
    return index_from >= plan_first_cross_layer(f->options.plan);
}
