// traces/summary_kernels.c - statistics per kernel.
//
// Rows are found by a hash of what tells them apart; open addressing, grows by doubling.
#include "traces/summary_kernels.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/durations.h"

struct entry {
    struct summary_kernel row;
    char *name;                    // owned
    struct durations durations;
    struct kernel_sample last;     // its launch shape
};

struct kernel_summary {
    int error;
    struct entry *entries;         // [n], owned
    int32_t n, capacity;
    int32_t *slots;                // [n_slots] indices into entries, -1: free
    int32_t n_slots;               // a power of two, at least twice n
    struct summary_kernel *rows;   // [n_rows] of the last update, owned
    int32_t n_rows;
};

enum { FIRST_SLOTS = 256 };

int kernel_summary_open(struct kernel_summary **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : status_fail(-ENOMEM, "out of memory for a summary of kernels");
}

void kernel_summary_close(struct kernel_summary *summary)
{
    if (!summary) {
        return;
    }
    for (int32_t i = 0; i < summary->n; i++) {
        free(summary->entries[i].name);
        durations_free(&summary->entries[i].durations);
    }
    free(summary->entries);
    free(summary->slots);
    free(summary->rows);
    free(summary);
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * 0x100000001b3U;    // FNV-1a
}

static uint64_t hash_of(const struct summary_kernel *row)
{
    uint64_t hash = 0xcbf29ce484222325U;
    for (const char *at = row->name; *at; at++) {
        hash = mix(hash, (unsigned char)*at);
    }
    hash = mix(hash, (uint64_t)row->source);
    hash = mix(hash, (uint64_t)row->work * 2 + row->in_step);
    return mix(hash, (uint64_t)row->phase * (STAGE_COUNT + 1) + (uint64_t)row->stage);
}

static bool same(const struct summary_kernel *a, const struct summary_kernel *b)
{
    return a->source == b->source && a->work == b->work && a->in_step == b->in_step && a->phase == b->phase &&
           a->stage == b->stage && strcmp(a->name, b->name) == 0;
}

static int32_t *slot_of(const struct kernel_summary *summary, const struct summary_kernel *row)
{
    uint64_t mask = (uint64_t)summary->n_slots - 1, at = hash_of(row) & mask;
    while (summary->slots[at] >= 0 && !same(&summary->entries[summary->slots[at]].row, row)) {
        at = (at + 1) & mask;
    }
    return &summary->slots[at];
}

static int grow_slots(struct kernel_summary *summary)
{
    int32_t n = summary->n_slots ? 2 * summary->n_slots : FIRST_SLOTS;
    int32_t *slots = malloc((size_t)n * sizeof *slots);
    if (!slots) {
        return -ENOMEM;
    }
    memset(slots, 0xff, (size_t)n * sizeof *slots);
    free(summary->slots);
    summary->slots = slots;
    summary->n_slots = n;
    for (int32_t i = 0; i < summary->n; i++) {
        *slot_of(summary, &summary->entries[i].row) = i;
    }
    return 0;
}

static int grow_entries(struct kernel_summary *summary)
{
    int32_t capacity = summary->capacity ? 2 * summary->capacity : FIRST_SLOTS / 2;
    struct entry *grown = realloc(summary->entries, (size_t)capacity * sizeof *grown);
    if (!grown) {
        return -ENOMEM;
    }
    summary->entries = grown;
    summary->capacity = capacity;
    return 0;
}

// The entry that a sample belongs to, made where it is new. NULL: out of memory.
static struct entry *need(struct kernel_summary *summary, const struct kernel_sample *sample)
{
    struct summary_kernel key = {
        .source = sample->source, .work = sample->work, .in_step = sample->step >= 0,
        .phase = sample->step >= 0 ? sample->phase : PHASE_PREFILL, .stage = sample->stage,
        .name = sample->name ? sample->name : "?",
    };
    if ((2 * summary->n >= summary->n_slots && grow_slots(summary) != 0) ||
        (summary->n == summary->capacity && grow_entries(summary) != 0)) {
        return NULL;
    }
    int32_t *slot = slot_of(summary, &key);
    if (*slot >= 0) {
        return &summary->entries[*slot];
    }
    char *name = strdup(key.name);
    if (!name) {
        return NULL;
    }
    key.name = name;
    memcpy(key.grid, sample->grid, sizeof key.grid);
    memcpy(key.block, sample->block, sizeof key.block);
    key.registers = sample->registers;
    key.static_shared_bytes = sample->static_shared_bytes;
    key.dynamic_shared_bytes = sample->dynamic_shared_bytes;
    *slot = summary->n;
    summary->entries[summary->n] = (struct entry){.row = key, .name = name, .last = *sample};
    return &summary->entries[summary->n++];
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct kernel_summary *summary = user;
    struct entry *entry = summary->error ? NULL : need(summary, sample);
    if (!entry || durations_add(&entry->durations, sample->duration_ns) != 0) {
        summary->error = -ENOMEM;
        return;
    }
    struct kernel_sample *last = &entry->last;
    entry->row.shape_changes += memcmp(last->grid, sample->grid, sizeof last->grid) != 0 ||
                                memcmp(last->block, sample->block, sizeof last->block) != 0;
    entry->row.bytes = saturating_sum(entry->row.bytes, sample->bytes);
    *last = *sample;
}

struct sample_sink kernel_summary_sink(struct kernel_summary *summary)
{
    return (struct sample_sink){.user = summary, .kernel = on_kernel};
}

static int compare_entries(const void *left, const void *right)
{
    const struct summary_kernel *a = &((const struct entry *)left)->row, *b = &((const struct entry *)right)->row;
    // Totals crosswise: the longest first.
    int64_t a_ns = ((const struct entry *)left)->durations.total_ns;
    int64_t b_ns = ((const struct entry *)right)->durations.total_ns;
    const int64_t x[] = {a->source, !a->in_step, a->phase, a->stage, b_ns};
    const int64_t y[] = {b->source, !b->in_step, b->phase, b->stage, a_ns};
    for (int i = 0; i < 5; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    int order = strcmp(a->name, b->name);
    return order ? order : (int)a->work - (int)b->work;
}

int kernel_summary_update(struct kernel_summary *summary)
{
    summary->n_rows = 0;
    size_t n = summary->n > 0 ? (size_t)summary->n : 1;
    struct summary_kernel *rows = summary->error ? NULL : realloc(summary->rows, n * sizeof *rows);
    if (!rows) {
        summary->error = -ENOMEM;
        return status_fail(-ENOMEM, "out of memory for the samples of a summary of kernels");
    }
    summary->rows = rows;
    if (summary->n > 0) {
        qsort(summary->entries, (size_t)summary->n, sizeof *summary->entries, compare_entries);
        memset(summary->slots, 0xff, (size_t)summary->n_slots * sizeof *summary->slots);
    }
    for (int32_t i = 0; i < summary->n; i++) {
        struct entry *entry = &summary->entries[i];
        *slot_of(summary, &entry->row) = i;
        rows[i] = entry->row;
        rows[i].count = entry->durations.n;
        rows[i].total_ns = entry->durations.total_ns;
        durations_quantiles(&entry->durations, &rows[i].median_ns, &rows[i].p95_ns);
    }
    summary->n_rows = summary->n;
    return 0;
}

const struct summary_kernel *kernel_summary_rows(const struct kernel_summary *summary, int32_t *n)
{
    *n = summary->n_rows;
    return summary->rows;
}

const int64_t *kernel_summary_durations(const struct kernel_summary *summary, int32_t row, int64_t *n)
{
    *n = summary->entries[row].durations.n;
    return summary->entries[row].durations.ns;
}
