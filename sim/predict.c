// sim/predict.c - roofline over engine/cost.h, corrected by a calibration where there is one.
//
// A step is priced stage by stage and layer by layer. The sum over the steps of a growing context is taken exactly
// where it bends and by straight lines where it does not: step time is piecewise linear in the context but for small
// stairs.
#include "sim/predict.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/predict_term.h"

enum { BOUND_COUNT = BOUND_LATENCY + 1 };
const char *bound_name(enum bound bound)
{
    static const char *const names[] = {"bandwidth", "compute", "latency"};
    return names[bound];
}

// Of a step: a stage that takes less says nothing of where its time comes from.
static const double LEAST_SHARE = 0.01;

static bool is_decode(const struct work *work)
{
    return work->new_tokens == 1 && work->logit_rows == 1;
}

static struct predict_pass pass_of(const struct device *device, const struct plan *plan, const struct work *work,
                           int32_t n_seqs)
{
    struct predict_pass pass = {.device = device, .plan = plan};
    int64_t prompt_rows = 0;
    pass.bandwidth = device_bandwidth(device, (double)step_cost(plan, work, n_seqs).bytes);
    for (int32_t i = 0; i < n_seqs; i++) {
        pass.new_rows += work[i].new_tokens;
        pass.logit_rows += work[i].logit_rows;
        prompt_rows += is_decode(&work[i]) ? 0 : work[i].new_tokens;
        pass.seen_tokens += is_decode(&work[i]) ? 0 : predict_seen_tokens(&work[i]);
        pass.chunked = pass.chunked || work[i].new_tokens > 1;
        pass.logits_chunked = pass.logits_chunked || work[i].logit_rows > 1;
    }
    pass.seen_tokens = prompt_rows > 0 ? pass.seen_tokens / (double)prompt_rows : 0;
    return pass;
}

static int check_device(const struct device *device)
{
    if (!(device->bytes_per_s.value > 0)) {
        return status_fail(-EINVAL, "device %s: its memory bandwidth is unknown", device->name);
    }
    return 0;
}

static bool outside_layers(enum stage stage)
{
    return stage == STAGE_EMBED || stage >= STAGE_HEAD;
}

// Adds what one stage takes. `under` [BOUND_COUNT] are the seconds of the sum so far under each bound.
static void add(struct stage_prediction *sum, double *under, const struct stage_prediction *one)
{
    sum->seconds += one->seconds;
    sum->off_s += one->off_s;
    sum->provenance = provenance_weaker(sum->provenance, one->provenance);
    sum->cost.bytes += one->cost.bytes;
    sum->cost.flops += one->cost.flops;
    under[one->bound] += one->seconds;
    for (int b = 0; b < BOUND_COUNT; b++) {
        sum->bound = under[b] > under[sum->bound] ? (enum bound)b : sum->bound;
    }
}

// A batch, and its two parts where it has prompts as well as rows that decode.
struct batch_parts {
    const struct work *work;
    int32_t n_seqs;
    struct predict_pass pass, part_pass[2];
    struct work *parts;         // [n_seqs] prompts first; owned, NULL: there is one part only
    int32_t n_prompts;
    struct predict_state state;
};

static int split_batch(struct batch_parts *out, const struct device *device, const struct plan *plan,
                       const struct work *work, int32_t n_seqs, double heat_s)
{
    *out = (struct batch_parts){.work = work, .n_seqs = n_seqs, .pass = pass_of(device, plan, work, n_seqs)};
    int32_t n_decode = 0;
    bool cool = device->calibration && calibration_cool(device->calibration, heat_s, out->pass.new_rows);
    out->state = (struct predict_state){true, cool && out->pass.chunked};
    for (int32_t i = 0; i < n_seqs; i++) {
        n_decode += is_decode(&work[i]);
        int64_t tokens = (int64_t)work[i].context_tokens + work[i].new_tokens;
        out->state.taking = out->state.taking && tokens <= plan->index.budget_tokens;
    }
    if (n_decode == 0 || n_decode == n_seqs) {
        return 0;
    }
    out->parts = malloc((size_t)n_seqs * sizeof *out->parts);
    if (!out->parts) {
        return status_fail(-ENOMEM, "no memory for a batch of %d", n_seqs);
    }
    for (int part = 0, n = 0; part < 2; part++) {
        for (int32_t i = 0; i < n_seqs; i++) {
            if (is_decode(&work[i]) == (part == 1)) {
                out->parts[n++] = work[i];
            }
        }
    }
    out->n_prompts = n_seqs - n_decode;
    out->part_pass[0] = out->part_pass[1] = out->pass;
    out->part_pass[0].new_rows -= n_decode;
    out->part_pass[0].chunked = true;
    out->part_pass[1].new_rows = n_decode;
    out->part_pass[1].chunked = false;
    return 0;
}

