// cli/plan_print.c - how rows of a plan look, see plan_rows.h.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/html.h"
#include "cli/plan_grid.h"
#include "cli/plan_rows.h"
#include "engine/status.h"

// Columns behind those of the axes.
static const struct table_column columns[] = {
    {"replicas", "replicas", 0},
    {"devices", "devices", 0},
    {"ttft_ms", "TTFT ms", 1},
    {"tpot_ms", "TPOT ms", 2},
    {"slo_percent", "in SLO %", 1},
    {"goodput_per_s", "goodput/s", 3},
    {"output_tokens_per_s", "out tok/s", 1},
    {"headroom", "headroom x", 2},
    {"busy_percent", "busy %", 1},
    {"kv_percent", "KV %", 1},
    {"dollars_per_hour", "$/h", 2},
    {"dollars_per_million_by_use", "$/M used", 3},
    {"dollars_per_million_reserved", "$/M held", 3},
    {"watt_hours_per_million_by_use", "Wh/M used", 1},
    {"binds", "binds first", -1},
    {"provenance", "figures", -1},
    {"verdict", "verdict", -1},
};

enum { N_COLUMNS = sizeof columns / sizeof columns[0], BINDS_WIDTH = 22, FIGURES_WIDTH = 12 };

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

// A number of the question, which has them as text; 0 where it has none.
static double asked(const struct plan_rows *rows, const char *key)
{
    return strtod(text_of(rows->question, key), NULL);
}

static bool is_swept(const struct plan_rows *rows, const char *name)
{
    const json_t *axis;
    size_t i;
    json_array_foreach(json_object_get(rows->question, "axes"), i, axis)
    {
        if (strcmp(text_of(axis, "name"), name) == 0) {
            return true;
        }
    }
    return false;
}

// What an axis sweeps stands in its column.
void plan_rows_head(const struct plan_rows *rows, FILE *out)
{
    const json_t *question = rows->question;
    double rate = asked(rows, "rate_per_s") > 0 ? asked(rows, "rate_per_s") : asked(rows, "workload_rate_per_s");
    double ttft_s = asked(rows, "slo_ttft_s"), tpot_ms = asked(rows, "slo_tpot_ms");
    const char *calibration = text_of(question, "calibration");
    fprintf(out, "%s, %s: %.0f requests", text_of(question, "model"), text_of(question, "workload"),
            asked(rows, "requests"));
    if (asked(rows, "users") > 0) {
        fprintf(out, " of %.0f users", asked(rows, "users"));
    } else if (rate > 0 && !is_swept(rows, "rate")) {
        fprintf(out, " at %.4g/s", rate);
    }
    if (ttft_s > 0 && !is_swept(rows, "slo-ttft")) {
        fprintf(out, "; TTFT P%g <= %g s", asked(rows, "slo_ttft_percent"), ttft_s);
    }
    if (tpot_ms > 0 && !is_swept(rows, "slo-tpot")) {
        fprintf(out, "; TPOT P%g <= %g ms", asked(rows, "slo_tpot_percent"), tpot_ms);
    }
    if (!is_swept(rows, "router")) {
        fprintf(out, "; %s router", text_of(question, "router"));
    }
    fprintf(out, "; %s%s\n", calibration[0] ? "calibrated by " : "roofline: no kernel is faster", calibration);
}

struct table *plan_rows_table(const struct plan_rows *rows)
{
    const json_t *axes = json_object_get(rows->question, "axes"), *axis, *value;
    struct table_column all[PLAN_MAX_AXES + N_COLUMNS];
    int32_t n = 0;
    size_t i, v;
    json_array_foreach(axes, i, axis)
    {
        const char *name = text_of(axis, "name");
        all[n++] = (struct table_column){name, name, -1};
    }
    memcpy(all + n, columns, sizeof columns);
    struct table *table = table_open("plan", all, n + N_COLUMNS);
    if (!table) {
        return NULL;
    }
    json_array_foreach(axes, i, axis)
    {
        json_array_foreach(json_object_get(axis, "values"), v, value)
        {
            table_widen(table, text_of(axis, "name"), (int32_t)json_string_length(value));
        }
    }
    table_widen(table, "binds", BINDS_WIDTH);
    table_widen(table, "provenance", FIGURES_WIDTH);
    return table;
}

void plan_rows_show(struct table *table, const struct plan_rows *rows, int64_t index)
{
    const json_t *row = rows->rows[index], *axis;
    size_t i;
    table_row(table);
    json_array_foreach(json_object_get(rows->question, "axes"), i, axis)
    {
        table_text(table, text_of(axis, "name"), text_of(row, text_of(axis, "name")));
    }
    for (size_t c = 0; c < N_COLUMNS; c++) {
        const json_t *cell = json_object_get(row, columns[c].key);
        if (json_is_number(cell)) {
            table_number(table, columns[c].key, json_number_value(cell));
        } else if (json_is_string(cell)) {
            table_text(table, columns[c].key, json_string_value(cell));
        }
    }
    if (json_is_true(json_object_get(row, "headroom_open"))) {
        char text[32];
        snprintf(text, sizeof text, ">= %.0f", json_number_value(json_object_get(row, "headroom")));
        table_text(table, "headroom", text);
    }
}

