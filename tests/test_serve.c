// tests/test_serve.c - the simulated service: prices against predict_step, jumps against every step, laws of queueing.
#include "engine/scheduler.h"
#include "engine/status.h"
#include "sim/calibration.h"
#include "sim/predict.h"
#include "sim/serve.h"
#include "tests/check.h"

#include <errno.h>

static struct plan random_plan(void)
{
    static const char *const models[] = {"tiny", "demo-8m", "bench-100m", "paper-4b"};
    const struct method_info *method = plan_method(check_range(0, plan_method_count() - 1));
    struct plan_options options = plan_options_default();
    struct plan plan;
    options.page_tokens = check_range(0, 1) ? 0 : 32;
    if (check_range(0, 1)) {
        options.window_tokens = check_range(1, 300);
    }
    int error = plan_build(&plan, plan_find_model(models[check_range(0, 3)]), method->name, &options);
    if (error) {
        error = plan_build(&plan, plan_find_model("tiny"), method->name, NULL);
    }
    CHECK_MESSAGE(error == 0, "%s", status_text());
    return plan;
}

// Curves for all stages, with efficiencies that change with work and rows, and for some kinds of layers, which go by
// what the whole step holds.
static const struct calibration_profile *random_calibration(void)
{
    static const struct {
        enum stage stage;
        enum phase phase;
        enum calibration_layer layer;
    } kinds[] = {{STAGE_INDEX_SELECT, PHASE_DECODE, LAYER_TAKING},
                 {STAGE_INDEX_SELECT, PHASE_PREFILL, LAYER_TAKING},
                 {STAGE_HOST, PHASE_DECODE, LAYER_TAKING},
                 {STAGE_FFN, PHASE_PREFILL, LAYER_SELECTING},
                 {STAGE_ATTENTION, PHASE_PREFILL, LAYER_SELECTING},
                 {STAGE_WINDOW_ATTENTION, PHASE_PREFILL, LAYER_SELECTING}};
    enum { PLAIN = 2 * STAGE_COUNT, CURVES = PLAIN + sizeof kinds / sizeof *kinds };
    static struct calibration_point points[CURVES][4];
    static struct calibration_curve curves[CURVES];
    static struct calibration_profile profile;
    profile = (struct calibration_profile){.n_curves = CURVES, .curves = curves, .n_steps = {5, 5, 5}, .warm_s = 0.04};
    for (int32_t c = 0; c < CURVES; c++) {
        for (int32_t i = 0; i < 4; i++) {
            points[c][i] = (struct calibration_point){i < 2 ? 1 : 8, i % 2 ? 1e8 : 1e4, 0.2 + check_uniform(), 3};
        }
        curves[c] = (struct calibration_curve){.stage = (enum stage)(c / 2),
                                               .phase = c % 2 ? PHASE_DECODE : PHASE_PREFILL,
                                               .dtype = DTYPE_BF16,
                                               .floor_s = 1e-5 * check_uniform(),
                                               .n_points = 4,
                                               .points = points[c]};
        if (c >= PLAIN) {
            curves[c].stage = kinds[c - PLAIN].stage;
            curves[c].phase = kinds[c - PLAIN].phase;
            curves[c].layer = kinds[c - PLAIN].layer;
        }
    }
    profile.overhead_s[PHASE_PREFILL] = 1e-4;
    profile.overhead_s[PHASE_DECODE] = 2e-5;
    return &profile;
}

// A device of which everything is known; sometimes with caches, whose bandwidth depends on the step's size.
static struct device random_device(void)
{
    struct device device = {.name = "made up"};
    device.bytes_per_s.value = 1e11 * (1 + check_uniform());
    device.flops_per_s[DTYPE_F32].value = 1e13 * (1 + check_uniform());
    device.memory_bytes.value = 1e12;
    device.launch_s.value = check_range(0, 1) ? 0 : 1e-6 * check_uniform();
    device.ranks = check_range(0, 4);    // what they tell each other depends on rows only, as the plan's stages do
    device.link_bytes_per_s.value = 1e10 * (1 + check_uniform());
    device.link_s.value = 1e-6 * check_uniform();
    device.n_curve = check_range(0, 2);
    for (int32_t i = 0; i < device.n_curve; i++) {
        device.curve_bytes[i] = 1e6 * (1 + 40 * i);
        device.curve_bytes_per_s[i] = device.bytes_per_s.value * (4 - i);
    }
    device.calibration = check_range(0, 1) ? random_calibration() : NULL;
    return device;
}

