// tui/whatif.c - knobs to plans, plans to predictions.
#include "tui/whatif.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/status.h"
#include "sim/parallel.h"
#include "tui/format.h"
#include "workloads/workload.h"

static const struct {
    const char *name;
    int32_t least, most;       // of a number; least 0: 0 means the model's own
    bool number;
} knobs[KNOB_N] = {
    [KNOB_MODEL] = {.name = "model"},
    [KNOB_METHOD] = {.name = "method"},
    [KNOB_DEVICE] = {.name = "device"},
    [KNOB_RANKS] = {"ranks", 1, PARALLEL_MAX_RANKS, true},
    [KNOB_COUNT] = {"replicas", 1, 4096, true},
    [KNOB_BATCH] = {"batch", 1, 1024, true},      // pricing goes through the sequences: more would not be at once
    [KNOB_CONTEXT] = {"context", 1, 1 << 24, true},
    [KNOB_OUTPUT] = {"output", 2, 1 << 20, true},
    [KNOB_TOP_K] = {"top k", 0, 1 << 20, true},
    [KNOB_WINDOW] = {"window", 0, 1 << 20, true},
    [KNOB_INDEX_EVERY] = {"index every", 0, 256, true},
    [KNOB_WEIGHTS] = {.name = "weights"},
    [KNOB_KV] = {.name = "KV cache"},
    [KNOB_WORKLOAD] = {.name = "workload"},
    [KNOB_ANSWER] = {"its answers", 0, 1 << 20, true},
    [KNOB_RATE] = {"requests/s", 0, 1 << 20, true},
    [KNOB_TTFT_MS] = {"TTFT P95 ms", 0, 1 << 24, true},
    [KNOB_TPOT_MS] = {"TPOT P95 ms", 0, 1 << 24, true},
};

static const struct { const char *name; int32_t dtype; } dtypes[] = {
    {"model's", -1}, {"bf16", DTYPE_BF16}, {"f32", DTYPE_F32}};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

const char *knob_name(enum knob knob)
{
    return knobs[knob].name;
}

bool knob_is_number(enum knob knob)
{
    return knobs[knob].number;
}

static int32_t choices(const struct whatif *whatif, enum knob knob)
{
    switch (knob) {
    case KNOB_MODEL: return plan_model_count();
    case KNOB_METHOD: return plan_method_count();
    case KNOB_DEVICE: return whatif->n_devices;
    case KNOB_WEIGHTS: case KNOB_KV: return N_DTYPES;
    case KNOB_WORKLOAD: return workload_preset_count();
    default: return 0;
    }
}

static const char *choice(const struct whatif *whatif, enum knob knob, int32_t index)
{
    switch (knob) {
    case KNOB_MODEL: return plan_model(index)->name;
    case KNOB_METHOD: return plan_method(index)->name;
    case KNOB_DEVICE: return whatif->devices[index].name;
    case KNOB_WEIGHTS: case KNOB_KV: return dtypes[index].name;
    case KNOB_WORKLOAD: return workload_preset(index)->name;
    default: return "";
    }
}

// The index of the first choice that begins so, -1: none.
static int32_t find_choice(const struct whatif *whatif, enum knob knob, const char *text)
{
    for (int32_t i = 0; i < choices(whatif, knob); i++) {
        if (strncasecmp(choice(whatif, knob, i), text, strlen(text)) == 0) {
            return i;
        }
    }
    return -1;
}

static int build(struct plan *plan, const struct scenario *scenario)
{
    const int32_t *value = scenario->knobs;
    struct plan_options options = plan_options_default();
    options.top_k = value[KNOB_TOP_K];
    options.window_tokens = value[KNOB_WINDOW];
    options.index_every = value[KNOB_INDEX_EVERY];
    options.weight_dtype = dtypes[value[KNOB_WEIGHTS]].dtype;
    options.kv_dtype = dtypes[value[KNOB_KV]].dtype;
    return plan_build(plan, plan_model(value[KNOB_MODEL]), plan_method(value[KNOB_METHOD])->name, &options);
}

