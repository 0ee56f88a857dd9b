// tui/view_whatif.c - knobs on the left, what the simulator answers on the right, pinned scenarios below.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

static void draw_knobs(struct cells *cells, const struct layout *layout, const struct ui *ui)
{
    const struct whatif *whatif = ui->whatif;
    struct rect inside = layout_inside(layout, layout->table);
    if (layout->framed) {
        cells_frame(cells, layout->table, "What if");
    }
    int32_t first = whatif->knob >= inside.rows ? whatif->knob - inside.rows + 1 : 0;
    for (int32_t row = 0; row < inside.rows && first + row < KNOB_N; row++) {
        enum knob knob = (enum knob)(first + row);
        bool here = (int32_t)knob == whatif->knob;
        char text[64];
        whatif_value(whatif, &whatif->now, &whatif->answer, knob, text, sizeof text);
        cells_text(cells, inside, row, 0, here ? (struct pen){ROLE_ACCENT, ATTRIBUTE_BOLD} : dim_pen, knob_name(knob));
        if (here) {
            cells_put(cells, inside, row, 12, 0x25b8, (struct pen){ROLE_ACCENT, ATTRIBUTE_BOLD});
        }
        int32_t width = inside.cols - 13;
        struct pen pen = {ROLE_TEXT, here ? ATTRIBUTE_REVERSE | ATTRIBUTE_BOLD : 0};
        cells_text_fit(cells, inside, row, 13, width, pen, text);
    }
}

struct line {
    const char *name;
    char value[FORMAT_BYTES], ratio[FORMAT_BYTES];    // ratio: to the first pinned scenario
};

enum { N_LINES = 11 };

static void set_line(struct line *line, const char *name, void format(char *, double), double value, double base)
{
    line->name = name;
    format(line->value, value);
    format_ratio(line->ratio, value / base);
}

static void format_seconds(char *text, double seconds)
{
    format_time_ns(text, seconds * 1e9);
}

static void format_dollars(char *text, double value)
{
    snprintf(text, FORMAT_BYTES, isfinite(value) ? "$%.3g" : "-", value);
}

static double tpot_s(const struct scenario *scenario, const struct scenario_answer *answer)
{
    return answer->request.decode_s / (scenario->knobs[KNOB_OUTPUT] - 1);
}

static void lines_of(struct line *lines, const struct whatif *whatif)
{
    const struct scenario_answer *answer = &whatif->answer;
    const struct scenario_answer *base = whatif->n_pinned > 0 && whatif->pinned_answers[0].valid
                                             ? &whatif->pinned_answers[0] : answer;
    const struct scenario *from = base == answer ? &whatif->now : &whatif->pinned[0];
    const struct request_prediction *a = &answer->request, *b = &base->request;
    set_line(&lines[0], "decode tok/s, all", format_number, answer->decode_tokens_per_s, base->decode_tokens_per_s);
    set_line(&lines[1], "first token, mean", format_seconds, a->ttft_s, b->ttft_s);
    set_line(&lines[2], "per output token", format_seconds, tpot_s(&whatif->now, answer), tpot_s(from, base));
    set_line(&lines[3], "prefill of one", format_seconds, a->prefill_s, b->prefill_s);
    set_line(&lines[4], "end to end", format_seconds, a->end_to_end_s, b->end_to_end_s);
    set_line(&lines[5], "KV per sequence", format_bytes, (double)a->kv_bytes_per_seq, (double)b->kv_bytes_per_seq);
    set_line(&lines[6], "weights", format_bytes, (double)a->weight_bytes, (double)b->weight_bytes);
    set_line(&lines[7], "weights and KV", format_bytes, (double)a->total_bytes, (double)b->total_bytes);
    set_line(&lines[8], "sequences that fit", format_whole, a->max_seqs < 0 ? NAN : (double)a->max_seqs,
             (double)b->max_seqs);
    set_line(&lines[9], "per 1M output tok", format_dollars, answer->price_per_million, base->price_per_million);
    lines[10] = (struct line){.name = "figures"};
    snprintf(lines[10].value, FORMAT_BYTES, "%s", provenance_name(a->provenance));
}

