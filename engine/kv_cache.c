// engine/kv_cache.c - one block of backend memory per layer and kind, cut into equal pages or rings.
//
// A ring is a page of window_tokens that belongs to a slot. Pages and rings begin at multiples of 64 bytes.
#include "engine/kv_cache.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

enum { PAGE_ALIGNMENT = 64 };

struct layer_cache {
    void *ring, *pages, *index, *bounds;    // owned, memory of the backend; NULL where the layer has none
};

struct kv_cache {
    const struct backend *backend;          // borrowed, like the two below
    struct backend_context *context;
    const struct plan *plan;
    int64_t bytes;
    struct layer_cache *layers;             // [n_layers] owned
};

static int64_t aligned(int64_t bytes)
{
    return (bytes + PAGE_ALIGNMENT - 1) / PAGE_ALIGNMENT * PAGE_ALIGNMENT;
}

static struct kv_view make_view(const struct plan *plan, void *data, bool ring)
{
    struct kv_view view = {
        .data = data,
        .dtype = ring ? plan_fresh_dtype(plan) : plan->kv_dtype,
        .page_tokens = ring ? plan->shape.window_tokens : plan->page_tokens,
        .ring = ring,
    };
    int64_t head_bytes = (int64_t)plan->shape.head_dim * dtype_bytes(view.dtype);
    int64_t key_bytes = plan->shape.n_kv_heads * head_bytes, token_bytes = plan_kv_token_bytes(plan, ring);
    view.page_stride = aligned(token_bytes * view.page_tokens);
    if (!ring && plan->index.unit_tokens > 1) {    // blocks of one head are read together
        view.token_stride = head_bytes;
        view.value_offset = head_bytes * view.page_tokens;
        view.head_stride = 2 * view.value_offset;
        view.scale_offset = 2 * key_bytes * view.page_tokens;
        view.scale_token_stride = 2;
        view.scale_head_stride = 2 * (int64_t)view.page_tokens;
    } else {
        view.token_stride = token_bytes;
        view.value_offset = key_bytes;
        view.head_stride = head_bytes;
        view.scale_offset = 2 * key_bytes;
        view.scale_token_stride = token_bytes;
        view.scale_head_stride = 2;
    }
    return view;
}

static struct index_view make_index(const struct plan *plan, void *data)
{
    const struct index_spec *index = &plan->index;
    int64_t codes = (int64_t)plan->page_tokens * index->dim * dtype_bytes(index->key_dtype);
    int64_t scale_offset = (codes + 3) / 4 * 4;    // f32 scales behind the codes
    int64_t scales = index->key_dtype == DTYPE_FP8 ? (int64_t)plan->page_tokens * 4 : 0;
    return (struct index_view){
        .data = data,
        .dtype = index->key_dtype,
        .page_tokens = plan->page_tokens,
        .dim = index->dim,
        .page_stride = aligned(scale_offset + scales),
        .scale_offset = scale_offset,
    };
}

static struct bound_view make_bounds(const struct plan *plan, void *data)
{
    int32_t unit = plan->index.unit_tokens;
    int64_t units = unit && plan->page_tokens > unit ? plan->page_tokens / unit : 1;
    return (struct bound_view){
        .data = data,
        .page_tokens = plan->page_tokens,
        .unit_tokens = unit,
        .page_stride = aligned(units * 2 * plan->shape.n_kv_heads * plan->shape.head_dim * (int64_t)sizeof(float)),
    };
}

static int take(struct kv_cache *cache, void **out, int64_t page_stride, int32_t n)
{
    int error = cache->backend->alloc(cache->context, out, page_stride * n);
    cache->bytes += error ? 0 : page_stride * n;
    return error;
}

static bool has_pages(const struct plan *plan, int32_t layer)
{
    bool window = plan->layers[layer].attention == ATTENTION_WINDOW;
    return (!window && plan_has_own_kv(plan, layer)) || layer == plan_memory_layer(plan);
}

int64_t kv_cache_page_bytes(const struct plan *plan)
{
    bool bounds = plan->index.score == INDEX_PAGE_BOUND;
    int64_t keys = bounds ? make_bounds(plan, NULL).page_stride : make_index(plan, NULL).page_stride, total = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        total += has_pages(plan, layer) ? make_view(plan, NULL, false).page_stride : 0;
        total += plan_runs_indexer(plan, layer) ? keys : 0;
    }
    return total;
}

