// cli/top_live_internal.h - what the engine's thread (top_live.c) and the screen's orders to it (top_orders.c) share.
#pragma once

#include <pthread.h>

#include "cli/top_live.h"

enum { MAX_METHODS = 16 };

// What the screen's thread asks for; the engine's looks at it between steps.
struct orders {
    bool stop, paused;
    bool coverage;                 // measure what selections hold of dense attention
    int32_t steps;                 // to take in spite of the pause
    int32_t only;                  // index of the method to run; -1: all in turn
    int32_t batch, context;
    int32_t top_k, index_every;    // 0: each method's own
    char device[32];
    int64_t change;                // counts changes that end the current batch
};

// Puts back what stands as in the batch that `failed`; what was ordered since then stands.
void orders_take_back(struct orders *now, const struct orders *failed, const struct orders *good);

// The engine of one method: it stays open while others have their turn.
struct slot {
    struct engine *engine;         // owned; NULL: none
    struct orders orders;          // under which it was opened
};

struct live {
    struct live_options options;
    char names[MAX_METHODS][PLAN_NAME_BYTES];
    struct plan plans[MAX_METHODS];
    int32_t n_methods, unit_tokens;    // unit_tokens: the greatest of all; k stays a multiple of it
    struct model_file *files[BACKBONE_COUNT];    // owned; NULL where no method needs that backbone
    struct collector *collector;
    int32_t *prompt;               // [prompt_tokens], owned
    int32_t prompt_tokens;
    struct slot slots[MAX_METHODS];
    struct engine *engine;         // of the present batch; a slot's
    bool stepped;                  // the batch has begun
    int32_t last_context;          // of the first sequence that drew a token in the last step
    // Shared with the screen's thread, under the mutex.
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    bool started;
    struct orders orders;
    int error;
    char error_text[1024];
    char notice[256];              // an order that failed; "": none
    struct sample_source source;   // of the engine that runs
    bool has_source;
    int64_t source_change;         // of the orders that it obeys
};
