// tui/routing.c - selections to densities, through a mailbox of one.
#include "tui/routing.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/selection_metrics.h"
#include "engine/status.h"

static const int64_t PERIOD_NS = 250000000;    // four pairs of steps a second: more than can be read

enum { MAX_UNITS = 1 << 16 };                  // of one selection; of a longer one the first are compared

struct selection {
    int32_t layer, n;
    int32_t *units;                    // [MAX_UNITS], owned; NULL until needed
};

struct routing {
    // Of the engine's thread.
    struct selection now[ROUTING_LAYERS], before[ROUTING_LAYERS];
    int32_t n_now, n_before;
    int64_t last_ns, step_before;
    bool second;                       // the next step completes a pair
    struct routing_snapshot making;
    // Shared.
    pthread_mutex_t mutex;
    struct routing_snapshot latest;
    int64_t version, seen;
};

int routing_open(struct routing **out)
{
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return status_fail(-ENOMEM, "out of memory for selections");
    }
    pthread_mutex_init(&(*out)->mutex, NULL);
    return 0;
}

void routing_close(struct routing *routing)
{
    if (routing) {
        for (int32_t i = 0; i < ROUTING_LAYERS; i++) {
            free(routing->now[i].units);
            free(routing->before[i].units);
        }
        pthread_mutex_destroy(&routing->mutex);
        free(routing);
    }
}

bool routing_wanted(struct routing *routing, int64_t now_ns)
{
    if (routing->second) {
        return true;
    }
    if (now_ns - routing->last_ns < PERIOD_NS && routing->last_ns != 0) {
        return false;
    }
    routing->last_ns = now_ns;
    return true;
}

bool routing_completes(const struct routing *routing)
{
    return routing->second;
}

void routing_begin(struct routing *routing, const char *method, int64_t step, int32_t context_tokens,
                   int32_t unit_tokens)
{
    struct routing_snapshot *making = &routing->making;
    for (int32_t i = 0; i < ROUTING_LAYERS; i++) {    // what was new is old; the memory of the old is used again
        struct selection other = routing->before[i];
        routing->before[i] = routing->now[i];
        routing->now[i] = other;
    }
    routing->n_before = routing->n_now;
    routing->n_now = 0;
    if (strcmp(making->method, method) != 0) {
        routing->n_before = 0;
        making->n_history = 0;
    }
    if (step != routing->step_before + 1) {
        routing->n_before = 0;
    }
    routing->step_before = step;
    snprintf(making->method, sizeof making->method, "%s", method);
    making->step = step;
    making->unit_tokens = unit_tokens > 0 ? unit_tokens : 1;
    making->context_units = (context_tokens + making->unit_tokens - 1) / making->unit_tokens;
    making->n_layers = 0;
}

static float share_in(const struct selection *units, const struct selection *others)
{
    return (float)selection_share(units->units, units->n, others->units, others->n);
}

static void set_density(float *density, const int32_t *units, int32_t n, int32_t context_units)
{
    memset(density, 0, ROUTING_BINS * sizeof *density);
    for (int32_t i = 0; i < n; i++) {
        if (units[i] >= 0 && units[i] < context_units) {
            density[(int64_t)units[i] * ROUTING_BINS / context_units] += 1;
        }
    }
    for (int64_t bin = 0; bin < ROUTING_BINS; bin++) {
        // Units u with u * BINS / context == bin; a short context leaves some bins without any.
        int64_t first = (bin * context_units + ROUTING_BINS - 1) / ROUTING_BINS;
        int64_t end = ((bin + 1) * context_units + ROUTING_BINS - 1) / ROUTING_BINS;
        density[bin] = end > first ? density[bin] / (float)(end - first) : 0;
    }
}

