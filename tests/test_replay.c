// tests/test_replay.c - a workload through the live engine and through the simulator: where time cannot matter, both
// must take the same steps over the same work; and the engine's own times must be in order.
#include "cli/serving.h"
#include "engine/status.h"
#include "sim/serve.h"
#include "tests/check.h"

enum { MAX_STEPS = 4096 };

// What the engine's steps were made of.
struct steps {
    int64_t n;
    struct observed_step step[MAX_STEPS];
};

static void on_step(void *user, const struct observed_step *step)
{
    struct steps *steps = user;
    if (steps->n < MAX_STEPS) {
        steps->step[steps->n] = *step;
    }
    steps->n++;
}

// Records the rows of each simulated step: the head runs in every step that leaves logits, the embedding in all.
struct simulated {
    int64_t n;
    int32_t n_seqs[MAX_STEPS], n_tokens[MAX_STEPS];
};

static double note_step(const void *user, enum stage stage, int32_t layer, const struct stage_cost *cost,
                        double bandwidth, int32_t n_seqs, int32_t n_tokens)
{
    struct simulated *const *simulated = user;
    (void)layer;
    (void)bandwidth;
    if (stage == STAGE_KV_WRITE && layer == 0 && (*simulated)->n < MAX_STEPS) {
        (*simulated)->n_seqs[(*simulated)->n] = n_seqs;
        (*simulated)->n_tokens[(*simulated)->n] = n_tokens;
    }
    (*simulated)->n += stage == STAGE_KV_WRITE && layer == 0;
    return 1e-9 * (double)cost->bytes;
}

static struct workload random_workload(int32_t n, bool at_once)
{
    struct workload workload = {.n = n, .block_tokens = 1, .requests = calloc((size_t)n, sizeof *workload.requests)};
    for (int32_t i = 0; i < n; i++) {
        workload.requests[i] =
            (struct workload_request){.arrival_ns = at_once ? 0 : i * (int64_t)check_range(0, 100000),
                                      .prefix_id = check_range(-1, 2),
                                      .prompt_tokens = check_range(1, 60),
                                      .output_tokens = check_range(1, 40)};
        int32_t shared = check_range(0, 1) ? 32 : 20, prompt = workload.requests[i].prompt_tokens;
        workload.requests[i].prefix_tokens = workload.requests[i].prefix_id < 0 ? 0 : shared < prompt ? shared : prompt;
        if (i > 0 && workload.requests[i].arrival_ns < workload.requests[i - 1].arrival_ns) {
            workload.requests[i].arrival_ns = workload.requests[i - 1].arrival_ns;
        }
    }
    return workload;
}

static int open_model(struct model_file **file, struct plan *plan)
{
    static const char *const methods[] = {"clsa", "dense", "block", "token", "yoco"};
    struct plan_options options = plan_options_default();
    options.page_tokens = 16;
    options.block_tokens = 16;
    int error = plan_build(plan, plan_find_model("tiny"), methods[check_range(0, 4)], &options);
    return error ? error : model_file_random(file, &plan->shape, plan->weight_dtype, check_random() & 0xffff);
}

static void check_same(const struct steps *live, const struct simulated *simulated)
{
    CHECK_MESSAGE(live->n == simulated->n, "%lld steps, simulated %lld", (long long)live->n, (long long)simulated->n);
    for (int64_t i = 0; i < live->n && i < simulated->n && i < MAX_STEPS && !check_failures; i++) {
        CHECK_MESSAGE(live->step[i].n_seqs == simulated->n_seqs[i] && live->step[i].n_tokens == simulated->n_tokens[i],
                      "step %lld: %d sequences and %d rows, simulated %d and %d", (long long)i, live->step[i].n_seqs,
                      live->step[i].n_tokens, simulated->n_seqs[i], simulated->n_tokens[i]);
    }
}

