// engine/kv_pages.h - which page of the KV cache belongs to whom: page tables, reference counts, sharing.
//
// Pure accounting over page numbers; the memory is kv_cache.h's. The simulator runs this very code. A page is either
// free or has one reference per sequence whose table names it. Only whole pages are shared; the first write into a
// shared page is the caller's error (sequences append, and only their last, unshared page is partial).
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct kv_pages;

int kv_pages_open(struct kv_pages **out, int32_t n_pages, int32_t page_tokens, int32_t max_seqs);
void kv_pages_close(struct kv_pages *pages);    // NULL-safe

// A sequence is a slot number in [0, max_seqs). open_seq takes the lowest free slot: -EAGAIN if there is none.
int kv_pages_open_seq(struct kv_pages *pages, int32_t *slot);
void kv_pages_close_seq(struct kv_pages *pages, int32_t slot);

// Grows the sequence to `tokens`. -ENOMEM if pages are short: then nothing changed, and kv_pages_needed says how many.
int kv_pages_grow(struct kv_pages *pages, int32_t slot, int32_t tokens);
int32_t kv_pages_needed(const struct kv_pages *pages, int32_t slot, int32_t tokens);    // more pages than it has now
int32_t kv_pages_for(const struct kv_pages *pages, int32_t tokens);    // pages that hold so many tokens

// Lets an empty sequence `to` begin with the first `tokens` (rounded down to whole pages) of `from`. Returns the tokens
// shared.
int32_t kv_pages_share(struct kv_pages *pages, int32_t from, int32_t to, int32_t tokens);

const int32_t *kv_pages_table(const struct kv_pages *pages, int32_t slot, int32_t *n_pages);    // valid until it changes
int32_t kv_pages_tokens(const struct kv_pages *pages, int32_t slot);
int32_t kv_pages_free(const struct kv_pages *pages);
int32_t kv_pages_used(const struct kv_pages *pages);