void plan_rows_show_all(struct table *table, const struct plan_rows *rows)
{
    for (int64_t i = 0; i < rows->n; i++) {
        if (rows->rows[i]) {
            plan_rows_show(table, rows, i);
        }
    }
}

static void print_name(const struct plan_rows *rows, const json_t *row, FILE *out)
{
    const json_t *axes = json_object_get(rows->question, "axes"), *axis;
    size_t i;
    fprintf(out, "%s on %s", text_of(row, "method"), text_of(row, "device"));
    json_array_foreach(axes, i, axis)
    {
        const char *name = text_of(axis, "name");
        if (strcmp(name, "method") != 0 && strcmp(name, "device") != 0) {
            fprintf(out, ", %s %s", name, text_of(row, name));
        }
    }
}

// The row that costs least per hour, or where no price is known takes fewest devices.
static int64_t cheapest(const struct plan_rows *rows, const char *key)
{
    int64_t best = -1;
    double least = INFINITY;
    for (int64_t i = 0; i < rows->n; i++) {
        const json_t *cell = rows->rows[i] ? json_object_get(rows->rows[i], key) : NULL;
        if (json_is_number(cell) && json_number_value(cell) < least) {
            least = json_number_value(cell);
            best = i;
        }
    }
    return best;
}

void plan_rows_notes(const struct plan_rows *rows, FILE *out)
{
    bool brief = false;
    for (int64_t i = 0; i < rows->n; i++) {
        const json_t *row = rows->rows[i];
        if (row && text_of(row, "why")[0]) {
            print_name(rows, row, out);
            fprintf(out, ": %s\n", text_of(row, "why"));
        }
        brief = brief || (row && json_is_true(json_object_get(row, "short_run")));
    }
    int64_t best = cheapest(rows, "dollars_per_hour");
    bool priced = best >= 0;
    best = priced ? best : cheapest(rows, "devices");
    if (best >= 0 && plan_rows_count(rows) > 1) {
        fputs(priced ? "Least per hour: " : "Fewest devices: ", out);
        double devices = json_number_value(json_object_get(rows->rows[best], "devices"));
        print_name(rows, rows->rows[best], out);
        fprintf(out, ", %.0f device%s\n", devices, devices == 1 ? "" : "s");
    }
    if (brief) {
        fputs("Some workloads end before their fleet has settled (arrivals last less than three mean answers): raise "
              "--requests.\n", out);
    }
    fprintf(out,
            "replicas: the fewest that keep the limits. TTFT: P%g, TPOT: P%g of all requests. headroom: so many times\n"
            "the load would still be within, and what binds first beyond. $/M: per million output tokens; used: of\n"
            "time in steps, held: of all time from the first arrival to the last token.\n"
            "Where sequences bind first, --max-seqs lets more run at once on a replica.\n",
            asked(rows, "slo_ttft_percent"), asked(rows, "slo_tpot_percent"));
}

static void print_head(const void *rows, FILE *out)
{
    plan_rows_head(rows, out);
}

static void print_notes(const void *rows, FILE *out)
{
    plan_rows_notes(rows, out);
}

int plan_rows_report(const struct plan_rows *rows, const char *path)
{
    static const struct {
        const char *caption, *key, *title;
    } charts[] = {{"Fleets", "dollars_per_hour", "$ per hour"},
                  {"Cost, held", "dollars_per_million_reserved", "$ per million output tokens"}};
    const json_t *axes = json_object_get(rows->question, "axes");
    struct table *table = plan_rows_table(rows);
    struct html *html;
    int error = table ? html_open(&html, path, "clsa plan") : status_fail(-ENOMEM, "no memory for a table");
    if (error) {
        table_close(table);
        return error;
    }
    plan_rows_show_all(table, rows);
    html_print(html, print_head, rows);
    html_table(html, "The smallest fleets", table);
    html_print(html, print_notes, rows);
    for (size_t i = 0; i < sizeof charts / sizeof charts[0]; i++) {
        struct html_bars bars = {.caption = charts[i].caption, .part = "method", .value = charts[i].key,
                                 .value_title = charts[i].title};
        for (size_t a = 0; a < json_array_size(axes) && bars.n_by < HTML_MAX_BY; a++) {
            bars.by[bars.n_by++] = text_of(json_array_get(axes, a), "name");
        }
        html_bars(html, table, &bars);
    }
    table_close(table);
    return html_close(html);
}

void plan_rows_print_json(const struct plan_rows *rows, FILE *out)
{
    json_t *root = json_object(), *list = json_array();
    for (int64_t i = 0; i < rows->n; i++) {
        if (rows->rows[i]) {
            json_array_append(list, rows->rows[i]);
        }
    }
    json_object_set(root, "question", rows->question);
    json_object_set_new(root, "plan", list);
    json_dumpf(root, out, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    fputc('\n', out);
    json_decref(root);
}
