// engine/page_index.h - which pages hold which beginning of a prompt, and which of them may be forgotten first.
//
// A key stands for all tokens up to a page's end: equal keys, equal contents. A known page that no table names rests:
// it can be found again until its place is needed, longest rested first. A page may also have a snapshot: a numbered
// place where the owner keeps what window layers hold at the page's end. Snapshots are few; a new one takes the place
// of the one used longest ago, where those that were of use yet and those that were not have half of the places each.
// Pure accounting, like kv_pages.h, which tells it when pages rest and wake.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct page_index;

int page_index_open(struct page_index **out, int32_t n_pages, int32_t n_snapshots);
void page_index_close(struct page_index *index);    // NULL-safe

int32_t page_index_find(const struct page_index *index, uint64_t key);    // a page; -1: unknown
bool page_index_knows(const struct page_index *index, int32_t page);      // under some key
void page_index_add(struct page_index *index, uint64_t key, int32_t page);    // neither may be known

// Of known pages only.
void page_index_rest(struct page_index *index, int32_t page);
void page_index_wake(struct page_index *index, int32_t page);
int32_t page_index_resting(const struct page_index *index);    // how many
int32_t page_index_forget(struct page_index *index);           // the page that rested longest; unknown from now on

// A place for a snapshot that is about to be taken; -1: all places are about to be filled. page_index_place ends that
// state: it gives the snapshot to a page, or with page -1 (or one that has a snapshot) frees its place.
// `proven`: it is known to be of use, as one that has been used is.
int32_t page_index_reserve(struct page_index *index, bool proven);
void page_index_place(struct page_index *index, int32_t snapshot, int32_t page);
int32_t page_index_snapshot(const struct page_index *index, int32_t page);    // -1: it has none
void page_index_use(struct page_index *index, int32_t snapshot);              // now used last
