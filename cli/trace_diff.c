// cli/trace_diff.c - clsa trace diff: which stage got slower or faster from one recording to another.
//
// For a pipeline: --fail-over PERCENT makes the exit status 1 where a row is slower by more than that and by more than
// chance. What was compared and how it was judged: traces/diff.h, traces/ratio_test.h.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/table.h"
#include "cli/trace_verbs.h"
#include "engine/status.h"
#include "traces/diff.h"
#include "traces/kernel_name.h"
#include "traces/trace.h"

enum { KERNEL_NAME_BYTES = 256, MAX_FAIL_PERCENT = 1000000 };

struct diff {
    const char *method, *sort;
    double fail_over;    // percent; negative: never
    bool json, kernels, whole_names, changed;
    struct diff_side *sides[2];
    struct diff_row *rows;
    int32_t n;
};

static const struct table_column columns[] = {
    {"method", "method", -1},
    {"phase", "phase", -1},
    {"stage", "stage", -1},
    {"kernel", "kernel", -1},
    {"count_a", "n A", 0},
    {"count_b", "n B", 0},
    {"median_a_us", "median A us", 2},
    {"median_b_us", "median B us", 2},
    {"change_percent", "change %", 2},
    {"low_percent", "from", 2},
    {"high_percent", "to", 2},
    {"p", "p", 4},
    {"compared", "as", -1},
    {"verdict", "verdict", -1},
};

static void add_row(struct table *table, const struct diff *diff, const struct diff_row *row)
{
    char name[KERNEL_NAME_BYTES];
    table_row(table);
    table_text(table, "method", row->method);
    table_text(table, "phase", row->in_step ? phase_name(row->phase) : "none");
    table_text(table, "stage", row->kernel && row->part == STAGE_COUNT ? "none" : diff_part_name(row->part));
    if (row->kernel) {
        kernel_short_name(name, sizeof name, row->kernel);
        table_text(table, "kernel", diff->whole_names ? row->kernel : name);
    }
    table_number(table, "count_a", (double)row->n_a);
    table_number(table, "count_b", (double)row->n_b);
    table_number(table, "median_a_us", row->n_a > 0 ? 1e-3 * (double)row->median_a_ns : NAN);
    table_number(table, "median_b_us", row->n_b > 0 ? 1e-3 * (double)row->median_b_ns : NAN);
    if (row->verdict <= DIFF_FASTER) {
        table_number(table, "change_percent", 100 * (row->test.ratio - 1));
        table_number(table, "low_percent", 100 * (row->test.low - 1));
        table_number(table, "high_percent", 100 * (row->test.high - 1));
        table_number(table, "p", row->test.p);
        table_text(table, "compared", row->paired ? "pairs" : "sets");
    }
    table_text(table, "verdict", diff_verdict_name(row->verdict));
}

// What a row adds to the time of one step, or in all for kernels: most first. What is in one only comes last.
static double weight(const struct diff_row *row)
{
    double change_ns = fabs((double)row->median_b_ns - (double)row->median_a_ns);
    return row->verdict > DIFF_FASTER ? -1 : row->kernel ? change_ns * (double)row->n_b : change_ns;
}

static int by_weight(const void *left, const void *right)
{
    const struct diff_row *a = left, *b = right;
    double x = weight(a), y = weight(b);
    if ((a->kernel == NULL) != (b->kernel == NULL)) {
        return a->kernel ? 1 : -1;
    }
    return (x < y) - (x > y);
}

static bool shown(const struct diff *diff, const struct diff_row *row)
{
    return (!diff->method || strcmp(row->method, diff->method) == 0) &&
           (!diff->changed || row->verdict != DIFF_SAME);
}

static int print(const struct diff *diff)
{
    struct table *table = table_open("diff", columns, sizeof columns / sizeof columns[0]);
    if (!table) {
        return status_fail(-ENOMEM, "out of memory for a table");
    }
    for (int32_t i = 0; i < diff->n; i++) {
        if (shown(diff, &diff->rows[i])) {
            add_row(table, diff, &diff->rows[i]);
        }
    }
    (diff->json ? table_print_json : table_print)(table, stdout);
    table_close(table);
    if (!diff->json) {
        puts("\nTimes of a stage are summed over the layers of a step; kernels are single launches. change: of B over\n"
             "A, with its interval of 95%. as pairs: both ran the same shapes step for step (Wilcoxon's signed\n"
             "ranks); as sets: they did not (Mann and Whitney's test). p: of a difference so large by chance, for all\n"
             "rows asked at once (Holm); slower and faster: p < 0.05. One run each says nothing of how much runs\n"
             "differ.");
    }
    return 0;
}

