// tui/views.h - the views: state and what the user looks at, drawn into cells.
//
// Pure: the same state, ui and size give the same cells. A view shows "-" for what is unknown.
#pragma once

#include "tui/cells.h"
#include "tui/format.h"
#include "tui/keys.h"

// Draws the whole screen into the grid, whatever its size. Clamps ui->scroll and ui->sort to what there is.
void view_draw(struct cells *cells, const struct state *state, struct ui *ui);

// The views themselves: they draw their panels, and say in one line what follows from the figures.
enum { NOTE_BYTES = 256 };
void view_overview(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void view_compare(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void view_stages(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void note_overview(char *note, const struct state *state, const struct ui *ui);
void note_compare(char *note, const struct state *state, const struct ui *ui);
void note_stages(char *note, const struct state *state, const struct ui *ui);
void view_timeline(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void note_timeline(char *note, const struct state *state, const struct ui *ui);
void view_roofline(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void note_roofline(char *note, const struct state *state, const struct ui *ui);
void view_whatif(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void note_whatif(char *note, const struct state *state, const struct ui *ui);
void view_requests(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void note_requests(char *note, const struct state *state, const struct ui *ui);
void view_routing(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui);
void note_routing(char *note, const struct state *state, const struct ui *ui);
int32_t view_compare_rows(const struct state *state);    // lines that its table would like to have

// The phase to show: the one asked for if it has steps, else one that has. False: no step yet.
bool view_phase(const struct state *state, const struct ui *ui, int32_t method, enum phase *phase,
                struct phase_summary *out);

// How a stage is drawn: its letter, the same with and without colour. STAGE_COUNT: gaps.
char view_stage_letter(int32_t stage);
void view_stage_key(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t stage);

// A bar of the parts of a step, to scale; parts that are too thin for a column share one with their neighbours.
void view_stack(struct cells *cells, struct rect clip, int32_t row, int32_t width, const struct phase_summary *summary);

// Of one stage, what each layer took: a strip in the layout's detail.
void view_layer_strip(struct cells *cells, const struct layout *layout, const struct state *state, int32_t method,
                      enum phase phase, int32_t stage);

// Instead of stages: the kernels of one.
void view_kernels(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui,
                  int32_t method, enum phase phase, int32_t stage);

// Compare's other half: curves in `panel`. The note says what crosses what; false: nothing is known.
void view_curves(struct cells *cells, struct rect panel, bool framed, const struct state *state, struct ui *ui);
bool note_curves(char *note, const struct state *state, const struct ui *ui);

// The stage that the user selected, or the one with the greatest share; STAGE_COUNT if none has any.
int32_t view_selected_stage(const struct ui *ui, const struct phase_summary *summary);

// The stage with the greatest share; STAGE_COUNT if none has any.
int32_t view_greatest(const struct phase_summary *summary);

// Tables: columns in order, of which the dispensable ones (greatest `drop`) go first when the width does not suffice.
struct view_column {
    const char *title;
    int32_t width, drop;
};
void view_columns_fit(const struct view_column *columns, int32_t n, int32_t width, bool *shown);
// One line; texts [n][FORMAT_BYTES]. The first column is aligned left, the others right.
void view_columns_row(struct cells *cells, struct rect clip, int32_t row, const struct view_column *columns, int32_t n,
                      const bool *shown, char (*texts)[FORMAT_BYTES], struct pen pen);
void view_columns_title(struct cells *cells, struct rect clip, const struct view_column *columns, int32_t n,
                        const bool *shown, int32_t sorted, bool reverse);
