// tui/view_requests.c - the requests: who waits, who runs, how long each took; and the life of the selected one.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/request_list.h"
#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

static const struct view_column columns[REQUEST_COLUMN_COUNT] = {
    {"  request", 20, 0}, {"state", 8, 1}, {"prompt", 7, 6}, {"output", 7, 5}, {"queued", 8, 4},
    {"TTFT", 8, 2}, {"TPOT", 8, 3}, {"total", 8, 7}, {"restarts", 8, 8},
};

static void format_seconds(char *text, double seconds)
{
    format_time_ns(text, seconds * 1e9);
}

static enum role phase_role(enum request_phase phase)
{
    static const enum role roles[] = {ROLE_WARN, ROLE_ACCENT, ROLE_GOOD, ROLE_DIM};
    return roles[phase];
}

static void put_row(struct cells *cells, struct rect clip, int32_t line, const bool *shown,
                    const struct request_log *log, const struct request_row *row, bool here)
{
    char texts[REQUEST_COLUMN_COUNT][FORMAT_BYTES];
    snprintf(texts[REQUEST_COLUMN_NAME], FORMAT_BYTES, "%s %lld %.16s", here ? "\u25b8" : " ",
             (long long)row->request % 100000000, request_log_source_name(log, row->source));
    strcpy(texts[REQUEST_COLUMN_STATE], request_phase_name(row->phase));
    format_whole(texts[REQUEST_COLUMN_PROMPT], row->prompt_tokens);
    format_whole(texts[REQUEST_COLUMN_OUTPUT], row->output_tokens > 0 ? (double)row->output_tokens : (double)NAN);
    format_seconds(texts[REQUEST_COLUMN_QUEUE], request_queue_s(row));
    format_seconds(texts[REQUEST_COLUMN_TTFT], request_ttft_s(row));
    format_seconds(texts[REQUEST_COLUMN_TPOT], request_tpot_s(row));
    format_seconds(texts[REQUEST_COLUMN_TOTAL], request_total_s(row));
    format_whole(texts[REQUEST_COLUMN_RESTARTS], row->restarts);
    struct pen pen = {here ? ROLE_TEXT : phase_role(row->phase), 0};
    pen.attributes = here ? ATTRIBUTE_BOLD | ATTRIBUTE_REVERSE : 0;
    view_columns_row(cells, clip, line, columns, REQUEST_COLUMN_COUNT, shown, texts, pen);
}

// The request's life as a bar from its submission to its end, or to now.
static void draw_life(struct cells *cells, struct rect clip, const struct request_row *row, int64_t now_ns)
{
    static const struct { char letter; enum role role; } parts[] = {
        {'q', ROLE_WARN}, {'p', ROLE_ACCENT}, {'d', ROLE_GOOD}};
    int64_t bounds[] = {row->submitted_ns, row->running_ns, row->first_token_ns, row->finished_ns};
    int64_t end_ns = row->finished_ns >= 0 ? row->finished_ns : now_ns;
    double total = (double)(end_ns - row->submitted_ns);
    for (int part = 0; part < 3 && total > 0 && bounds[part] >= 0; part++) {
        int64_t to_ns = bounds[part + 1] >= 0 ? bounds[part + 1] : end_ns;
        int32_t from = (int32_t)lround((double)(bounds[part] - row->submitted_ns) / total * clip.cols);
        int32_t to = (int32_t)lround((double)(to_ns - row->submitted_ns) / total * clip.cols);
        struct pen pen = {parts[part].role, (uint8_t)(cells->color ? ATTRIBUTE_REVERSE : 0)};
        for (int32_t col = from; col < to && col < clip.cols; col++) {
            bool lettered = col == from || !cells->color;
            cells_put(cells, clip, 1, col, (uint32_t)(lettered ? parts[part].letter : ' '), pen);
        }
    }
}