// The rows that --fail-over is about: how many, and the worst of them.
static int judge(const struct diff *diff)
{
    const struct diff_row *worst = NULL;
    int32_t n = 0;
    for (int32_t i = 0; i < diff->n && diff->fail_over >= 0; i++) {
        const struct diff_row *row = &diff->rows[i];
        bool over = row->verdict == DIFF_SLOWER && row->test.ratio > 1 + 0.01 * diff->fail_over;
        if (over && (!diff->method || strcmp(row->method, diff->method) == 0)) {
            n++;
            worst = worst && worst->test.ratio > row->test.ratio ? worst : row;
        }
    }
    if (!worst) {
        return EXIT_DONE;
    }
    char name[KERNEL_NAME_BYTES] = "";
    if (worst->kernel) {
        kernel_short_name(name, sizeof name, worst->kernel);
    }
    const char *part = worst->part == STAGE_COUNT && worst->kernel ? "none" : diff_part_name(worst->part);
    fprintf(stderr, "clsa trace diff: slower by more than %g%%: %d rows, most %s %s %s%s%s by %.1f%%\n",
            diff->fail_over, n, worst->method, phase_name(worst->phase), part, name[0] ? " " : "", name,
            100 * (worst->test.ratio - 1));
    return EXIT_FAILED;
}

static int compare(struct diff *diff, char **paths)
{
    bool by_time = strcmp(diff->sort, "time") == 0;
    if (!by_time && strcmp(diff->sort, "order") != 0) {
        return status_fail(-EINVAL, "--sort %s: expected order or time", diff->sort);
    }
    for (int i = 0; i < 2; i++) {
        int error = diff_side_open(&diff->sides[i], diff->kernels);
        if (!error) {
            struct sample_sink sink = diff_side_sink(diff->sides[i]);
            error = trace_read(paths[i], &sink, NULL);
        }
        if (error) {
            return error;
        }
    }
    int error = diff_compare(&diff->rows, &diff->n, diff->sides[0], diff->sides[1]);
    bool found = !diff->method;
    for (int32_t i = 0; i < diff->n && !error; i++) {
        found = found || strcmp(diff->rows[i].method, diff->method) == 0;
    }
    if (!error && !found) {
        error = status_fail(-EINVAL, "--method %s: neither in %s nor in %s", diff->method, paths[0], paths[1]);
    }
    if (!error && by_time) {
        qsort(diff->rows, (size_t)diff->n, sizeof *diff->rows, by_weight);
    }
    return error ? error : print(diff);
}

int trace_diff(int argc, char **argv)
{
    struct diff diff = {.sort = "order", .fail_over = -1};
    const struct option_spec options[] = {
        {"method", OPTION_TEXT, &diff.method, 0, 0, "NAME", "only this method"},
        {"kernels", OPTION_FLAG, &diff.kernels, 0, 0, NULL, "also kernel by kernel"},
        {"whole-names", OPTION_FLAG, &diff.whole_names, 0, 0, NULL, "kernels' names as recorded, not shortened"},
        {"changed", OPTION_FLAG, &diff.changed, 0, 0, NULL, "leave out rows that are the same"},
        {"sort", OPTION_TEXT, &diff.sort, 0, 0, "order|time", "of rows; time: what changes a step most comes first"},
        {"fail-over", OPTION_REAL, &diff.fail_over, 0, MAX_FAIL_PERCENT, "percent",
         "exit 1 if a row is slower by more than that, beyond chance; -1: never"},
        {"json", OPTION_FLAG, &diff.json, 0, 0, NULL, "print JSON"},
        {.kind = OPTION_END},
    };
    const struct command_spec spec = {
        "trace diff", "Which stage got slower or faster from recording A to recording B.", "A B", 2, 2, options,
    };
    int32_t n;
    int error = options_parse(&spec, argc, argv, &n);
    if (error) {
        return error > 0 ? EXIT_DONE : command_fail("trace diff", error);
    }
    error = compare(&diff, argv + 1);
    int status = error ? command_fail("trace diff", error) : judge(&diff);
    free(diff.rows);
    diff_side_close(diff.sides[0]);
    diff_side_close(diff.sides[1]);
    return status;
}