// A predicted step as the overview shows a measured one.
static void put_stack(struct cells *cells, struct rect clip, int32_t row, const char *name,
                      const struct step_prediction *step)
{
    struct phase_summary summary = {.mean_ns = step->seconds * 1e9};
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        summary.stages[stage].mean_ns = step->stages[stage].seconds * 1e9;
    }
    enum { NAME_COLS = 9 };
    cells_text(cells, clip, row, 0, dim_pen, name);
    struct rect bar = {clip.row + row, clip.col + NAME_COLS, row < clip.rows ? 1 : 0, clip.cols - NAME_COLS};
    view_stack(cells, bar, 0, bar.cols, &summary);
}

// The fleet that was looked for, in two lines.
static void draw_fleet(struct cells *cells, struct rect clip, int32_t row, const struct whatif *whatif,
                       const struct job_report *report)
{
    const struct planner_answer *answer = &report->answer;
    char line[512], label[160], ttft[FORMAT_BYTES], tpot[FORMAT_BYTES], price[FORMAT_BYTES], hour[FORMAT_BYTES];
    int32_t devices = answer->replicas * whatif->job_scenario.knobs[KNOB_RANKS];
    whatif_label(whatif, &whatif->job_scenario, label, sizeof label);
    label[strcspn(label, ",")] = 0;    // the method and its k: the load is the workload's
    if (answer->verdict != PLANNER_MEETS) {
        snprintf(line, sizeof line, "%s, %s: %s", label, report->workload, planner_verdict_name(answer->verdict));
        cells_text_fit(cells, clip, row, 0, clip.cols, (struct pen){ROLE_WARN, ATTRIBUTE_BOLD}, line);
        const char *why = strstr(answer->why, ": ");    // behind the verdict, which stands above
        cells_text_fit(cells, clip, row + 1, 0, clip.cols, text_pen, why ? why + 2 : answer->why);
        return;
    }
    format_seconds(ttft, answer->ttft_s);
    format_seconds(tpot, answer->tpot_s);
    format_dollars(hour, answer->dollars_per_hour > 0 ? answer->dollars_per_hour : NAN);
    format_dollars(price, answer->dollars_per_hour > 0 ? answer->dollars_by_reservation : NAN);
    snprintf(line, sizeof line, "%s, %s: %d device%s, %s an hour, %s per 1M output tok", label, report->workload,
             devices, devices == 1 ? "" : "s", hour, price);
    cells_text_fit(cells, clip, row, 0, clip.cols, (struct pen){ROLE_GOOD, ATTRIBUTE_BOLD}, line);
    snprintf(line, sizeof line, "P95: TTFT %s, TPOT %s; %s%.3gx the load, then %s binds", ttft, tpot,
             answer->headroom_open ? "more than " : "", answer->headroom, answer->binds);
    cells_text_fit(cells, clip, row + 1, 0, clip.cols, text_pen, line);
}