static void answer_it(struct scenario_answer *answer, const struct whatif *whatif, const struct scenario *scenario)
{
    const int32_t *value = scenario->knobs;
    const struct device *device = &whatif->devices[value[KNOB_DEVICE]];
    *answer = (struct scenario_answer){.price_per_million = NAN, .decode_tokens_per_s = NAN};
    int error = build(&answer->plan, scenario);
    error = error ? error : parallel_split(&answer->part, &answer->group, &answer->plan, device, value[KNOB_RANKS]);
    error = error ? error : predict_request(&answer->request, &answer->group, &answer->part, value[KNOB_BATCH],
                                            value[KNOB_CONTEXT], value[KNOB_OUTPUT], 0);
    if (error) {
        snprintf(answer->why, sizeof answer->why, "%s", status_text());
        return;
    }
    const struct request_prediction *request = &answer->request;
    answer->valid = true;
    answer->fits = request->max_seqs < 0 || request->max_seqs >= value[KNOB_BATCH];
    answer->decode_tokens_per_s = request->decode_tokens_per_s * value[KNOB_COUNT];
    device = &answer->group;
    if (device->price_per_hour.value > 0 && request->throughput_tokens_per_s > 0) {    // the count cancels out
        answer->price_per_million = device->price_per_hour.value / 3600 / request->throughput_tokens_per_s * 1e6;
    }
}

// Devices [n] of the table take the shipped calibrations: their own, or the nearest one's curves.
static int calibrate(struct whatif *whatif, int32_t n)
{
    int error = calibration_load_shipped(&whatif->calibration, NULL);
    for (int32_t i = 0; i < n && !error && whatif->calibration; i++) {
        struct device *device = &whatif->devices[i];
        const struct calibration_profile *own = calibration_find(whatif->calibration, device->name, NULL);
        if (own) {
            *device = own->rates;
            device->calibration = own;
        } else {
            device->calibration = calibration_nearest(whatif->calibration, device);
        }
    }
    return error;
}

int whatif_open(struct whatif **out, const struct device *device)
{
    struct device *table = NULL;
    int32_t n = 0;
    *out = NULL;
    int error = device_table_load(&table, &n, NULL);
    if (error) {
        return error;
    }
    struct whatif *whatif = calloc(1, sizeof *whatif);
    struct device *devices = realloc(table, (size_t)(n + 1) * sizeof *devices);
    if (!whatif || !devices) {
        free(devices ? devices : table);
        free(whatif);
        return status_fail(-ENOMEM, "out of memory for a table of devices");
    }
    whatif->devices = devices;
    whatif->n_devices = n;
    whatif->n_table = n;
    if (device) {
        whatif_offer(whatif, device);
    }
    error = calibrate(whatif, n);
    error = error ? error : whatif_job_open(&whatif->job);
    if (error) {
        whatif_close(whatif);
        return error;
    }
    int32_t *value = whatif->now.knobs, method = find_choice(whatif, KNOB_METHOD, "clsa");
    int32_t first = find_choice(whatif, KNOB_DEVICE, "H100");
    value[KNOB_METHOD] = method > 0 ? method : 0;
    value[KNOB_DEVICE] = first > 0 ? first : 0;
    value[KNOB_RANKS] = value[KNOB_COUNT] = 1;
    value[KNOB_BATCH] = 8;
    value[KNOB_CONTEXT] = 1 << 17;
    value[KNOB_OUTPUT] = 256;
    value[KNOB_TPOT_MS] = 30;    // reads fast
    answer_it(&whatif->answer, whatif, &whatif->now);
    *out = whatif;
    return 0;
}

void whatif_close(struct whatif *whatif)
{
    if (whatif) {
        whatif_job_close(whatif->job);
        calibration_free(whatif->calibration);    // the job that borrowed it is done
        free(whatif->devices);
        free(whatif);
    }
}

void whatif_offer(struct whatif *whatif, const struct device *device)
{
    if (whatif->n_devices == whatif->n_table && find_choice(whatif, KNOB_DEVICE, device->name) < 0) {
        whatif->devices[whatif->n_devices++] = *device;    // whatif_open made room for one
    }
}

void whatif_select(struct whatif *whatif, int32_t by)
{
    whatif->knob = (whatif->knob + by + KNOB_N) % KNOB_N;
}

// What a number at 0 stands for.
static int32_t own_value(const struct scenario_answer *answer, enum knob knob)
{
    const struct plan *plan = &answer->plan;
    switch (knob) {
    case KNOB_TOP_K: return plan->index.budget_tokens > 0 ? plan->index.budget_tokens : plan->shape.top_k;
    case KNOB_WINDOW: return plan->shape.window_tokens;
    case KNOB_TTFT_MS: return 1000;    // no limit: the next one to try
    case KNOB_TPOT_MS: return 10;
    case KNOB_ANSWER: return 4096;
    default: return 1;
    }
}

