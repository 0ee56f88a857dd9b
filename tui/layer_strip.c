// tui/layer_strip.c - one stage layer by layer, over the recent steps of the timeline.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

enum { STRIP_STEPS = 64, STRIP_LAYERS = 256 };    // recent steps that are averaged; layers of the deepest plan

struct strip {
    double mean_ns[STRIP_LAYERS];      // 0: the layer has no such stage
    int32_t n_layers, n_steps;
};

static void gather(struct strip *strip, const struct state *state, int32_t method, enum phase phase, int32_t stage)
{
    const struct timeline *timeline = state_timeline(state);
    struct method_summary told;
    *strip = (struct strip){0};
    state_method(state, method, &told);
    int32_t source = timeline_find_source(timeline, &told.source);
    for (int64_t i = timeline_end(timeline) - 1; i >= timeline_first(timeline) && strip->n_steps < STRIP_STEPS; i--) {
        const struct timeline_step *step = timeline_step(timeline, i);
        if (step->source != source || step->phase != phase) {
            continue;
        }
        strip->n_steps++;
        for (int32_t j = 0; j < step->n_spans; j++) {
            const struct timeline_span *span = timeline_span(timeline, step, j);
            if (span->stage == stage && span->layer >= 0 && span->layer < STRIP_LAYERS) {
                strip->mean_ns[span->layer] += (double)span->duration_ns;
                strip->n_layers = span->layer >= strip->n_layers ? span->layer + 1 : strip->n_layers;
            }
        }
    }
    for (int32_t layer = 0; layer < strip->n_layers; layer++) {
        strip->mean_ns[layer] /= strip->n_steps;
    }
}

static void find_ends(const struct strip *strip, int32_t *least, int32_t *most)
{
    *least = *most = -1;
    for (int32_t layer = 0; layer < strip->n_layers; layer++) {
        double ns = strip->mean_ns[layer];
        if (ns > 0) {
            *least = *least < 0 || ns < strip->mean_ns[*least] ? layer : *least;
            *most = *most < 0 || ns > strip->mean_ns[*most] ? layer : *most;
        }
    }
}

void view_layer_strip(struct cells *cells, const struct layout *layout, const struct state *state, int32_t method,
                      enum phase phase, int32_t stage)
{
    static const uint32_t shades[] = {0x2591, 0x2592, 0x2593, 0x2588};
    struct strip strip;
    struct rect inside = layout_inside(layout, layout->detail);
    char title[96], line[160], low[FORMAT_BYTES], high[FORMAT_BYTES];
    int32_t least, most;
    gather(&strip, state, method, phase, stage);
    find_ends(&strip, &least, &most);
    if (layout->framed) {
        snprintf(title, sizeof title, "%s by layer, %s, mean of %d steps", stage_name((enum stage)stage),
                 phase_name(phase), strip.n_steps);
        cells_frame(cells, layout->detail, title);
    }
    if (most < 0) {
        cells_text_fit(cells, inside, 0, 0, inside.cols, dim_pen, "This stage lies outside layers.");
        return;
    }
    format_time_ns(low, strip.mean_ns[least]);
    format_time_ns(high, strip.mean_ns[most]);
    snprintf(line, sizeof line, "layer %d takes longest, %s; layer %d is fastest, %s", most, high, least, low);
    cells_text_fit(cells, inside, 0, 0, inside.cols, text_pen, line);
    // Wider than one column a layer where there is room, so that its number fits below.
    int32_t width = inside.cols / strip.n_layers > 4 ? 4 : inside.cols / strip.n_layers;
    width = width > 0 ? width : 1;
    for (int32_t layer = 0; layer < strip.n_layers && layer * width < inside.cols; layer++) {
        double part = strip.mean_ns[layer] / strip.mean_ns[most];
        int32_t level = (int32_t)ceil(4 * part) - 1;
        for (int32_t i = 0; i < width - (width > 1) && part > 0; i++) {
            cells_put(cells, inside, 1, layer * width + i, shades[level < 0 ? 0 : level > 3 ? 3 : level],
                      (struct pen){(enum role)(ROLE_STAGE + stage), 0});
        }
        if (width >= 4 || layer % 8 == 0) {
            snprintf(line, sizeof line, "%d", layer);
            cells_text(cells, inside, 2, layer * width, dim_pen, line);
        }
    }
}
