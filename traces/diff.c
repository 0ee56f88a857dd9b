// traces/diff.c - collects what two recordings are compared by, matches it, and asks whether it differs.
#include "traces/diff.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/durations.h"
#include "traces/step_stages.h"
#include "traces/summary_kernels.h"

static const double SIGNIFICANT = 0.05;

// The times of one part of one phase, in order, and what each step looked like.
struct part {
    int64_t *ns;
    uint64_t *shapes;
    int64_t n, capacity;
};

struct method_parts {
    char name[SOURCE_NAME_BYTES];
    struct part parts[PHASE_COUNT][DIFF_PARTS];
};

struct source_method {
    int32_t source, method;
};

struct diff_side {
    int error;
    struct method_parts *methods;     // [n_methods], owned
    int32_t n_methods;
    struct source_method *sources;    // [n_sources], owned
    int32_t n_sources;
    struct step_stages waiting;
    struct kernel_summary *kernels;   // its sources are numbers of methods; NULL: not asked for
};

const char *diff_part_name(int32_t part)
{
    return part == DIFF_STEP ? "step" : part == DIFF_GAPS ? "gaps" : stage_name((enum stage)part);
}

const char *diff_verdict_name(enum diff_verdict verdict)
{
    static const char *const names[] = {"same", "slower", "faster", "too few", "only in A", "only in B"};
    return names[verdict];
}

int diff_side_open(struct diff_side **out, bool kernels)
{
    struct diff_side *side = calloc(1, sizeof *side);
    *out = NULL;
    if (!side || (kernels && kernel_summary_open(&side->kernels) != 0)) {
        free(side);
        return status_fail(-ENOMEM, "out of memory for a comparison");
    }
    *out = side;
    return 0;
}

void diff_side_close(struct diff_side *side)
{
    if (!side) {
        return;
    }
    for (int32_t m = 0; m < side->n_methods; m++) {
        for (int32_t i = 0; i < PHASE_COUNT * DIFF_PARTS; i++) {
            free(side->methods[m].parts[i / DIFF_PARTS][i % DIFF_PARTS].ns);
            free(side->methods[m].parts[i / DIFF_PARTS][i % DIFF_PARTS].shapes);
        }
    }
    free(side->methods);
    free(side->sources);
    step_stages_free(&side->waiting);
    kernel_summary_close(side->kernels);
    free(side);
}

// ---------------------------------------------------------------------------------------------------------------------
// Collecting

static int32_t find_method(const struct diff_side *side, const char *name)
{
    for (int32_t m = 0; m < side->n_methods; m++) {
        if (strcmp(side->methods[m].name, name) == 0) {
            return m;
        }
    }
    return -1;
}

static int32_t need_method(struct diff_side *side, const char *name)
{
    int32_t m = find_method(side, name);
    if (m >= 0) {
        return m;
    }
    struct method_parts *grown = realloc(side->methods, ((size_t)side->n_methods + 1) * sizeof *grown);
    if (!grown) {
        side->error = -ENOMEM;
        return -1;
    }
    side->methods = grown;
    grown[side->n_methods] = (struct method_parts){0};
    memcpy(grown[side->n_methods].name, name, strnlen(name, SOURCE_NAME_BYTES - 1));
    return side->n_methods++;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct diff_side *side = user;
    int32_t method = side->error ? -1 : need_method(side, source->method);
    int32_t at = 0;
    while (at < side->n_sources && side->sources[at].source != source->id) {
        at++;
    }
    if (method < 0) {
        return;
    }
    if (at == side->n_sources) {
        struct source_method *grown = realloc(side->sources, ((size_t)side->n_sources + 1) * sizeof *grown);
        if (!grown) {
            side->error = -ENOMEM;
            return;
        }
        side->sources = grown;
        side->n_sources++;
    }
    side->sources[at] = (struct source_method){source->id, method};
}

// The method of a source; samples of one that was not announced are nobody's: -1.
static int32_t method_of(const struct diff_side *side, int32_t source)
{
    for (int32_t i = 0; i < side->n_sources; i++) {
        if (side->sources[i].source == source) {
            return side->sources[i].method;
        }
    }
    return -1;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct diff_side *side = user;
    if (!side->error) {
        side->error = step_stages_add(&side->waiting, sample);
    }
}

static int add_time(struct part *part, int64_t ns, uint64_t shape)
{
    if (part->n == part->capacity) {
        int64_t capacity = part->capacity ? 2 * part->capacity : 64;
        int64_t *times = realloc(part->ns, (size_t)capacity * sizeof *times);
        part->ns = times ? times : part->ns;
        uint64_t *shapes = realloc(part->shapes, (size_t)capacity * sizeof *shapes);
        part->shapes = shapes ? shapes : part->shapes;
        if (!times || !shapes) {
            return -ENOMEM;
        }
        part->capacity = capacity;
    }
    part->ns[part->n] = ns;
    part->shapes[part->n++] = shape;
    return 0;
}

