// cli/eval_print.c - answers to shares, shares to rows. Unknown is "-", not 0.
#include "cli/eval_print.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/table.h"
#include "engine/status.h"

static const double QUANTILE = 1.959963984540054;    // of the normal distribution: 95% lie within

void eval_interval(double *low, double *high, int64_t right, int64_t n)
{
    double share = (double)right / (double)n, square = QUANTILE * QUANTILE / (double)n;
    double centre = share + square / 2;
    double reach = QUANTILE * sqrt(share * (1 - share) / (double)n + square / (4 * (double)n));
    // None right and all right have ends of their own, which rounding would miss.
    *low = n == 0 ? NAN : right == 0 ? 0 : (centre - reach) / (1 + square);
    *high = n == 0 ? NAN : right == n ? 1 : (centre + reach) / (1 + square);
}

struct tally {
    int64_t n, right;
};

// Counts the answers that are done; only those at `depth` unless it is NaN.
static struct tally count(const struct eval_run *run, enum task task, int32_t samples, double depth)
{
    struct tally tally = {0};
    for (int32_t i = 0; run->answers[task] && i < samples; i++) {
        const struct eval_answer *a = &run->answers[task][i];
        bool counts = a->done && (isnan(depth) || a->depth == depth);
        tally.n += counts;
        tally.right += counts && a->right;
    }
    return tally;
}

static double percent(int64_t part, int64_t of)
{
    return of > 0 ? 100 * (double)part / (double)of : NAN;
}

static void name_run(struct table *table, const struct eval_run *run)
{
    table_row(table);
    table_text(table, "method", run->plan->method);
    if (run->plan->index.budget_tokens > 0) {
        table_number(table, "budget_tokens", run->plan->index.budget_tokens);
    }
    table_number(table, "context", run->context_tokens);
}

#define RUN_COLUMNS                                                                                                    \
    {"method", "method", -1}, {"budget_tokens", "k", 0},                                                               \
    {                                                                                                                  \
        "context", "context", 0                                                                                        \
    }
#define OPEN_TABLE(name, columns) table_open(name, columns, sizeof(columns) / sizeof *(columns))

static struct table *accuracy_table(const struct eval_results *results)
{
    static const struct table_column columns[] = {
        RUN_COLUMNS,
        {"task", "task", -1},
        {"samples", "samples", 0},
        {"right", "right", 0},
        {"accuracy_percent", "right %", 1},
        {"low_percent", "from", 1},
        {"high_percent", "to", 1},
    };
    struct table *table = OPEN_TABLE("accuracy", columns);
    for (int32_t r = 0; table && r < results->n_runs; r++) {
        for (int32_t t = 0; t < results->options->n_tasks; t++) {
            enum task task = results->options->tasks[t];
            struct tally tally = count(&results->runs[r], task, results->options->samples, NAN);
            double low, high;
            eval_interval(&low, &high, tally.right, tally.n);
            name_run(table, &results->runs[r]);
            table_text(table, "task", task_name(task));
            table_number(table, "samples", (double)tally.n);
            table_number(table, "right", (double)tally.right);
            table_number(table, "accuracy_percent", percent(tally.right, tally.n));
            table_number(table, "low_percent", 100 * low);
            table_number(table, "high_percent", 100 * high);
        }
    }
    return table;
}

static struct table *selection_table(const struct eval_results *results)
{
    static const struct table_column columns[] = {
        RUN_COLUMNS,
        {"probes", "probes", 0},
        {"coverage_percent", "coverage %", 1},
        {"exact_coverage_percent", "of exact %", 1},
        {"iou_percent", "IoU %", 1},
        {"same_as_before_percent", "same as before %", 1},
        {"same_as_first_percent", "same as first %", 1},
        {"bits_per_byte", "bits/byte", 4},
    };
    struct table *table = OPEN_TABLE("selections", columns);
    for (int32_t r = 0; table && r < results->n_runs; r++) {
        const struct eval_run *run = &results->runs[r];
        const struct eval_routing *routing = &run->routing;
        name_run(table, run);
        table_number(table, "probes", (double)run->n_probes);
        table_number(table, "coverage_percent", 100 * eval_mean(&routing->coverage));
        table_number(table, "exact_coverage_percent", 100 * eval_mean(&routing->exact_coverage));
        table_number(table, "iou_percent", 100 * eval_mean(&routing->iou));
        table_number(table, "same_as_before_percent", 100 * eval_mean(&routing->same_as_before));
        table_number(table, "same_as_first_percent", 100 * eval_mean(&routing->same_as_first));
        table_number(table, "bits_per_byte", run->text_bytes > 0 ? run->text_bits / (double)run->text_bytes : NAN);
    }
    return table;
}

