// sim/calibration_curves.c - from collected samples to efficiency curves.
//
// Sorted by curve, rows and work, samples are cut into bins, and each bin's median becomes a point, or its mean. The
// floor of a curve is, of eight shares of its shortest time, the lowest under which points left out are predicted about
// as well as under the best; 0 below five points. That is asked with efficiencies that go straight between points,
// which need the floor more than their logarithms do: these take a constant time for an efficiency that grows, which
// another device's would not. A curve's residuals are those of its points left out. The floor has seen all points: with
// few of them residuals are flattered a little.
#include "sim/calibration_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sort.h"
#include "engine/status.h"

enum { FLOOR_SHARES = 8, FLOOR_POINTS = 5, BINS_PER_OCTAVE = 8 };
// Octaves: the rows of one batch are selected for side by side, and take about as long as those of one half as large.
static const double POOLED_ROWS = 1, POOLED_WORK = 0.5;
enum { MANY = 32 };    // samples whose mean is a point's own
// A floor must predict better than a lower one by more than chance does.
static const double ABOUT_AS_GOOD = 1.1, LEAST_ERROR = 0.002;

double calibration_median(double *values, int64_t n)
{
    sort_doubles(values, n);
    return 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

static struct calibration_error error_of(double *values, int32_t n)
{
    if (n == 0) {
        return (struct calibration_error){0};
    }
    double median = calibration_median(values, n);
    int32_t rank = (int32_t)ceil(0.95 * n);    // the smallest that 95% do not exceed
    return (struct calibration_error){n, median, values[rank - 1]};
}

double calibration_mean(const double *values, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += values[i];
    }
    return sum / (double)n;
}

double calibration_center(double *values, int64_t n, enum calibration_by by)
{
    if (by == CALIBRATION_BY_LOWER_QUARTILE) {
        sort_doubles(values, n);
        return values[(n - 1) / 4];
    }
    return by == CALIBRATION_BY_MEAN ? calibration_mean(values, n) : calibration_median(values, n);
}

// On a GPU the same shape took 13 us in most layers and 50 to 90 in some, step after step: by the scores, which no
// shape tells. A step is their sum, so that the mean counts.
static bool by_scores(enum stage stage)
{
    return stage == STAGE_INDEX_SELECT;
}

static double work_of(const struct fit_sample *sample)
{
    return (double)sample->bytes + (double)sample->flops;
}

static int compare_curve(const struct fit_sample *a, const struct fit_sample *b)
{
    const int32_t left[] = {a->profile, (int32_t)a->stage, (int32_t)a->phase, (int32_t)a->kind, a->unit_tokens,
                            (int32_t)a->dtype};
    const int32_t right[] = {b->profile, (int32_t)b->stage, (int32_t)b->phase, (int32_t)b->kind, b->unit_tokens,
                             (int32_t)b->dtype};
    for (int i = 0; i < 6; i++) {
        if (left[i] != right[i]) {
            return left[i] < right[i] ? -1 : 1;
        }
    }
    return 0;
}

static int compare_samples(const void *left, const void *right)
{
    const struct fit_sample *a = left, *b = right;
    int order = compare_curve(a, b);
    order = order ? order : (a->rows > b->rows) - (a->rows < b->rows);
    return order ? order : (a->bin > b->bin) - (a->bin < b->bin);
}

static int price_samples(struct calibration_fit *fit, const struct device *rates)
{
    for (int64_t i = 0; i < fit->n_samples; i++) {
        struct fit_sample *sample = &fit->samples[i];
        const struct device *device = &rates[sample->profile];
        const struct device_figure *rate = device_rate(device, sample->dtype);
        if (!rate || !(device->bytes_per_s.value > 0)) {
            return status_fail(-EINVAL, "device %s: its bandwidth or its rate for %s is unknown, which %s needs",
                               device->name, dtype_name(sample->dtype), stage_name(sample->stage));
        }
        double bytes_s = (double)sample->bytes / device_bandwidth(device, (double)sample->step_bytes);
        double flops_s = (double)sample->flops / rate->value;
        sample->roof_s = bytes_s > flops_s ? bytes_s : flops_s;
        sample->launch_s = device->launch_s.value;
        sample->rows = calibration_level_rows(sample->rows);
        sample->bin = (int32_t)floor(BINS_PER_OCTAVE * log2(work_of(sample)));
    }
    return 0;
}

// A point while its curve is fitted. What was measured is the roofline's time times the median ratio: robust, and exact
// for one shape; or another center of the ratios, as asked for. The curve is laid through time_s.
struct fit_point {
    double roof_s, measured_s, time_s, launch_s;
};

