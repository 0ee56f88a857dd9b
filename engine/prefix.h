// engine/prefix.h - what of a prompt the cache holds already, and what of it is kept for those who come.
//
// Whole pages of prompts are found by keys that stand for everything up to their ends; answers are not kept. Layers
// that attend to a window also need what their rings held where the prefix ends: a snapshot, taken where a prompt's
// last whole page ends (the next turn of a talk begins there) and where a prompt leaves one that came before (the next
// one that shares the same beginning does too). Pure decisions, for engine and simulator alike.
#pragma once

#include "engine/kv_pages.h"

enum { PREFIX_SNAPSHOTS = 128 };    // what is usual: 2 GB of windows at 4 billion parameters

struct prefix_options {
    // Names the first `tokens` tokens of a request's prompt: equal keys, equal tokens. NULL: nothing is kept or found.
    uint64_t (*key)(const void *user, int64_t request, int32_t tokens);
    const void *user;           // borrowed
    int32_t unit_tokens;        // prefixes end at multiples of so many tokens, whole pages; 0: of a page
    bool has_windows;           // prefixes end at snapshots
    int32_t n_snapshots;
};

struct prefix {
    int32_t n_pages;            // to take over
    int32_t n_held;             // of those, in somebody's table now; the others rest, and count as free until then
    int32_t snapshot;           // of the windows where they end; -1: none
    int32_t branch_tokens;      // windows are worth a snapshot here; 0: nowhere
};

// The longest prefix of the first `prompt_tokens` tokens of `request` that is cached, and shorter than known_tokens: at
// least one row must run to draw a token.
struct prefix prefix_find(const struct kv_pages *pages, const struct prefix_options *options, int64_t request,
                          int32_t prompt_tokens, int32_t known_tokens);

// Lets the empty sequence `slot` begin with what was just found. Returns the tokens that it holds now.
int32_t prefix_adopt(struct kv_pages *pages, const struct prefix_options *options, int64_t request, int32_t slot,
                     const struct prefix *prefix);

// Tokens [begin, end) of the sequence are cached now: those of its prompt, whose length is prompt_tokens, can be found.
// snapshot: reserved for its windows at `end`, taken by now; -1: none.
void prefix_keep(struct kv_pages *pages, const struct prefix_options *options, int64_t request, int32_t slot,
                 int32_t begin, int32_t end, int32_t prompt_tokens, int32_t snapshot);

// The end of the last whole unit of a prompt, where its windows are worth a snapshot.
int32_t prefix_end(const struct kv_pages *pages, const struct prefix_options *options, int32_t prompt_tokens);