static struct table *depth_table(const struct eval_results *results)
{
    static const struct table_column columns[] = {
        RUN_COLUMNS,
        {"task", "task", -1},
        {"depth_percent", "depth %", 1},
        {"samples", "samples", 0},
        {"accuracy_percent", "right %", 1},
    };
    struct table *table = OPEN_TABLE("depths", columns);
    const struct eval_options *options = results->options;
    for (int32_t r = 0; table && r < results->n_runs; r++) {
        for (int32_t t = 0; t < options->n_tasks; t++) {
            for (int32_t d = 0; d < options->n_depths; d++) {
                struct tally tally =
                    count(&results->runs[r], options->tasks[t], options->samples, options->depths[d]);
                if (tally.n > 0) {
                    name_run(table, &results->runs[r]);
                    table_text(table, "task", task_name(options->tasks[t]));
                    table_number(table, "depth_percent", 100 * options->depths[d]);
                    table_number(table, "samples", (double)tally.n);
                    table_number(table, "accuracy_percent", percent(tally.right, tally.n));
                }
            }
        }
    }
    return table;
}

// How two devices' answers to one task differ.
struct agreement {
    int64_t n, same, first_right, second_right;    // answers; the last two: right on one device alone
    struct eval_mean lead, lead_apart;    // of bytes drawn alike; of the greater one at an answer's first other byte
};

static void hold_against(struct agreement *out, const struct eval_answer *a, const struct eval_answer *b)
{
    int32_t i = 0;
    for (; i < a->n && i < b->n && a->tokens[i] == b->tokens[i]; i++) {
        out->lead.sum += (double)a->lead[i];
        out->lead.n++;
    }
    bool same = i == a->n && i == b->n;
    out->n++;
    out->same += same;
    out->first_right += a->right && !b->right;
    out->second_right += b->right && !a->right;
    if (!same && i < a->n && i < b->n) {
        out->lead_apart.sum += fmax((double)a->lead[i], (double)b->lead[i]);
        out->lead_apart.n++;
    }
}

// Of what both devices have answered.
static struct agreement agree(const struct eval_results *results, int32_t run, enum task task)
{
    const struct eval_answer *first = results->runs[run].answers[task], *second = results->others[run].answers[task];
    struct agreement agreement = {0};
    for (int32_t i = 0; first && second && i < results->options->samples; i++) {
        if (first[i].done && second[i].done) {
            hold_against(&agreement, &first[i], &second[i]);
        }
    }
    return agreement;
}

static struct table *agreement_table(const struct eval_results *results)
{
    static const struct table_column columns[] = {
        RUN_COLUMNS,
        {"task", "task", -1},
        {"samples", "samples", 0},
        {"same", "same", 0},
        {"same_percent", "same %", 2},
        {"first_right", "right on 1st only", 0},
        {"second_right", "on 2nd only", 0},
        {"lead", "lead", 2},
        {"lead_apart", "lead where apart", 2},
    };
    struct table *table = OPEN_TABLE("agreement", columns);
    for (int32_t r = 0; table && results->others && r < results->n_runs; r++) {
        for (int32_t t = 0; t < results->options->n_tasks; t++) {
            enum task task = results->options->tasks[t];
            struct agreement agreement = agree(results, r, task);
            name_run(table, &results->runs[r]);
            table_text(table, "task", task_name(task));
            table_number(table, "samples", (double)agreement.n);
            table_number(table, "same", (double)agreement.same);
            table_number(table, "same_percent", percent(agreement.same, agreement.n));
            table_number(table, "first_right", (double)agreement.first_right);
            table_number(table, "second_right", (double)agreement.second_right);
            table_number(table, "lead", eval_mean(&agreement.lead));
            table_number(table, "lead_apart", eval_mean(&agreement.lead_apart));
        }
    }
    return table;
}

// ---------------------------------------------------------------------------------------------------------------------
// For people