// Equal for steps with the same numbers of sequences, rows and tokens of context.
static uint64_t shape_of(const struct step_sample *step)
{
    const uint64_t prime = 0x9e3779b97f4a7c15U;    // odd, no pattern in its bits
    uint64_t shape = (uint32_t)step->n_seqs;
    shape = shape * prime + (uint32_t)step->n_tokens;
    return shape * prime + (uint32_t)step->context_tokens;
}

static void on_step(void *user, const struct step_sample *step)
{
    struct diff_side *side = user;
    int32_t method = method_of(side, step->source);
    int64_t n = step_stages_take(&side->waiting, step), sums_ns[STAGE_COUNT] = {0};
    bool told[STAGE_COUNT] = {false};
    if (side->error || method < 0) {
        return;
    }
    struct part *parts = side->methods[method].parts[step->phase];
    uint64_t shape = shape_of(step);
    int error = add_time(&parts[DIFF_STEP], step->duration_ns, shape);
    for (int64_t i = 0; i < n; i++) {
        const struct stage_sample *sample = &side->waiting.stages[i];
        sums_ns[sample->stage] = saturating_sum(sums_ns[sample->stage], sample->duration_ns);
        told[sample->stage] = true;
    }
    for (int32_t s = 0; s < STAGE_COUNT && !error; s++) {
        error = told[s] ? add_time(&parts[s], sums_ns[s], shape) : 0;
    }
    if (n > 0 && !error) {
        int64_t covered_ns = step_stages_covered_ns(side->waiting.stages, n, step);
        error = add_time(&parts[DIFF_GAPS], step->duration_ns - covered_ns, shape);
    }
    side->error = error;
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct diff_side *side = user;
    struct sample_sink sink = kernel_summary_sink(side->kernels);
    struct kernel_sample renamed = *sample;
    renamed.source = method_of(side, sample->source);
    if (renamed.source >= 0) {
        sink.kernel(sink.user, &renamed);
    }
}

