// tui/export.c - tables of what views are made of.
#include "tui/export.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/output_file.h"
#include "engine/status.h"
#include "tui/request_list.h"

// Rows of named fields, one by one. The names of the first row are CSV's heading.
struct table {
    FILE *stream;
    bool json;
    int64_t rows;
    int32_t fields;
    bool heading;              // CSV: names are written, not values
};

static void begin_field(struct table *table, const char *name)
{
    if (table->json) {
        fprintf(table->stream, "%s\"%s\": ", table->fields > 0 ? ", " : "", name);
    } else if (table->fields > 0) {
        fputc(',', table->stream);
    }
    if (table->heading) {
        fputs(name, table->stream);
    }
    table->fields++;
}

static void put_number(struct table *table, const char *name, double value)
{
    begin_field(table, name);
    if (table->heading) {
        return;
    }
    if (isfinite(value)) {
        fprintf(table->stream, "%.12g", value);
    } else if (table->json) {
        fputs("null", table->stream);
    }
}

static void put_text(struct table *table, const char *name, const char *text)
{
    begin_field(table, name);
    if (table->heading) {
        return;
    }
    fputc('"', table->stream);
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || (table->json && byte == '\\')) {
            fputc(table->json ? '\\' : '"', table->stream);
        }
        fputc(byte < ' ' ? ' ' : byte, table->stream);    // names come from files
    }
    fputc('"', table->stream);
}

typedef void row_writer(struct table *table, const struct state *state, const struct ui *ui, int64_t row);

static void write_row(struct table *table, row_writer *write, const struct state *state, const struct ui *ui,
                      int64_t row)
{
    if (!table->json && table->rows == 0) {
        table->heading = true;
        table->fields = 0;
        write(table, state, ui, row);
        fputc('\n', table->stream);
        table->heading = false;
    }
    fputs(!table->json ? "" : table->rows > 0 ? ",\n  {" : "\n  {", table->stream);
    table->fields = 0;
    write(table, state, ui, row);
    fputs(table->json ? "}" : "\n", table->stream);
    table->rows++;
}

// row: method, phase and stage in one number.
static void stage_row(struct table *table, const struct state *state, const struct ui *ui, int64_t row)
{
    int32_t stage = (int32_t)(row % STAGE_COUNT), phase = (int32_t)(row / STAGE_COUNT % PHASE_COUNT);
    int32_t method = (int32_t)(row / STAGE_COUNT / PHASE_COUNT);
    struct phase_summary summary;
    char label[SOURCE_NAME_BYTES];
    (void)ui;
    state_phase(state, method, (enum phase)phase, &summary);
    state_label(state, method, label, sizeof label);
    const struct stage_summary *from = &summary.stages[stage];
    put_text(table, "method", label);
    put_text(table, "phase", phase_name((enum phase)phase));
    put_text(table, "stage", stage_name((enum stage)stage));
    put_number(table, "calls", (double)from->calls);
    put_number(table, "per_step_ns", from->mean_ns);
    put_number(table, "share", from->share);
    put_number(table, "median_ns", from->median_ns);
    put_number(table, "p95_ns", from->p95_ns);
    put_number(table, "bytes_per_s", from->bytes_per_s);
    put_number(table, "flops_per_s", from->flops_per_s);
    put_number(table, "floor_ns", from->floor_ns);
    put_number(table, "floor_part", from->floor_part);
}

static void write_stages(struct table *table, const struct state *state, const struct ui *ui)
{
    struct phase_summary summary;
    for (int32_t method = 0; method < state_method_count(state); method++) {
        for (int phase = 0; phase < PHASE_COUNT; phase++) {
            bool known = state_phase(state, method, (enum phase)phase, &summary);
            for (int stage = 0; stage < STAGE_COUNT && known; stage++) {
                if (summary.stages[stage].window_calls > 0) {
                    write_row(table, stage_row, state, ui,
                              ((int64_t)method * PHASE_COUNT + phase) * STAGE_COUNT + stage);
                }
            }
        }
    }
}

static void method_row(struct table *table, const struct state *state, const struct ui *ui, int64_t row)
{
    struct phase_summary decode, base;
    struct method_summary told;
    struct request_percentiles recent;
    char label[SOURCE_NAME_BYTES];
    const struct request_log *log = state_requests(state);
    state_method(state, (int32_t)row, &told);
    state_label(state, (int32_t)row, label, sizeof label);
    state_phase(state, (int32_t)row, PHASE_DECODE, &decode);
    state_phase(state, ui_baseline(ui, state), PHASE_DECODE, &base);
    request_log_percentiles(log, request_log_find_source(log, &told.source), &recent);
    put_text(table, "method", label);
    put_text(table, "model", told.source.model);
    put_text(table, "backend", told.source.backend);
    put_number(table, "prefill_s", told.prefill_s);
    put_number(table, "predicted_prefill_s", told.predicted_prefill_s);
    put_number(table, "decode_tokens_per_s", decode.tokens_per_s);
    put_number(table, "predicted_tokens_per_s", told.predicted_tokens_per_s);
    put_number(table, "speedup", decode.tokens_per_s / base.tokens_per_s);
    put_number(table, "kv_bytes", told.kv_peak_bytes);
    put_number(table, "step_ns", decode.mean_ns);
    put_number(table, "floor_ns", decode.floor_ns);
    put_number(table, "floor_part", decode.floor_part);
    put_number(table, "ttft_p50_s", recent.ttft_s[0]);
    put_number(table, "ttft_p99_s", recent.ttft_s[2]);
    put_number(table, "tpot_p50_s", recent.tpot_s[0]);
    put_number(table, "tpot_p99_s", recent.tpot_s[2]);
}

