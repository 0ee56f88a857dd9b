// tui/view_routing.c - where indexers look: density over the context, overlap with the step before and across layers.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/views.h"

static const struct pen dim_pen = {ROLE_DIM, 0};

// "layer 31", "  100%   100%"
enum { LABEL_COLS = 9, FIGURE_COLS = 17, COVERAGE_COLS = 7, BLOCKS_COLS = 11, WIDE_COLS = 56 };

// Shades by the share of the densest part of the row; nothing is blank.
static void put_shades(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t width,
                       const float *density, struct pen pen)
{
    static const uint32_t shades[] = {0x2591, 0x2592, 0x2593, 0x2588};
    float columns[512] = {0}, most = 0;
    width = width < 512 ? width : 512;
    for (int32_t i = 0; i < width; i++) {    // the densest bin of those that the column covers
        int32_t first = i * ROUTING_BINS / width, end = (i + 1) * ROUTING_BINS / width;
        for (int32_t bin = first; bin < (end > first ? end : first + 1); bin++) {
            columns[i] = density[bin] > columns[i] ? density[bin] : columns[i];
        }
        most = columns[i] > most ? columns[i] : most;
    }
    for (int32_t i = 0; i < width; i++) {
        if (columns[i] > 0) {
            int32_t level = (int32_t)ceilf(4 * columns[i] / most) - 1;
            cells_put(cells, clip, row, col + i, shades[level < 0 ? 0 : level > 3 ? 3 : level], pen);
        }
    }
}

static void put_axis(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t width, int32_t context)
{
    char text[FORMAT_BYTES];
    cells_text(cells, clip, row, col, dim_pen, "0");
    format_number(text, context);
    if (width > 20) {
        cells_text_right(cells, clip, row, col + width, dim_pen, text);
        format_number(text, context / 2.0);
        cells_text(cells, clip, row, col + width / 2, dim_pen, text);
    }
}

static bool measures_coverage(const struct routing_snapshot *routing)
{
    return routing->n_layers > 0 && !isnan(routing->layers[0].coverage);
}

static void draw_layers(struct cells *cells, const struct layout *layout, const struct routing_snapshot *routing,
                        struct ui *ui)
{
    struct rect inside = layout_inside(layout, layout->table);
    bool figures = inside.cols >= WIDE_COLS;
    bool coverage = figures && measures_coverage(routing);
    bool blocks = inside.cols >= WIDE_COLS + BLOCKS_COLS && !isnan(routing->layers[0].in_blocks);
    int32_t coverage_end = inside.cols - FIGURE_COLS - (blocks ? BLOCKS_COLS : 0);
    int32_t taken = LABEL_COLS;
    taken += (figures ? FIGURE_COLS : 0) + (coverage ? COVERAGE_COLS : 0) + (blocks ? BLOCKS_COLS : 0);
    int32_t width = inside.cols - taken, rows = inside.rows - 1;
    int32_t most = routing->n_layers > rows ? routing->n_layers - rows : 0;
    ui->scroll = ui->scroll < most ? ui->scroll : most;
    if (figures) {
        cells_text_right(cells, inside, 0, inside.cols - 7, dim_pen, "last step");
        cells_text_right(cells, inside, 0, inside.cols, dim_pen, "1st");
    }
    if (coverage) {
        cells_text_right(cells, inside, 0, coverage_end, dim_pen, "holds");
    }
    if (blocks) {
        cells_text_right(cells, inside, 0, inside.cols - FIGURE_COLS, dim_pen, "in blocks");
    }
    put_axis(cells, inside, 0, LABEL_COLS, width, routing->context_units * routing->unit_tokens);
    for (int32_t i = 0; i < rows && ui->scroll + i < routing->n_layers; i++) {
        const struct routing_layer *layer = &routing->layers[ui->scroll + i];
        char text[FORMAT_BYTES];
        snprintf(text, sizeof text, "layer %d", layer->layer);
        cells_text(cells, inside, 1 + i, 0, dim_pen, text);
        bool as_blocks = ui->blocks && !isnan(layer->in_blocks);
        put_shades(cells, inside, 1 + i, LABEL_COLS, width, as_blocks ? layer->block_density : layer->density,
                   (struct pen){as_blocks ? ROLE_WARN : ROLE_ACCENT, 0});
        if (figures) {
            format_percent(text, (double)layer->same_as_before);
            cells_text_right(cells, inside, 1 + i, inside.cols - 7, (struct pen){ROLE_TEXT, 0}, text);
            format_percent(text, (double)layer->same_as_first);
            cells_text_right(cells, inside, 1 + i, inside.cols, (struct pen){ROLE_TEXT, 0}, text);
        }
        if (coverage) {
            format_percent(text, (double)layer->coverage);
            cells_text_right(cells, inside, 1 + i, coverage_end, (struct pen){ROLE_TEXT, 0}, text);
        }
        if (blocks) {
            format_percent(text, (double)layer->in_blocks);
            cells_text_right(cells, inside, 1 + i, inside.cols - FIGURE_COLS, (struct pen){ROLE_TEXT, 0}, text);
        }
    }
}

