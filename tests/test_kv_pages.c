// tests/test_kv_pages.c - random growing, sharing, closing and forgetting against a model that keeps all as plain
// arrays.
#include "engine/kv_pages.h"
#include "engine/status.h"
#include "tests/check.h"

#include <errno.h>

enum { MAX_PAGES = 40, MAX_SEQS = 6 };

struct model {
    int32_t n_pages, page_tokens, max_seqs;
    bool open[MAX_SEQS];
    int32_t tokens[MAX_SEQS], held[MAX_SEQS], table[MAX_SEQS][MAX_PAGES];
    bool keeps;
    uint64_t key[MAX_PAGES];         // of a known page; 0: unknown
    int32_t rested[MAX_PAGES];       // when it began to rest
    int32_t now;
};

static int32_t ceil_divide(int32_t a, int32_t b)
{
    return a / b + (a % b != 0);
}

static int32_t model_used(const struct model *model)
{
    bool used[MAX_PAGES] = {false};
    int32_t n = 0;
    for (int32_t s = 0; s < model->max_seqs; s++) {
        for (int32_t i = 0; model->open[s] && i < model->held[s]; i++) {
            n += !used[model->table[s][i]];
            used[model->table[s][i]] = true;
        }
    }
    return n;
}

// Everything that can be asked agrees with the model.
static void compare(const struct kv_pages *pages, const struct model *model)
{
    CHECK(kv_pages_used(pages) == model_used(model));
    CHECK(kv_pages_free(pages) == model->n_pages - model_used(model));
    for (int32_t s = 0; s < model->max_seqs; s++) {
        if (!model->open[s]) {
            continue;
        }
        int32_t n = -1;
        const int32_t *table = kv_pages_table(pages, s, &n);
        CHECK(n == model->held[s] && kv_pages_tokens(pages, s) == model->tokens[s]);
        CHECK(n == model->held[s] && memcmp(table, model->table[s], (size_t)n * sizeof *table) == 0);
        int32_t ask = check_range(0, model->page_tokens * (MAX_PAGES + 3));
        int32_t more = ceil_divide(ask, model->page_tokens) - model->held[s];
        CHECK(kv_pages_needed(pages, s, ask) == (more > 0 ? more : 0));
        CHECK(kv_pages_for(pages, ask) == ceil_divide(ask, model->page_tokens));
    }
}

static void grow(struct kv_pages *pages, struct model *model, int32_t slot, int32_t tokens)
{
    int32_t needed = ceil_divide(tokens, model->page_tokens) - model->held[slot];
    int error = kv_pages_grow(pages, slot, tokens);
    if (needed > model->n_pages - model_used(model)) {
        CHECK(error == -ENOMEM);
        return;    // and compare() sees that nothing changed
    }
    CHECK(error == 0);
    model->tokens[slot] = tokens > model->tokens[slot] ? tokens : model->tokens[slot];
    if (needed <= 0) {
        return;
    }
    // New pages belong to nobody yet; then the model takes them over.
    int32_t n;
    const int32_t *table = kv_pages_table(pages, slot, &n);
    CHECK(n == model->held[slot] + needed);
    for (int32_t i = model->held[slot]; i < n; i++) {
        CHECK(table[i] >= 0 && table[i] < model->n_pages);
        for (int32_t s = 0; s < model->max_seqs; s++) {
            for (int32_t k = 0; model->open[s] && k < model->held[s]; k++) {
                CHECK_MESSAGE(model->table[s][k] != table[i], "page %d given twice", table[i]);
            }
        }
        model->table[slot][model->held[slot]++] = table[i];
    }
}

static bool is_used(const struct model *model, int32_t page)
{
    for (int32_t s = 0; s < model->max_seqs; s++) {
        for (int32_t i = 0; model->open[s] && i < model->held[s]; i++) {
            if (model->table[s][i] == page) {
                return true;
            }
        }
    }
    return false;
}

// A sequence's whole page gets a name of its own.
static void name(struct kv_pages *pages, struct model *model, int32_t slot)
{
    int32_t whole = model->tokens[slot] / model->page_tokens;
    int32_t page = whole > 0 ? model->table[slot][check_range(0, whole - 1)] : -1;
    if (page >= 0 && !model->key[page]) {
        uint64_t key = check_random() | 1;
        CHECK(page_index_find(kv_pages_index(pages), key) == -1 && !page_index_knows(kv_pages_index(pages), page));
        page_index_add(kv_pages_index(pages), key, page);
        model->key[page] = key;
    }
}

