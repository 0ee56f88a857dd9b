// engine/engine_warm.c - made-up steps of the shapes that a service will have, before its first request.
//
// The first step of a shape takes longer than the ones after it: kernels are loaded and chosen, buffers grow, steps
// that decode are recorded. The steps here read only what they have written themselves, at the beginning of sequences
// that nobody has; what they leave in the cache is overwritten before anybody reads it.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_state.h"
#include "engine/status.h"

enum { LEAST_ROWS = 16, MOST_SHAPES = 256 };    // as many as are kept recorded on a GPU

struct warm {
    struct engine *engine;
    const int32_t *tokens;      // [max_step_tokens] all 0
    int32_t *pages;             // [max_pages]
    int32_t n_pages;            // of the cache
};

static int32_t pages_for(const struct engine *engine, int32_t tokens)
{
    return (tokens - 1) / engine->plan.page_tokens + 1;
}

// Sequence `slot` runs `rows` tokens behind `context` of its own. Its pages begin with the slot's number: of the
// sequences of one step only the last has more than one.
static void add(struct warm *warm, int32_t slot, int32_t context, int32_t rows)
{
    struct engine *engine = warm->engine;
    int32_t n = pages_for(engine, context + rows);
    for (int32_t p = 0; p < n; p++) {
        warm->pages[p] = slot + p;
    }
    step_batch_add(&engine->batch, slot, context, warm->tokens, rows, 1, warm->pages, n);
}

static int run(struct warm *warm, int32_t bound)
{
    struct engine *engine = warm->engine;
    struct batch *batch = &engine->batch.batch;
    batch->context_bound = bound > batch->context_bound ? bound : batch->context_bound;
    memset(engine->sampling, 0, (size_t)batch->last.n * sizeof *engine->sampling);
    int error = forward_begin(engine->forward, batch, engine->batch.work);
    error = error ? error : forward_run(engine->forward, engine->sampling, engine->drawn);
    return error ? error : forward_end(engine->forward);
}

static int run_prompt(struct warm *warm, int32_t context, int32_t rows)
{
    step_batch_clear(&warm->engine->batch, 0);
    add(warm, 0, context, rows);
    return run(warm, 0);
}

// All that fits into one step, which is what buffers grow to: everybody decodes, and a prompt takes the rest. No more
// than the cache has pages for, or two would write to the same one at once.
static int run_fullest(struct warm *warm, int32_t n, int32_t rows)
{
    while (n - 1 + pages_for(warm->engine, rows - (n - 1)) > warm->n_pages) {
        n--;
    }
    step_batch_clear(&warm->engine->batch, 0);
    for (int32_t s = 0; s < n - 1; s++) {
        add(warm, s, 0, 1);
    }
    add(warm, n - 1, 0, rows - (n - 1));
    return run(warm, 0);
}

static int run_decode(struct warm *warm, int32_t n, int32_t bound)
{
    int error = 0;
    for (int again = 0; again < 2 && !error; again++) {    // the second time records
        step_batch_clear(&warm->engine->batch, 0);
        for (int32_t s = 0; s < n; s++) {
            add(warm, s, 0, 1);
        }
        error = run(warm, bound);
    }
    return error;
}

static int run_all(struct warm *warm, int32_t least_context)
{
    const struct engine *engine = warm->engine;
    const struct engine_options *o = &engine->options;
    int64_t cached = (int64_t)warm->n_pages * engine->plan.page_tokens;
    int32_t most = o->max_step_tokens < o->max_context ? o->max_step_tokens : o->max_context;
    most = most < cached ? most : (int32_t)cached;
    int32_t seqs = o->max_seqs < most ? o->max_seqs : most;
    seqs = seqs < warm->n_pages ? seqs : warm->n_pages;    // a sequence that runs has a page of its own
    int error = run_fullest(warm, seqs, most);
    error = error ? error : run_prompt(warm, 0, most);
    if (!error && 2 * (int64_t)most <= (cached < o->max_context ? cached : o->max_context)) {
        error = run_prompt(warm, most, most);
    }
    if (!engine->backend->asynchronous) {    // nothing is recorded or chosen by shape
        return error ? error : run_decode(warm, seqs, 0);
    }
    for (int32_t octave = LEAST_ROWS; octave <= most && !error; octave *= 2) {
        for (int32_t eighth = 8; eighth < 16 && !error; eighth++) {
            int32_t rows = octave / 8 * eighth;
            error = rows < most ? run_prompt(warm, 0, rows) : 0;
        }
    }
    int32_t bound = 1, shapes = 0;
    while (bound < o->max_context) {
        bound *= 2;
    }
    // The longest contexts and the fullest batches first.
    for (; !error && shapes < MOST_SHAPES && (shapes == 0 || bound >= least_context); bound /= 2) {
        for (int32_t n = seqs; n > 0 && shapes < MOST_SHAPES && !error; n--, shapes++) {
            error = run_decode(warm, n, bound < o->max_context ? bound : o->max_context);
        }
    }
    return error;
}

int engine_warm(struct engine *engine, int32_t least_context)
{
    if (engine->n_requests > 0) {    // one that has finished may have left its prefix in the cache
        return status_fail(-EINVAL, "an engine is warmed before its first request");
    }
    struct warm warm = {.engine = engine, .n_pages = kv_pages_free(engine->pages) + kv_pages_used(engine->pages)};
    int32_t *tokens = calloc((size_t)engine->options.max_step_tokens, sizeof *tokens);
    warm.tokens = tokens;
    warm.pages = calloc((size_t)pages_for(engine, engine->options.max_context), sizeof *warm.pages);
    int error = tokens && warm.pages ? 0 : status_fail(-ENOMEM, "no memory to warm an engine");
    const struct observer *observer = forward_observe(engine->forward, NULL);
    error = error ? error : run_all(&warm, least_context);
    forward_observe(engine->forward, observer);
    free(warm.pages);
    free(tokens);
    engine->failed = error;
    return error ? status_prefix(error, "warming: ") : 0;
}