static int predict_parts(struct stage_prediction *out, const struct batch_parts *batch, enum stage stage, int32_t layer)
{
    const struct plan *plan = batch->pass.plan;
    struct stage_prediction one[2];
    struct stage_cost cost;
    int error = stage_cost(&cost, plan, stage, layer, batch->work, batch->n_seqs);
    if (error) {
        return error;    // also of a layer that is none
    }
    struct predict_term term = predict_term_of(batch->pass.device, plan, stage, layer, batch->state);
    if (!batch->parts || !predict_splits(&term)) {
        return predict_cost(out, &batch->pass, &term, &cost);
    }
    for (int part = 0; part < 2 && !error; part++) {
        int32_t n = part == 0 ? batch->n_prompts : batch->n_seqs - batch->n_prompts;
        error = stage_cost(&cost, plan, stage, layer, part == 0 ? batch->parts : batch->parts + batch->n_prompts, n);
        error = error ? error : predict_cost(&one[part], &batch->part_pass[part], &term, &cost);
    }
    if (!error) {
        double under[BOUND_COUNT] = {0};
        *out = (struct stage_prediction){.provenance = PROVENANCE_MEASURED};
        add(out, under, &one[0]);
        add(out, under, &one[1]);
    }
    return error;
}

int predict_stage(struct stage_prediction *out, const struct device *device, const struct plan *plan, enum stage stage,
                  int32_t layer, const struct work *work, int32_t n_seqs)
{
    struct batch_parts batch = {0};
    int error = check_device(device);
    error = error ? error : split_batch(&batch, device, plan, work, n_seqs, 0);
    error = error ? error : predict_parts(out, &batch, stage, layer);
    free(batch.parts);
    return error;
}

double predict_overhead_s(const struct predict_pass *pass)
{
    const struct calibration_profile *profile = pass->device->calibration;
    if (!profile) {
        return 0;
    }
    return pass->chunked ? profile->overhead_s[PHASE_PREFILL]
                         : profile->overhead_s[PHASE_DECODE] + profile->overhead_per_seq_s * (double)pass->new_rows;
}

// Bytes that each device of a group sends, and how many collectives that takes.
static double communicated(double *collectives, const struct predict_pass *pass)
{
    const struct plan *plan = pass->plan;
    int32_t ranks = pass->device->ranks, cross = plan_first_cross_layer(plan), above = plan->shape.n_layers - cross;
    enum { F32_BYTES = 4, BF16_BYTES = 2 };
    // Partial sums travel as activations are kept: in 16 bits beside 16-bit weights and smaller ones.
    double row = (double)plan->shape.hidden * (plan->weight_dtype == DTYPE_F32 ? F32_BYTES : BF16_BYTES);
    double new_rows = (double)pass->new_rows, logit_rows = (double)pass->logit_rows;
    double sums = row * (new_rows + 2 * (cross * new_rows + above * logit_rows));
    double logits = F32_BYTES * logit_rows * plan->shape.vocab * ranks;
    *collectives = 1 + 2 * (cross + (pass->logit_rows > 0 ? above : 0)) + (pass->logit_rows > 0);
    return (2 * sums + logits) * (ranks - 1) / ranks;
}

double predict_communicate_s(const struct predict_pass *pass)
{
    double collectives;
    if (pass->device->ranks <= 1) {
        return 0;
    }
    double bytes = communicated(&collectives, pass);
    return bytes / pass->device->link_bytes_per_s.value + collectives * pass->device->link_s.value;
}

static void add_communication(struct stage_prediction *out, const struct predict_pass *pass)
{
    const struct device *device = pass->device;
    double collectives, bytes = communicated(&collectives, pass);
    out->seconds += predict_communicate_s(pass);
    out->off_s = NAN;
    out->bound =
        collectives * device->link_s.value > bytes / device->link_bytes_per_s.value ? BOUND_LATENCY : BOUND_BANDWIDTH;
    out->cost.bytes += (int64_t)bytes;
    out->provenance = device->link_bytes_per_s.provenance;
    if (device->link_s.value > 0) {
        out->provenance = provenance_weaker(out->provenance, device->link_s.provenance);
    }
}

