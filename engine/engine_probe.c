// engine/engine_probe.c - what the selections of a probed step hold of dense attention.
//
// Coverage comes from two sums that the backend made, over the selected keys and over all. The mass of each single
// token is worked out here, in plain C, from the row's queries and the cached keys: it is what an exact selection would
// go by.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_state.h"
#include "engine/status.h"

int engine_probe(struct engine *engine, bool on)
{
    return forward_set_probe(engine->forward, on);
}

static int download(const struct engine *engine, void *host, const void *from, int64_t bytes)
{
    return engine->backend->download(engine->context, host, from, bytes);
}

double engine_coverage(const struct engine *engine, int32_t layer, int32_t row)
{
    int32_t heads = engine->plan.shape.n_heads;
    struct probed_layer probed;
    if (layer < 0 || layer >= engine->plan.shape.n_layers || row < 0 || row >= engine->batch.batch.last.n ||
        !forward_probed(engine->forward, layer, &probed)) {
        return NAN;
    }
    float *lse = malloc(2 * (size_t)heads * sizeof *lse);
    int64_t bytes = heads * (int64_t)sizeof *lse, first = (int64_t)row * heads;
    double sum = NAN;
    if (lse && download(engine, lse, probed.lse_selected + first, bytes) == 0 &&
        download(engine, lse + heads, probed.lse_dense + first, bytes) == 0) {
        sum = 0;
        for (int32_t h = 0; h < heads; h++) {
            sum += exp((double)lse[h] - (double)lse[heads + h]);
        }
    }
    free(lse);
    return sum / heads;
}

// The keys of one sequence in one layer, on the host as they lie in the cache.
struct host_keys {
    struct kv_view view;
    unsigned char *pages;    // [pages of the sequence][view.page_stride], owned
    float *q, *score;        // [n_heads*head_dim], [n_tokens]; owned
    void *raw_q;             // [n_heads*head_dim] as the backend keeps them, owned
    int32_t kv_from;         // whose keys are there, -1: none yet
};

// Room for the keys of a layer like `layer`: pages are equally long in all of them.
static int open_keys(struct host_keys *out, const struct engine *engine, int32_t layer, int32_t n_tokens)
{
    const struct plan *plan = &engine->plan;
    size_t width = (size_t)plan->shape.n_heads * (size_t)plan->shape.head_dim;
    int32_t n_pages = (n_tokens - 1) / plan->page_tokens + 1;
    *out = (struct host_keys){.kv_from = -1, .view = kv_cache_pages(engine->cache, plan->layers[layer].kv_from)};
    out->pages = malloc((size_t)(n_pages * out->view.page_stride));
    out->q = malloc(width * sizeof *out->q);
    out->raw_q = malloc(width * (size_t)engine->backend->activation_bytes);
    out->score = malloc((size_t)n_tokens * sizeof *out->score);
    return out->pages && out->q && out->raw_q && out->score
               ? 0
               : status_fail(-ENOMEM, "no memory for the keys of %d tokens", n_tokens);
}

static void close_keys(struct host_keys *keys)
{
    free(keys->pages);
    free(keys->q);
    free(keys->raw_q);
    free(keys->score);
}

