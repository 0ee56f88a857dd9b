// engine/prefix.c - walks over a prompt's keys. A unit of pages is kept and taken over as a whole: what a method keeps
// of several pages together (page bounds of blocks longer than a page) is only right once all of them are full.
#include "engine/prefix.h"

#include <assert.h>

static int32_t unit_tokens(const struct kv_pages *pages, const struct prefix_options *options)
{
    int32_t page = kv_pages_page_tokens(pages);
    assert(options->unit_tokens % page == 0);
    return options->unit_tokens > 0 ? options->unit_tokens : page;
}

int32_t prefix_end(const struct kv_pages *pages, const struct prefix_options *options, int32_t prompt_tokens)
{
    int32_t unit = unit_tokens(pages, options);
    return prompt_tokens / unit * unit;
}

static int32_t page_at(const struct kv_pages *pages, const struct prefix_options *options, int64_t request, int32_t p)
{
    uint64_t key = options->key(options->user, request, (p + 1) * kv_pages_page_tokens(pages));
    return page_index_find(kv_pages_index(pages), key);
}

struct prefix prefix_find(const struct kv_pages *pages, const struct prefix_options *options, int64_t request,
                          int32_t prompt_tokens, int32_t known_tokens)
{
    struct prefix prefix = {.snapshot = -1};
    if (!options->key) {
        return prefix;
    }
    int32_t page_tokens = kv_pages_page_tokens(pages), unit = unit_tokens(pages, options), n_held = 0, whole = 0;
    int32_t end = prefix_end(pages, options, prompt_tokens < known_tokens ? prompt_tokens : known_tokens - 1);
    for (int32_t p = 0, page; p < end / page_tokens && (page = page_at(pages, options, request, p)) >= 0; p++) {
        n_held += kv_pages_references(pages, page) > 0;
        if ((p + 1) * page_tokens % unit != 0) {
            continue;
        }
        int32_t snapshot = page_index_snapshot(kv_pages_index(pages), page);
        whole = p + 1;
        if (!options->has_windows || snapshot >= 0) {
            prefix = (struct prefix){.n_pages = whole, .n_held = n_held, .snapshot = snapshot};
        }
    }
    if (options->has_windows && whole > prefix.n_pages) {
        prefix.branch_tokens = whole * page_tokens;
    }
    return prefix;
}

int32_t prefix_adopt(struct kv_pages *pages, const struct prefix_options *options, int64_t request, int32_t slot,
                     const struct prefix *prefix)
{
    for (int32_t p = 0; p < prefix->n_pages; p++) {
        int32_t page = page_at(pages, options, request, p);
        assert(page >= 0);    // nothing was forgotten since it was found
        kv_pages_adopt(pages, slot, page);
    }
    if (prefix->snapshot >= 0) {
        page_index_use(kv_pages_index(pages), prefix->snapshot);
    }
    return kv_pages_tokens(pages, slot);
}

// One unit of pages from `first` on; unless the same beginning is known already, from another sequence.
static void keep_unit(struct kv_pages *pages, const struct prefix_options *options, int64_t request, int32_t slot,
                      int32_t first, int32_t n)
{
    int32_t n_pages, page_tokens = kv_pages_page_tokens(pages);
    const int32_t *table = kv_pages_table(pages, slot, &n_pages);
    assert(first + n <= n_pages);
    for (int32_t p = first; p < first + n; p++) {
        if (page_at(pages, options, request, p) >= 0 || page_index_knows(kv_pages_index(pages), table[p])) {
            return;
        }
    }
    for (int32_t p = first; p < first + n; p++) {
        page_index_add(kv_pages_index(pages), options->key(options->user, request, (p + 1) * page_tokens), table[p]);
    }
}

void prefix_keep(struct kv_pages *pages, const struct prefix_options *options, int64_t request, int32_t slot,
                 int32_t begin, int32_t end, int32_t prompt_tokens, int32_t snapshot)
{
    if (!options->key) {
        return;
    }
    int32_t unit = unit_tokens(pages, options), page_tokens = kv_pages_page_tokens(pages);
    for (int32_t at = begin / unit * unit; at + unit <= end && at + unit <= prompt_tokens; at += unit) {
        keep_unit(pages, options, request, slot, at / page_tokens, unit / page_tokens);
    }
    if (snapshot >= 0) {
        page_index_place(kv_pages_index(pages), snapshot, page_at(pages, options, request, end / page_tokens - 1));
    }
}
