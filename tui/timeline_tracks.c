// tui/timeline_tracks.c - time to columns.
//
// One pass over the columns finds for each what covers it. Steps that lie inside a column count by what their stages
// took in all; only the first of them is looked into for its layers, so that a screen over a million stages costs what
// its columns cost.
#include "tui/timeline_tracks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_LAYER_ROWS = 128,      // rows of layers on one screen
    LANES = 8,                 // rows of requests, at most
    NAME_COLS = 4              // the narrowest block that bears a name
};

// What covers a column, in nanoseconds.
struct column {
    double phases[PHASE_COUNT], stages[STAGE_COUNT], layers[MAX_LAYER_ROWS][STAGE_COUNT];
    bool looked_into;          // some step's spans went into `layers`
};

static int32_t columns_of(const struct tracks *tracks)
{
    return tracks->clip.cols - tracks->label_cols;
}

int32_t tracks_column(const struct tracks *tracks, int64_t time_ns)
{
    double part = (double)(time_ns - tracks->begin_ns) / (double)tracks->width_ns;
    double column = floor(part * columns_of(tracks));
    return column < -1 ? -1 : column > 1e6 ? 1000000 : (int32_t)column;
}

static int64_t time_of(const struct tracks *tracks, int32_t column)
{
    return tracks->begin_ns + (int64_t)((double)column / columns_of(tracks) * (double)tracks->width_ns);
}

static double overlap_ns(int64_t begin_ns, int64_t duration_ns, int64_t from_ns, int64_t to_ns)
{
    int64_t begin = begin_ns > from_ns ? begin_ns : from_ns, end = begin_ns + duration_ns;
    end = end < to_ns ? end : to_ns;
    return end > begin ? (double)(end - begin) : end == begin && duration_ns == 0 ? 0.5 : 0;
}