static void draw_detail(struct cells *cells, const struct layout *layout, const struct state *state,
                        const struct request_row *row)
{
    struct rect inside = layout_inside(layout, layout->detail);
    char line[256], queue[FORMAT_BYTES], ttft[FORMAT_BYTES], tpot[FORMAT_BYTES], prefill[FORMAT_BYTES];
    if (layout->framed) {
        cells_frame(cells, layout->detail, row ? "Its life" : "No request");
    }
    if (!row) {
        return;
    }
    bool began = row->running_ns >= 0 && row->first_token_ns >= 0;
    format_seconds(queue, request_queue_s(row));
    format_seconds(ttft, request_ttft_s(row));
    format_seconds(tpot, request_tpot_s(row));
    format_seconds(prefill, began ? (double)(row->first_token_ns - row->running_ns) * 1e-9 : NAN);
    snprintf(line, sizeof line, "request %lld of %s: %s, %d prompt tokens", (long long)row->request,
             request_log_source_name(state_requests(state), row->source), request_phase_name(row->phase),
             row->prompt_tokens);
    cells_text_fit(cells, inside, 0, 0, inside.cols, (struct pen){ROLE_TEXT, ATTRIBUTE_BOLD}, line);
    draw_life(cells, inside, row, state_last_ns(state));
    snprintf(line, sizeof line, "queued %s, prefill %s, first token after %s, then %s per token; Enter: its timeline",
             queue, prefill, ttft, tpot);
    cells_text_fit(cells, inside, 2, 0, inside.cols, inside.rows > 2 ? text_pen : dim_pen, line);
}

void view_requests(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    int64_t rows[REQUEST_LOG_ROWS];
    const struct request_log *log = state_requests(state);
    int32_t *sort = &ui->sort[VIEW_REQUESTS];
    *sort = *sort < REQUEST_COLUMN_COUNT ? *sort : REQUEST_COLUMN_COUNT - 1;
    int32_t n = request_list(log, ui->filter[VIEW_REQUESTS], *sort, ui->reverse, rows);
    int32_t selected = request_list_find(rows, n, ui->request);
    struct rect inside = layout_inside(layout, layout->table);
    bool shown[REQUEST_COLUMN_COUNT];
    char title[96];
    view_columns_fit(columns, REQUEST_COLUMN_COUNT, inside.cols, shown);
    snprintf(title, sizeof title, "Requests: %d of %lld", n,
             (long long)(request_log_end(log) - request_log_first(log)));
    if (layout->framed) {
        cells_frame(cells, layout->table, title);
    }
    view_columns_title(cells, inside, columns, REQUEST_COLUMN_COUNT, shown, *sort, ui->reverse);
    int32_t room = inside.rows - 1, most = n > room ? n - room : 0;
    int32_t first = selected < ui->scroll ? selected : selected >= ui->scroll + room ? selected - room + 1 : ui->scroll;
    ui->scroll = first < most ? first : most;
    for (int32_t i = 0; i < room && ui->scroll + i < n; i++) {
        int32_t at = ui->scroll + i;
        put_row(cells, inside, 1 + i, shown, log, request_log_row(log, rows[at]), at == selected);
    }
    if (layout->detail.rows > 0) {
        draw_detail(cells, layout, state, n > 0 ? request_log_row(log, rows[selected]) : NULL);
    }
}

void note_requests(char *note, const struct state *state, const struct ui *ui)
{
    const struct request_log *log = state_requests(state);
    struct request_percentiles percentiles;
    int64_t count[REQUEST_PHASE_DONE + 1] = {0};
    (void)ui;
    for (int64_t i = request_log_first(log); i < request_log_end(log); i++) {
        count[request_log_row(log, i)->phase]++;
    }
    if (request_log_end(log) == 0) {
        snprintf(note, NOTE_BYTES, "No request yet.");
        return;
    }
    char median[FORMAT_BYTES], tail[FORMAT_BYTES], tpot[FORMAT_BYTES];
    request_log_percentiles(log, -1, &percentiles);
    format_seconds(median, percentiles.ttft_s[0]);
    format_seconds(tail, percentiles.ttft_s[2]);
    format_seconds(tpot, percentiles.tpot_s[0]);
    snprintf(note, NOTE_BYTES, "%lld queued, %lld running, %lld done. TTFT P50 %s, P99 %s; TPOT P50 %s.",
             (long long)count[REQUEST_PHASE_QUEUED],
             (long long)(count[REQUEST_PHASE_PREFILL] + count[REQUEST_PHASE_DECODE]),
             (long long)count[REQUEST_PHASE_DONE], median, tail, tpot);
}