// A sequence of whole pages takes over a known one, resting or in use.
static void adopt(struct kv_pages *pages, struct model *model, int32_t slot)
{
    int32_t page = check_range(0, model->n_pages - 1);
    bool own = false;
    for (int32_t i = 0; i < model->held[slot]; i++) {
        own |= model->table[slot][i] == page;
    }
    if (model->key[page] && !own && model->tokens[slot] == model->held[slot] * model->page_tokens) {
        kv_pages_adopt(pages, slot, page);
        model->table[slot][model->held[slot]++] = page;
        model->tokens[slot] += model->page_tokens;
    }
}

// The names that pages lost, in a random run of grows, are those of the pages that rested longest.
static void forget(const struct kv_pages *pages, struct model *model)
{
    int32_t last_lost = -1, first_kept = INT32_MAX;
    for (int32_t p = 0; p < model->n_pages && model->keeps; p++) {
        if (!model->key[p]) {
            continue;
        }
        if (page_index_find(kv_pages_index(pages), model->key[p]) != p) {
            last_lost = model->rested[p] > last_lost ? model->rested[p] : last_lost;
            model->key[p] = 0;
        } else if (!is_used(model, p)) {
            first_kept = model->rested[p] < first_kept ? model->rested[p] : first_kept;
        }
        CHECK(page_index_knows(kv_pages_index(pages), p) == (model->key[p] != 0));
    }
    CHECK_MESSAGE(last_lost < first_kept, "a page was forgotten before one that rested longer");
}

static void close_seq(struct kv_pages *pages, struct model *model, int32_t slot)
{
    kv_pages_close_seq(pages, slot);
    model->open[slot] = false;
    for (int32_t i = model->held[slot] - 1; i >= 0; i--) {    // the end rests first
        int32_t page = model->table[slot][i];
        model->rested[page] = is_used(model, page) ? model->rested[page] : ++model->now;
    }
}

static void step(struct kv_pages *pages, struct model *model)
{
    int32_t slot = check_range(0, model->max_seqs - 1);
    switch (check_range(0, 9)) {
    case 0: case 1: {
        int32_t lowest = 0, got = -1;
        while (lowest < model->max_seqs && model->open[lowest]) {
            lowest++;
        }
        int error = kv_pages_open_seq(pages, &got);
        CHECK(lowest < model->max_seqs ? error == 0 && got == lowest : error == -EAGAIN);
        if (!error) {
            model->open[got] = true;
            model->tokens[got] = model->held[got] = 0;
        }
        break;
    }
    case 2:
        if (model->open[slot]) {
            close_seq(pages, model, slot);
        }
        break;
    case 3: case 4:
        if (model->open[slot] && model->keeps) {
            name(pages, model, slot);
        }
        break;
    case 5:
        if (model->open[slot] && model->keeps) {
            adopt(pages, model, slot);
        }
        break;
    default:
        if (model->open[slot]) {
            int32_t tokens = model->tokens[slot] + check_range(-2, 3 * model->page_tokens);
            grow(pages, model, slot, tokens > 0 ? tokens : 0);
        }
    }
}

static void test_random(void)
{
    struct model model = {
        .n_pages = check_range(1, MAX_PAGES), .page_tokens = check_range(1, 20), .max_seqs = check_range(1, MAX_SEQS)};
    struct kv_pages *pages = NULL;
    CHECK(kv_pages_open(&pages, model.n_pages, model.page_tokens, model.max_seqs) == 0);
    model.keeps = check_range(0, 3) > 0;
    CHECK(!model.keeps || kv_pages_keep(pages, 0) == 0);
    for (int i = 0; i < 400; i++) {
        step(pages, &model);
        forget(pages, &model);
        compare(pages, &model);
    }
    for (int32_t s = 0; s < model.max_seqs; s++) {
        if (model.open[s]) {
            kv_pages_close_seq(pages, s);
        }
    }
    CHECK(kv_pages_free(pages) == model.n_pages && kv_pages_used(pages) == 0);    // nothing leaked
    kv_pages_close(pages);
}

static void test_bad_sizes(void)
{
    struct kv_pages *pages = (struct kv_pages *)&pages;
    CHECK(kv_pages_open(&pages, 0, 16, 1) == -EINVAL && !pages);
    CHECK(kv_pages_open(&pages, 4, 0, 1) == -EINVAL && !pages);
    CHECK(kv_pages_open(&pages, 4, 16, -1) == -EINVAL && !pages);
    CHECK(status_text()[0]);
    kv_pages_close(NULL);
}

int main(void)
{
    check_begin();
    for (int i = 0; i < 200; i++) {
        test_random();
    }
    test_bad_sizes();
    return check_end();
}