// The first span of a step that ends after `time_ns`, where spans do not overlap.
static int32_t find_span(const struct tracks *tracks, const struct timeline_step *step, int64_t time_ns)
{
    int32_t low = 0, high = step->n_spans;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        const struct timeline_span *span = timeline_span(tracks->timeline, step, middle);
        if (span->begin_ns + span->duration_ns > time_ns) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

// Adds the spans of a step that touch [from, to).
static void add_spans(struct column *column, const struct tracks *tracks, const struct timeline_step *step,
                      int64_t from_ns, int64_t to_ns, bool stages)
{
    for (int32_t i = find_span(tracks, step, from_ns); i < step->n_spans; i++) {
        const struct timeline_span *span = timeline_span(tracks->timeline, step, i);
        if (span->begin_ns >= to_ns) {
            break;
        }
        double ns = overlap_ns(span->begin_ns, span->duration_ns, from_ns, to_ns);
        int32_t layer = span->layer - tracks->look->scroll;
        column->stages[span->stage] += stages ? ns : 0;
        if (span->layer >= 0 && layer >= 0 && layer < tracks->n_layers) {
            column->layers[layer][span->stage] += ns;
        }
    }
    column->looked_into = true;
}

static void cover(struct column *column, const struct tracks *tracks, int64_t from_ns, int64_t to_ns)
{
    memset(column, 0, sizeof *column);
    int64_t end = timeline_end(tracks->timeline);
    for (int64_t i = timeline_find(tracks->timeline, from_ns); i < end; i++) {
        const struct timeline_step *step = timeline_step(tracks->timeline, i);
        if (step->begin_ns >= to_ns) {
            break;
        }
        column->phases[step->phase] += overlap_ns(step->begin_ns, step->duration_ns, from_ns, to_ns);
        bool inside = step->begin_ns >= from_ns && step->begin_ns + step->duration_ns <= to_ns;
        for (int stage = 0; stage < STAGE_COUNT && inside; stage++) {
            column->stages[stage] += (double)step->stage_ns[stage];
        }
        if (!inside || !column->looked_into) {
            add_spans(column, tracks, step, from_ns, to_ns, !inside);
        }
    }
}

static int32_t greatest(const double *values, int32_t n)
{
    int32_t most = -1;
    for (int32_t i = 0; i < n; i++) {
        if (values[i] > 0 && (most < 0 || values[i] > values[most])) {
            most = i;
        }
    }
    return most;
}

static struct pen block_pen(const struct tracks *tracks, enum role role)
{
    return (struct pen){role, tracks->cells->color ? ATTRIBUTE_REVERSE : 0};
}

static enum role phase_role(int32_t phase)
{
    return phase == PHASE_PREFILL ? ROLE_WARN : phase == PHASE_DECODE ? ROLE_ACCENT : ROLE_GOOD;
}

// With colour a letter marks where a block begins; without, letters are the block.
static void put_block(const struct tracks *tracks, int32_t row, int32_t col, char letter, bool first, enum role role)
{
    char shown = first || !tracks->cells->color ? letter : ' ';
    cells_put(tracks->cells, tracks->clip, row, tracks->label_cols + col, (uint32_t)shown, block_pen(tracks, role));
}

static void draw_columns(const struct tracks *tracks)
{
    static const char phase_letters[] = "pdm";
    struct column column;
    int32_t row = tracks->request_rows, last_phase = -1, last_stage = -1, last_layer[MAX_LAYER_ROWS];
    memset(last_layer, 0xff, sizeof last_layer);
    for (int32_t col = 0; col < columns_of(tracks); col++) {
        cover(&column, tracks, time_of(tracks, col), time_of(tracks, col + 1));
        int32_t phase = greatest(column.phases, PHASE_COUNT), stage = greatest(column.stages, STAGE_COUNT);
        if (phase >= 0) {
            put_block(tracks, row, col, phase_letters[phase], phase != last_phase, phase_role(phase));
        }
        if (stage >= 0) {
            put_block(tracks, row + 1, col, view_stage_letter(stage), stage != last_stage,
                      (enum role)(ROLE_STAGE + stage));
        }
        for (int32_t layer = 0; layer < tracks->n_layers; layer++) {
            int32_t most = greatest(column.layers[layer], STAGE_COUNT);
            if (most >= 0) {
                put_block(tracks, row + 2 + layer, col, view_stage_letter(most), most != last_layer[layer],
                          (enum role)(ROLE_STAGE + most));
            }
            last_layer[layer] = most;
        }
        last_phase = phase;
        last_stage = stage;
    }
}

// A name over the block from `begin` to `end`, where it is wide enough.
static void put_name(const struct tracks *tracks, int32_t row, int64_t begin_ns, int64_t duration_ns, enum role role,
                     const char *name)
{
    int32_t begin = tracks_column(tracks, begin_ns), end = tracks_column(tracks, begin_ns + duration_ns);
    begin = begin > 0 ? begin : 0;
    end = end < columns_of(tracks) ? end : columns_of(tracks);
    if (end - begin >= NAME_COLS) {
        struct rect block = {tracks->clip.row + row, tracks->clip.col + tracks->label_cols + begin, 1, end - begin};
        if (tracks->cells->color) {
            cells_text_fit(tracks->cells, block, 0, 0, end - begin - 1, block_pen(tracks, role), name);
        } else {
            cells_fill(tracks->cells, block, 0x2500, block_pen(tracks, role));
            cells_put(tracks->cells, block, 0, 0, '[', block_pen(tracks, role));
            cells_text_fit(tracks->cells, block, 0, 1, end - begin - 1, block_pen(tracks, role), name);
        }
    }
}

static void name_spans(const struct tracks *tracks, const struct timeline_step *step)
{
    int64_t end_ns = tracks->begin_ns + tracks->width_ns;
    int64_t least_ns = tracks->width_ns / columns_of(tracks) * (NAME_COLS - 1);
    for (int32_t i = find_span(tracks, step, tracks->begin_ns); i < step->n_spans; i++) {
        const struct timeline_span *span = timeline_span(tracks->timeline, step, i);
        int32_t layer = span->layer - tracks->look->scroll;
        if (span->begin_ns >= end_ns) {
            break;
        }
        if (span->duration_ns < least_ns) {
            continue;
        }
        const char *name = stage_name((enum stage)span->stage);
        put_name(tracks, tracks->request_rows + 1, span->begin_ns, span->duration_ns,
                 (enum role)(ROLE_STAGE + span->stage), name);
        if (span->layer >= 0 && layer >= 0 && layer < tracks->n_layers) {
            put_name(tracks, tracks->request_rows + 2 + layer, span->begin_ns, span->duration_ns,
                     (enum role)(ROLE_STAGE + span->stage), name);
        }
    }
}

static void draw_names(const struct tracks *tracks)
{
    int64_t end_ns = tracks->begin_ns + tracks->width_ns;
    int64_t least_ns = tracks->width_ns / columns_of(tracks) * (NAME_COLS - 1);
    for (int64_t i = timeline_find(tracks->timeline, tracks->begin_ns); i < timeline_end(tracks->timeline); i++) {
        const struct timeline_step *step = timeline_step(tracks->timeline, i);
        if (step->begin_ns >= end_ns) {
            break;
        }
        if (step->duration_ns >= least_ns) {
            char name[SOURCE_NAME_BYTES + 64];
            snprintf(name, sizeof name, "%lld %s %s", (long long)step->number, phase_name((enum phase)step->phase),
                     timeline_source_name(tracks->timeline, step->source));
            put_name(tracks, tracks->request_rows, step->begin_ns, step->duration_ns, phase_role(step->phase), name);
            name_spans(tracks, step);
        }
    }
}

static void put_request(const struct tracks *tracks, int32_t lane, const struct request_row *row)
{
    static const char letters[] = "qpd";
    static const enum role roles[] = {ROLE_DIM, ROLE_WARN, ROLE_ACCENT};
    int64_t end_ns = tracks->begin_ns + tracks->width_ns;
    int64_t bounds[] = {row->submitted_ns, row->running_ns, row->first_token_ns, row->finished_ns};
    for (int i = 0; i < 3; i++) {
        if (bounds[i] < 0) {
            return;
        }
        int32_t from = tracks_column(tracks, bounds[i]);
        int32_t to = tracks_column(tracks, bounds[i + 1] >= 0 ? bounds[i + 1] : end_ns);
        for (int32_t col = from > 0 ? from : 0; (col < to || col == from) && col < columns_of(tracks); col++) {
            put_block(tracks, lane, col, letters[i], col == from, roles[i]);
        }
        if (i > 0) {
            char name[64];
            snprintf(name, sizeof name, "%lld %s", (long long)row->request, i == 1 ? "prefill" : "decode");
            int64_t until_ns = bounds[i + 1] >= 0 ? bounds[i + 1] : end_ns;
            put_name(tracks, lane, bounds[i], until_ns - bounds[i], roles[i], name);
        }
    }
}

// Each request in the first lane that is free by then; where all are taken, in the last.
static void draw_requests(const struct tracks *tracks)
{
    int64_t free_ns[LANES], end_ns = tracks->begin_ns + tracks->width_ns;
    int32_t lanes = tracks->request_rows < LANES ? tracks->request_rows : LANES;
    for (int32_t i = 0; i < lanes; i++) {
        free_ns[i] = INT64_MIN;
    }
    for (int64_t i = request_log_first(tracks->requests); i < request_log_end(tracks->requests) && lanes > 0; i++) {
        const struct request_row *row = request_log_row(tracks->requests, i);
        int64_t until_ns = row->finished_ns >= 0 ? row->finished_ns : INT64_MAX;
        if (row->submitted_ns >= end_ns || until_ns < tracks->begin_ns) {
            continue;
        }
        int32_t lane = 0;
        while (lane + 1 < lanes && free_ns[lane] > row->submitted_ns) {
            lane++;
        }
        put_request(tracks, lane, row);
        free_ns[lane] = until_ns;
    }
}

static void put_label(const struct tracks *tracks, int32_t row, int32_t track, const char *text)
{
    bool here = track == tracks->look->track;
    struct pen pen = {here ? ROLE_ACCENT : ROLE_DIM, here ? ATTRIBUTE_BOLD : 0};
    cells_text_fit(tracks->cells, tracks->clip, row, 0, tracks->label_cols - 1, pen, text);
    if (here) {
        cells_put(tracks->cells, tracks->clip, row, tracks->label_cols - 1, 0x25b8, pen);
    }
}

static void draw_labels(const struct tracks *tracks)
{
    if (tracks->request_rows > 0) {
        put_label(tracks, 0, -1, tracks->label_cols > 8 ? "requests" : "req.");
    }
    put_label(tracks, tracks->request_rows, TRACK_STEPS,
              tracks->steps_label ? tracks->steps_label : "steps");
    put_label(tracks, tracks->request_rows + 1, TRACK_STAGES, "stages");
    for (int32_t i = 0; i < tracks->n_layers; i++) {
        char text[32];
        snprintf(text, sizeof text, tracks->label_cols > 8 ? "layer %d" : "L %d", tracks->look->scroll + i);
        put_label(tracks, tracks->request_rows + 2 + i, TRACK_LAYERS + tracks->look->scroll + i, text);
    }
}

// The selected block, underlined where it lies on the selected track.
static void draw_selection(const struct tracks *tracks)
{
    const struct timeline_look *look = tracks->look;
    const struct timeline_step *step = timeline_look_step(look, tracks->timeline);
    const struct timeline_span *span = timeline_look_span(look, tracks->timeline);
    if (!step) {
        return;
    }
    int32_t row = tracks->request_rows + (look->track < TRACK_LAYERS ? look->track : look->track - look->scroll);
    int64_t begin_ns = span ? span->begin_ns : step->begin_ns;
    int64_t end_ns = begin_ns + (span ? span->duration_ns : step->duration_ns);
    int32_t from = tracks_column(tracks, begin_ns), to = tracks_column(tracks, end_ns);
    for (int32_t col = from > 0 ? from : 0; (col < to || col == from) && col < columns_of(tracks); col++) {
        int32_t at_row = tracks->clip.row + row, at_col = tracks->clip.col + tracks->label_cols + col;
        if (row < tracks->clip.rows && at_row < tracks->cells->rows && at_col < tracks->cells->cols) {
            struct cell *cell = &tracks->cells->cell[(int64_t)at_row * tracks->cells->cols + at_col];
            cell->attributes |= ATTRIBUTE_UNDERLINE | ATTRIBUTE_BOLD;
        }
    }
}

void tracks_draw(const struct tracks *tracks)
{
    if (columns_of(tracks) < 1) {
        return;
    }
    struct tracks copy = *tracks;
    copy.n_layers = copy.n_layers < MAX_LAYER_ROWS ? copy.n_layers : MAX_LAYER_ROWS;
    draw_labels(&copy);
    draw_columns(&copy);
    draw_names(&copy);
    draw_requests(&copy);
    draw_selection(&copy);
}