// Brings the keys of `layer` and the queries of one row. Pages that lie side by side come in one copy.
static int fetch(struct host_keys *keys, const struct engine *engine, int32_t layer, const void *q, int32_t row,
                 int32_t n_tokens)
{
    const struct plan *plan = &engine->plan;
    const struct batch *batch = &engine->batch.batch;
    const int32_t *pages = batch->pages + (int64_t)batch->last.seq[row] * batch->max_pages;
    int32_t n_pages = (n_tokens - 1) / plan->page_tokens + 1, kv_from = plan->layers[layer].kv_from;
    int32_t width = plan->shape.n_heads * plan->shape.head_dim;
    int64_t row_bytes = (int64_t)width * engine->backend->activation_bytes;
    int error = download(engine, keys->raw_q, (const char *)q + row * row_bytes, row_bytes);
    enum dtype dtype = engine->backend->activation_bytes == 4 ? DTYPE_F32 : DTYPE_BF16;
    for (int32_t i = 0; i < width && !error; i++) {
        keys->q[i] = dtype_load(keys->raw_q, i, dtype);
    }
    if (error || keys->kv_from == kv_from) {
        return error;
    }
    keys->view = kv_cache_pages(engine->cache, kv_from);
    for (int32_t first = 0, end; first < n_pages && !error; first = end) {
        for (end = first + 1; end < n_pages && pages[end] == pages[end - 1] + 1; end++) {
        }
        error =
            download(engine, keys->pages + first * keys->view.page_stride,
                     keys->view.data + pages[first] * keys->view.page_stride, (end - first) * keys->view.page_stride);
    }
    keys->kv_from = error ? -1 : kv_from;
    return error;
}

// Adds `share` of one head's dense attention to mass [n_tokens].
static void add_head(struct host_keys *keys, const struct model_shape *shape, int32_t head, int32_t n_tokens,
                     double share, float *mass)
{
    const struct kv_view *view = &keys->view;
    int32_t dim = shape->head_dim, kv_head = head / (shape->n_heads / shape->n_kv_heads);
    const float *q = keys->q + (int64_t)head * dim;
    float scale = 1 / sqrtf((float)dim), greatest = -INFINITY;
    for (int32_t t = 0; t < n_tokens; t++) {
        const unsigned char *page = keys->pages + t / view->page_tokens * view->page_stride;
        int32_t place = t % view->page_tokens;
        const unsigned char *key = page + place * view->token_stride + kv_head * view->head_stride;
        float dot = 0;
        for (int32_t i = 0; i < dim; i++) {
            dot += q[i] * dtype_load(key, i, view->dtype);
        }
        if (view->dtype == DTYPE_FP8) {
            dot *= kv_scale_to_f32(
                page[view->scale_offset + place * view->scale_token_stride + kv_head * view->scale_head_stride]);
        }
        keys->score[t] = dot * scale;
        greatest = keys->score[t] > greatest ? keys->score[t] : greatest;
    }
    double total = 0;
    for (int32_t t = 0; t < n_tokens; t++) {
        keys->score[t] = expf(keys->score[t] - greatest);
        total += (double)keys->score[t];
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        mass[t] += (float)(share * (double)keys->score[t] / total);
    }
}

int engine_dense_mass(const struct engine *engine, int32_t index_from, int32_t row, int32_t set, float *mass,
                      int32_t *n_tokens)
{
    const struct plan *plan = &engine->plan;
    const struct batch *batch = &engine->batch.batch;
    struct probed_layer probed;
    if (index_from < 0 || index_from >= plan->shape.n_layers || !plan_runs_indexer(plan, index_from) || row < 0 ||
        row >= batch->last.n || set < 0 || set >= plan->index.sets ||
        !forward_probed(engine->forward, index_from, &probed)) {
        return status_fail(-EINVAL, "layer %d, row %d, set %d: not probed in the last step", index_from, row, set);
    }
    int32_t n = batch->last.position[row] + 1, n_layers = 0, heads = plan->shape.n_heads / plan->index.sets;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        n_layers += plan->layers[layer].index_from == index_from;
    }
    struct host_keys keys;
    int error = open_keys(&keys, engine, index_from, n);
    memset(mass, 0, (size_t)n * sizeof *mass);
    for (int32_t layer = index_from; layer < plan->shape.n_layers && !error; layer++) {
        if (plan->layers[layer].index_from == index_from && forward_probed(engine->forward, layer, &probed)) {
            error = fetch(&keys, engine, layer, probed.q, row, n);
            for (int32_t h = set * heads; h < (set + 1) * heads && !error; h++) {
                add_head(&keys, &plan->shape, h, n, 1.0 / (n_layers * heads), mass);
            }
        }
    }
    close_keys(&keys);
    *n_tokens = n;
    return error;
}