// One row per run, one column per task.
static struct table *wide_table(const struct eval_results *results)
{
    struct table_column columns[3 + TASK_COUNT] = {RUN_COLUMNS};
    const struct eval_options *options = results->options;
    for (int32_t t = 0; t < options->n_tasks; t++) {
        const char *name = task_name(options->tasks[t]);
        columns[3 + t] = (struct table_column){name, name, -1};
    }
    struct table *table = table_open("accuracy", columns, 3 + options->n_tasks);
    for (int32_t r = 0; table && r < results->n_runs; r++) {
        name_run(table, &results->runs[r]);
        for (int32_t t = 0; t < options->n_tasks; t++) {
            struct tally tally = count(&results->runs[r], options->tasks[t], options->samples, NAN);
            double low, high;
            char text[48];
            eval_interval(&low, &high, tally.right, tally.n);
            if (tally.n > 0) {
                snprintf(text, sizeof text, "%5.1f [%.1f, %.1f]", percent(tally.right, tally.n), 100 * low, 100 * high);
                table_text(table, task_name(options->tasks[t]), text);
            }
        }
    }
    return table;
}

// Whether two runs are of one method and budget: rows of one map.
static bool same_method(const struct eval_run *a, const struct eval_run *b)
{
    return strcmp(a->plan->method, b->plan->method) == 0 &&
           a->plan->index.budget_tokens == b->plan->index.budget_tokens;
}

// The map of one task: runs [first, end) are its columns, depths its rows. The darker the mark, the more answers are
// right.
static void print_map(const struct eval_results *results, enum task task, int32_t first, int32_t end)
{
    static const char shades[] = " .:-=+*#%@";
    const struct eval_options *options = results->options;
    const struct plan *plan = results->runs[first].plan;
    printf("\n%s, %s", task_name(task), plan->method);
    if (plan->index.budget_tokens > 0) {
        printf(", k %d", plan->index.budget_tokens);
    }
    printf(": %% right by depth and context\n  depth");
    for (int32_t r = first; r < end; r++) {
        printf("%9d", results->runs[r].context_tokens);
    }
    for (int32_t d = 0; d < options->n_depths; d++) {
        printf("\n  %4.0f%%", 100 * options->depths[d]);
        for (int32_t r = first; r < end; r++) {
            struct tally tally = count(&results->runs[r], task, options->samples, options->depths[d]);
            if (tally.n == 0) {
                printf("%9s", "-");
                continue;
            }
            double right = percent(tally.right, tally.n);
            char shade = shades[(int)(right / 100 * (sizeof shades - 2) + 0.5)];
            printf("   %3.0f %c%c", right, shade, shade);
        }
    }
    printf("\n");
}

static void print_maps(const struct eval_results *results)
{
    const struct eval_options *options = results->options;
    for (int32_t t = 0; t < options->n_tasks; t++) {
        for (int32_t first = 0, end; first < results->n_runs; first = end) {
            bool any = false;
            for (end = first; end < results->n_runs && same_method(&results->runs[first], &results->runs[end]); end++) {
                for (int32_t d = 0; d < options->n_depths; d++) {
                    any |=
                        count(&results->runs[end], options->tasks[t], options->samples, options->depths[d]).n > 0;
                }
            }
            if (any) {
                print_map(results, options->tasks[t], first, end);
            }
        }
    }
}

// Prints a table and closes it; NULL: there was no memory for it.
static int print_table(struct table *table)
{
    if (!table) {
        return status_fail(-ENOMEM, "out of memory for a table");
    }
    table_print(table, stdout);
    table_close(table);
    return 0;
}

int eval_print(const struct eval_results *results)
{
    const struct sample_source *source = &results->runs[0].source;
    printf("%s on %s (%s); answers right in %%, with the 95%% interval\n\n", source->model, source->device,
           source->backend);
    int error = print_table(wide_table(results));
    if (error) {
        return error;
    }
    if (results->others) {
        printf("\nanswers that %s and %s gave alike, byte by byte; lead: how far the drawn byte's logit is above the\n"
               "next best one's, in the mean over bytes drawn alike, and over the first bytes that were not\n\n",
               results->devices[0], results->devices[1]);
        return print_table(agreement_table(results));
    }
    printf(
        "\nselections where an answer's first byte is drawn: what they hold of dense attention's mass, what the same "
        "number\n"
        "of tokens of greatest mass would hold, how far both are the same tokens (IoU), what they share with the byte\n"
        "before and with the lowest indexer; and bits per byte of the text\n\n");
    error = print_table(selection_table(results));
    if (!error && results->maps) {
        print_maps(results);
    }
    return error;
}

int eval_print_json(const struct eval_results *results)
{
    struct table *tables[] = {accuracy_table(results), selection_table(results), depth_table(results),
                              agreement_table(results)};
    int32_t n = results->others ? 4 : 3;
    bool whole = tables[0] && tables[1] && tables[2] && tables[3];
    if (whole) {
        tables_print_json((const struct table *const *)tables, n, stdout);
    }
    for (int i = 0; i < 4; i++) {
        table_close(tables[i]);
    }
    return whole ? 0 : status_fail(-ENOMEM, "out of memory for tables");
}

