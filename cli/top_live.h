// cli/top_live.h - engines that work for the dashboard: batches of one prompt, the methods in turn.
//
// Each method keeps its engine while others work; where memory does not hold them all, or kernels are collected, one is
// open at a time. They run in a thread of their own, which hears commands between steps. Nothing that the screen does
// makes it wait, except a pause that the user asked for.
#pragma once

#include "cli/collect.h"
#include "cli/command.h"
#include "engine/sample.h"
#include "tui/keys.h"
#include "tui/routing.h"

struct live;

struct live_options {
    const char *model, *methods;     // methods: names with commas
    const char *device;              // "cpu", "reference", "cuda:1"
    const int32_t *text;             // [n_text] tokens, borrowed until close; repeated up to context_tokens
    int32_t n_text, context_tokens, output_tokens;
    int32_t batch, chunk_tokens, threads;
    uint64_t seed;
    struct plan_flags flags;
    struct collect_flags collect;    // resolved
    struct routing *routing;         // gets what indexers select; borrowed until close. NULL: nobody looks
};

// Checks everything that can be wrong, opens the models and builds the plans.
int live_open(struct live **out, const struct live_options *options);
void live_close(struct live *live);    // stops the thread if it runs; NULL-safe

// One batch of every method, in the caller's thread; `sink` sees all samples.
int live_run_once(struct live *live, const struct sample_sink *sink);

// Starts the thread; `sink` sees all samples, until close.
int live_start(struct live *live, const struct sample_sink *sink);
// `told` as struct dashboard_stream wants it.
void live_command(struct live *live, const struct request_to_owner *request, char *told, size_t told_bytes);
// An order that could not be carried out, so that the engine went back to what ran before, or a method that was left
// out: `text` says why. False: none.
bool live_notice(struct live *live, char *text, size_t bytes);
bool live_source(struct live *live, struct sample_source *source);    // of the engine that runs; false: none yet

// 0 while the engine works; the errno that it failed with, its text then is this thread's.
int live_error(struct live *live);