// The simulated workload, in at most two lines.
static void draw_job(struct cells *cells, struct rect clip, int32_t row, const struct whatif *whatif)
{
    struct job_report report;
    char line[512], ttft[FORMAT_BYTES], tail[FORMAT_BYTES], tpot[FORMAT_BYTES], rate[FORMAT_BYTES];
    whatif_job_report(whatif->job, &report);
    switch (report.state) {
    case JOB_NONE:
        cells_text_fit(cells, clip, row, 0, clip.cols, dim_pen, "w simulates the workload; P finds the smallest fleet");
        return;
    case JOB_FAILED:
        snprintf(line, sizeof line, "%s: %s", report.workload, report.error);
        cells_text_fit(cells, clip, row, 0, clip.cols, (struct pen){ROLE_BAD, 0}, line);
        return;
    case JOB_CANCELLED:
        snprintf(line, sizeof line, report.fleet ? "%s: cancelled" : "%s: cancelled after %lld requests",
                 report.workload, (long long)report.finished);
        cells_text_fit(cells, clip, row, 0, clip.cols, dim_pen, line);
        return;
    case JOB_RUNNING: {
        if (report.fleet) {
            snprintf(line, sizeof line, "%s: seeking a fleet (x cancels)", report.workload);
            cells_text_fit(cells, clip, row, 0, clip.cols, text_pen, line);
            return;
        }
        double part = report.total > 0 ? (double)report.finished / (double)report.total : 0;
        int length = snprintf(line, sizeof line, "%s %3.0f%% ", report.workload, 100 * part);
        cells_text_fit(cells, clip, row, 0, clip.cols, text_pen, line);
        cells_bar(cells, clip, row, length, clip.cols - length, part, (struct pen){ROLE_ACCENT, 0});
        return;
    }
    case JOB_DONE: break;
    }
    if (report.fleet) {
        draw_fleet(cells, clip, row, whatif, &report);
        return;
    }
    const struct serve_metrics *metrics = &report.metrics;
    format_seconds(ttft, metrics->ttft_s.p50);
    format_seconds(tail, metrics->ttft_s.p99);
    format_seconds(tpot, metrics->tpot_s.p50);
    format_number(rate, metrics->output_tokens_per_s);
    snprintf(line, sizeof line, "%s: %s, %lld of %lld done", report.workload, saturation_name(metrics->saturation),
             (long long)metrics->finished, (long long)metrics->requests);
    cells_text_fit(cells, clip, row, 0, clip.cols,
                   (struct pen){metrics->saturation == SATURATION_STABLE ? ROLE_GOOD : ROLE_WARN, ATTRIBUTE_BOLD},
                   line);
    snprintf(line, sizeof line, "TTFT %s, P99 %s; TPOT %s; %s tok/s each", ttft, tail, tpot, rate);
    cells_text_fit(cells, clip, row + 1, 0, clip.cols, text_pen, line);
}

static void draw_answer(struct cells *cells, const struct layout *layout, const struct ui *ui)
{
    const struct whatif *whatif = ui->whatif;
    struct rect inside = layout_inside(layout, layout->bars);
    struct line lines[N_LINES];
    char title[160] = "Answer";
    whatif_label(whatif, &whatif->now, title, sizeof title);
    if (layout->framed) {
        cells_frame(cells, layout->bars, title);
    }
    if (!whatif->answer.valid) {
        cells_text_fit(cells, inside, 0, 0, inside.cols, (struct pen){ROLE_BAD, ATTRIBUTE_BOLD}, whatif->answer.why);
        return;
    }
    lines_of(lines, whatif);
    int32_t below = inside.rows >= N_LINES + 2 ? 4 : 2;    // the bars, and the workload's two lines
    int32_t columns = inside.cols >= 96 ? 2 : 1, rows = (N_LINES + columns - 1) / columns;
    rows = rows < inside.rows - below ? rows : inside.rows - below;
    int32_t width = (inside.cols - 3 * (columns - 1)) / columns;
    for (int32_t i = 0; i < N_LINES && i < rows * columns; i++) {
        int32_t row = i % rows, col = i / rows * (width + 3);
        bool bad = i == 8 && !whatif->answer.fits;
        cells_text(cells, inside, row, col, dim_pen, lines[i].name);
        cells_text_right(cells, inside, row, col + 31,
                         (struct pen){bad ? ROLE_BAD : ROLE_TEXT, i == 0 || bad ? ATTRIBUTE_BOLD : 0}, lines[i].value);
        if (whatif->n_pinned > 0 && width >= 40) {
            cells_text_right(cells, inside, row, col + 40, dim_pen, lines[i].ratio);
        }
    }
    if (below == 4 && rows + 2 < inside.rows) {
        put_stack(cells, inside, inside.rows - 4, "prefill", &whatif->answer.request.prefill);
        put_stack(cells, inside, inside.rows - 3, "decode", &whatif->answer.request.first_decode);
    }
    if (inside.rows >= 4) {
        draw_job(cells, inside, inside.rows - 2, whatif);
    }
}

enum { N_COLUMNS = 9 };
static const struct view_column columns[N_COLUMNS] = {
    {"  scenario", 36, 0}, {"tok/s", 8, 1}, {"TTFT", 8, 2}, {"per token", 9, 3}, {"KV/seq", 9, 4},
    {"fit", 6, 6}, {"$/1M", 7, 7}, {"speed-up", 8, 8}, {"fleet", 6, 5},
};