// What a step takes outside its stages, the same for all steps of its kind.
static void add_overhead(struct stage_prediction *host, const struct predict_pass *pass)
{
    const struct calibration_profile *profile = pass->device->calibration;
    enum phase phase = pass->chunked ? PHASE_PREFILL : PHASE_DECODE;
    host->seconds += predict_overhead_s(pass);
    host->bound = BOUND_LATENCY;
    host->provenance = profile->n_steps[phase] == 0 ? PROVENANCE_ROOFLINE
                       : predict_foreign(pass->device) ? PROVENANCE_EXTRAPOLATED
                                                    : PROVENANCE_INTERPOLATED;
}

// What layers that select wait where steps are replayed.
static int add_waiting(struct stage_prediction *host, const struct batch_parts *batch)
{
    const struct plan *plan = batch->pass.plan;
    int error = 0;
    bool waits = !batch->pass.chunked && predict_waits(batch->pass.device, plan);
    for (int32_t layer = 0; layer < plan->shape.n_layers && !error && waits; layer++) {
        struct predict_term term = predict_term_of(batch->pass.device, plan, STAGE_HOST, layer, batch->state);
        struct stage_prediction one;
        struct stage_cost cost;
        error = stage_cost(&cost, plan, STAGE_INDEX_SELECT, layer, batch->work, batch->n_seqs);
        error = error ? error : predict_cost(&one, &batch->pass, &term, &cost);
        host->seconds += error ? 0 : one.seconds;
    }
    return error;
}

int predict_step(struct step_prediction *out, const struct device *device, const struct plan *plan,
                 const struct work *work, int32_t n_seqs)
{
    return predict_step_heated(out, device, plan, work, n_seqs, 0);
}

int predict_step_heated(struct step_prediction *out, const struct device *device, const struct plan *plan,
                        const struct work *work, int32_t n_seqs, double heat_s)
{
    struct step_prediction step = {.provenance = PROVENANCE_MEASURED};
    struct batch_parts batch = {0};
    int error = check_device(device);
    error = error ? error : split_batch(&batch, device, plan, work, n_seqs, heat_s);
    for (int s = 0; !error && s < STAGE_COUNT; s++) {
        enum stage stage = (enum stage)s;
        double under[BOUND_COUNT] = {0};
        step.stages[s].provenance = PROVENANCE_MEASURED;
        int32_t first = outside_layers(stage) ? -1 : 0, end = outside_layers(stage) ? 0 : plan->shape.n_layers;
        for (int32_t layer = first; !error && layer < end; layer++) {
            struct stage_prediction one;
            error = predict_parts(&one, &batch, stage, layer);
            if (!error) {
                add(&step.stages[s], under, &one);
            }
        }
        if (stage == STAGE_HOST && device->calibration) {
            add_overhead(&step.stages[s], &batch.pass);
            error = error ? error : add_waiting(&step.stages[s], &batch);
        }
        if (stage == STAGE_COMMUNICATE && device->ranks > 1) {
            add_communication(&step.stages[s], &batch.pass);
        }
        step.seconds += step.stages[s].seconds;
        step.off_s = hypot(step.off_s, step.stages[s].off_s);
    }
    for (int s = 0; s < STAGE_COUNT; s++) {
        bool counts = step.stages[s].seconds >= LEAST_SHARE * step.seconds;
        step.provenance = counts ? provenance_weaker(step.provenance, step.stages[s].provenance) : step.provenance;
    }
    free(batch.parts);
    if (!error) {
        *out = step;
    }
    return error;
}

