// engine/kv_pages.c - page tables and reference counts over a stack of free pages.
//
// All memory is taken at open: nothing fails later for want of memory, and growing a sequence costs its new pages only.
// A sequence's table may name every page there is, so tables are rows of one array, touched as far as they are used.
#include "engine/kv_pages.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

struct sequence {
    bool open;
    int32_t tokens, n_pages;
};

struct kv_pages {
    int32_t n_pages, page_tokens, max_seqs;
    int32_t n_free;
    // [n_pages] a stack of page + 1; the next page to give is on top. 0: never touched, what the stack began with
    // there, page 0 on top. So opening a large pool that is never filled costs no memory.
    int32_t *free_pages;
    int32_t *references;          // [n_pages] tables that name the page; 0: free
    int32_t *tables;              // [max_seqs][n_pages]
    struct sequence *sequences;   // [max_seqs]
    struct page_index *index;     // owned; NULL: nothing is kept
};

int kv_pages_open(struct kv_pages **out, int32_t n_pages, int32_t page_tokens, int32_t max_seqs)
{
    *out = NULL;
    if (n_pages < 1 || page_tokens < 1 || max_seqs < 1) {
        return status_fail(-EINVAL, "%d pages of %d tokens for %d sequences: expected at least one of each", n_pages,
                           page_tokens, max_seqs);
    }
    struct kv_pages *pages = calloc(1, sizeof *pages);
    if (!pages) {
        goto fail;
    }
    *pages = (struct kv_pages){.n_pages = n_pages, .page_tokens = page_tokens, .max_seqs = max_seqs, .n_free = n_pages};
    pages->free_pages = calloc((size_t)n_pages, sizeof *pages->free_pages);
    pages->references = calloc((size_t)n_pages, sizeof *pages->references);
    pages->tables = calloc((size_t)max_seqs, (size_t)n_pages * sizeof *pages->tables);
    pages->sequences = calloc((size_t)max_seqs, sizeof *pages->sequences);
    if (!pages->free_pages || !pages->references || !pages->tables || !pages->sequences) {
        goto fail;
    }
    *out = pages;
    return 0;

fail:
    kv_pages_close(pages);
    return status_fail(-ENOMEM, "no memory for the page tables of %d pages and %d sequences", n_pages, max_seqs);
}

void kv_pages_close(struct kv_pages *pages)
{
    if (!pages) {
        return;
    }
    free(pages->free_pages);
    free(pages->references);
    free(pages->tables);
    free(pages->sequences);
    page_index_close(pages->index);
    free(pages);
}

static struct sequence *sequence_at(const struct kv_pages *pages, int32_t slot)
{
    assert(slot >= 0 && slot < pages->max_seqs && pages->sequences[slot].open);
    return &pages->sequences[slot];
}

static int32_t *table_of(const struct kv_pages *pages, int32_t slot)
{
    return pages->tables + (int64_t)slot * pages->n_pages;
}

int kv_pages_open_seq(struct kv_pages *pages, int32_t *slot)
{
    for (int32_t i = 0; i < pages->max_seqs; i++) {
        if (!pages->sequences[i].open) {
            pages->sequences[i] = (struct sequence){.open = true};
            *slot = i;
            return 0;
        }
    }
    return status_fail(-EAGAIN, "all %d sequences are in use", pages->max_seqs);
}

void kv_pages_close_seq(struct kv_pages *pages, int32_t slot)
{
    struct sequence *sequence = sequence_at(pages, slot);
    const int32_t *table = table_of(pages, slot);
    // Last page first, so that the next sequence gets the same pages in the same order, and of a prompt that is kept
    // the end is forgotten before the beginning, without which it could not be found.
    for (int32_t i = sequence->n_pages - 1; i >= 0; i--) {
        if (--pages->references[table[i]] > 0) {
            continue;
        }
        if (pages->index && page_index_knows(pages->index, table[i])) {
            page_index_rest(pages->index, table[i]);
        } else {
            pages->free_pages[pages->n_free++] = table[i] + 1;
        }
    }
    *sequence = (struct sequence){0};
}

int32_t kv_pages_page_tokens(const struct kv_pages *pages)
{
    return pages->page_tokens;
}

int32_t kv_pages_for(const struct kv_pages *pages, int32_t tokens)
{
    assert(tokens >= 0);
    return tokens > 0 ? (tokens - 1) / pages->page_tokens + 1 : 0;
}

int32_t kv_pages_needed(const struct kv_pages *pages, int32_t slot, int32_t tokens)
{
    int32_t more = kv_pages_for(pages, tokens) - sequence_at(pages, slot)->n_pages;
    return more > 0 ? more : 0;
}

// A page that nobody needs: a free one, else the one that rested longest.
static int32_t take_page(struct kv_pages *pages)
{
    if (pages->n_free == 0) {
        return page_index_forget(pages->index);
    }
    int32_t kept = pages->free_pages[--pages->n_free];
    return kept ? kept - 1 : pages->n_pages - 1 - pages->n_free;
}

int kv_pages_grow(struct kv_pages *pages, int32_t slot, int32_t tokens)
{
    struct sequence *sequence = sequence_at(pages, slot);
    int32_t needed = kv_pages_needed(pages, slot, tokens);
    if (needed > kv_pages_free(pages)) {
        return status_fail(-ENOMEM, "%d tokens need %d more pages of the KV cache, %d of %d are free", tokens, needed,
                           kv_pages_free(pages), pages->n_pages);
    }
    int32_t *table = table_of(pages, slot);
    for (int32_t i = 0; i < needed; i++) {
        int32_t page = take_page(pages);
        pages->references[page] = 1;
        table[sequence->n_pages++] = page;
    }
    sequence->tokens = tokens > sequence->tokens ? tokens : sequence->tokens;
    return 0;
}

int kv_pages_keep(struct kv_pages *pages, int32_t n_snapshots)
{
    assert(!pages->index && kv_pages_used(pages) == 0);
    return page_index_open(&pages->index, pages->n_pages, n_snapshots);
}

struct page_index *kv_pages_index(const struct kv_pages *pages)
{
    return pages->index;
}

void kv_pages_adopt(struct kv_pages *pages, int32_t slot, int32_t page)
{
    struct sequence *sequence = sequence_at(pages, slot);
    assert(sequence->tokens == sequence->n_pages * pages->page_tokens && page_index_knows(pages->index, page));
    if (pages->references[page]++ == 0) {
        page_index_wake(pages->index, page);
    }
    table_of(pages, slot)[sequence->n_pages++] = page;
    sequence->tokens += pages->page_tokens;
}

int32_t kv_pages_references(const struct kv_pages *pages, int32_t page)
{
    return pages->references[page];
}

const int32_t *kv_pages_table(const struct kv_pages *pages, int32_t slot, int32_t *n_pages)
{
    *n_pages = sequence_at(pages, slot)->n_pages;
    return table_of(pages, slot);
}

int32_t kv_pages_tokens(const struct kv_pages *pages, int32_t slot)
{
    return sequence_at(pages, slot)->tokens;
}

int32_t kv_pages_free(const struct kv_pages *pages)
{
    return pages->n_free + (pages->index ? page_index_resting(pages->index) : 0);
}

int32_t kv_pages_used(const struct kv_pages *pages)
{
    return pages->n_pages - kv_pages_free(pages);
}