static void put_scenario(struct cells *cells, struct rect clip, int32_t row, const bool *shown,
                         const struct whatif *whatif, int32_t index)
{
    const struct scenario *scenario = index < 0 ? &whatif->now : &whatif->pinned[index];
    const struct scenario_answer *answer = index < 0 ? &whatif->answer : &whatif->pinned_answers[index];
    char texts[N_COLUMNS][FORMAT_BYTES] = {"", "-", "-", "-", "-", "-", "-", "-", "-"}, label[160];
    whatif_label(whatif, scenario, label, sizeof label);
    if (answer->valid) {
        format_number(texts[1], answer->decode_tokens_per_s);
        format_seconds(texts[2], answer->request.ttft_s);
        format_seconds(texts[3], tpot_s(scenario, answer));
        format_bytes(texts[4], (double)answer->request.kv_bytes_per_seq);
        format_whole(texts[5], answer->request.max_seqs < 0 ? NAN : (double)answer->request.max_seqs);
        format_dollars(texts[6], answer->price_per_million);
        format_whole(texts[8], answer->fleet > 0 ? (double)answer->fleet : NAN);
        if (whatif->n_pinned > 0 && whatif->pinned_answers[0].valid) {
            format_ratio(texts[7], answer->decode_tokens_per_s / whatif->pinned_answers[0].decode_tokens_per_s);
        }
    }
    struct pen pen = {.role = ROLE_TEXT, .attributes = (uint8_t)(index < 0 ? ATTRIBUTE_BOLD : 0)};
    view_columns_row(cells, clip, row, columns, N_COLUMNS, shown, texts, pen);
    cells_text(cells, clip, row, 0, pen, index < 0 ? "\u25b8" : " ");
    cells_text_fit(cells, clip, row, 2, columns[0].width - 2, pen, label);
}

static void draw_pinned(struct cells *cells, const struct layout *layout, const struct ui *ui)
{
    const struct whatif *whatif = ui->whatif;
    struct rect inside = layout_inside(layout, layout->detail);
    bool shown[N_COLUMNS];
    if (layout->framed) {
        cells_frame(cells, layout->detail, whatif->n_pinned > 0 ? "Pinned; ratios refer to the first"
                                                                : "Pinned: a keeps this scenario to compare with");
    }
    view_columns_fit(columns, N_COLUMNS, inside.cols, shown);
    view_columns_title(cells, inside, columns, N_COLUMNS, shown, -1, false);
    for (int32_t i = -1; i < whatif->n_pinned && i + 2 < inside.rows; i++) {
        put_scenario(cells, inside, i + 2, shown, whatif, i);
    }
}

void view_whatif(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    (void)state;
    if (!ui->whatif) {
        return;
    }
    draw_knobs(cells, layout, ui);
    if (layout->bars.rows > 0) {
        draw_answer(cells, layout, ui);
    }
    if (layout->detail.rows > 0) {
        draw_pinned(cells, layout, ui);
    }
}

void note_whatif(char *note, const struct state *state, const struct ui *ui)
{
    const struct whatif *whatif = ui->whatif;
    (void)state;
    if (!whatif || !whatif->answer.valid) {
        snprintf(note, NOTE_BYTES, "%s", whatif ? whatif->answer.why : "Nothing to predict with.");
        return;
    }
    const struct request_prediction *request = &whatif->answer.request;
    char rate[FORMAT_BYTES], ttft[FORMAT_BYTES], bytes[FORMAT_BYTES];
    format_number(rate, whatif->answer.decode_tokens_per_s);
    format_seconds(ttft, request->ttft_s);
    format_bytes(bytes, (double)request->kv_bytes_per_seq);
    int32_t greatest = -1;
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        if (greatest < 0 || request->first_decode.stages[stage].seconds >
                                request->first_decode.stages[greatest].seconds) {
            greatest = stage;
        }
    }
    snprintf(note, NOTE_BYTES, "%s tok/s, TTFT %s, KV %s each%s; decode waits for %s (%s).", rate, ttft,
             bytes, whatif->answer.fits ? "" : ": does not fit", stage_name((enum stage)greatest),
             bound_name(request->first_decode.stages[greatest].bound));
}