// One that, where it is calibrated, is slower for a while after prompts.
static struct device settling_device(void)
{
    static struct calibration_profile profile;
    struct device device = random_device();
    if (device.calibration) {
        profile = *device.calibration;
        profile.settle_s_per_byte = check_uniform() / device.bytes_per_s.value;
        profile.settle_s = 1e-3 * check_range(1, 300);
        profile.settle_seqs = check_range(0, 1) ? check_range(2, 12) : 0;
        device.calibration = &profile;
    }
    return device;
}

static struct work random_work(const struct plan *plan)
{
    int32_t budget = plan->index.budget_tokens, window = plan->shape.window_tokens;
    int32_t near[] = {0, budget, window, 4 * (budget + window) + 1000};
    struct work work = {.context_tokens = check_range(0, near[check_range(0, 3)]), .new_tokens = 1, .logit_rows = 1};
    if (check_range(0, 3) == 0) {
        work.new_tokens = check_range(1, 200);
        work.logit_rows = check_range(0, 1);
    }
    return work;
}

static bool near(double got, double expected, double tolerance)
{
    return fabs(got - expected) <= tolerance * fabs(expected);
}

static void test_price(void)
{
    enum { SEQS = 12 };
    struct plan plan = random_plan();
    struct device device = random_device();
    struct step_price *price;
    struct step_price_options options = {.device = &device, .plan = &plan, .step_overhead_s = 3e-5, .max_seqs = SEQS};
    int error = step_price_open(&price, &options);
    CHECK_MESSAGE(error == 0, "%s %s: %s", plan.shape.name, plan.method, status_text());
    for (int i = 0; !error && i < 30; i++) {
        struct work work[SEQS];
        int32_t n = check_range(1, SEQS);
        for (int32_t s = 0; s < n; s++) {
            work[s] = random_work(&plan);
        }
        struct step_prediction step;
        double heat_s = 0.1 * check_uniform();
        CHECK(predict_step_heated(&step, &device, &plan, work, n, heat_s) == 0);
        step_price_heat(price, heat_s);
        double seconds = step_price_seconds(price, work, n);
        CHECK_MESSAGE(near(seconds, step.seconds + 3e-5, 1e-9), "%s %s: %.12g, expected %.12g", plan.shape.name,
                      plan.method, seconds, step.seconds + 3e-5);
    }
    step_price_close(error ? NULL : price);
}

static void check_rows(struct step_rows *rows, struct step_price *price, const struct work *work, int32_t n_decode,
                       int32_t n, const struct plan *plan)
{
    int64_t contexts = 0;
    for (int32_t s = 0; s < n_decode; s++) {
        contexts += work[s].context_tokens;
    }
    double seconds = step_price_seconds(price, work, n),
           followed = step_rows_seconds(rows, work + n_decode, n - n_decode);
    CHECK_MESSAGE(seconds == followed, "%s %s: a step takes %.17g, its rows followed %.17g", plan->shape.name,
                  plan->method, seconds, followed);
    CHECK(step_rows_count(rows) == n_decode && step_rows_contexts(rows) == contexts);
}

// Rows that come, go on and leave, beside prompts: every step has the same bits as one priced by itself.
static void test_rows(void)
{
    enum { SEQS = 9, STEPS = 600 };
    struct plan plan = random_plan();
    struct device device = random_device();
    int32_t longest = 4 * (plan.index.budget_tokens + plan.shape.window_tokens) + 1000 + STEPS + 1, n = 0;
    struct step_price *price;
    struct step_price_options options = {.device = &device, .plan = &plan, .max_seqs = SEQS};
    struct step_rows *rows, *other;    // two at a time do not disturb each other
    struct work work[SEQS + 2];
    CHECK(step_price_open(&price, &options) == 0);
    CHECK(step_rows_open(&rows, price, longest) == 0 && step_rows_open(&other, price, longest) == 0);
    for (int i = 0; i < STEPS && !check_failures; i++) {
        if (n < SEQS && check_range(0, n == 0 ? 0 : 40) == 0) {
            work[n] = random_work(&plan);
            work[n].new_tokens = work[n].logit_rows = 1;
            step_rows_add(rows, work[n++].context_tokens);
        }
        int32_t n_others = check_range(0, 6) == 0 ? check_range(1, 2) : 0;
        for (int32_t o = 0; o < n_others; o++) {
            work[n + o] = random_work(&plan);
        }
        check_rows(rows, price, work, n, n + n_others, &plan);
        step_rows_add(other, i);
        step_rows_advance(rows);
        for (int32_t s = 0; s < n; s++) {
            work[s].context_tokens++;
        }
        if (check_range(0, 60) == 0) {
            int32_t leaves = check_range(0, n - 1);
            step_rows_remove(rows, work[leaves].context_tokens);
            work[leaves] = work[--n];
        }
        if (i == STEPS / 2) {
            step_rows_clear(rows);
            n = 0;
        }
    }
    step_rows_close(rows);
    step_rows_close(other);
    step_price_close(price);
}