static int open_layer(struct kv_cache *cache, int32_t layer, int32_t n_pages, int32_t max_seqs)
{
    const struct plan *plan = cache->plan;
    struct layer_cache *out = &cache->layers[layer];
    bool window = plan->layers[layer].attention == ATTENTION_WINDOW;
    int error = 0;
    if (window && plan_has_own_kv(plan, layer)) {
        error = take(cache, &out->ring, make_view(plan, NULL, true).page_stride, max_seqs);
    }
    if (!error && has_pages(plan, layer)) {
        error = take(cache, &out->pages, make_view(plan, NULL, false).page_stride, n_pages);
    }
    if (!error && plan_runs_indexer(plan, layer)) {
        error = plan->index.score == INDEX_PAGE_BOUND
                    ? take(cache, &out->bounds, make_bounds(plan, NULL).page_stride, n_pages)
                    : take(cache, &out->index, make_index(plan, NULL).page_stride, n_pages);
    }
    return error;
}

int kv_cache_open(struct kv_cache **out, const struct backend *backend, struct backend_context *context,
                  const struct plan *plan, int32_t n_pages, int32_t max_seqs)
{
    *out = NULL;
    struct kv_cache *cache = calloc(1, sizeof *cache);
    struct layer_cache *layers = calloc((size_t)plan->shape.n_layers, sizeof *layers);
    if (!cache || !layers) {
        free(cache);
        free(layers);
        return status_fail(-ENOMEM, "no memory to describe the cache of %d layers", plan->shape.n_layers);
    }
    *cache = (struct kv_cache){.backend = backend, .context = context, .plan = plan, .layers = layers};
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        int error = open_layer(cache, layer, n_pages, max_seqs);
        if (error) {
            kv_cache_close(cache);
            return status_prefix(error, "layer %d's cache of %d pages of %d tokens: ", layer, n_pages,
                                 plan->page_tokens);
        }
    }
    *out = cache;
    return 0;
}

void kv_cache_close(struct kv_cache *cache)
{
    if (!cache) {
        return;
    }
    for (int32_t layer = 0; layer < cache->plan->shape.n_layers; layer++) {
        cache->backend->free(cache->context, cache->layers[layer].ring);
        cache->backend->free(cache->context, cache->layers[layer].pages);
        cache->backend->free(cache->context, cache->layers[layer].index);
        cache->backend->free(cache->context, cache->layers[layer].bounds);
    }
    free(cache->layers);
    free(cache);
}

// Runs of pages that lie side by side at both ends go in one copy.
static int copy_pages(struct kv_cache *cache, void *data, int64_t stride, const int32_t *from, const int32_t *to,
                      int32_t n)
{
    int error = 0;
    for (int32_t first = 0, end; first < n && !error; first = end) {
        for (end = first + 1; end < n && from[end] == from[end - 1] + 1 && to[end] == to[end - 1] + 1; end++) {
        }
        char *dest = (char *)data + to[first] * stride, *source = (char *)data + from[first] * stride;
        error = cache->backend->copy(cache->context, dest, source, (end - first) * stride);
    }
    return error;
}

int kv_cache_copy(struct kv_cache *cache, const int32_t *from, const int32_t *to, int32_t n_pages, int32_t from_slot,
                  int32_t to_slot)
{
    const struct plan *plan = cache->plan;
    int error = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers && !error; layer++) {
        const struct layer_cache *c = &cache->layers[layer];
        if (c->ring) {
            error = copy_pages(cache, c->ring, make_view(plan, NULL, true).page_stride, &from_slot, &to_slot, 1);
        }
        if (!error && c->pages) {
            error = copy_pages(cache, c->pages, make_view(plan, NULL, false).page_stride, from, to, n_pages);
        }
        if (!error && c->index) {
            error = copy_pages(cache, c->index, make_index(plan, NULL).page_stride, from, to, n_pages);
        }
        if (!error && c->bounds) {
            error = copy_pages(cache, c->bounds, make_bounds(plan, NULL).page_stride, from, to, n_pages);
        }
    }
    return error;
}

struct kv_view kv_cache_ring(const struct kv_cache *cache, int32_t layer)
{
    assert(cache->layers[layer].ring);
    return make_view(cache->plan, cache->layers[layer].ring, true);
}

struct kv_view kv_cache_pages(const struct kv_cache *cache, int32_t kv_from)
{
    assert(cache->layers[kv_from].pages);
    return make_view(cache->plan, cache->layers[kv_from].pages, false);
}

struct index_view kv_cache_index(const struct kv_cache *cache, int32_t layer)
{
    return make_index(cache->plan, cache->layers[layer].index);
}

struct bound_view kv_cache_bounds(const struct kv_cache *cache, int32_t layer)
{
    return make_bounds(cache->plan, cache->layers[layer].bounds);
}

int64_t kv_cache_bytes(const struct kv_cache *cache)
{
    return cache->bytes;
}