static void request_row(struct table *table, const struct state *state, const struct ui *ui, int64_t at)
{
    const struct request_log *log = state_requests(state);
    const struct request_row *row = request_log_row(log, at);
    (void)ui;
    put_number(table, "request", (double)row->request);
    put_text(table, "method", request_log_source_name(log, row->source));
    put_text(table, "state", request_phase_name(row->phase));
    put_number(table, "prompt_tokens", row->prompt_tokens);
    put_number(table, "output_tokens", row->output_tokens > 0 ? (double)row->output_tokens : (double)NAN);
    put_number(table, "submitted_ns", (double)row->submitted_ns);
    put_number(table, "queue_s", request_queue_s(row));
    put_number(table, "ttft_s", request_ttft_s(row));
    put_number(table, "tpot_s", request_tpot_s(row));
    put_number(table, "total_s", request_total_s(row));
    put_number(table, "restarts", row->restarts);
}

static void step_row(struct table *table, const struct state *state, const struct ui *ui, int64_t at)
{
    const struct timeline *timeline = state_timeline(state);
    const struct timeline_step *step = timeline_step(timeline, at);
    (void)ui;
    put_number(table, "step", (double)step->number);
    put_text(table, "method", timeline_source_name(timeline, step->source));
    put_text(table, "phase", phase_name((enum phase)step->phase));
    put_number(table, "begin_ns", (double)step->begin_ns);
    put_number(table, "duration_ns", (double)step->duration_ns);
    put_number(table, "sequences", step->n_seqs);
    put_number(table, "tokens", step->n_tokens);
    put_number(table, "context_tokens", step->context_tokens);
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        put_number(table, stage_name((enum stage)stage), (double)step->stage_ns[stage]);
    }
}

// The steps that the timeline shows now.
static void write_steps(struct table *table, const struct state *state, const struct ui *ui)
{
    const struct timeline *timeline = state_timeline(state);
    int64_t begin_ns, width_ns;
    timeline_look_window(&ui->timeline, timeline, &begin_ns, &width_ns);
    for (int64_t i = timeline_find(timeline, begin_ns); i < timeline_end(timeline); i++) {
        if (timeline_step(timeline, i)->begin_ns >= begin_ns + width_ns) {
            break;
        }
        write_row(table, step_row, state, ui, i);
    }
}

static void layer_row(struct table *table, const struct state *state, const struct ui *ui, int64_t row)
{
    const struct routing_layer *layer = &ui->routing->layers[row];
    (void)state;
    put_text(table, "method", ui->routing->method);
    put_number(table, "step", (double)ui->routing->step);
    put_number(table, "layer", layer->layer);
    put_number(table, "units", layer->n_units);
    put_number(table, "same_as_before", (double)layer->same_as_before);
    put_number(table, "same_as_first", (double)layer->same_as_first);
    put_number(table, "coverage", (double)layer->coverage);
}

static void write_figures(struct table *table, const struct state *state, const struct ui *ui)
{
    int64_t rows[REQUEST_LOG_ROWS];
    switch (ui->view) {
    case VIEW_TIMELINE: write_steps(table, state, ui); return;
    case VIEW_REQUESTS: {
        int32_t n = request_list(state_requests(state), ui->filter[VIEW_REQUESTS], ui->sort[VIEW_REQUESTS],
                                 ui->reverse, rows);
        for (int32_t i = 0; i < n; i++) {
            write_row(table, request_row, state, ui, rows[i]);
        }
        return;
    }
    case VIEW_ROUTING:
        for (int32_t i = 0; ui->routing && i < ui->routing->n_layers; i++) {
            write_row(table, layer_row, state, ui, i);
        }
        return;
    case VIEW_OVERVIEW: case VIEW_COMPARE:
        for (int32_t i = 0; i < state_method_count(state); i++) {
            write_row(table, method_row, state, ui, i);
        }
        return;
    default: write_stages(table, state, ui); return;
    }
}

int export_view(const char *path, const struct state *state, const struct ui *ui, const char *screen)
{
    const char *ending = strrchr(path, '.');
    bool json = ending && strcmp(ending, ".json") == 0, csv = ending && strcmp(ending, ".csv") == 0;
    struct output_file file = {0};
    if (!ending || (!json && !csv && strcmp(ending, ".txt") != 0)) {
        return status_fail(-EINVAL, "%s: expected a name that ends in .txt, .csv or .json", path);
    }
    if (csv && ui->view == VIEW_WHATIF) {
        return status_fail(-EINVAL, "%s: scenarios are written as .json or .txt", path);
    }
    int error = output_file_open(&file, path);
    if (error) {
        return error;
    }
    struct table table = {.stream = file.stream, .json = json};
    if (json && ui->view == VIEW_WHATIF) {
        whatif_write_json(ui->whatif, file.stream);
    } else if (json || csv) {
        fputs(json ? "[" : "", file.stream);
        write_figures(&table, state, ui);
        fputs(json ? "\n]\n" : "", file.stream);
    } else {
        fputs(screen, file.stream);
    }
    return output_file_commit(&file);
}