static void draw_history(struct cells *cells, const struct layout *layout, const struct routing_snapshot *routing)
{
    struct rect inside = layout_inside(layout, layout->detail);
    if (layout->framed) {
        char title[96];
        snprintf(title, sizeof title, "Layer %d over time, the newest on top", routing->layers[0].layer);
        cells_frame(cells, layout->detail, title);
    }
    for (int32_t i = 0; i < inside.rows && i < routing->n_history; i++) {
        put_shades(cells, inside, i, LABEL_COLS, inside.cols - LABEL_COLS, routing->history[i],
                   (struct pen){ROLE_GOOD, 0});
    }
    cells_text(cells, inside, 0, 0, dim_pen, "now");
}

void view_routing(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    const struct routing_snapshot *routing = ui->routing;
    (void)state;
    char title[SOURCE_NAME_BYTES + 96] = "Selections";
    bool known = routing && routing->n_layers > 0;
    if (known) {
        if (ui->blocks) {
            snprintf(title, sizeof title, "Blocks of %d that hold most of what %s selected", ROUTING_BLOCK_UNITS,
                     routing->method);
        } else {
            snprintf(title, sizeof title, "Selected by %s in step %lld; shares as in the last step, the 1st layer",
                     routing->method, (long long)routing->step);
        }
    }
    if (layout->framed) {
        cells_frame(cells, layout->table, title);
    }
    if (!known) {
        struct rect inside = layout_inside(layout, layout->table);
        cells_text_fit(cells, inside, 0, 0, inside.cols, dim_pen,
                       ui->live       ? "No selection yet: it takes a method that selects (m)."
                       : ui->attached ? "Selections stay with their engine: clsa top shows those of one that it runs "
                                        "itself."
                                      : "A trace holds no selections: they are seen while an engine runs.");
        if (layout->framed && layout->detail.rows > 0) {
            cells_frame(cells, layout->detail, NULL);
        }
        return;
    }
    draw_layers(cells, layout, routing, ui);
    if (layout->detail.rows > 0) {
        draw_history(cells, layout, routing);
    }
}

// How much of the context holds half of a layer's selections: small where a few places draw all the attention.
static double half_of(const struct routing_layer *layer)
{
    float sorted[ROUTING_BINS], sum = 0, reached = 0;
    memcpy(sorted, layer->density, sizeof sorted);
    for (int32_t i = 0; i < ROUTING_BINS; i++) {
        sum += sorted[i];
        for (int32_t j = i; j > 0 && sorted[j - 1] < sorted[j]; j--) {
            float other = sorted[j];
            sorted[j] = sorted[j - 1];
            sorted[j - 1] = other;
        }
    }
    for (int32_t i = 0; i < ROUTING_BINS; i++) {
        reached += sorted[i];
        if (reached * 2 >= sum) {
            return (i + 1.0) / ROUTING_BINS;
        }
    }
    return 1;
}

void note_routing(char *note, const struct state *state, const struct ui *ui)
{
    const struct routing_snapshot *routing = ui->routing;
    (void)state;
    if (!routing || routing->n_layers == 0) {
        snprintf(note, NOTE_BYTES, "No selections to show.");
        return;
    }
    double before = 0, first = 0, half = 0, coverage = 0, in_blocks = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < routing->n_layers; i++) {
        const struct routing_layer *layer = &routing->layers[i];
        half += half_of(layer) / routing->n_layers;
        first += (double)layer->same_as_first / routing->n_layers;
        coverage += (double)layer->coverage / routing->n_layers;
        in_blocks += (double)layer->in_blocks / routing->n_layers;
        if (!isnan(layer->same_as_before)) {
            before += (double)layer->same_as_before;
            n++;
        }
    }
    char same[FORMAT_BYTES], across[FORMAT_BYTES], places[FORMAT_BYTES], blocks[FORMAT_BYTES];
    format_percent(same, n > 0 ? before / n : (double)NAN);
    format_percent(places, half);
    format_percent(blocks, in_blocks);
    if (measures_coverage(routing)) {
        char holds[FORMAT_BYTES];
        format_percent(holds, coverage);
        snprintf(note, NOTE_BYTES, "Selections hold %s of dense attention; %s of them was there a step ago.", holds,
                 same);
    } else if (ui->blocks && isfinite(in_blocks)) {
        snprintf(note, NOTE_BYTES, "As many tokens in whole blocks of %d hold at most %s of a selection.",
                 ROUTING_BLOCK_UNITS, blocks);
    } else {
        format_percent(across, first);
        snprintf(note, NOTE_BYTES, "%s kept since last step; half lies in %s of the context; %s as layer %d.", same,
                 places, across, routing->layers[0].layer);
    }
}