// All at once: arrivals are done before the first step, so that no decision depends on how long steps take.
static void test_same_decisions(int64_t *preemptions, int64_t *reused)
{
    static struct steps live_steps;
    static struct simulated simulated, *steps = &simulated;
    static struct serve_result sim;
    static struct plan plan;
    struct model_file *file;
    struct workload workload = random_workload(check_range(1, 20), true);
    struct observer observer = {.user = &live_steps, .step_begin = on_step};
    struct serving_result live;
    struct device device = {.name = "made up", .bytes_per_s.value = 1e11, .flops_per_s[DTYPE_F32].value = 1e12};
    struct stage_timer timer = {&steps, note_step};
    CHECK_MESSAGE(open_model(&file, &plan) == 0, "%s", status_text());
    live_steps.n = simulated.n = 0;
    struct serving_options live_options = {.plan = &plan,
                                           .model = file,
                                           .backend = "reference",
                                           .max_seqs = check_range(1, 8),
                                           .max_step_tokens = check_range(8, 64),
                                           .cache_tokens = 128 + 64 * check_range(0, 3),
                                           .no_reuse = check_range(0, 4) == 0,
                                           .snapshots = check_range(0, 4),
                                           .virtual_clock = true,
                                           .observer = &observer};
    struct serve_options sim_options = {.plan = &plan,
                                        .device = &device,
                                        .timer = &timer,
                                        .max_seqs = live_options.max_seqs,
                                        .max_step_tokens = live_options.max_step_tokens,
                                        .cache_tokens = live_options.cache_tokens,
                                        .no_reuse = live_options.no_reuse,
                                        .snapshots = live_options.snapshots,
                                        .every_step = true};
    int error = serving_run(&live, &workload, &live_options);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    CHECK_MESSAGE(serve_run(&sim, &workload, &sim_options) == 0, "%s", status_text());
    if (!error) {
        check_same(&live_steps, &simulated);
        CHECK(live.metrics.preemptions == sim.metrics.preemptions && live.steps == sim.steps);
        CHECK(live.metrics.output_tokens == sim.metrics.output_tokens && live.metrics.finished == workload.n);
        CHECK_MESSAGE(live.reused_tokens == sim.reused_tokens, "%lld tokens reused, simulated %lld",
                      (long long)live.reused_tokens, (long long)sim.reused_tokens);
        CHECK(!live_options.no_reuse || live.reused_tokens == 0);
        *preemptions += live.metrics.preemptions;
        *reused += live.reused_tokens;
        for (int64_t i = 0; i < workload.n; i++) {
            CHECK(live.records[i].reused_tokens == sim.records[i].reused_tokens);
        }
        for (int64_t i = 0; i < workload.n; i++) {    // finished in the same order
            for (int64_t k = 0; k < workload.n; k++) {
                CHECK((live.records[i].finished_s < live.records[k].finished_s) ==
                      (sim.records[i].finished_s < sim.records[k].finished_s));
            }
        }
        serving_close(&live);
        serve_close(&sim);
    }
    workload_close(&workload);
    model_file_close(file);
}

// When the engine's steps ended, for a simulator that is to follow them.
struct ends {
    int64_t n, next;
    double end_s[MAX_STEPS];
};

static void note_end(void *user, double begin_s, double end_s)
{
    struct ends *ends = user;
    CHECK(begin_s < end_s && (ends->n == 0 || ends->n >= MAX_STEPS || begin_s >= ends->end_s[ends->n - 1] - 1e-9));
    if (ends->n < MAX_STEPS) {
        ends->end_s[ends->n] = end_s;
    }
    ends->n++;
}

static double follow_end(void *user, double now_s, const struct work *work, int32_t n_seqs, double priced_s)
{
    struct ends *ends = user;
    (void)work;
    (void)n_seqs;
    return ends->next < ends->n && ends->next < MAX_STEPS ? ends->end_s[ends->next++] - now_s : priced_s;
}

