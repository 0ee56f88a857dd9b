// sim/calibration_settle.c - how steps that decode settle after prompts.
//
// Some processors lower their clocks while they multiply, it seems: for tens of milliseconds after a prompt they are
// slower at everything (a Xeon with tiles: a step of one sequence takes 4.0 ms at first, 2.7 ms from 200 ms on).
// Larger batches multiply more themselves, and there is less to gain. A step of n sequences that reads b bytes, t after
// the last step with prompts:
//
//     step = settled + b settle_s_per_byte exp(-t / settle_s) max(0, 1 - (n - 1) / (settle_seqs - 1))
//
// What it takes once settled is unknown, but nearly the same all through a run: steps of one source and number of
// sequences with no prompt between them. So the rest is found by least squares over what differs within runs, per byte
// and in units of each run's own scatter, for one settle_s and settle_seqs after the other. That must explain a fair
// share of the differences, or nothing is said (an EPYC's: 1%, that Xeon's: 18 to 43%); a GPU's steps
// are not asked. It is then taken off the stages of each step, all in the same proportion.
#include "sim/calibration_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/status.h"

enum { LEAST_RUNS = 8, LEAST_STEPS = 6, TIMES = 31 };
static const double SHORTEST_S = 2e-3, LONGEST_S = 0.3;  // of settle_s; tried in as many steps of one ratio. What lasts
                                                         // longer may be anything else that changes on a machine, and
                                                         // where runs are shorter none has shown what it settles to
static const double LEAST_EXPLAINED = 0.1;               // of the variance within runs
static const double LEAST_SHARE = 0.02, MOST_SHARE = 0.5;    // of a run's first step: less is not worth a figure; more
                                                         // was never seen, and would leave little to lay a curve
                                                         // through
static const double MOST = 1.5;                          // times a run's median: longer is a hiccup
static const int32_t SEQS[] = {0, 33, 25, 17, 13, 11, 9, 8, 7, 6};    // of settle_seqs

// One step of a run.
struct settling {
    double since_s, s_per_byte;
};

struct run {
    int64_t begin, n;    // among the steps of all runs
    int32_t n_seqs;
    double span_s;       // from its first step to its last
    double scatter;      // the median of how far steps that follow each other are apart, seconds per byte
};

double calibration_settling_s(const struct calibration_profile *profile, double bytes, int32_t n_seqs, double since_s)
{
    double share = profile->settle_seqs > 1 ? 1 - (double)(n_seqs - 1) / (profile->settle_seqs - 1) : 1;
    return profile->settle_s > 0 && share > 0
               ? share * profile->settle_s_per_byte * bytes * exp(-since_s / profile->settle_s)
               : 0;
}

static bool follows(const struct fit_step *before, const struct fit_step *step)
{
    return before->source == step->source && before->n_seqs == step->n_seqs && before->since_ns < step->since_ns;
}

static bool usable(const struct fit_step *step, int32_t profile)
{
    return step->profile == profile && !step->graph && step->phase == PHASE_DECODE && step->since_ns >= 0 &&
           step->bytes > 0 && step->n_stages > 0 && step->duration_ns > 0;
}

static double scatter_of(const struct settling *steps, int64_t n, double *values)
{
    for (int64_t i = 1; i < n; i++) {
        values[i - 1] = fabs(steps[i].s_per_byte - steps[i - 1].s_per_byte);
    }
    double median = calibration_median(values, n - 1);
    double least = 1e-3 * steps[0].s_per_byte;    // clocks are no finer
    return median > least ? median : least;
}

// The runs of a profile, their steps without hiccups. values [steps] is scratch.
static int64_t find_runs(struct run *runs, struct settling *out, double *values, const struct calibration_fit *fit,
                         int32_t profile)
{
    int64_t n_runs = 0, n = 0;
    for (int64_t begin = 0, end; begin < fit->n_steps; begin = end) {
        end = begin + 1;
        if (!usable(&fit->steps[begin], profile)) {
            continue;
        }
        while (end < fit->n_steps && usable(&fit->steps[end], profile) &&
               follows(&fit->steps[end - 1], &fit->steps[end])) {
            end++;
        }
        for (int64_t i = begin; i < end; i++) {
            values[i - begin] = 1e-9 * (double)fit->steps[i].duration_ns / (double)fit->steps[i].bytes;
        }
        double most = MOST * calibration_median(values, end - begin);
        runs[n_runs].begin = n;
        for (int64_t i = begin; i < end; i++) {
            double s_per_byte = 1e-9 * (double)fit->steps[i].duration_ns / (double)fit->steps[i].bytes;
            if (s_per_byte <= most) {
                out[n++] = (struct settling){1e-9 * (double)fit->steps[i].since_ns, s_per_byte};
            }
        }
        runs[n_runs].n = n - runs[n_runs].begin;
        if (runs[n_runs].n >= LEAST_STEPS) {
            runs[n_runs].n_seqs = fit->steps[begin].n_seqs;
            runs[n_runs].span_s = out[n - 1].since_s - out[runs[n_runs].begin].since_s;
            runs[n_runs].scatter = scatter_of(out + runs[n_runs].begin, runs[n_runs].n, values);
            n_runs++;
        } else {
            n = runs[n_runs].begin;
        }
    }
    return n_runs;
}