// One sequence's prompt, chunk after chunk; only the last leaves logits.
static int predict_prefill(struct step_prediction *out, const struct device *device, const struct plan *plan,
                           int32_t context_tokens, int32_t chunk_tokens)
{
    struct step_prediction sum = {.provenance = PROVENANCE_MEASURED};
    double under[STAGE_COUNT][BOUND_COUNT] = {{0}};
    for (int s = 0; s < STAGE_COUNT; s++) {
        sum.stages[s].provenance = PROVENANCE_MEASURED;
    }
    struct calibration_heat heat = {0, 0};
    int32_t chunk = chunk_tokens > 0 && chunk_tokens < context_tokens ? chunk_tokens : context_tokens;
    for (int32_t done = 0; done < context_tokens;) {
        int32_t rows = chunk < context_tokens - done ? chunk : context_tokens - done;
        struct work work = {.context_tokens = done, .new_tokens = rows, .logit_rows = done + rows == context_tokens};
        struct step_prediction step;
        int error = predict_step_heated(&step, device, plan, &work, 1, calibration_heat_at(&heat, sum.seconds));
        if (error) {
            return error;
        }
        calibration_heat_step(&heat, sum.seconds, step.seconds, rows);
        sum.seconds += step.seconds;
        sum.provenance = provenance_weaker(sum.provenance, step.provenance);
        for (int s = 0; s < STAGE_COUNT; s++) {
            add(&sum.stages[s], under[s], &step.stages[s]);
        }
        done += rows;
    }
    for (int s = 0; s < STAGE_COUNT; s++) {
        sum.off_s = hypot(sum.off_s, sum.stages[s].off_s);
    }
    *out = sum;
    return 0;
}

// The decode steps of one batch. Once the first could be priced all can: only sizes change.
struct decode {
    const struct device *device;
    const struct plan *plan;
    struct work *work;    // [n_seqs]
    int32_t n_seqs;
};

static int decode_step(struct step_prediction *out, const struct decode *decode, int32_t context_tokens)
{
    for (int32_t i = 0; i < decode->n_seqs; i++) {
        decode->work[i] = (struct work){.context_tokens = context_tokens, .new_tokens = 1, .logit_rows = 1};
    }
    return predict_step(out, decode->device, decode->plan, decode->work, decode->n_seqs);
}

static double decode_step_s(const struct decode *decode, int32_t context_tokens)
{
    struct step_prediction step;
    return decode_step(&step, decode, context_tokens) ? NAN : step.seconds;
}

// Sum of the steps at contexts [low, high], whose ends take low_s and high_s: a straight line if three points between
// lie on it, else the sum of two halves.
static double sum_steps(const struct decode *decode, int32_t low, int32_t high, double low_s, double high_s)
{
    static const double places[] = {0.23, 0.52,
                                    0.81};    // off the halves and quarters where stairs of units could hide
    static const double tolerance = 1e-4;     // a tenth of the error that is promised
    int32_t n = high - low;
    if (n <= 1) {
        return n ? low_s + high_s : low_s;
    }
    bool straight = n >= 16;
    for (int i = 0; straight && i < 3; i++) {
        int32_t at = low + (int32_t)(places[i] * n);
        double line = low_s + (high_s - low_s) * (double)(at - low) / n;
        straight = fabs(decode_step_s(decode, at) - line) <= tolerance * line;
    }
    if (straight) {
        return 0.5 * (low_s + high_s) * (double)(n + 1);
    }
    int32_t middle = low + n / 2;
    double middle_s = decode_step_s(decode, middle);
    double next_s = middle + 1 == high ? high_s : decode_step_s(decode, middle + 1);
    return sum_steps(decode, low, middle, low_s, middle_s) + sum_steps(decode, middle + 1, high, next_s, high_s);
}

// Decode steps at contexts context_tokens .. context_tokens + output_tokens - 2.
static int predict_decode(struct request_prediction *out, const struct device *device, const struct plan *plan,
                          int32_t n_seqs, int32_t context_tokens, int32_t output_tokens)
{
    struct decode decode = {device, plan, calloc((size_t)n_seqs, sizeof(struct work)), n_seqs};
    if (!decode.work) {
        return status_fail(-ENOMEM, "no memory for a batch of %d", n_seqs);
    }
    int error = decode_step(&out->first_decode, &decode, context_tokens);
    if (!error && output_tokens > 1) {
        int32_t last = context_tokens + output_tokens - 2;
        out->first_decode_step_s = out->first_decode.seconds;
        out->last_decode_step_s = decode_step_s(&decode, last);
        out->decode_s = sum_steps(&decode, context_tokens, last, out->first_decode_step_s, out->last_decode_step_s);
    }
    free(decode.work);
    return error;
}

