// sim/calibration_steps.c - what whole steps say: the time outside of stages, and what marking stages cost.
//
// On a CPU every step tells its stages, and what is left of it is overhead. A GPU replays most steps whole and one in some
// with marks between its stages; kernels then follow each other less closely, so that stages add up to more than a step
// without marks takes. That more, over the number of stages, is what a mark adds: it is taken off each stage, so that
// stages mean what they take in steps as they are run. Steps are compared with those of one source, size and context.
#include "sim/calibration_internal.h"

#include <stdlib.h>
#include <string.h>

// However short a stage is, that share of its time is its own.
static const double LEAST_SHARE = 0.1;

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median_of(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

static int compare_steps(const void *left, const void *right)
{
    const struct fit_step *a = left, *b = right;
    const int32_t x[] = {a->profile, (int32_t)a->phase, a->source, a->n_seqs, a->n_tokens, a->bin};
    const int32_t y[] = {b->profile, (int32_t)b->phase, b->source, b->n_seqs, b->n_tokens, b->bin};
    for (int i = 0; i < 6; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}

// Steps of one shape: medians of those without stages, and of the sums of those with; seconds.
struct shape {
    int64_t n_whole, n_staged;
    double whole_s, stages_s, n_stages;
};

static struct shape reduce(const struct fit_step *steps, int64_t n, double *scratch)
{
    struct shape shape = {0};
    for (int64_t i = 0; i < n; i++) {
        if (steps[i].n_stages == 0) {
            scratch[shape.n_whole++] = 1e-9 * (double)steps[i].duration_ns;
        }
    }
    shape.whole_s = shape.n_whole > 0 ? median_of(scratch, shape.n_whole) : 0;
    for (int64_t i = 0; i < n; i++) {
        if (steps[i].n_stages > 0) {
            shape.n_stages = steps[i].n_stages;    // one plan: the same in all
            scratch[shape.n_staged++] = 1e-9 * (double)steps[i].stages_ns;
        }
    }
    shape.stages_s = shape.n_staged > 0 ? median_of(scratch, shape.n_staged) : 0;
    return shape;
}

// Calls `see` for each shape among the sorted steps [n] that was run both ways. Returns how many there were.
static int64_t each_shape(const struct fit_step *steps, int64_t n, double *scratch, double *values,
                          double (*see)(const struct shape *shape, double mark_s), double mark_s)
{
    int64_t found = 0;
    for (int64_t begin = 0, end; begin < n; begin = end) {
        for (end = begin + 1; end < n && compare_steps(&steps[begin], &steps[end]) == 0; end++) {
        }
        struct shape shape = reduce(&steps[begin], end - begin, scratch);
        if (shape.n_whole > 0 && shape.n_staged > 0) {
            values[found++] = see(&shape, mark_s);
        }
    }
    return found;
}

static double mark_of(const struct shape *shape, double unused)
{
    (void)unused;
    return (shape->stages_s - shape->whole_s) / shape->n_stages;
}

static double rest_of(const struct shape *shape, double mark_s)
{
    return shape->whole_s - (shape->stages_s - shape->n_stages * mark_s);
}

static void unmark(struct calibration_fit *fit, int32_t profile, double mark_s)
{
    for (int64_t i = 0; i < fit->n_samples; i++) {
        struct fit_sample *sample = &fit->samples[i];
        if (sample->profile == profile && sample->replayed) {
            double least_ns = LEAST_SHARE * (double)sample->duration_ns;
            double left_ns = (double)sample->duration_ns - 1e9 * mark_s * sample->parts;
            left_ns = left_ns > least_ns ? left_ns : least_ns;
            sample->duration_ns = left_ns > 1 ? (int64_t)left_ns : 1;
        }
    }
}

// What steps that told their stages took besides. Stages may overlap more than they leave gaps: then nothing.
static double overhead_of(const struct fit_step *steps, int64_t n, double *scratch, int64_t *n_steps)
{
    *n_steps = 0;
    for (int64_t i = 0; i < n; i++) {
        if (steps[i].n_stages > 0) {
            int64_t rest_ns = steps[i].duration_ns - steps[i].stages_ns;
            scratch[(*n_steps)++] = rest_ns > 0 ? 1e-9 * (double)rest_ns : 0;
        }
    }
    return *n_steps > 0 ? median_of(scratch, *n_steps) : 0;
}

static void take_phase(struct calibration_profile *profile, struct calibration_fit *fit, const struct fit_step *steps,
                       int64_t n, double *scratch)
{
    enum phase phase = steps->phase;
    double *values = scratch + fit->n_steps;
    int64_t shapes = each_shape(steps, n, scratch, values, mark_of, 0);
    if (shapes == 0) {
        profile->overhead_s[phase] = overhead_of(steps, n, scratch, &profile->n_steps[phase]);
        return;
    }
    double mark_s = median_of(values, shapes);
    mark_s = mark_s > 0 ? mark_s : 0;
    shapes = each_shape(steps, n, scratch, values, rest_of, mark_s);
    double rest_s = median_of(values, shapes);
    unmark(fit, steps->profile, mark_s);
    profile->mark_s = mark_s;
    profile->overhead_s[phase] = rest_s > 0 ? rest_s : 0;
    profile->n_steps[phase] = n;
}

void calibration_take_steps(struct calibration_profile *profiles, struct calibration_fit *fit, double *scratch)
{
    qsort(fit->steps, (size_t)fit->n_steps, sizeof *fit->steps, compare_steps);
    for (int64_t begin = 0, end; begin < fit->n_steps; begin = end) {
        const struct fit_step *first = &fit->steps[begin];
        for (end = begin + 1; end < fit->n_steps && fit->steps[end].profile == first->profile &&
                              fit->steps[end].phase == first->phase;
             end++) {
        }
        take_phase(&profiles[first->profile], fit, first, end - begin, scratch);
    }
}