void whatif_change(struct whatif *whatif, int32_t by)
{
    enum knob knob = (enum knob)whatif->knob;
    int32_t *value = &whatif->now.knobs[knob], n = choices(whatif, knob);
    if (!knobs[knob].number) {
        *value = (*value + by + n) % n;
    } else {
        int64_t from = *value > 0 ? *value : own_value(&whatif->answer, knob);
        int64_t to = by > 0 ? from * 2 : from / 2;
        *value = to > knobs[knob].most ? knobs[knob].most : to < knobs[knob].least ? knobs[knob].least : (int32_t)to;
    }
    answer_it(&whatif->answer, whatif, &whatif->now);
}

void whatif_set(struct whatif *whatif, const struct scenario *scenario)
{
    whatif->now = *scenario;
    answer_it(&whatif->answer, whatif, &whatif->now);
}

// "131072", "128K", "1M"; -1: no number, or out of range.
static int32_t parse_number(const char *text, enum knob knob)
{
    char *end;
    long long value = strtoll(text, &end, 10);
    if (end == text || value < 0 || value > INT32_MAX) {
        return -1;
    }
    int shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' || *end == 'm' ? 20 : 0;
    end += shift > 0;
    value <<= shift;
    return *end == 0 && value >= knobs[knob].least && value <= knobs[knob].most ? (int32_t)value : -1;
}

bool whatif_type(struct whatif *whatif, const char *text)
{
    enum knob knob = (enum knob)whatif->knob;
    int32_t value = knobs[knob].number ? parse_number(text, knob) : find_choice(whatif, knob, text);
    if (value < 0) {
        return false;
    }
    whatif->now.knobs[knob] = value;
    answer_it(&whatif->answer, whatif, &whatif->now);
    return true;
}

static int32_t find_exactly(const struct whatif *whatif, enum knob knob, const char *name)
{
    for (int32_t i = 0; i < choices(whatif, knob); i++) {
        if (strcmp(choice(whatif, knob, i), name) == 0) {
            return i;
        }
    }
    return -1;
}

bool whatif_copy(struct whatif *whatif, const struct sample_source *source, int32_t n_seqs, int32_t context_tokens)
{
    int32_t model = find_exactly(whatif, KNOB_MODEL, source->model);
    int32_t method = find_exactly(whatif, KNOB_METHOD, source->method);
    if (model < 0 || method < 0) {
        return false;
    }
    int32_t *value = whatif->now.knobs;
    value[KNOB_MODEL] = model;
    value[KNOB_METHOD] = method;
    value[KNOB_TOP_K] = source->top_k;
    value[KNOB_WINDOW] = source->window_tokens;
    value[KNOB_BATCH] = n_seqs > 0 ? n_seqs : value[KNOB_BATCH];
    value[KNOB_CONTEXT] = context_tokens > 0 ? context_tokens : value[KNOB_CONTEXT];
    answer_it(&whatif->answer, whatif, &whatif->now);
    return true;
}

bool whatif_pin(struct whatif *whatif)
{
    if (whatif->n_pinned == WHATIF_PINNED) {
        return false;
    }
    whatif->pinned[whatif->n_pinned] = whatif->now;
    whatif->pinned_answers[whatif->n_pinned++] = whatif->answer;
    return true;
}

void whatif_unpin(struct whatif *whatif)
{
    whatif->n_pinned -= whatif->n_pinned > 0;
}

static int start(struct whatif *whatif, bool fleet)
{
    const int32_t *value = whatif->now.knobs;
    if (!whatif->answer.valid) {
        return status_fail(-EINVAL, "%s", whatif->answer.why);
    }
    whatif->job_scenario = whatif->now;
    struct job_question question = {
        .plan = &whatif->answer.part, .device = &whatif->answer.group,
        .workload = choice(whatif, KNOB_WORKLOAD, value[KNOB_WORKLOAD]), .rate_per_s = value[KNOB_RATE],
        .output_tokens = value[KNOB_ANSWER],
        .fleet = fleet, .slo = {.ttft_s = value[KNOB_TTFT_MS] * 1e-3, .tpot_s = value[KNOB_TPOT_MS] * 1e-3},
        .share = 1.0 / value[KNOB_COUNT], .max_seqs = value[KNOB_BATCH],
    };
    return whatif_job_start(whatif->job, &question);
}

