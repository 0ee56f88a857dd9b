// workloads/fit.c - a description that draws requests like those of a list.
//
// Per class: quantiles of prompts and outputs, the correlation of their ranks as that of a normal copula, the share of
// thought; of all together: the rate and the deviation of the gaps. Not fitted: how the rate changes over the list, and
// what prompts share.
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "workloads/internal.h"

static const double places[] = {0,   0.02, 0.05, 0.1, 0.2,  0.3,  0.4,  0.5,  0.6,   0.7,  0.8,
                                0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1};
enum { N_PLACES = sizeof places / sizeof places[0] };

// The requests of one class.
struct sample {
    int64_t n;
    double *prompts, *outputs, *ranks[2];    // [n]
    double think, output;                    // tokens in all
};

struct ranked {
    double value;
    int64_t at;
};

static int by_value(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    return a->value != b->value ? (a->value > b->value) - (a->value < b->value) : (a->at > b->at) - (a->at < b->at);
}

// ranks [n] of values, equal ones sharing the mean of theirs; values are sorted. `scratch` [n].
static void rank(double *ranks, double *values, int64_t n, struct ranked *scratch)
{
    for (int64_t i = 0; i < n; i++) {
        scratch[i] = (struct ranked){values[i], i};
    }
    qsort(scratch, (size_t)n, sizeof *scratch, by_value);
    for (int64_t first = 0, end; first < n; first = end) {
        for (end = first + 1; end < n && scratch[end].value == scratch[first].value; end++) {
        }
        for (int64_t i = first; i < end; i++) {
            ranks[scratch[i].at] = 0.5 * (double)(first + end - 1);
            values[i] = scratch[i].value;
        }
    }
}

// Of the normal scores that would give the ranks their correlation: 2 sin(pi/6 rho).
static double copula(const struct sample *sample)
{
    double mean = 0.5 * (double)(sample->n - 1), product = 0, square[2] = {0, 0};
    for (int64_t i = 0; i < sample->n; i++) {
        double a = sample->ranks[0][i] - mean, b = sample->ranks[1][i] - mean;
        product += a * b;
        square[0] += a * a;
        square[1] += b * b;
    }
    double spread = sqrt(square[0] * square[1]);
    return spread > 0 ? fmax(-0.99, fmin(0.99, 2 * sin(0.5235987755982988 * product / spread))) : 0;
}

// sorted [n]: whole numbers of tokens; the drawn law goes geometrically from point to point.
static json_t *quantiles(const double *sorted, int64_t n)
{
    json_t *at = json_array(), *tokens = json_array();
    for (int p = 0; p < N_PLACES; p++) {
        int64_t place = (int64_t)floor(places[p] * (double)(n - 1) + 0.5);
        json_array_append_new(at, json_real(places[p]));
        json_array_append_new(tokens, json_integer((json_int_t)sorted[place]));
    }
    return json_pack("{s:s, s:o, s:o}", "law", "quantiles", "at", at, "tokens", tokens);
}

static json_t *arrivals(const struct workload *workload, const struct workload_statistics *statistics)
{
    double rate = statistics->rate_per_s, cv = statistics->gap_cv;
    if (workload->users > 0 || !(rate >= 1e-4 && rate <= 1e6)) {    // all at once are users who ask once
        json_int_t users = workload->users > 0 ? workload->users : (json_int_t)workload->n;
        return json_pack("{s:s, s:I, s:f}", "law", "closed-loop", "users", users, "pause_s",
                         1e-9 * (double)workload->pause_ns);
    }
    return cv < 0.01 ? json_pack("{s:s, s:f}", "law", "constant", "rate_per_s", rate)
                     : json_pack("{s:s, s:f, s:f}", "law", "gamma", "rate_per_s", rate, "cv", fmin(cv, 100));
}

static void gather(struct sample *sample, const struct workload *workload, int32_t class)
{
    sample->n = 0;
    sample->think = sample->output = 0;
    for (int64_t i = 0; i < workload->n; i++) {
        const struct workload_request *request = &workload->requests[i];
        if (request->class_index == class) {
            sample->prompts[sample->n] = request->prompt_tokens;
            sample->outputs[sample->n++] = request->output_tokens;
            sample->think += request->think_tokens;
            sample->output += request->output_tokens;
        }
    }
}

static json_t *fit_class(const struct workload *workload, struct sample *sample, int32_t class, struct ranked *scratch)
{
    rank(sample->ranks[0], sample->prompts, sample->n, scratch);
    rank(sample->ranks[1], sample->outputs, sample->n, scratch);
    double r = copula(sample);
    return json_pack("{s:s, s:f, s:o, s:o, s:f, s:f}", "name", workload->classes[class], "weight",
                     fmax((double)sample->n / (double)workload->n, 1e-6), "prompt",
                     quantiles(sample->prompts, sample->n), "output", quantiles(sample->outputs, sample->n),
                     "correlation", r, "think_share", sample->think / sample->output);
}

int workload_fit(char **text, const struct workload *workload)
{
    struct workload_statistics statistics;
    char source[256];
    *text = NULL;
    int error = workload_measure(&statistics, workload);
    if (error) {
        return error;
    }
    size_t n = (size_t)workload->n;
    double *values = malloc(4 * n * sizeof *values + 1);
    struct ranked *scratch = malloc(n * sizeof *scratch + 1);
    struct sample sample = {.prompts = values, .outputs = values + n, .ranks = {values + 2 * n, values + 3 * n}};
    bool room = values && scratch;
    json_t *classes = room ? json_array() : NULL, *root = NULL;    // without them there is no root either
    for (int32_t c = 0; room && c < workload->n_classes; c++) {
        gather(&sample, workload, c);
        if (sample.n > 0) {
            json_array_append_new(classes, fit_class(workload, &sample, c, scratch));
        }
    }
    free(values);
    free(scratch);
    snprintf(source, sizeof source, "Fitted to the %lld requests of %.60s: quantiles of lengths, correlation of their "
             "ranks, mean rate and deviation of gaps; not how the rate changes, nor what prompts share.",
             (long long)workload->n, workload->name);
    root = json_pack("{s:s, s:s, s:i, s:I, s:o, s:o}", "name", workload->name, "source", source, "seed", 1, "requests",
                     (json_int_t)workload->n, "arrivals", arrivals(workload, &statistics), "classes", classes);
    *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(root);
    return *text ? 0 : status_fail(-ENOMEM, "%s: no memory to fit %lld requests, or a name that is no UTF-8",
                                       workload->name, (long long)workload->n);
}