// Products of deviations from the means of runs, of what decays and of the times, in units of each run's scatter.
struct moments {
    double decay_decay, decay_time, time_time;
};

static struct moments take_moments(const struct run *runs, int64_t n_runs, const struct settling *steps,
                                   const struct calibration_profile *tried)
{
    struct moments sum = {0};
    for (int64_t r = 0; r < n_runs; r++) {
        const struct settling *of = steps + runs[r].begin;
        double decay = 0, time = 0;
        for (int64_t i = 0; i < runs[r].n; i++) {
            decay += calibration_settling_s(tried, 1, runs[r].n_seqs, of[i].since_s) / (double)runs[r].n;
            time += of[i].s_per_byte / (double)runs[r].n;
        }
        for (int64_t i = 0; i < runs[r].n; i++) {
            double x = (calibration_settling_s(tried, 1, runs[r].n_seqs, of[i].since_s) - decay) / runs[r].scatter;
            double y = (of[i].s_per_byte - time) / runs[r].scatter;
            sum.decay_decay += x * x;
            sum.decay_time += x * y;
            sum.time_time += y * y;
        }
    }
    return sum;
}

static void fit_profile(struct calibration_profile *profile, const struct run *runs, int64_t n_runs,
                        const struct settling *steps, double *values)
{
    double most = LEAST_EXPLAINED;
    for (int64_t r = 0; r < n_runs; r++) {
        values[r] = steps[runs[r].begin].s_per_byte;
    }
    double usual = n_runs > 0 ? calibration_median(values, n_runs) : 0;
    for (int64_t r = 0; r < n_runs; r++) {
        values[r] = runs[r].span_s;
    }
    double longest_s = n_runs > 0 ? fmin(LONGEST_S, calibration_median(values, n_runs)) : 0;
    for (int i = 0; i < TIMES * (int)(sizeof SEQS / sizeof SEQS[0]) && n_runs >= LEAST_RUNS; i++) {
        struct calibration_profile tried = {.settle_s_per_byte = 1,
                                            .settle_s = SHORTEST_S *
                                                        pow(LONGEST_S / SHORTEST_S, (double)(i % TIMES) / (TIMES - 1)),
                                            .settle_seqs = SEQS[i / TIMES]};
        struct moments sum = take_moments(runs, n_runs, steps, &tried);
        double slope = sum.decay_decay > 0 ? sum.decay_time / sum.decay_decay : 0;
        double explained = sum.time_time > 0 ? slope * sum.decay_time / sum.time_time : 0;
        bool likely = slope >= LEAST_SHARE * usual && slope <= MOST_SHARE * usual && tried.settle_s <= longest_s;
        if (likely && explained > most) {
            most = explained;
            profile->settle_s_per_byte = slope;
            profile->settle_s = tried.settle_s;
            profile->settle_seqs = tried.settle_seqs;
        }
    }
}

static void take_off(struct calibration_fit *fit, const struct calibration_profile *profiles)
{
    for (int64_t i = 0; i < fit->n_samples; i++) {
        struct fit_sample *sample = &fit->samples[i];
        const struct fit_step *step = &fit->steps[sample->step];
        const struct calibration_profile *profile = &profiles[sample->profile];
        if (profile->settle_s > 0 && usable(step, sample->profile)) {
            double more_s =
                calibration_settling_s(profile, (double)step->bytes, step->n_seqs, 1e-9 * (double)step->since_ns);
            double left = 1 - more_s / (1e-9 * (double)step->duration_ns);
            left = left > 1 - MOST_SHARE ? left : 1 - MOST_SHARE;    // a step faster than all others says little
            sample->duration_ns = (int64_t)(left * (double)sample->duration_ns);
            sample->duration_ns = sample->duration_ns > 0 ? sample->duration_ns : 1;
        }
    }
}

int calibration_settle(struct calibration_profile *profiles, struct calibration_fit *fit)
{
    size_t n = (size_t)fit->n_steps;
    struct settling *steps = calloc(n + 1, sizeof *steps);
    struct run *runs = calloc(n + 1, sizeof *runs);
    double *values = calloc(n + 1, sizeof *values);
    int error = steps && runs && values ? 0 : status_fail(-ENOMEM, "no memory for %lld steps", (long long)fit->n_steps);
    for (int32_t p = 0; p < fit->n_profiles && !error; p++) {
        fit_profile(&profiles[p], runs, find_runs(runs, steps, values, fit, p), steps, values);
    }
    if (!error) {
        take_off(fit, profiles);
    }
    free(steps);
    free(runs);
    free(values);
    return error;
}
