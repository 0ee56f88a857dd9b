// tests/test_tui_routing.c - densities and overlaps of random selections against a count over flags.
#include "tests/check.h"
#include "tui/routing.h"

enum { MAX_CONTEXT = 5000, LAYERS = 5 };

static bool flags[2][LAYERS][MAX_CONTEXT];    // of the step before, of this one
static struct routing_snapshot got;

static void put_random(struct routing *routing, int32_t which, int32_t layer, int32_t context)
{
    static int32_t units[MAX_CONTEXT];
    int32_t n = 0, often = check_range(1, 20);
    memset(flags[which][layer], 0, sizeof flags[which][layer]);
    for (int32_t unit = 0; unit < context; unit++) {
        flags[which][layer][unit] = check_range(0, often) == 0;
        if (flags[which][layer][unit]) {
            units[n++] = unit;
        }
    }
    routing_put(routing, 2 * layer, units, n, layer == 0 ? NAN : 0.1 * layer);
}

static bool near(float value, double expected)
{
    return (isnan(value) && isnan(expected)) || fabs((double)value - expected) <= 1e-5;
}

// Blocks by a sort: as many as the selection's units pay for, those with most of them first.
static void check_blocks(const struct routing_layer *shown, int32_t layer, int32_t context)
{
    enum { BLOCKS = MAX_CONTEXT / ROUTING_BLOCK_UNITS + 1 };
    int32_t counts[BLOCKS] = {0}, n = 0, held = 0, chosen_units = 0;
    for (int32_t unit = 0; unit < context; unit++) {
        counts[unit / ROUTING_BLOCK_UNITS] += flags[1][layer][unit];
        n += flags[1][layer][unit];
    }
    for (int32_t i = 0; i < BLOCKS; i++) {
        for (int32_t j = i + 1; j < BLOCKS; j++) {
            if (counts[j] > counts[i]) {
                int32_t other = counts[i];
                counts[i] = counts[j];
                counts[j] = other;
            }
        }
    }
    for (int32_t i = 0; i < n / ROUTING_BLOCK_UNITS; i++) {
        held += counts[i];
    }
    CHECK_MESSAGE(near(shown->in_blocks, n >= ROUTING_BLOCK_UNITS ? (double)held / n : NAN),
                  "%g in blocks, expected %g", (double)shown->in_blocks, (double)held / n);
    for (int32_t bin = 0; bin < ROUTING_BINS && n >= ROUTING_BLOCK_UNITS; bin++) {
        int32_t of = (int32_t)(((int64_t)(bin + 1) * context + ROUTING_BINS - 1) / ROUTING_BINS -
                               ((int64_t)bin * context + ROUTING_BINS - 1) / ROUTING_BINS);
        CHECK(shown->block_density[bin] >= 0 && shown->block_density[bin] <= 1);
        chosen_units += (int32_t)lround((double)shown->block_density[bin] * of);
    }
    CHECK_MESSAGE(chosen_units <= n / ROUTING_BLOCK_UNITS * ROUTING_BLOCK_UNITS,
                  "%d units in blocks of a selection of %d", chosen_units, n);
}

static void check_layer(int32_t layer, int32_t context)
{
    const struct routing_layer *shown = &got.layers[layer];
    double n = 0, before = 0, first = 0, hits[ROUTING_BINS] = {0}, of[ROUTING_BINS] = {0};
    for (int32_t unit = 0; unit < context; unit++) {
        int32_t bin = (int32_t)((int64_t)unit * ROUTING_BINS / context);
        of[bin]++;
        if (flags[1][layer][unit]) {
            n++;
            hits[bin]++;
            before += flags[0][layer][unit];
            first += flags[1][0][unit];
        }
    }
    CHECK(shown->layer == 2 * layer && shown->n_units == (int32_t)n);
    CHECK_MESSAGE(near(shown->same_as_before, n > 0 ? before / n : NAN), "%g as before, expected %g",
                  (double)shown->same_as_before, before / n);
    CHECK(near(shown->coverage, layer == 0 ? NAN : 0.1 * layer));
    CHECK(near(shown->same_as_first, n > 0 ? first / n : NAN));
    check_blocks(shown, layer, context);
    for (int32_t bin = 0; bin < ROUTING_BINS; bin++) {
        CHECK_MESSAGE(near(shown->density[bin], of[bin] > 0 ? hits[bin] / of[bin] : 0), "bin %d of %d units: %g", bin,
                      context, (double)shown->density[bin]);
    }
}

int main(void)
{
    struct routing *routing;
    int64_t now_ns = 1000, step = 0;
    check_begin();
    CHECK(routing_open(&routing) == 0 && !routing_get(routing, &got));
    for (int32_t round = 0; round < 60; round++) {
        int32_t context = check_range(1, MAX_CONTEXT), layers = check_range(1, LAYERS);
        now_ns += 1000000000;
        CHECK(routing_wanted(routing, now_ns));
        for (int which = 0; which < 2; which++) {
            CHECK(which == 0 || routing_wanted(routing, now_ns));    // the second of a pair follows at once
            CHECK(routing_completes(routing) == (which == 1));
            routing_begin(routing, "token", step++, context, 1);
            for (int32_t layer = 0; layer < layers; layer++) {
                put_random(routing, which, layer, context);
            }
            routing_end(routing);
            CHECK(routing_get(routing, &got) == (which == 1));
        }
        step += 5;
        CHECK(!routing_wanted(routing, now_ns + 1000));
        CHECK(got.n_layers == layers && got.context_units == context && strcmp(got.method, "token") == 0);
        CHECK(got.n_history == (round + 1 < ROUTING_HISTORY ? round + 1 : ROUTING_HISTORY));
        CHECK(memcmp(got.history[0], got.layers[0].density, sizeof got.history[0]) == 0);
        for (int32_t layer = 0; layer < layers; layer++) {
            check_layer(layer, context);
        }
        CHECK(!routing_get(routing, &got));
    }
    int32_t one = 0;
    CHECK(routing_wanted(routing, now_ns + 2000000000));
    for (int i = 0; i < 2; i++) {    // another method begins anew
        routing_begin(routing, "clsa", step++, 128, 16);
        routing_put(routing, 3, &one, 1, 0.5);
        routing_end(routing);
    }
    CHECK(routing_get(routing, &got) && got.n_history == 1 && got.context_units == 8 && got.n_layers == 1);
    CHECK(isnan(got.layers[0].in_blocks));
    CHECK(got.layers[0].same_as_before == 1 && got.layers[0].density[0] == 1);
    routing_close(routing);
    return check_end();
}
