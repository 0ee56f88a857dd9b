// engine/kv_pages.h - which page of the KV cache belongs to whom: page tables, reference counts, sharing.
//
// Pure accounting over page numbers; the memory is kv_cache.h's. The simulator runs this very code. A page is free, or
// has one reference per sequence whose table names it, or rests: an index of prompts (page_index.h) knows what it
// holds, and it is as good as free, since whoever needs it takes it. Only whole pages are shared; the first write into
// a shared page is the caller's error (sequences append, and only their last, unshared page is partial).
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/page_index.h"

struct kv_pages;

int kv_pages_open(struct kv_pages **out, int32_t n_pages, int32_t page_tokens, int32_t max_seqs);
void kv_pages_close(struct kv_pages *pages);    // NULL-safe

// A sequence is a slot number in [0, max_seqs). open_seq takes the lowest free slot: -EAGAIN if there is none.
int kv_pages_open_seq(struct kv_pages *pages, int32_t *slot);
void kv_pages_close_seq(struct kv_pages *pages, int32_t slot);

// Grows the sequence to `tokens`. -ENOMEM if pages are short: then nothing changed, and kv_pages_needed says how many.
int kv_pages_grow(struct kv_pages *pages, int32_t slot, int32_t tokens);
int32_t kv_pages_needed(const struct kv_pages *pages, int32_t slot, int32_t tokens);    // more pages than it has now
int32_t kv_pages_page_tokens(const struct kv_pages *pages);
int32_t kv_pages_for(const struct kv_pages *pages, int32_t tokens);    // pages that hold so many tokens

// From now on pages that the index knows rest when nobody needs them. Once, before the first sequence.
int kv_pages_keep(struct kv_pages *pages, int32_t n_snapshots);
struct page_index *kv_pages_index(const struct kv_pages *pages);    // NULL: nothing is kept

// The sequence, which holds whole pages only, goes on with a known page.
void kv_pages_adopt(struct kv_pages *pages, int32_t slot, int32_t page);
int32_t kv_pages_references(const struct kv_pages *pages, int32_t page);

// Valid until it changes.
const int32_t *kv_pages_table(const struct kv_pages *pages, int32_t slot, int32_t *n_pages);
int32_t kv_pages_tokens(const struct kv_pages *pages, int32_t slot);    // that it was last grown to
int32_t kv_pages_free(const struct kv_pages *pages);    // those that rest included
int32_t kv_pages_used(const struct kv_pages *pages);