// The blocks that hold most units of a selection, as many as its budget pays for; among equals the first ones.
static void set_blocks(struct routing_layer *out, const int32_t *units, int32_t n, int32_t context_units)
{
    int32_t n_blocks = (context_units + ROUTING_BLOCK_UNITS - 1) / ROUTING_BLOCK_UNITS;
    int32_t budget = n / ROUTING_BLOCK_UNITS;
    uint8_t *counts = budget > 0 ? calloc((size_t)n_blocks, 1) : NULL;
    int32_t with[ROUTING_BLOCK_UNITS + 1] = {0}, least = ROUTING_BLOCK_UNITS, taken = 0, held = 0;
    out->in_blocks = NAN;
    if (!counts) {
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        if (units[i] >= 0 && units[i] < context_units && counts[units[i] / ROUTING_BLOCK_UNITS] < ROUTING_BLOCK_UNITS) {
            counts[units[i] / ROUTING_BLOCK_UNITS]++;
        }
    }
    for (int32_t b = 0; b < n_blocks; b++) {
        with[counts[b]]++;
    }
    for (; least > 0 && taken + with[least] < budget; least--) {
        taken += with[least];    // all blocks with more units than the last count that is reached
    }
    int32_t chosen_units[ROUTING_BINS] = {0}, all_units[ROUTING_BINS] = {0}, left = budget - taken;
    for (int32_t unit = 0; unit < context_units; unit++) {
        int32_t b = unit / ROUTING_BLOCK_UNITS, bin = (int32_t)((int64_t)unit * ROUTING_BINS / context_units);
        bool first = unit % ROUTING_BLOCK_UNITS == 0;
        if (first && counts[b] == least && least > 0) {
            counts[b] = left > 0 ? counts[b] : 0;
            left--;
        }
        bool chosen = counts[b] >= least && counts[b] > 0;
        held += first && chosen ? counts[b] : 0;
        chosen_units[bin] += chosen;
        all_units[bin]++;
    }
    for (int32_t bin = 0; bin < ROUTING_BINS; bin++) {
        out->block_density[bin] = all_units[bin] > 0 ? (float)chosen_units[bin] / (float)all_units[bin] : 0;
    }
    out->in_blocks = (float)held / (float)n;
    free(counts);
}

void routing_put(struct routing *routing, int32_t layer, const int32_t *units, int32_t n, double coverage)
{
    struct routing_snapshot *making = &routing->making;
    if (routing->n_now == ROUTING_LAYERS) {
        return;
    }
    struct selection *now = &routing->now[routing->n_now];
    if (!now->units) {
        now->units = malloc(MAX_UNITS * sizeof *now->units);
        if (!now->units) {
            return;    // this layer is not shown
        }
    }
    now->layer = layer;
    now->n = n < MAX_UNITS ? n : MAX_UNITS;
    memcpy(now->units, units, (size_t)now->n * sizeof *units);
    struct routing_layer *out = &making->layers[making->n_layers++];
    *out = (struct routing_layer){.layer = layer, .n_units = n, .same_as_before = NAN,
                                  .same_as_first = share_in(now, &routing->now[0]), .coverage = (float)coverage};
    set_density(out->density, units, n, making->context_units);
    out->in_blocks = NAN;
    if (making->unit_tokens == 1) {
        set_blocks(out, units, n, making->context_units);
    }
    for (int32_t i = 0; i < routing->n_before; i++) {
        if (routing->before[i].layer == layer) {
            out->same_as_before = share_in(now, &routing->before[i]);
        }
    }
    routing->n_now++;
}

void routing_end(struct routing *routing)
{
    struct routing_snapshot *making = &routing->making;
    bool pair = routing->n_before > 0;
    routing->second = !pair && making->n_layers > 0;
    if (!pair || making->n_layers == 0) {
        return;
    }
    memmove(making->history[1], making->history[0], (ROUTING_HISTORY - 1) * sizeof making->history[0]);
    memcpy(making->history[0], making->layers[0].density, sizeof making->history[0]);
    making->n_history += making->n_history < ROUTING_HISTORY;
    pthread_mutex_lock(&routing->mutex);
    routing->latest = *making;
    routing->version++;
    pthread_mutex_unlock(&routing->mutex);
}

bool routing_get(struct routing *routing, struct routing_snapshot *out)
{
    pthread_mutex_lock(&routing->mutex);
    bool changed = routing->version != routing->seen;
    if (changed) {
        *out = routing->latest;
        routing->seen = routing->version;
    }
    pthread_mutex_unlock(&routing->mutex);
    return changed;
}