int64_t predict_other_bytes(const struct device *device, const struct plan *plan, int32_t rows, int64_t tokens)
{
    double overhead = device->memory_overhead_bytes.value;
    int32_t context = (int32_t)(tokens < 1 ? 1 : tokens > INT32_MAX ? INT32_MAX : tokens);
    // Rows that leave logits are few beside a prompt's: their scores are within what was measured.
    int64_t scores = plan_score_bytes(plan, rows, 0, context, DEVICE_SCORE_TILE_BYTES);
    return overhead > 0 ? (int64_t)overhead + rows * plan_row_bytes(plan) + scores : 0;
}

int64_t predict_max_seqs(const struct device *device, const struct plan *plan, int64_t tokens, int32_t rows)
{
    double page = plan->page_tokens, pages = ceil((double)tokens / page);
    double each = pages * page * (double)plan_kv_bytes_per_token(plan) + (double)plan_kv_bytes_per_sequence(plan);
    int64_t taken = plan_weight_bytes(plan) + predict_other_bytes(device, plan, rows, tokens);
    double left = device->memory_bytes.value - (double)taken;
    if (!(device->memory_bytes.value > 0)) {
        return -1;
    }
    return left > 0 && each > 0 ? (int64_t)(left / each) : 0;
}

static int predict_memory(struct request_prediction *out, const struct device *device, const struct plan *plan,
                          int32_t n_seqs, int32_t context_tokens, int32_t output_tokens, int32_t chunk_tokens)
{
    int32_t rows = chunk_tokens > 0 ? chunk_tokens : context_tokens;
    int64_t tokens = (int64_t)context_tokens + output_tokens, page = plan->page_tokens;
    out->max_seqs = predict_max_seqs(device, plan, tokens, rows);
    tokens = (tokens + page - 1) / page * page;
    out->weight_bytes = plan_weight_bytes(plan);
    out->other_bytes = predict_other_bytes(device, plan, rows, tokens);
    if (__builtin_mul_overflow(tokens, plan_kv_bytes_per_token(plan), &out->kv_bytes_per_seq) ||
        __builtin_add_overflow(out->kv_bytes_per_seq, plan_kv_bytes_per_sequence(plan), &out->kv_bytes_per_seq) ||
        __builtin_mul_overflow(out->kv_bytes_per_seq, n_seqs, &out->kv_bytes) ||
        __builtin_add_overflow(out->kv_bytes, out->weight_bytes + out->other_bytes, &out->total_bytes)) {
        return status_fail(-EINVAL, "%d sequences of %lld tokens: more bytes of cache than can be counted", n_seqs,
                           (long long)tokens);
    }
    return 0;
}

int predict_request(struct request_prediction *out, const struct device *device, const struct plan *plan,
                    int32_t n_seqs, int32_t context_tokens, int32_t output_tokens, int32_t chunk_tokens)
{
    if (n_seqs < 1 || context_tokens < 1 || output_tokens < 1 || chunk_tokens < 0 ||
        (int64_t)context_tokens + output_tokens > INT32_MAX) {
        return status_fail(-EINVAL,
                           "%d sequences of %d + %d tokens in chunks of %d: expected at least one sequence, prompt "
                           "token and output token, and at most %d tokens together",
                           n_seqs, context_tokens, output_tokens, chunk_tokens, INT32_MAX);
    }
    struct request_prediction request = {0};
    int error = plan_check(plan);
    error = error ? error : predict_memory(&request, device, plan, n_seqs, context_tokens, output_tokens, chunk_tokens);
    error = error ? error : predict_prefill(&request.prefill, device, plan, context_tokens, chunk_tokens);
    error = error ? error : predict_decode(&request, device, plan, n_seqs, context_tokens, output_tokens);
    if (error) {
        return error;
    }
    request.prefill_s = request.prefill.seconds;
    request.ttft_s = request.prefill_s * 0.5 * (n_seqs + 1.0);
    request.end_to_end_s = request.prefill_s * n_seqs + request.decode_s;
    if (request.decode_s > 0) {
        request.decode_tokens_per_s = (output_tokens - 1.0) * n_seqs / request.decode_s;
    }
    request.throughput_tokens_per_s = (double)output_tokens * n_seqs / request.end_to_end_s;
    request.provenance = provenance_weaker(request.prefill.provenance, request.first_decode.provenance);
    *out = request;
    return 0;
}