static struct workload random_workload(int32_t n)
{
    struct workload workload = {.n = n, .block_tokens = 1, .requests = calloc((size_t)n, sizeof *workload.requests)};
    int64_t now_ns = 0, gap_ns = (int64_t)1 << check_range(0, 32);
    for (int32_t i = 0; i < n; i++) {
        workload.requests[i] = (struct workload_request){.arrival_ns = now_ns,
                                                         .prefix_id = -1,
                                                         .prompt_tokens = check_range(1, check_range(1, 400)),
                                                         .output_tokens = check_range(1, check_range(1, 500))};
        if (check_range(0, 2)) {
            workload.requests[i].prefix_id = check_range(0, 2);
            int32_t shared = workload.requests[i].prompt_tokens - check_range(0, 1) * check_range(0, 5);
            workload.requests[i].prefix_tokens = shared > 0 ? shared : 0;
        }
        now_ns += (int64_t)(check_uniform() * (double)gap_ns);
    }
    if (check_range(0, 3) == 0) {
        workload.users = check_range(1, n);
        workload.pause_ns = (int64_t)(check_uniform() * (double)gap_ns);
        for (int32_t i = 0; i < n; i++) {
            workload.requests[i].arrival_ns = 0;
        }
    }
    return workload;
}

static void compare_runs(const struct serve_result *jumped, const struct serve_result *stepped)
{
    CHECK_MESSAGE(jumped->decisions == stepped->decisions, "jumping decided otherwise than stepping");
    CHECK(jumped->steps == stepped->steps && jumped->peak_pages == stepped->peak_pages);
    CHECK(jumped->peak_running == stepped->peak_running && jumped->peak_kv_bytes == stepped->peak_kv_bytes);
    CHECK(jumped->metrics.preemptions == stepped->metrics.preemptions && stepped->jumped_steps == 0);
    for (int64_t i = 0; i < jumped->n_records; i++) {
        const struct request_record *a = &jumped->records[i], *b = &stepped->records[i];
        CHECK_MESSAGE(near(a->arrival_s, b->arrival_s, 1e-6) && near(a->started_s, b->started_s, 1e-6) &&
                          near(a->first_token_s, b->first_token_s, 1e-6) && near(a->finished_s, b->finished_s, 1e-6),
                      "request %lld finished at %.12g, by steps at %.12g", (long long)i, a->finished_s, b->finished_s);
        CHECK(a->preemptions == b->preemptions && a->rejected == b->rejected && a->reused_tokens == b->reused_tokens);
    }
}

static void check_records(const struct serve_result *result)
{
    for (int64_t i = 0; i < result->n_records; i++) {
        const struct request_record *record = &result->records[i];
        CHECK(record->rejected ||
              (record->arrival_s <= record->started_s && record->started_s < record->first_token_s &&
               record->first_token_s <= record->finished_s));
        CHECK(record->rejected || (record->output_tokens > 1) == (record->finished_s > record->first_token_s));
    }
    for (int32_t i = 1; i < result->n_points; i++) {
        CHECK(result->points[i].time_s > result->points[i - 1].time_s);
    }
    CHECK(result->peak_pages <= result->n_pages);
}