struct sample_sink diff_side_sink(struct diff_side *side)
{
    return (struct sample_sink){.user = side, .source = on_source, .stage = on_stage, .step = on_step,
                                .kernel = side->kernels ? on_kernel : NULL};
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparing

static int64_t median_of(const int64_t *ns, int64_t n, int64_t *total_ns, int *error)
{
    struct durations bag = {0};
    int64_t median_ns = 0, p95_ns;
    for (int64_t i = 0; i < n && !*error; i++) {
        *error = durations_add(&bag, ns[i]);
    }
    *total_ns = bag.total_ns;
    if (bag.n > 0 && !*error) {
        durations_quantiles(&bag, &median_ns, &p95_ns);
    }
    durations_free(&bag);
    return median_ns;
}

// Fills in the rest of a row from its times; shapes may be NULL.
static int judge(struct diff_row *row, const int64_t *a_ns, const uint64_t *a_shapes, int64_t n_a, const int64_t *b_ns,
                 const uint64_t *b_shapes, int64_t n_b)
{
    int error = 0;
    row->n_a = n_a;
    row->n_b = n_b;
    row->median_a_ns = median_of(a_ns, n_a, &row->total_a_ns, &error);
    row->median_b_ns = median_of(b_ns, n_b, &row->total_b_ns, &error);
    row->paired = a_shapes && n_a == n_b && n_a >= RATIO_TEST_LEAST_PAIRS &&
                  memcmp(a_shapes, b_shapes, (size_t)n_a * sizeof *a_shapes) == 0;
    row->test.p = 1;
    if (n_a == 0 || n_b == 0) {
        row->verdict = n_a == 0 ? DIFF_ONLY_B : DIFF_ONLY_A;
    } else if (n_a < RATIO_TEST_LEAST || n_b < RATIO_TEST_LEAST) {
        row->verdict = DIFF_FEW;
    } else if (!error) {
        error = row->paired ? ratio_test_pairs(&row->test, a_ns, b_ns, n_a)
                            : ratio_test_sets(&row->test, a_ns, n_a, b_ns, n_b);
    }
    return error;
}

static int compare_parts(struct diff_row *rows, int32_t *n, const struct diff_side *a, const struct diff_side *b,
                         const char *method)
{
    static const struct part nothing = {0};
    int32_t in_a = find_method(a, method), in_b = find_method(b, method);
    int error = 0;
    for (int32_t i = 0; i < PHASE_COUNT * DIFF_PARTS && !error; i++) {
        int32_t phase = i / DIFF_PARTS, p = i % DIFF_PARTS;
        const struct part *from_a = in_a < 0 ? &nothing : &a->methods[in_a].parts[phase][p];
        const struct part *from_b = in_b < 0 ? &nothing : &b->methods[in_b].parts[phase][p];
        if (from_a->n > 0 || from_b->n > 0) {
            struct diff_row *row = &rows[(*n)++];
            *row = (struct diff_row){.method = method, .in_step = true, .phase = (enum phase)phase, .part = p};
            error = judge(row, from_a->ns, from_a->shapes, from_a->n, from_b->ns, from_b->shapes, from_b->n);
        }
    }
    return error;
}

// The row of `kernels` that is of the same kernel, for a method with the number `method` there. -1: none.
static int32_t find_kernel(struct kernel_summary *kernels, int32_t method, const struct summary_kernel *like)
{
    int32_t n;
    const struct summary_kernel *rows = kernel_summary_rows(kernels, &n);
    for (int32_t i = 0; i < n; i++) {
        if (rows[i].source == method && rows[i].work == like->work && rows[i].in_step == like->in_step &&
            rows[i].phase == like->phase && rows[i].stage == like->stage && strcmp(rows[i].name, like->name) == 0) {
            return i;
        }
    }
    return -1;
}

// Rows of kernels of `a`; those that `b` has too are compared where `both`, and left out where not.
static int compare_kernels(struct diff_row *rows, int32_t *n, struct diff_side *a, struct diff_side *b, bool both)
{
    int32_t n_a;
    int error = 0;
    const struct summary_kernel *kernels = kernel_summary_rows(a->kernels, &n_a);
    for (int32_t i = 0; i < n_a && !error; i++) {
        const char *method = a->methods[kernels[i].source].name;
        int32_t other = find_kernel(b->kernels, find_method(b, method), &kernels[i]);
        if (other >= 0 && !both) {
            continue;
        }
        int64_t count, other_count = 0;
        const int64_t *ns = kernel_summary_durations(a->kernels, i, &count);
        const int64_t *other_ns = other >= 0 ? kernel_summary_durations(b->kernels, other, &other_count) : NULL;
        struct diff_row *row = &rows[(*n)++];
        *row = (struct diff_row){.method = method, .kernel = kernels[i].name, .in_step = kernels[i].in_step,
                                 .phase = kernels[i].phase, .part = (int32_t)kernels[i].stage};
        error = both ? judge(row, ns, NULL, count, other_ns, NULL, other_count)
                     : judge(row, NULL, NULL, 0, ns, NULL, count);
    }
    return error;
}

static void give_verdicts(struct diff_row *rows, int32_t n, double **p)
{
    int32_t asked = 0;
    for (int32_t i = 0; i < n; i++) {
        if (rows[i].verdict == DIFF_SAME) {
            p[asked++] = &rows[i].test.p;
        }
    }
    ratio_test_adjust(p, asked);
    for (int32_t i = 0; i < n; i++) {
        if (rows[i].verdict == DIFF_SAME && rows[i].test.p < SIGNIFICANT) {
            rows[i].verdict = rows[i].test.ratio > 1 ? DIFF_SLOWER : DIFF_FASTER;
        }
    }
}

static int32_t count_kernels(struct diff_side *side, int *error)
{
    int32_t n = 0;
    if (side->kernels && !*error) {
        *error = kernel_summary_update(side->kernels);
        kernel_summary_rows(side->kernels, &n);
    }
    return n;
}

int diff_compare(struct diff_row **out, int32_t *n, struct diff_side *a, struct diff_side *b)
{
    int error = a->error ? a->error : b->error;
    bool kernels = a->kernels && b->kernels;
    int32_t n_kernels = kernels ? count_kernels(a, &error) + count_kernels(b, &error) : 0;
    size_t most = (size_t)(a->n_methods + b->n_methods) * PHASE_COUNT * DIFF_PARTS + (size_t)n_kernels + 1;
    struct diff_row *rows = calloc(most, sizeof *rows);
    double **p = malloc(most * sizeof *p);
    *out = NULL;
    *n = 0;
    error = error ? error : rows && p ? 0 : -ENOMEM;
    for (int32_t m = 0; m < a->n_methods && !error; m++) {
        error = compare_parts(rows, n, a, b, a->methods[m].name);
    }
    for (int32_t m = 0; m < b->n_methods && !error; m++) {
        error = find_method(a, b->methods[m].name) < 0 ? compare_parts(rows, n, a, b, b->methods[m].name) : 0;
    }
    if (kernels) {
        error = error ? error : compare_kernels(rows, n, a, b, true);
        error = error ? error : compare_kernels(rows, n, b, a, false);
    }
    if (!error) {
        give_verdicts(rows, *n, p);
        *out = rows;
        rows = NULL;
    }
    free(rows);
    free(p);
    return error ? status_fail(error, "out of memory for a comparison") : 0;
}
