// sim/calibration_steps.c - what whole steps say: the time outside of stages, and what marking stages cost.
//
// On a CPU every step tells its stages, and what is left of it is overhead. A GPU runs most steps without marks between
// their stages; with them kernels follow each other less closely, so that n stages S of B sequences add up to more than
// a step W without marks takes:
//
//     W = S - n mark + rest + B per_seq
//
// Shapes (one source, size and context) give one such equation each. Of steps that decode, which are replayed whole,
// per_seq is the median slope between shapes of one source and context (Theil and Sen), mark the median of what then
// remains per stage of the smallest batches with rest 0, and rest the median of what is left. What remains of one shape
// then is what its layers that select wait (HOST). Steps with prompts launch their kernels one by one: rest is what
// those with marks take outside of stages, and mark the median of what then remains. A mark is of the run that was
// recorded, its program and its host, and found for each source by itself: one H200's were 4.8 us on one day, 3.6 us on
// another. It is taken off each stage, so that stages mean what they take in steps as they are run.
#include "sim/calibration_internal.h"

#include <stdlib.h>
#include <string.h>

// However short a stage is, that share of its time is its own.
static const double LEAST_SHARE = 0.1;

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
    int32_t source, bin, n_seqs;
    bool newer;                          // calibration_fit_newer
    double whole_s, stages_s, n_stages, mark_s;
};

// False: the shape was not run both ways.
static bool reduce(struct shape *out, const struct fit_step *steps, int64_t n, double *scratch)
{
    int64_t n_whole = 0, n_staged = 0;
    *out = (struct shape){.source = steps->source, .bin = steps->bin, .n_seqs = steps->n_seqs, .newer = steps->newer};
    for (int64_t i = 0; i < n; i++) {
        if (steps[i].n_stages == 0) {
            scratch[n_whole++] = 1e-9 * (double)steps[i].duration_ns;
        }
    }
    out->whole_s = n_whole > 0 ? calibration_median(scratch, n_whole) : 0;
    for (int64_t i = 0; i < n; i++) {
        if (steps[i].n_stages > 0) {
            out->n_stages = steps[i].n_stages;    // one plan, one shape: the same in all
            scratch[n_staged++] = 1e-9 * (double)steps[i].stages_ns;
        }
    }
    out->stages_s = n_staged > 0 ? calibration_median(scratch, n_staged) : 0;
    return n_whole > 0 && n_staged > 0;
}

static int64_t find_shapes(struct shape *shapes, const struct fit_step *steps, int64_t n, double *scratch)
{
    int64_t found = 0;
    for (int64_t begin = 0, end; begin < n; begin = end) {
        for (end = begin + 1; end < n && compare_steps(&steps[begin], &steps[end]) == 0; end++) {
        }
        found += reduce(&shapes[found], &steps[begin], end - begin, scratch);
    }
    return found;
}

// The median slope of W - S over the sequences. Bins are the last key of the order: contexts that grow while batches do
// may change theirs, so that neighbours count too. At most `most` slopes are looked at.
static double per_sequence(const struct shape *shapes, int64_t n, double *slopes, int64_t most)
{
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i + 1; j < n && shapes[j].source == shapes[i].source && found < most; j++) {
            const struct shape *a = &shapes[i], *b = &shapes[j];
            if (!a->newer && b->n_seqs > a->n_seqs && b->bin - a->bin <= 2 && a->bin - b->bin <= 2) {
                slopes[found++] = ((b->whole_s - b->stages_s) - (a->whole_s - a->stages_s)) / (b->n_seqs - a->n_seqs);
            }
        }
    }
    double slope = found > 0 ? calibration_median(slopes, found) : 0;
    return slope > 0 ? slope : 0;
}

// Takes off each sample of a phase what marks added where it was recorded; `mark_s` where that run does not tell.
static void unmark(struct calibration_fit *fit, int32_t profile, enum phase phase, const double *marks, double mark_s)
{
    for (int64_t i = 0; i < fit->n_samples; i++) {
        struct fit_sample *sample = &fit->samples[i];
        if (sample->profile == profile && sample->marked && sample->step_phase == phase) {
            double own_s = marks && marks[sample->source] >= 0 ? marks[sample->source] : mark_s;
            double least_ns = LEAST_SHARE * (double)sample->duration_ns;
            double left_ns = (double)sample->duration_ns - 1e9 * own_s * sample->parts;
            left_ns = left_ns > least_ns ? left_ns : least_ns;
            sample->duration_ns = left_ns > 1 ? (int64_t)left_ns : 1;
        }
    }
}

// What steps that told their stages took besides. Stages may overlap more than they leave gaps: then nothing.
static double overhead_of(const struct fit_step *steps, int64_t n, bool newer, enum calibration_by by, double *scratch,
                          int64_t *n_steps)
{
    *n_steps = 0;
    for (int64_t i = 0; i < n; i++) {
        if (steps[i].n_stages > 0 && steps[i].newer == newer) {
            int64_t rest_ns = steps[i].duration_ns - steps[i].stages_ns;
            scratch[(*n_steps)++] = rest_ns > 0 ? 1e-9 * (double)rest_ns : 0;
        }
    }
    return *n_steps == 0 ? 0 : calibration_center(scratch, *n_steps, by);
}