static void test_jumps(int64_t *preemptions, int64_t *jumps, int64_t *reused)
{
    static struct serve_result jumped, stepped;
    struct plan plan = random_plan();
    struct device device = settling_device();
    struct workload workload = random_workload(check_range(1, 60));
    struct serve_options options = {.plan = &plan,
                                    .device = &device,
                                    .max_seqs = check_range(1, 20),
                                    .max_step_tokens = check_range(1, 300),
                                    .cache_tokens = check_range(900, 6000)};
    int error = serve_run(&jumped, &workload, &options);
    options.every_step = true;
    CHECK_MESSAGE(error == 0 && serve_run(&stepped, &workload, &options) == 0, "%s", status_text());
    if (!error) {
        compare_runs(&jumped, &stepped);
        check_records(&jumped);
        CHECK(jumped.metrics.finished + jumped.metrics.rejected == workload.n);
        *preemptions += jumped.metrics.preemptions;
        *jumps += jumped.jumped_steps;
        CHECK(jumped.reused_tokens == stepped.reused_tokens);
        *reused += jumped.reused_tokens;
        serve_close(&jumped);
        serve_close(&stepped);
    }
    workload_close(&workload);
}

struct clock {
    int64_t calls;
    double seconds, priced_s;
};

static double take_seconds(void *user, double now_s, const struct work *work, int32_t n_seqs, double priced_s)
{
    struct clock *clock = user;
    CHECK(now_s >= 0 && n_seqs > 0 && work[0].new_tokens > 0 && priced_s > 0);
    clock->calls++;
    clock->priced_s += priced_s;
    return clock->seconds;
}

// Steps that take what the caller says: a request's times are counts of them.
static void test_clock(void)
{
    static struct serve_result result;
    struct plan plan = random_plan();
    struct device device = random_device();
    struct workload_request request = {.prefix_id = -1, .prompt_tokens = 300, .output_tokens = 40};
    struct workload workload = {.n = 1, .requests = &request};
    struct clock clock = {.seconds = 0.125};
    struct serve_options options = {.plan = &plan, .device = &device, .max_step_tokens = 128, .every_step = true};
    CHECK(serve_run(&result, &workload, &options) == 0);
    double priced_s = result.records[0].finished_s;
    serve_close(&result);
    options.clock = take_seconds;
    options.clock_user = &clock;
    CHECK_MESSAGE(serve_run(&result, &workload, &options) == 0, "%s", status_text());
    CHECK(clock.calls == 3 + 39 && result.steps == clock.calls && near(clock.priced_s, priced_s, 1e-9));
    CHECK(result.records[0].first_token_s == 3 * 0.125 && result.records[0].finished_s == 42 * 0.125);
    serve_close(&result);
}

// What calibration.h says that a step takes longer, so long after prompts.
static double settling_s(const struct device *device, const struct plan *plan, const struct work *work, double since_s)
{
    const struct calibration_profile *profile = device->calibration;
    double bytes = (double)step_cost(plan, work, 1).bytes;
    return profile ? profile->settle_s_per_byte * bytes * exp(-since_s / profile->settle_s) : 0;
}

// One request alone: its times follow from predict_step by hand.
static void test_alone(void)
{
    static struct serve_result result;
    struct plan plan = random_plan();
    struct device device = settling_device();
    struct workload_request request = {
        .arrival_ns = 5000000000, .prefix_id = -1, .prompt_tokens = 300, .output_tokens = 40};
    struct workload workload = {.n = 1, .requests = &request};
    struct serve_options options = {.plan = &plan, .device = &device, .max_step_tokens = 128};
    CHECK_MESSAGE(serve_run(&result, &workload, &options) == 0, "%s", status_text());
    struct step_prediction step;
    double now_s = 5;
    for (int32_t done = 0; done < 300; done += 128) {
        int32_t rows = 300 - done < 128 ? 300 - done : 128;
        CHECK(predict_step(&step, &device, &plan, &(struct work){done, rows, done + rows == 300}, 1) == 0);
        now_s += step.seconds;
    }
    CHECK(near(result.records[0].first_token_s, now_s, 1e-9) && result.records[0].started_s == 5);
    for (int32_t i = 0; i < 39; i++) {
        struct work work = {300 + i, 1, 1};
        CHECK(predict_step(&step, &device, &plan, &work, 1) == 0);
        now_s += step.seconds + settling_s(&device, &plan, &work, now_s - result.records[0].first_token_s);
    }
    CHECK_MESSAGE(near(result.records[0].finished_s, now_s, 1e-9), "finished at %.12g, expected %.12g",
                  result.records[0].finished_s, now_s);
    CHECK(near(result.metrics.tpot_s.mean, (now_s - result.records[0].first_token_s) / 39, 1e-6));
    CHECK(result.steps == 42 && result.metrics.saturation == SATURATION_STABLE);
    serve_close(&result);
}