// ---------------------------------------------------------------------------------------------------------------------
// results.tsv

struct appending {
    FILE *out;
    const char *commit, *driver;
    char date[16];
};

// `spread` NaN: none. The budget is part of the quantity's name.
static void append(const struct appending *a, const struct eval_run *run, const char *device, const char *quantity,
                   int64_t n, double value, double spread, const char *unit)
{
    char budget[24] = "", spread_text[24] = "-";
    if (isnan(value)) {
        return;
    }
    if (run->plan->index.budget_tokens > 0) {
        snprintf(budget, sizeof budget, ".k%d", run->plan->index.budget_tokens);
    }
    if (!isnan(spread)) {
        snprintf(spread_text, sizeof spread_text, "%.3g", spread);
    }
    fprintf(a->out, "%s\t%s\t%s\t%s\teval\t%s\t%s\t%d\t%lld\t%s%s\t%.5g\t%s\t-\t%s\n", a->date, a->commit,
            device, a->driver, run->source.model, run->plan->method, run->context_tokens, (long long)n,
            quantity, budget, value, spread_text, unit);
}

static void append_run(const struct appending *a, const struct eval_results *results, const struct eval_run *run)
{
    const struct eval_options *options = results->options;
    for (int32_t t = 0; t < options->n_tasks; t++) {
        struct tally tally = count(run, options->tasks[t], options->samples, NAN);
        double low, high;
        char quantity[48];
        eval_interval(&low, &high, tally.right, tally.n);
        snprintf(quantity, sizeof quantity, "accuracy.%s", task_name(options->tasks[t]));
        append(a, run, run->source.device, quantity, tally.n, percent(tally.right, tally.n), 50 * (high - low), "%");
    }
    double bits = run->text_bytes > 0 ? run->text_bits / (double)run->text_bytes : NAN;
    append(a, run, run->source.device, "bits_per_byte", run->text_bytes / (run->context_tokens - 1), bits, NAN, "bits");
    append(a, run, run->source.device, "coverage", run->n_probes, 100 * eval_mean(&run->routing.coverage), NAN, "%");
    append(a, run, run->source.device, "exact_coverage", run->n_probes, 100 * eval_mean(&run->routing.exact_coverage),
           NAN, "%");
    append(a, run, run->source.device, "selection_iou", run->n_probes, 100 * eval_mean(&run->routing.iou), NAN, "%");
}

// How many of both devices' answers are the same, in %. Nothing of what was right: there are few questions, and the
// rows of many stand for the method.
static void append_agreement(const struct appending *a, const struct eval_results *results, int32_t run)
{
    const struct sample_source *first = &results->runs[run].source, *second = &results->others[run].source;
    char both[2 * sizeof first->device + 2 * sizeof first->backend + 16], quantity[48];
    snprintf(both, sizeof both, "%s (%s) and %s (%s)", first->device, first->backend, second->device, second->backend);
    for (int32_t t = 0; t < results->options->n_tasks; t++) {
        enum task task = results->options->tasks[t];
        struct agreement agreement = agree(results, run, task);
        snprintf(quantity, sizeof quantity, "agreement.%s", task_name(task));
        append(a, &results->runs[run], both, quantity, agreement.n, percent(agreement.same, agreement.n), NAN, "%");
    }
}

int eval_append(const struct eval_results *results, const char *path, const char *commit, const char *driver)
{
    struct appending a = {.out = fopen(path, "ae"), .commit = commit, .driver = driver};
    time_t now = time(NULL);
    if (!a.out) {
        return status_fail(-EINVAL, "--results %s: cannot be opened: %s", path, strerror(errno));
    }
    strftime(a.date, sizeof a.date, "%Y-%m-%d", gmtime(&now));
    if (ftell(a.out) == 0) {
        fprintf(a.out,
                "date\tcommit\tdevice\tdriver\tcommand\tmodel\tmethod\tcontext\tsequences\tquantity\tmedian\tspread\t"
                "floor\tunit\n");
    }
    for (int32_t r = 0; r < results->n_runs; r++) {
        if (results->others) {
            append_agreement(&a, results, r);
        } else {
            append_run(&a, results, &results->runs[r]);
        }
    }
    bool lost = ferror(a.out) != 0;
    lost = fclose(a.out) != 0 || lost;
    return lost ? status_fail(-EIO, "--results %s: cannot be written: %s", path, strerror(errno)) : 0;
}