// What marks add to each stage of one source's steps; `rest_s` and `per_seq_s` pass outside of stages. Told by shapes
// of the fewest sequences: with many, kernels that are launched ahead wait.
static double mark_of(const struct shape *shapes, int64_t n, double rest_s, double per_seq_s, double *values)
{
    int32_t fewest = shapes[0].n_seqs;
    int64_t found = 0;
    for (int64_t i = 1; i < n; i++) {
        fewest = shapes[i].n_seqs < fewest ? shapes[i].n_seqs : fewest;
    }
    for (int64_t i = 0; i < n; i++) {
        double more_s = rest_s + shapes[i].n_seqs * per_seq_s - shapes[i].whole_s;
        if (shapes[i].n_seqs == fewest) {
            values[found++] = (shapes[i].stages_s + more_s) / shapes[i].n_stages;
        }
    }
    double mark_s = calibration_median(values, found);
    return mark_s > 0 ? mark_s : 0;
}

// The mark of each source that has shapes: into them, and into marks [sources]. Returns the median over shapes.
static double find_marks(struct shape *shapes, int64_t n_shapes, const struct fit_step *steps, int64_t n,
                         double per_seq_s, double *marks, double *values)
{
    int64_t s = 0;
    for (int64_t begin = 0, end; begin < n && s < n_shapes; begin = end) {
        int64_t first = s, n_staged;
        for (end = begin + 1; end < n && steps[end].source == steps[begin].source; end++) {
        }
        for (; s < n_shapes && shapes[s].source == steps[begin].source; s++) {
        }
        if (s > first) {
            // Steps that decode are replayed whole: nothing passes between their stages.
            double rest_s = steps->phase == PHASE_DECODE ? 0
                                                         : overhead_of(steps + begin, end - begin, steps[begin].newer,
                                                                       CALIBRATION_BY_MEDIAN, values, &n_staged);
            double mark_s = mark_of(shapes + first, s - first, rest_s, per_seq_s, values);
            marks[steps[begin].source] = mark_s;
            for (int64_t i = first; i < s; i++) {
                shapes[i].mark_s = mark_s;
            }
        }
    }
    for (int64_t i = 0; i < n_shapes; i++) {
        values[i] = shapes[i].mark_s;
    }
    return n_shapes > 0 ? calibration_median(values, n_shapes) : 0;
}

// However little steps take longer than their stages: an efficiency is of some time.
static const double LEAST_WAIT_S = 2e-8;

// Tells the samples of HOST what each layer that selects waits in their steps. What no shape tells stays 0.
static void tell_waiting(struct calibration_fit *fit, int32_t profile, const struct shape *shapes, int64_t n,
                         double rest_s, double per_seq_s)
{
    for (int64_t i = 0; i < fit->n_samples; i++) {
        struct fit_sample *sample = &fit->samples[i];
        for (int64_t k = 0; k < n && sample->stage == STAGE_HOST && sample->profile == profile; k++) {
            const struct shape *shape = &shapes[k];
            if (shape->source == sample->source && shape->n_seqs == sample->rows && shape->bin == sample->bin) {
                double stages_s = shape->stages_s - shape->n_stages * shape->mark_s;
                double wait_s = (shape->whole_s - stages_s - rest_s - shape->n_seqs * per_seq_s) / sample->parts;
                sample->duration_ns = (int64_t)(1e9 * (wait_s > LEAST_WAIT_S ? wait_s : LEAST_WAIT_S));
            }
        }
    }
}

static void take_phase(struct calibration_profile *profile, struct calibration_fit *fit, const struct fit_step *steps,
                       int64_t n, double *scratch)
{
    enum phase phase = steps->phase;
    double *values = scratch + fit->n_steps, *marks = malloc((size_t)fit->sources_seen * sizeof *marks + 1);
    struct shape *shapes = calloc((size_t)n, sizeof *shapes);
    int64_t n_shapes = shapes && marks ? find_shapes(shapes, steps, n, scratch) : 0;
    bool replayed = phase == PHASE_DECODE && n_shapes > 0;
    double per_seq_s = replayed ? per_sequence(shapes, n_shapes, values, fit->n_steps) : 0;
    for (int32_t i = 0; i < fit->sources_seen && marks; i++) {
        marks[i] = -1;    // of none
    }
    profile->mark_s[phase] = find_marks(shapes, n_shapes, steps, n, per_seq_s, marks, values);
    unmark(fit, steps->profile, phase, marks, profile->mark_s[phase]);
    if (replayed) {
        int64_t older = 0;
        for (int64_t i = 0; i < n_shapes; i++) {
            const struct shape *shape = &shapes[i];
            double stages_s = shape->stages_s - shape->n_stages * shape->mark_s;
            values[older] = shape->whole_s - stages_s - shape->n_seqs * per_seq_s;
            older += !shape->newer;
        }
        double rest_s = older > 0 ? calibration_median(values, older) : 0;
        profile->overhead_s[phase] = rest_s > 0 ? rest_s : 0;
        tell_waiting(fit, steps->profile, shapes, n_shapes, profile->overhead_s[phase], per_seq_s);
        profile->overhead_per_seq_s = per_seq_s;
        for (int64_t i = 0; i < n; i++) {
            profile->n_steps[phase] += !steps[i].newer;
        }
    } else {
        profile->overhead_s[phase] = overhead_of(steps, n, false, fit->by, scratch, &profile->n_steps[phase]);
    }
    free(shapes);
    free(marks);
}

// Without a time a sample of HOST says nothing.
static void drop_untold(struct calibration_fit *fit)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < fit->n_samples; i++) {
        if (fit->samples[i].stage != STAGE_HOST || fit->samples[i].duration_ns > 0) {
            fit->samples[kept++] = fit->samples[i];
        }
    }
    fit->n_samples = kept;
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
    drop_untold(fit);
}