static double constant_seconds(const void *user, enum stage stage, int32_t layer, const struct stage_cost *cost,
                               double bandwidth, int32_t n_seqs, int32_t n_tokens)
{
    (void)layer;
    (void)cost;
    (void)bandwidth;
    (void)n_seqs;
    (void)n_tokens;
    return stage == STAGE_HEAD ? *(const double *)user : 0;
}

// A service whose steps that leave logits take 1 s each is a queue that can be worked out: load decides the verdict.
static void test_verdict(void)
{
    static struct serve_result result;
    struct plan plan;
    struct device device = random_device();
    double second = 1;
    struct stage_timer timer = {&second, constant_seconds};
    struct serve_options options = {
        .plan = &plan, .device = &device, .timer = &timer, .max_seqs = 1, .slo_ttft_s = 1.5};
    struct workload_request requests[40];
    struct workload workload = {.n = 40, .requests = requests};
    CHECK(plan_build(&plan, plan_find_model("tiny"), "clsa", NULL) == 0);
    for (int gap_s = 2; gap_s <= 8; gap_s += 3) {    // each request takes 5 s
        for (int i = 0; i < 40; i++) {
            requests[i] = (struct workload_request){
                .arrival_ns = (int64_t)i * gap_s * 1000000000, .prefix_id = -1, .prompt_tokens = 8, .output_tokens = 5};
        }
        CHECK_MESSAGE(serve_run(&result, &workload, &options) == 0, "%s", status_text());
        CHECK(result.metrics.saturation == (gap_s == 2 ? SATURATION_OVERLOADED : SATURATION_STABLE));
        CHECK(near(result.metrics.tpot_s.p99, 1, 1e-9));
        double last_s = gap_s == 2 ? 40 * 5 - 39 * 2 - 4 : 1;
        CHECK_MESSAGE(near(result.metrics.ttft_s.max, last_s, 1e-9), "gap %d: last TTFT %g, expected %g", gap_s,
                      result.metrics.ttft_s.max, last_s);
        CHECK(near(result.metrics.slo_share, gap_s == 2 ? 1.0 / 40 : 1, 1e-9));
        CHECK(result.n_points > 0);
        serve_close(&result);
    }
}

static void test_wrong_input(void)
{
    static struct serve_result result;
    struct plan plan;
    struct device device = random_device();
    struct workload_request request = {.prefix_id = -1, .prompt_tokens = 1000, .output_tokens = 100};
    struct workload workload = {.n = 1, .requests = &request};
    struct serve_options options = {.plan = &plan, .device = &device, .cache_tokens = 512};
    CHECK(plan_build(&plan, plan_find_model("tiny"), "dense", NULL) == 0);
    CHECK(serve_run(&result, &workload, &options) == -EINVAL && strstr(status_text(), "no request fits"));
    CHECK(result.records == NULL);
    options.cache_tokens = 0;
    device.memory_bytes.value = 1000;
    CHECK(serve_run(&result, &workload, &options) == -EINVAL && strstr(status_text(), "does not fit"));
    device.memory_bytes.value = 0;
    CHECK(serve_run(&result, &workload, &options) == -EINVAL && strstr(status_text(), "memory is unknown"));
    options.max_seqs = -1;
    CHECK(serve_run(&result, &workload, &options) == -EINVAL && strstr(status_text(), "sequences"));
}

int main(void)
{
    check_begin();
    int64_t preemptions = 0, jumps = 0, reused = 0;
    for (int i = 0; i < 60 && !check_failures; i++) {
        test_price();
        test_rows();
    }
    for (int i = 0; i < 60 && !check_failures; i++) {
        test_jumps(&preemptions, &jumps, &reused);
    }
    CHECK_MESSAGE(check_failures || (preemptions > 0 && jumps > 0 && reused > 0),
                  "%lld preemptions, %lld jumped steps, %lld tokens reused: shows too little", (long long)preemptions,
                  (long long)jumps, (long long)reused);
    test_alone();
    test_clock();
    test_verdict();
    test_wrong_input();
    return check_end();
}
