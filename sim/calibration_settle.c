// sim/calibration_settle.c - how steps that decode settle after prompts.
//
// Prompts multiply, which a processor does at lower clocks than it reads memory at; for tens of milliseconds afterwards
// it is slower at everything (a Xeon of 8 threads: 1.0 ms of 3.6 at first, gone after 45 ms in the mean). A step that
// reads b bytes, t after the last step with prompts:
//
//     step = settled + b settle_s_per_byte exp(-t / settle_s)
//
// What it takes once settled is unknown, but nearly the same all through a run: steps of one source and number of
// sequences with no prompt between them. So both are found by least squares over what differs within runs, per byte,
// for one settle_s after the other. That must explain a fair share of the differences, or nothing is said: most machines
// show no such thing, a GPU's steps are not asked. It is then taken off the stages of each step, all in the same
// proportion.
#include "sim/calibration_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/status.h"

enum { LEAST_RUNS = 8, LEAST_STEPS = 4, TIMES = 41 };
static const double SHORTEST_S = 2e-3, LONGEST_S = 2;    // of settle_s; tried in as many steps of one ratio
static const double LEAST_EXPLAINED = 0.1;               // of the variance within runs
static const double LEAST_SHARE = 0.02;                  // of a step: less is not worth a figure
static const double MOST = 1.5;                          // times a run's median: longer is a hiccup

// One step of a run.
struct settling {
    double since_s, s_per_byte;
};

struct run {
    int64_t begin, n;    // among the steps of all runs
};

static bool follows(const struct fit_step *before, const struct fit_step *step)
{
    return before->source == step->source && before->n_seqs == step->n_seqs && before->since_ns < step->since_ns;
}

static bool usable(const struct fit_step *step, int32_t profile)
{
    return step->profile == profile && !step->graph && step->phase == PHASE_DECODE && step->since_ns >= 0 &&
           step->bytes > 0 && step->n_stages > 0 && step->duration_ns > 0;
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
        while (end < fit->n_steps && usable(&fit->steps[end], profile) && follows(&fit->steps[end - 1], &fit->steps[end])) {
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
            n_runs++;
        } else {
            n = runs[n_runs].begin;
        }
    }
    return n_runs;
}

// Products of deviations from the means of runs, of exp(-t / settle_s) and of the times.
struct moments {
    double decay_decay, decay_time, time_time, mean_time;
};

static struct moments take_moments(const struct run *runs, int64_t n_runs, const struct settling *steps, double settle_s)
{
    struct moments sum = {0};
    int64_t n = 0;
    for (int64_t r = 0; r < n_runs; r++) {
        const struct settling *of = steps + runs[r].begin;
        double decay = 0, time = 0;
        for (int64_t i = 0; i < runs[r].n; i++) {
            decay += exp(-of[i].since_s / settle_s) / (double)runs[r].n;
            time += of[i].s_per_byte / (double)runs[r].n;
        }
        for (int64_t i = 0; i < runs[r].n; i++) {
            double x = exp(-of[i].since_s / settle_s) - decay, y = of[i].s_per_byte - time;
            sum.decay_decay += x * x;
            sum.decay_time += x * y;
            sum.time_time += y * y;
        }
        sum.mean_time += time * (double)runs[r].n;
        n += runs[r].n;
    }
    sum.mean_time /= (double)n;
    return sum;
}

static void fit_profile(struct calibration_profile *profile, const struct run *runs, int64_t n_runs,
                        const struct settling *steps)
{
    double most = LEAST_EXPLAINED;
    for (int i = 0; i < TIMES && n_runs >= LEAST_RUNS; i++) {
        double settle_s = SHORTEST_S * pow(LONGEST_S / SHORTEST_S, (double)i / (TIMES - 1));
        struct moments sum = take_moments(runs, n_runs, steps, settle_s);
        double slope = sum.decay_decay > 0 ? sum.decay_time / sum.decay_decay : 0;
        double explained = sum.time_time > 0 ? slope * sum.decay_time / sum.time_time : 0;
        if (slope >= LEAST_SHARE * sum.mean_time && explained > most) {
            most = explained;
            profile->settle_s_per_byte = slope;
            profile->settle_s = settle_s;
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
            double more_s = profile->settle_s_per_byte * (double)step->bytes * exp(-1e-9 * (double)step->since_ns / profile->settle_s);
            double left = 1 - more_s / (1e-9 * (double)step->duration_ns);
            left = left > 0.5 ? left : 0.5;    // a step that was faster than all others says little of them
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
        fit_profile(&profiles[p], runs, find_runs(runs, steps, values, fit, p), steps);
    }
    if (!error) {
        take_off(fit, profiles);
    }
    free(steps);
    free(runs);
    free(values);
    return error;
}