int whatif_simulate(struct whatif *whatif)
{
    return start(whatif, false);
}

int whatif_plan(struct whatif *whatif)
{
    if (whatif->now.knobs[KNOB_TTFT_MS] == 0 && whatif->now.knobs[KNOB_TPOT_MS] == 0) {
        return status_fail(-EINVAL, "A fleet needs a limit: set TTFT or TPOT.");
    }
    return start(whatif, true);
}

// Same question to the planner, whatever the knobs that it does not use.
static bool same_fleet(const struct scenario *a, const struct scenario *b)
{
    for (int knob = 0; knob < KNOB_N; knob++) {
        bool used = knob != KNOB_COUNT && knob != KNOB_BATCH && knob != KNOB_CONTEXT && knob != KNOB_OUTPUT;
        if (used && a->knobs[knob] != b->knobs[knob]) {
            return false;
        }
    }
    return true;
}

void whatif_poll(struct whatif *whatif, struct job_report *report)
{
    whatif_job_report(whatif->job, report);
    if (report->state != JOB_DONE || !report->fleet || report->answer.verdict != PLANNER_MEETS) {
        return;
    }
    int32_t devices = report->answer.replicas * whatif->job_scenario.knobs[KNOB_RANKS];
    if (same_fleet(&whatif->now, &whatif->job_scenario)) {
        whatif->answer.fleet = devices;
    }
    for (int32_t i = 0; i < whatif->n_pinned; i++) {
        if (same_fleet(&whatif->pinned[i], &whatif->job_scenario)) {
            whatif->pinned_answers[i].fleet = devices;
        }
    }
}

// 131072 -> "128K": contexts are powers of two more often than not.
static void format_tokens(char *text, size_t bytes, int32_t tokens)
{
    if (tokens >= 1 << 20 && tokens % (1 << 20) == 0) {
        snprintf(text, bytes, "%dM", tokens >> 20);
    } else if (tokens >= 8192 && tokens % 1024 == 0) {
        snprintf(text, bytes, "%dK", tokens >> 10);
    } else {
        snprintf(text, bytes, "%d", tokens);
    }
}

void whatif_value(const struct whatif *whatif, const struct scenario *scenario, const struct scenario_answer *answer,
                  enum knob knob, char *text, size_t bytes)
{
    int32_t value = scenario->knobs[knob];
    bool unused = (knob == KNOB_TOP_K && answer->valid && answer->plan.index.budget_tokens == 0) ||
                  (knob == KNOB_WINDOW && answer->valid && answer->plan.shape.backbone != BACKBONE_YOCO);
    if (!knobs[knob].number) {
        snprintf(text, bytes, "%s", choice(whatif, knob, value));
    } else if (unused) {
        snprintf(text, bytes, "-");
    } else if (value > 0) {
        format_tokens(text, bytes, value);
    } else if (knob == KNOB_RATE || knob == KNOB_ANSWER) {
        snprintf(text, bytes, "workload's");
    } else if (knob == KNOB_TTFT_MS || knob == KNOB_TPOT_MS) {
        snprintf(text, bytes, "no limit");
    } else if (knob == KNOB_INDEX_EVERY) {
        snprintf(text, bytes, "method's");
    } else {
        snprintf(text, bytes, "model's %d", own_value(answer, knob));
    }
}

void whatif_label(const struct whatif *whatif, const struct scenario *scenario, char *text, size_t bytes)
{
    const int32_t *value = scenario->knobs;
    char context[FORMAT_BYTES], k[FORMAT_BYTES] = "", count[FORMAT_BYTES] = "", ranks[FORMAT_BYTES] = "";
    format_tokens(context, sizeof context, value[KNOB_CONTEXT]);
    if (value[KNOB_TOP_K] > 0) {
        snprintf(k, sizeof k, " k=%d", value[KNOB_TOP_K]);
    }
    if (value[KNOB_COUNT] > 1) {
        snprintf(count, sizeof count, "%d x ", value[KNOB_COUNT]);
    }
    if (value[KNOB_RANKS] > 1) {
        snprintf(ranks, sizeof ranks, "%d ", value[KNOB_RANKS]);
    }
    snprintf(text, bytes, "%s%s, %s%s%s, %s, batch %d", choice(whatif, KNOB_METHOD, value[KNOB_METHOD]), k, count,
             ranks, choice(whatif, KNOB_DEVICE, value[KNOB_DEVICE]), context, value[KNOB_BATCH]);
}