static struct fit_point reduce(struct calibration_point *out, const struct fit_sample *samples, int64_t n,
                               enum calibration_by by, double *scratch)
{
    struct fit_point point = {.launch_s = samples[0].launch_s};
    for (int64_t i = 0; i < n; i++) {
        scratch[i] = work_of(&samples[i]);
    }
    *out = (struct calibration_point){.rows = samples[0].rows, .work = calibration_median(scratch, n), .samples = n};
    for (int64_t i = 0; i < n; i++) {
        scratch[i] = samples[i].roof_s;
    }
    point.roof_s = calibration_median(scratch, n);
    for (int64_t i = 0; i < n; i++) {
        scratch[i] = 1e-9 * (double)samples[i].duration_ns / samples[i].roof_s;
    }
    by = by == CALIBRATION_BY_MEDIAN && by_scores(samples->stage) ? CALIBRATION_BY_MEAN : by;
    point.measured_s = point.roof_s * calibration_center(scratch, n, by);
    point.time_s = point.measured_s;
    return point;
}

// Where times go by the scores, a point's few steps of few layers are a draw of them: its time is the mean of all that
// was measured of about its number of rows, at about its work each, but of the point `left_out` (-1: none). Many need
// no others, which may be behind a knee.
static void pool(const struct calibration_curve *curve, struct fit_point *points, int32_t left_out)
{
    for (int32_t i = 0; i < curve->n_points; i++) {
        const struct calibration_point *at = &curve->points[i];
        double sum = 0, weight = 0;
        for (int32_t j = 0; j < curve->n_points; j++) {
            const struct calibration_point *other = &curve->points[j];
            double rows = log2((double)other->rows / at->rows), each = log2(other->work / at->work) - rows;
            if (j != left_out && (j == i || at->samples < MANY) && fabs(rows) <= POOLED_ROWS &&
                fabs(each) <= POOLED_WORK) {
                sum += (double)other->samples * log(points[j].measured_s);
                weight += (double)other->samples;
            }
        }
        points[i].time_s = weight > 0 ? exp(sum / weight) : points[i].measured_s;
    }
}

static void lay(struct calibration_curve *curve, const struct fit_point *points, double floor_s)
{
    curve->floor_s = floor_s;
    for (int32_t i = 0; i < curve->n_points; i++) {
        curve->points[i].efficiency = points[i].roof_s / (points[i].time_s - floor_s);
    }
}

// What predicting point i from the others misses `truly_s` by; negative: they do not reach it.
static double missed(const struct calibration_curve *curve, const struct fit_point *points, int32_t i, bool linear,
                     double truly_s)
{
    const struct calibration_point *point = &curve->points[i];
    double efficiency;
    enum provenance provenance;
    if (!calibration_curve_at(curve, point->rows, point->work, i, linear, &efficiency, &provenance)) {
        return -1;
    }
    return fabs((curve->floor_s + points[i].roof_s / efficiency) / truly_s - 1);
}

// Fits the efficiencies to a floor and predicts each point from the others. errors [n_points].
static struct calibration_error try_floor(struct calibration_curve *curve, const struct fit_point *points,
                                          double floor_s, bool linear, double *errors)
{
    int32_t n = 0;
    lay(curve, points, floor_s);
    for (int32_t i = 0; i < curve->n_points; i++) {
        double error = missed(curve, points, i, linear, points[i].time_s);
        if (error >= 0) {
            errors[n++] = error;
        }
    }
    return error_of(errors, n);
}

static double shortest(const struct calibration_curve *curve, const struct fit_point *points)
{
    double time_s = INFINITY;
    for (int32_t i = 0; i < curve->n_points; i++) {
        time_s = fmin(time_s, points[i].time_s);
    }
    return time_s;
}

// The same of pooled points, each left out of its neighbours' means and held against what was measured of it.
static struct calibration_error pooled_error(struct calibration_curve *curve, struct fit_point *points, double floor_s,
                                             double *errors)
{
    int32_t n = 0;
    for (int32_t i = 0; i < curve->n_points; i++) {
        pool(curve, points, i);
        lay(curve, points, fmin(floor_s, shortest(curve, points) * (FLOOR_SHARES - 1) / FLOOR_SHARES));
        double error = missed(curve, points, i, false, points[i].measured_s);
        if (error >= 0) {
            errors[n++] = error;
        }
    }
    pool(curve, points, -1);
    lay(curve, points, floor_s);
    return error_of(errors, n);
}

