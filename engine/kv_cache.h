// engine/kv_cache.h - the memory of the KV cache: pages, window rings, index keys and page bounds of every layer.
//
// Layout is the method's choice: token-major ([token][K: all heads | V: all heads]) where tokens are selected or all
// are read, per KV head ([head][K | V][token]) where blocks are. Layers that read another's keys have no memory of
// their own. Pages have plan->kv_dtype, rings plan_fresh_dtype; a page's tokens take plan_kv_token_bytes each.
#pragma once

#include "engine/backend.h"

struct kv_cache;

// n_pages pages for the global layers and max_seqs window rings. Memory is the backend's. -ENOMEM says what was asked
// for and what would fit is the caller's to say.
int kv_cache_open(struct kv_cache **out, const struct backend *backend, struct backend_context *context,
                  const struct plan *plan, int32_t n_pages, int32_t max_seqs);
void kv_cache_close(struct kv_cache *cache);    // NULL-safe
int64_t kv_cache_page_bytes(const struct plan *plan);    // what one page takes in all layers together

struct kv_view kv_cache_ring(const struct kv_cache *cache, int32_t layer);       // of a window layer
struct kv_view kv_cache_pages(const struct kv_cache *cache, int32_t kv_from);    // own K and V, or the shared memory's
struct index_view kv_cache_index(const struct kv_cache *cache, int32_t layer);   // of a layer that runs an indexer
struct bound_view kv_cache_bounds(const struct kv_cache *cache, int32_t layer);  // data == NULL unless PAGE_BOUND

// Copies all layers' pages from[i] to to[i] and the window rings of one slot to another's.
int kv_cache_copy(struct kv_cache *cache, const int32_t *from, const int32_t *to, int32_t n_pages, int32_t from_slot,
                  int32_t to_slot);

int64_t kv_cache_bytes(const struct kv_cache *cache);    // allocated
