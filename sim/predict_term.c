// sim/predict_term.c - see predict_term.h.
//
// A stretch of a calibration's curve holds for a phase, for a thirty-second of an octave of rows, and for the works
// between two of its points. Steps come back to the same ones: they are kept in a table by these, where the last one
// asked for stays. Beside it each term's last answer is kept: what it writes costs the same step after step.
#include "sim/predict_term.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/calibration_internal.h"

// Curves that another device reached miss by more: an H100's on an H200's peaks were 9% off that one's steps in the
// median and 29% at the 95th percentile (bench_sim_traces --borrowed).
static const double BORROWED_OFF = 0.3;
enum { MEMORY_ENTRIES = 2048 };

struct predict_memory {
    struct entry {
        int32_t number;                     // of its term; -1: empty
        struct calibration_stretch stretch;
    } entries[MEMORY_ENTRIES];
    struct last {
        int64_t rows;                       // 0: none yet
        int32_t level_rows;                 // of `rows`
        struct stage_cost cost;
        double bandwidth, seconds;
    } last[][PHASE_COUNT];                  // [terms]
};

double predict_seen_tokens(const struct work *work)
{
    double rows = work->new_tokens;
    return rows * work->context_tokens + 0.5 * rows * (rows + 1);
}

// The type whose multiply-adds the stage is made of.
static enum dtype stage_dtype(const struct plan *plan, enum stage stage)
{
    // Page bounds are scored against attention keys, not index keys.
    enum dtype index = plan->index.score == INDEX_PAGE_BOUND ? plan->kv_dtype : plan->index.key_dtype;
    return calibration_dtype(stage, plan->weight_dtype, plan->kv_dtype, index);
}

// Only rows that leave logits reach the head and the layers above a shared memory, but for what is kept of every row.
static bool skips_prompt(const struct plan *plan, enum stage stage, int32_t layer)
{
    return layer < 0 ? stage != STAGE_EMBED
                     : layer >= plan_first_cross_layer(plan) && stage != STAGE_KV_WRITE && stage != STAGE_INDEX_PROJECT;
}

// Whose speed is that of attention over all keys. A latent is the key of every head: their products fill tiles as those
// of dense attention do, whatever was selected, which a few heads that share a key do not.
static bool attends_whole(const struct plan *plan, int32_t layer)
{
    return plan->shape.mla.kv_lora_rank > 0 || plan->layers[layer].attention == ATTENTION_FULL;
}

static enum calibration_layer layer_kind(const struct plan *plan, enum stage stage, int32_t layer,
                                         struct predict_state state)
{
    bool inside = layer >= 0, bounds = plan->index.score == INDEX_PAGE_BOUND;    // embed and head are in none
    bool indexes = inside && plan_runs_indexer(plan, layer);
    bool whole = inside && attends_whole(plan, layer);
    struct calibration_beside beside = {.window = inside && plan->layers[layer].attention == ATTENTION_WINDOW,
                                        .keys = indexes && !bounds,
                                        .bounds = indexes && bounds,
                                        .taking = state.taking,
                                        .whole = whole,
                                        .lightning = !whole && plan->index.key_dtype == DTYPE_FP8,
                                        .cool = state.cool};
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        beside.windows = beside.windows || plan->layers[l].attention == ATTENTION_WINDOW;
        beside.indexers = beside.indexers || plan_runs_indexer(plan, l);
    }
    return calibration_layer_of(stage, &beside);
}

bool predict_waits(const struct device *device, const struct plan *plan)
{
    bool windows = false;
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        windows = windows || plan->layers[l].attention == ATTENTION_WINDOW;
    }
    return !windows && device->calibration && !predict_foreign(device) && calibration_waits(device->calibration);
}

bool predict_foreign(const struct device *device)
{
    return device->calibration && strcmp(device->calibration->rates.name, device->name) != 0;
}