// The points of a curve that are an octave of work apart, of each number of rows: between neighbours any floor predicts
// well. kept, kept_points [n_points].
static struct calibration_curve thin(const struct calibration_curve *curve, const struct fit_point *points,
                                     struct calibration_point *kept, struct fit_point *kept_points)
{
    struct calibration_curve thinned = *curve;
    thinned.points = kept;
    thinned.n_points = 0;
    for (int32_t i = 0; i < curve->n_points; i++) {
        const struct calibration_point *point = &curve->points[i];
        const struct calibration_point *last = thinned.n_points > 0 ? &kept[thinned.n_points - 1] : NULL;
        if (!last || last->rows != point->rows || point->work >= 2 * last->work) {
            kept_points[thinned.n_points] = points[i];
            kept[thinned.n_points++] = *point;
        }
    }
    return thinned;
}

static int fit_curve(struct calibration_curve *curve, struct fit_point *points, bool pooled, double *errors)
{
    struct calibration_point *kept = calloc((size_t)curve->n_points, sizeof *kept);
    struct fit_point *kept_points = calloc((size_t)curve->n_points, sizeof *kept_points);
    if (!kept || !kept_points) {
        free(kept);
        free(kept_points);
        return status_fail(-ENOMEM, "no memory for %d points", curve->n_points);
    }
    for (int32_t i = 0; i < curve->n_points; i++) {
        errors[i] = fabs((points[i].roof_s + points[i].launch_s) / points[i].measured_s - 1);
    }
    curve->roofline = error_of(errors, curve->n_points);
    if (pooled) {
        pool(curve, points, -1);
    }
    double shortest_s = shortest(curve, points), best_floor_s = 0, best = INFINITY;
    // A few points say nothing of a floor: predicting one from the others, some share always happens to fit.
    struct calibration_curve thinned = thin(curve, points, kept, kept_points);
    int shares = thinned.n_points >= FLOOR_POINTS ? FLOOR_SHARES : 1;
    double medians[FLOOR_SHARES];
    for (int share = 0; share < shares; share++) {
        double floor_s = shortest_s * share / FLOOR_SHARES;
        medians[share] = try_floor(&thinned, kept_points, floor_s, true, errors).median;
        best = medians[share] < best ? medians[share] : best;
    }
    // The lowest of those that are about as good: where all times are alike, any floor fits, and a high one would say
    // that a larger model takes no longer.
    for (int share = shares - 1; share >= 0; share--) {
        bool good = medians[share] <= ABOUT_AS_GOOD * best + LEAST_ERROR;
        best_floor_s = good ? shortest_s * share / FLOOR_SHARES : best_floor_s;
    }
    curve->calibrated = pooled ? pooled_error(curve, points, best_floor_s, errors)
                               : try_floor(curve, points, best_floor_s, false, errors);
    free(kept);
    free(kept_points);
    return 0;
}

// One curve from its sorted samples [n]. scratch [n].
static int make_curve(struct calibration_curve *out, const struct fit_sample *samples, int64_t n,
                      enum calibration_by by, double *scratch)
{
    int32_t n_points = 0;
    for (int64_t i = 0; i < n; i++) {
        n_points += i == 0 || compare_samples(&samples[i], &samples[i - 1]) != 0;
    }
    *out = (struct calibration_curve){.stage = samples->stage, .phase = samples->phase,
                                      .unit_tokens = samples->unit_tokens, .layer = samples->kind,
                                      .dtype = samples->dtype};
    struct fit_point *points = calloc((size_t)n_points, sizeof *points);
    out->points = calloc((size_t)n_points, sizeof *out->points);
    if (!points || !out->points) {
        free(points);
        return status_fail(-ENOMEM, "no memory for %d points", n_points);
    }
    for (int64_t begin = 0, end; begin < n; begin = end) {
        for (end = begin + 1; end < n && compare_samples(&samples[begin], &samples[end]) == 0; end++) {
        }
        points[out->n_points] = reduce(&out->points[out->n_points], &samples[begin], end - begin, by, scratch);
        out->n_points++;
    }
    int error = fit_curve(out, points, by_scores(out->stage) && out->phase != PHASE_PREFILL, scratch);
    free(points);
    return error;
}

static bool replaced(const struct fit_sample *older, const struct fit_sample *newer, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double rows = log2((double)newer[i].rows / older->rows);
        double each = log2(work_of(&newer[i]) / work_of(older)) - rows;
        if (compare_curve(&newer[i], older) == 0 && fabs(rows) <= POOLED_ROWS && fabs(each) <= POOLED_WORK) {
            return true;
        }
    }
    return false;
}