// In real time, with pauses in which the engine sleeps and requests that arrive while it wakes: a simulator that is
// told when steps ended takes the very same ones.
static void test_same_in_time(void)
{
    static struct steps live_steps;
    static struct simulated simulated, *steps = &simulated;
    static struct serve_result sim;
    static struct plan plan;
    static struct ends ends;
    struct model_file *file;
    struct serving_result live;
    struct workload workload = random_workload(24, false);
    int64_t pauses_ns = 0;
    for (int32_t i = 0; i < workload.n; i++) {    // groups of three, 20 us apart, behind pauses of 5 to 15 ms
        pauses_ns += i % 3 == 0 ? check_range(5000000, 15000000) : 20000;
        workload.requests[i].arrival_ns = pauses_ns;
    }
    struct observer observer = {.user = &live_steps, .step_begin = on_step};
    struct device device = {.name = "made up", .bytes_per_s.value = 1e11, .flops_per_s[DTYPE_F32].value = 1e12};
    struct stage_timer timer = {&steps, note_step};
    CHECK_MESSAGE(open_model(&file, &plan) == 0, "%s", status_text());
    live_steps.n = simulated.n = ends.n = ends.next = 0;
    struct serving_options live_options = {.plan = &plan, .model = file, .backend = "reference", .max_seqs = 4,
                                           .max_step_tokens = 32, .cache_tokens = 1024, .observer = &observer,
                                           .stepped = note_end, .stepped_user = &ends};
    struct serve_options sim_options = {.plan = &plan, .device = &device, .timer = &timer, .max_seqs = 4,
                                        .max_step_tokens = 32, .cache_tokens = 1024, .every_step = true,
                                        .clock = follow_end, .clock_user = &ends};
    int error = serving_run(&live, &workload, &live_options);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    CHECK_MESSAGE(serve_run(&sim, &workload, &sim_options) == 0, "%s", status_text());
    if (!error) {
        check_same(&live_steps, &simulated);
        for (int64_t i = 0; i < workload.n; i++) {
            CHECK(fabs(live.records[i].first_token_s - sim.records[i].first_token_s) < 1e-9);
            CHECK(fabs(live.records[i].finished_s - sim.records[i].finished_s) < 1e-9);
        }
        serving_close(&live);
        serve_close(&sim);
    }
    workload_close(&workload);
    model_file_close(file);
}

static void test_times(bool virtual_clock)
{
    static struct plan plan;
    struct model_file *file;
    struct serving_result live;
    struct workload workload = random_workload(12, false);
    workload.users = check_range(0, 1) ? 3 : 0;
    CHECK_MESSAGE(open_model(&file, &plan) == 0, "%s", status_text());
    struct serving_options options = {
        .plan = &plan, .model = file, .backend = "reference", .max_seqs = 4, .virtual_clock = virtual_clock};
    int error = serving_run(&live, &workload, &options);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    double last_s = 0;
    for (int64_t i = 0; !error && i < workload.n; i++) {
        const struct request_record *record = &live.records[i];
        CHECK(record->arrival_s <= record->started_s && record->started_s < record->first_token_s);
        CHECK((record->output_tokens > 1) == (record->finished_s > record->first_token_s));
        CHECK(record->arrival_s >= last_s);
        last_s = record->arrival_s;
    }
    CHECK(!error && live.metrics.finished == workload.n && live.busy_s > 0 &&
          live.busy_s <= live.metrics.span_s * 1.0001);
    CHECK(live.peak_kv_bytes > 0 && live.peak_kv_bytes <= live.kv_bytes);
    serving_close(&live);
    workload_close(&workload);
    model_file_close(file);
}

// A request that can never fit is counted, not fatal, unless none fits.
static void test_rejection(void)
{
    static struct plan plan;
    struct model_file *file;
    struct serving_result live;
    struct workload workload = random_workload(3, true);
    workload.requests[1].prompt_tokens = 500;
    CHECK(open_model(&file, &plan) == 0);
    struct serving_options options = {
        .plan = &plan, .model = file, .backend = "reference", .cache_tokens = 128, .virtual_clock = true};
    CHECK_MESSAGE(serving_run(&live, &workload, &options) == 0, "%s", status_text());
    CHECK(live.metrics.rejected == 1 && live.metrics.finished == 2 && live.records[1].rejected);
    serving_close(&live);
    workload.requests[0] = workload.requests[1];
    workload.n = 2;
    CHECK(serving_run(&live, &workload, &options) < 0 && strstr(status_text(), "fit") && live.records == NULL);
    workload_close(&workload);
    model_file_close(file);
}

int main(void)
{
    check_begin();
    int64_t preemptions = 0, reused = 0;
    for (int i = 0; i < 16 && !check_failures; i++) {
        test_same_decisions(&preemptions, &reused);
    }
    CHECK_MESSAGE(check_failures || (preemptions > 0 && reused > 0),
                  "no run was short of pages, or none reused any: the test shows too little");
    for (int i = 0; i < 4 && !check_failures; i++) {
        test_same_in_time();
    }
    test_times(true);
    test_times(false);
    test_rejection();
    return check_end();
}