struct predict_term predict_term_of(const struct device *device, const struct plan *plan, enum stage stage,
                                    int32_t layer, struct predict_state state)
{
    bool whole = stage == STAGE_ATTENTION && attends_whole(plan, layer);
    bool selects = plan->index.budget_tokens > 0 && !whole;
    enum dtype dtype = stage_dtype(plan, stage);
    enum dtype rate_dtype = dtype == DTYPE_FP8 && stage == STAGE_ATTENTION ? DTYPE_BF16 : dtype;    // keys are widened
    return (struct predict_term){
        .stage = stage,
        .layer = layer,
        .few = skips_prompt(plan, stage, layer),
        .foreign = predict_foreign(device),
        .rate = device_rate(device, rate_dtype),
        .rate_dtype = rate_dtype,
        .query = {.stage = stage,
                  .unit_tokens = selects ? plan->index.unit_tokens : 0,
                  .dtype = dtype,
                  .layer = layer_kind(plan, stage, layer, state)},
    };
}

bool predict_splits(const struct predict_term *term)
{
    return (term->stage == STAGE_WINDOW_ATTENTION || term->stage == STAGE_ATTENTION) && !term->few;
}

static enum phase phase_of(const struct predict_pass *pass, const struct predict_term *term)
{
    bool prefills = term->few ? pass->logits_chunked : pass->chunked;
    return prefills ? PHASE_PREFILL : pass->chunked ? PHASE_MIXED : PHASE_DECODE;
}

static int64_t rows_of(const struct predict_pass *pass, const struct predict_term *term, enum phase phase)
{
    if (calibration_by_context(term->stage, phase, term->query.unit_tokens)) {
        return (int64_t)pass->seen_tokens;
    }
    return term->few ? pass->logit_rows : pass->new_rows;
}

static struct calibration_query query_of(const struct predict_term *term, enum phase phase, int64_t rows,
                                         const struct stage_cost *cost)
{
    struct calibration_query query = term->query;
    query.phase = phase;
    query.rows = rows < 1 ? 1 : rows > INT32_MAX ? INT32_MAX : (int32_t)rows;
    query.work = (double)cost->bytes + (double)cost->flops;
    return query;
}

// Another device's launches, and what its caches added to its memory's rate, say nothing of this one's.
static void take_home(double *floor_s, double *efficiency, const struct device *device)
{
    *floor_s = device->launch_s.value > 0 ? device->launch_s.value : *floor_s;
    *efficiency = *efficiency < 1 ? *efficiency : 1;
}

// Replaces the roofline's time by what kernels were measured to take.
static void calibrate(struct stage_prediction *out, const struct predict_pass *pass, const struct predict_term *term,
                      double roof_s)
{
    enum phase phase = phase_of(pass, term);
    struct calibration_query query = query_of(term, phase, rows_of(pass, term, phase), &out->cost);
    struct calibration_answer answer;
    if (!calibration_ask(&answer, pass->device->calibration, &query)) {
        out->provenance = PROVENANCE_ROOFLINE;
        return;
    }
    if (term->foreign) {
        take_home(&answer.floor_s, &answer.efficiency, pass->device);
        answer.provenance = PROVENANCE_EXTRAPOLATED;
    }
    double above_s = roof_s / answer.efficiency;
    out->seconds = answer.floor_s + above_s;
    bool wider = term->foreign && answer.off_share < BORROWED_OFF;    // what is unknown, NaN, stays so
    out->off_s = out->seconds * (wider ? BORROWED_OFF : answer.off_share);
    out->bound = answer.floor_s >= above_s ? BOUND_LATENCY : out->bound;
    out->provenance = answer.provenance;
}