// Leaves out older samples that newer kernels' are near. A few newer samples stand for many of the same place.
static int renew(struct calibration_fit *fit)
{
    int64_t n_newer = 0, n_places = 0, kept = 0;
    for (int64_t i = 0; i < fit->n_samples; i++) {
        n_newer += fit->samples[i].newer;
    }
    struct fit_sample *places = n_newer > 0 ? calloc((size_t)n_newer, sizeof *places) : NULL;
    if (!places) {
        return n_newer > 0 ? status_fail(-ENOMEM, "no memory for newer samples") : 0;
    }
    for (int64_t i = 0; i < fit->n_samples; i++) {
        bool seen = !fit->samples[i].newer;
        for (int64_t j = 0; j < n_places && !seen; j++) {
            seen = compare_samples(&places[j], &fit->samples[i]) == 0;
        }
        if (!seen) {
            places[n_places++] = fit->samples[i];
        }
    }
    for (int64_t i = 0; i < fit->n_samples; i++) {
        if (fit->samples[i].newer || !replaced(&fit->samples[i], places, n_places)) {
            fit->samples[kept++] = fit->samples[i];
        }
    }
    fit->n_samples = kept;
    free(places);
    return 0;
}

static int make_curves(struct calibration *out, struct calibration_fit *fit, double *scratch)
{
    qsort(fit->samples, (size_t)fit->n_samples, sizeof *fit->samples, compare_samples);
    for (int64_t begin = 0, end; begin < fit->n_samples; begin = end) {
        for (end = begin + 1; end < fit->n_samples && compare_curve(&fit->samples[begin], &fit->samples[end]) == 0;) {
            end++;
        }
        struct calibration_profile *profile = &out->profiles[fit->samples[begin].profile];
        struct calibration_curve *grown =
            realloc(profile->curves, ((size_t)profile->n_curves + 1) * sizeof *profile->curves);
        if (!grown) {
            return status_fail(-ENOMEM, "no memory for curves");
        }
        profile->curves = grown;
        int error = make_curve(&grown[profile->n_curves++], &fit->samples[begin], end - begin, fit->by, scratch);
        if (error) {
            return error;
        }
    }
    return 0;
}

static int fill(struct calibration *out, struct calibration_fit *fit, const struct device *rates, double *scratch)
{
    out->profiles = calloc((size_t)fit->n_profiles, sizeof *out->profiles);
    out->traces = calloc((size_t)fit->n_traces + 1, sizeof *out->traces);
    if (!out->profiles || !out->traces) {
        return status_fail(-ENOMEM, "no memory for a calibration");
    }
    out->n_profiles = fit->n_profiles;
    out->n_traces = fit->n_traces;
    if (fit->n_traces > 0) {
        memcpy(out->traces, fit->traces, (size_t)fit->n_traces * sizeof *out->traces);
    }
    for (int32_t p = 0; p < out->n_profiles; p++) {
        struct calibration_profile *profile = &out->profiles[p];
        const struct sample_source *source = &fit->profiles[p].source;
        memcpy(profile->device, source->device, sizeof profile->device);
        memcpy(profile->backend, source->backend, sizeof profile->backend);
        memcpy(profile->models, fit->profiles[p].models, sizeof profile->models);
        profile->threads = source->threads;
        profile->warm_s = source->graph ? CALIBRATION_WARM_S : 0;
        profile->rates = rates[p];
        profile->rates.threads = source->threads;
        profile->rates.calibration = NULL;
    }
    int error = calibration_settle(out->profiles, fit);
    calibration_take_steps(out->profiles, fit, scratch);
    error = error ? error : price_samples(fit, rates);
    error = error ? error : renew(fit);
    return error ? error : make_curves(out, fit, scratch);
}

int calibration_fit_finish(struct calibration **out, struct calibration_fit *fit, const struct device *rates,
                           const char *date, const char *command)
{
    *out = NULL;
    if (fit->error) {
        return fit->error == -ENOMEM
                   ? status_fail(-ENOMEM, "no memory for the samples of these traces")
                   : status_fail(-EINVAL, "more than %d devices and backends; calibrate from fewer traces",
                                 CALIBRATION_MAX_PROFILES);
    }
    if (fit->n_samples == 0) {
        return status_fail(-EINVAL, "no stage with bytes and a duration in a whole step: nothing to calibrate from");
    }
    int64_t most = fit->n_samples > 2 * fit->n_steps ? fit->n_samples : 2 * fit->n_steps;
    double *scratch = calloc((size_t)most, sizeof *scratch);
    struct calibration *made = calloc(1, sizeof *made);
    int error = scratch && made ? 0 : status_fail(-ENOMEM, "no memory for a calibration");
    if (!error) {
        snprintf(made->date, sizeof made->date, "%s", date);
        snprintf(made->command, sizeof made->command, "%s", command);
        error = fill(made, fit, rates, scratch);
    }
    free(scratch);
    if (error) {
        calibration_free(made);
        return error;
    }
    *out = made;
    return 0;
}
