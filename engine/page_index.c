// engine/page_index.c - a hash table with chains through the pages, and a list of those that rest.
//
// Links are page + 1, so that zeroed memory is an empty index and a large pool costs what is used of it. Snapshots are
// few: the one to give way is looked for.
#include "engine/page_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

struct known {
    uint64_t key;
    int32_t next;             // in its bucket's chain; page + 1, like the two below
    int32_t older, newer;     // in the list of pages that rest
    int32_t snapshot;         // number + 1; 0: none
    bool named, rests;
};

struct snapshot {
    int64_t used;             // 0: its place is free
    int32_t page;             // + 1; 0: reserved, or free
    bool proven;
};

struct page_index {
    struct known *pages;      // [n_pages]
    int32_t *buckets;         // [n_buckets] page + 1, first of a chain
    uint64_t n_buckets;       // a power of two
    int32_t oldest, newest;   // that rest; page + 1
    int32_t n_resting, n_snapshots;
    struct snapshot *snapshots;    // [n_snapshots]
    int64_t clock;            // of uses of snapshots
};

int page_index_open(struct page_index **out, int32_t n_pages, int32_t n_snapshots)
{
    *out = NULL;
    assert(n_pages >= 1 && n_snapshots >= 0);
    struct page_index *index = calloc(1, sizeof *index);
    if (!index) {
        goto fail;
    }
    index->n_snapshots = n_snapshots;
    index->n_buckets = 1;
    while (index->n_buckets < (uint64_t)n_pages) {
        index->n_buckets *= 2;
    }
    index->pages = calloc((size_t)n_pages, sizeof *index->pages);
    index->buckets = calloc(index->n_buckets, sizeof *index->buckets);
    index->snapshots = calloc((size_t)n_snapshots + 1, sizeof *index->snapshots);
    if (!index->pages || !index->buckets || !index->snapshots) {
        goto fail;
    }
    *out = index;
    return 0;

fail:
    page_index_close(index);
    return status_fail(-ENOMEM, "no memory for an index of %d pages", n_pages);
}

void page_index_close(struct page_index *index)
{
    if (index) {
        free(index->pages);
        free(index->buckets);
        free(index->snapshots);
        free(index);
    }
}

static int32_t *bucket_of(const struct page_index *index, uint64_t key)
{
    return &index->buckets[(key * 0x9e3779b97f4a7c15u >> 20) & (index->n_buckets - 1)];
}

int32_t page_index_find(const struct page_index *index, uint64_t key)
{
    int32_t at = *bucket_of(index, key);
    while (at && index->pages[at - 1].key != key) {
        at = index->pages[at - 1].next;
    }
    return at - 1;
}

bool page_index_knows(const struct page_index *index, int32_t page)
{
    return index->pages[page].named;
}

void page_index_add(struct page_index *index, uint64_t key, int32_t page)
{
    int32_t *bucket = bucket_of(index, key);
    assert(!index->pages[page].named && page_index_find(index, key) < 0);
    index->pages[page] = (struct known){.key = key, .next = *bucket, .named = true};
    *bucket = page + 1;
}

void page_index_rest(struct page_index *index, int32_t page)
{
    struct known *known = &index->pages[page];
    assert(known->named && !known->rests);
    known->rests = true;
    known->older = index->newest;
    known->newer = 0;
    *(index->newest ? &index->pages[index->newest - 1].newer : &index->oldest) = page + 1;
    index->newest = page + 1;
    index->n_resting++;
}

void page_index_wake(struct page_index *index, int32_t page)
{
    struct known *known = &index->pages[page];
    assert(known->rests);
    *(known->older ? &index->pages[known->older - 1].newer : &index->oldest) = known->newer;
    *(known->newer ? &index->pages[known->newer - 1].older : &index->newest) = known->older;
    known->older = known->newer = 0;
    known->rests = false;
    index->n_resting--;
}

int32_t page_index_resting(const struct page_index *index)
{
    return index->n_resting;
}

int32_t page_index_forget(struct page_index *index)
{
    int32_t page = index->oldest - 1;
    assert(page >= 0);
    page_index_wake(index, page);
    struct known *known = &index->pages[page];
    int32_t *link = bucket_of(index, known->key);
    while (*link != page + 1) {
        link = &index->pages[*link - 1].next;
    }
    *link = known->next;
    if (known->snapshot) {
        index->snapshots[known->snapshot - 1] = (struct snapshot){0};
    }
    *known = (struct known){0};
    return page;
}

// ---------------------------------------------------------------------------------------------------------------------
// Snapshots

// Of places that are not about to be filled: a free one, else of the larger class the one used longest ago. -1: there
// is none.
static int32_t choose_place(const struct page_index *index)
{
    int32_t oldest[2] = {-1, -1}, n[2] = {0, 0};
    for (int32_t s = 0; s < index->n_snapshots; s++) {
        const struct snapshot *snapshot = &index->snapshots[s];
        if (snapshot->used == 0) {
            return s;
        }
        int class = snapshot->proven;
        n[class]++;
        if (snapshot->page && (oldest[class] < 0 || snapshot->used < index->snapshots[oldest[class]].used)) {
            oldest[class] = s;
        }
    }
    int larger = n[true] > n[false];
    return oldest[larger] >= 0 ? oldest[larger] : oldest[!larger];
}

int32_t page_index_reserve(struct page_index *index, bool proven)
{
    int32_t chosen = choose_place(index);
    if (chosen >= 0) {
        struct snapshot *snapshot = &index->snapshots[chosen];
        if (snapshot->page) {
            index->pages[snapshot->page - 1].snapshot = 0;
        }
        *snapshot = (struct snapshot){.used = ++index->clock, .proven = proven};
    }
    return chosen;
}

void page_index_place(struct page_index *index, int32_t snapshot, int32_t page)
{
    assert(index->snapshots[snapshot].used > 0 && !index->snapshots[snapshot].page);
    if (page < 0 || index->pages[page].snapshot) {
        index->snapshots[snapshot] = (struct snapshot){0};
        return;
    }
    assert(index->pages[page].named);
    index->snapshots[snapshot].page = page + 1;
    index->pages[page].snapshot = snapshot + 1;
}

int32_t page_index_snapshot(const struct page_index *index, int32_t page)
{
    return index->pages[page].snapshot - 1;
}

void page_index_use(struct page_index *index, int32_t snapshot)
{
    index->snapshots[snapshot].used = ++index->clock;
    index->snapshots[snapshot].proven = true;
}