int predict_cost(struct stage_prediction *out, const struct predict_pass *pass, const struct predict_term *term,
                 const struct stage_cost *cost)
{
    const struct device *device = pass->device;
    *out = (struct stage_prediction){.cost = *cost, .provenance = PROVENANCE_MEASURED};
    if (cost->bytes == 0 && cost->flops == 0) {
        return 0;
    }
    double bytes_s = (double)cost->bytes / pass->bandwidth, flops_s = 0;
    out->provenance = device->bytes_per_s.provenance;
    if (cost->flops > 0) {
        if (!term->rate) {
            return status_fail(
                -EINVAL, "device %s: no rate is known for %s, which %s multiplies in; name one in a file of devices",
                device->name, dtype_name(term->rate_dtype), stage_name(term->stage));
        }
        flops_s = (double)cost->flops / term->rate->value;
        out->provenance = provenance_weaker(out->provenance, term->rate->provenance);
    }
    double roof_s = bytes_s > flops_s ? bytes_s : flops_s, launch_s = device->launch_s.value;
    if (launch_s > 0) {
        out->provenance = provenance_weaker(out->provenance, device->launch_s.provenance);
    }
    out->seconds = roof_s + launch_s;
    out->off_s = NAN;
    out->bound = launch_s >= roof_s ? BOUND_LATENCY : flops_s > bytes_s ? BOUND_COMPUTE : BOUND_BANDWIDTH;
    if (device->calibration) {
        out->bound = flops_s > bytes_s ? BOUND_COMPUTE : BOUND_BANDWIDTH;
        calibrate(out, pass, term, roof_s);
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Again and again

struct predict_memory *predict_memory_open(int32_t n_terms)
{
    struct predict_memory *memory = calloc(1, sizeof *memory + (size_t)n_terms * sizeof memory->last[0]);
    for (int32_t i = 0; memory && i < MEMORY_ENTRIES; i++) {
        memory->entries[i].number = -1;
    }
    return memory;
}

void predict_memory_close(struct predict_memory *memory)
{
    free(memory);
}

// The stretch on which a query for `level_rows` is; NULL: there is no curve.
static const struct calibration_stretch *find_stretch(struct predict_memory *memory, const struct device *device,
                                                      const struct predict_term *term, enum phase phase,
                                                      int32_t level_rows, const struct stage_cost *cost)
{
    double work = (double)cost->bytes + (double)cost->flops;
    uint64_t hash;
    memcpy(&hash, &work, sizeof hash);
    hash >>= 49;    // its exponent and three bits: eight to an octave
    hash ^= (uint64_t)level_rows << 16 ^ (uint64_t)phase << 48 ^ (uint64_t)term->number << 50;
    hash *= 0x9e3779b97f4a7c15u;
    struct entry *entry = &memory->entries[(hash >> 53) % MEMORY_ENTRIES];    // by the bits that all others move
    struct calibration_stretch *stretch = &entry->stretch;
    if (entry->number == term->number && stretch->rows == level_rows && stretch->phase == phase &&
        work >= stretch->from_work && work < stretch->to_work) {
        return stretch;
    }
    struct calibration_query query = query_of(term, phase, level_rows, cost);
    entry->number = calibration_stretch(stretch, device->calibration, &query) ? term->number : -1;
    return entry->number < 0 ? NULL : stretch;
}

static double calibrated_s(const struct device *device, const struct predict_term *term,
                           const struct calibration_stretch *stretch, const struct stage_cost *cost, double roof_s)
{
    double work = (double)cost->bytes + (double)cost->flops;
    double floor_s = stretch->floor_s, efficiency = exp(stretch->log_efficiency + stretch->slope * log(work));
    if (term->foreign) {
        take_home(&floor_s, &efficiency, device);
    }
    return floor_s + roof_s / efficiency;
}

double predict_seconds(struct predict_memory *memory, const struct predict_pass *pass, const struct predict_term *term,
                       const struct stage_cost *cost)
{
    const struct device *device = pass->device;
    if (cost->bytes == 0 && cost->flops == 0) {
        return 0;
    }
    double bytes_s = (double)cost->bytes / pass->bandwidth;
    double flops_s = cost->flops == 0 ? 0 : term->rate ? (double)cost->flops / term->rate->value : NAN;
    double roof_s = bytes_s > flops_s ? bytes_s : flops_s;
    if (!device->calibration) {
        return roof_s + device->launch_s.value;
    }
    enum phase phase = phase_of(pass, term);
    int64_t rows = rows_of(pass, term, phase);
    struct last *last = &memory->last[term->number][phase];
    if (last->rows == rows && last->cost.bytes == cost->bytes && last->cost.flops == cost->flops &&
        last->bandwidth == pass->bandwidth) {
        return last->seconds;
    }
    if (last->rows != rows) {
        last->rows = rows;
        last->level_rows = calibration_level_rows(query_of(term, phase, rows, cost).rows);    // by which curves go
    }
    const struct calibration_stretch *stretch = find_stretch(memory, device, term, phase, last->level_rows, cost);
    last->cost = *cost;
    last->bandwidth = pass->bandwidth;
    last->seconds = stretch ? calibrated_s(device, term, stretch, cost, roof_s) : roof_s + device->launch_s.value;
    return last->seconds;
}
