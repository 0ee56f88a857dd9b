// tests/test_fleet.c - replicas behind a router, and the smallest fleet: against serve_run, queues worked out by hand,
// and every smaller fleet.
#include "engine/status.h"
#include "sim/fleet.h"
#include "sim/planner.h"
#include "tests/check.h"

#include <errno.h>

static struct plan tiny_plan(const char *method)
{
    static const struct plan_options options = {.page_tokens = 16, .keep_local = -1, .keep_sink = -1, .index_dtype = -1,
                                                .weight_dtype = -1, .kv_dtype = -1};
    struct plan plan;
    int error = plan_build(&plan, plan_find_model("tiny"), method, &options);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    return plan;
}

// Slow enough that a handful of requests per second load it.
static struct device slow_device(void)
{
    struct device device = {.name = "made up"};
    device.bytes_per_s.value = 4e8 * (1 + check_uniform());
    device.flops_per_s[DTYPE_F32].value = 1e10;
    device.memory_bytes.value = 1e9;
    return device;
}

static struct workload random_workload(int32_t n, double gap_s)
{
    struct workload workload = {.n = n, .block_tokens = 1, .requests = calloc((size_t)n, sizeof *workload.requests)};
    int64_t now_ns = 0;
    for (int32_t i = 0; i < n; i++) {
        workload.requests[i] = (struct workload_request){.arrival_ns = now_ns,
                                                         .prefix_id = check_range(-1, 3),
                                                         .prompt_tokens = check_range(1, 300),
                                                         .output_tokens = check_range(1, check_range(1, 200))};
        now_ns += (int64_t)(-log(1 - check_uniform()) * gap_s * 1e9);
    }
    return workload;
}

static void share_prefixes(struct workload *workload)
{
    for (int64_t i = 0; i < workload->n; i++) {
        struct workload_request *request = &workload->requests[i];
        request->prefix_tokens = request->prefix_id < 0 ? 0 : check_range(0, request->prompt_tokens);
    }
}

static bool same_time(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static void compare_records(const char *what, const struct request_record *a, const struct request_record *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        CHECK_MESSAGE(
            same_time(a[i].arrival_s, b[i].arrival_s) && same_time(a[i].started_s, b[i].started_s) &&
                same_time(a[i].first_token_s, b[i].first_token_s) && same_time(a[i].finished_s, b[i].finished_s) &&
                a[i].preemptions == b[i].preemptions && a[i].rejected == b[i].rejected,
            "%s: request %lld finished at %.12g, expected %.12g", what, (long long)i, a[i].finished_s, b[i].finished_s);
    }
}

static struct serve_options random_options(const struct plan *plan, const struct device *device)
{
    return (struct serve_options){.plan = plan,
                                  .device = device,
                                  .max_seqs = check_range(1, 8),
                                  .max_step_tokens = check_range(8, 200),
                                  .cache_tokens = check_range(600, 3000)};
}

// One replica is what serve_run simulates, whatever the router; in turn, every replica answers its own list.
static void test_against_serve(void)
{
    static struct serve_result alone;
    struct fleet_result fleet;
    struct plan plan = tiny_plan("clsa");
    struct device device = slow_device();
    struct workload workload = random_workload(60, 0.05);
    share_prefixes(&workload);
    workload.users = check_range(0, 1) ? 0 : check_range(1, 20);
    for (int64_t i = 0; workload.users > 0 && i < workload.n; i++) {
        workload.requests[i].arrival_ns = 0;
    }
    struct fleet_options options = {.replica = random_options(&plan, &device), .n_replicas = 1};
    CHECK_MESSAGE(serve_run(&alone, &workload, &options.replica) == 0, "%s", status_text());
    for (int r = 0; r < ROUTER_COUNT; r++) {
        options.router = (enum router)r;
        CHECK_MESSAGE(fleet_run(&fleet, &workload, &options) == 0, "%s", status_text());
        compare_records(router_name(options.router), fleet.records, alone.records, workload.n);
        CHECK(fleet.replicas[0].decisions == alone.decisions && fleet.busy_s == alone.busy_s);
        fleet_close(&fleet);
    }
    serve_close(&alone);
    workload_close(&workload);
}

static void test_in_turn(void)
{
    enum { REPLICAS = 3 };
    static struct serve_result alone;
    struct fleet_result fleet;
    struct plan plan = tiny_plan("dense");
    struct device device = slow_device();
    struct workload workload = random_workload(50, 0.02), part = workload;
    struct fleet_options options = {.replica = random_options(&plan, &device), .n_replicas = REPLICAS};
    struct workload_request requests[50];
    struct request_record expected[50];
    options.replica.cache_tokens = 2000;
    CHECK_MESSAGE(fleet_run(&fleet, &workload, &options) == 0, "%s", status_text());
    for (int r = 0; r < REPLICAS; r++) {
        part.n = 0;
        part.requests = requests;
        for (int i = r; i < 50; i += REPLICAS) {
            requests[part.n++] = workload.requests[i];
        }
        CHECK(serve_run(&alone, &part, &options.replica) == 0);
        for (int64_t i = 0; i < part.n; i++) {
            expected[r + i * REPLICAS] = alone.records[i];
        }
        CHECK(fleet.replicas[r].n_requests == part.n);
        serve_close(&alone);
    }
    compare_records("in turn", fleet.records, expected, 50);
    fleet_close(&fleet);
    workload_close(&workload);
}

static void test_jumps(void)
{
    struct fleet_result jumped, stepped;
    struct plan plan = tiny_plan("clsa");
    struct device device = slow_device();
    struct workload workload = random_workload(80, 0.03);
    share_prefixes(&workload);
    struct fleet_options options = {.replica = random_options(&plan, &device),
                                    .n_replicas = check_range(1, 5),
                                    .router = (enum router)check_range(0, ROUTER_COUNT - 1)};
    CHECK_MESSAGE(fleet_run(&jumped, &workload, &options) == 0, "%s", status_text());
    options.replica.every_step = true;
    CHECK_MESSAGE(fleet_run(&stepped, &workload, &options) == 0, "%s", status_text());
    compare_records("jumping", jumped.records, stepped.records, workload.n);
    for (int32_t r = 0; r < options.n_replicas; r++) {
        CHECK(jumped.replicas[r].decisions == stepped.replicas[r].decisions);
        CHECK(fabs(jumped.replicas[r].busy_s - stepped.replicas[r].busy_s) <= 1e-9 * stepped.replicas[r].busy_s);
    }
    fleet_close(&jumped);
    fleet_close(&stepped);
    workload_close(&workload);
}

// Requests that share a prefix meet, prefixes in turn.
static void test_prefixes(void)
{
    struct fleet_result fleet;
    struct plan plan = tiny_plan("clsa");
    struct device device = slow_device();
    struct workload workload = random_workload(20, 0.01);
    struct fleet_options options = {
        .replica = random_options(&plan, &device), .n_replicas = 4, .router = ROUTER_PREFIX};
    for (int i = 0; i < 20; i++) {
        workload.requests[i].prefix_id = i % 10 == 9 ? -1 : 70 - i % 3;    // 6 each of three prefixes, two without
    }
    CHECK_MESSAGE(fleet_run(&fleet, &workload, &options) == 0, "%s", status_text());
    CHECK(fleet.replicas[0].n_requests == 7 &&
          fleet.replicas[1].n_requests == 6);    // the last one without is the fifth turn
    CHECK(fleet.replicas[2].n_requests == 6 && fleet.replicas[3].n_requests == 1);
    fleet_close(&fleet);
    workload_close(&workload);
}

static double one_second(const void *user, enum stage stage, int32_t layer, const struct stage_cost *cost,
                         double bandwidth, int32_t n_seqs, int32_t n_tokens)
{
    (void)user;
    (void)layer;
    (void)cost;
    (void)bandwidth;
    (void)n_seqs;
    (void)n_tokens;
    return stage == STAGE_HEAD ? 1 : 0;
}

// Servers that take one request at a time, one second a token: the queue that joins the shortest line, by hand.
static void test_least_load(void)
{
    enum { REPLICAS = 3, REQUESTS = 60 };
    struct fleet_result fleet;
    struct plan plan = tiny_plan("clsa");
    struct device device = slow_device();
    struct stage_timer timer = {NULL, one_second};
    struct workload workload = random_workload(REQUESTS, 3);
    struct fleet_options options = {.replica = {.plan = &plan, .device = &device, .timer = &timer, .max_seqs = 1},
                                    .n_replicas = REPLICAS,
                                    .router = ROUTER_LEAST_LOAD};
    double ends[REPLICAS][REQUESTS];
    int count[REPLICAS] = {0};
    for (int i = 0; i < REQUESTS; i++) {
        workload.requests[i].output_tokens = check_range(1, 15);
    }
    CHECK_MESSAGE(fleet_run(&fleet, &workload, &options) == 0, "%s", status_text());
    for (int i = 0; i < REQUESTS; i++) {
        double now_s = 1e-9 * (double)workload.requests[i].arrival_ns;
        int chosen = 0, fewest = REQUESTS + 1;
        for (int r = 0; r < REPLICAS; r++) {
            int in_hand = 0;
            for (int k = 0; k < count[r]; k++) {
                in_hand += ends[r][k] > now_s;
            }
            if (in_hand < fewest) {
                fewest = in_hand;
                chosen = r;
            }
        }
        double begin_s = count[chosen] > 0 ? fmax(now_s, ends[chosen][count[chosen] - 1]) : now_s;
        double end_s = ends[chosen][count[chosen]++] = begin_s + workload.requests[i].output_tokens;
        CHECK_MESSAGE(fabs(fleet.records[i].finished_s - end_s) <= 1e-6, "request %d ends at %.9g, expected %.9g", i,
                      fleet.records[i].finished_s, end_s);
    }
    fleet_close(&fleet);
    workload_close(&workload);
}

// ---------------------------------------------------------------------------------------------------------------------
// The planner

static bool keeps(const struct workload *workload, const struct planner_options *options, int32_t replicas)
{
    struct fleet_result fleet;
    struct fleet_options fleet_options = {.replica = options->replica,
                                          .slo = options->slo,
                                          .n_replicas = replicas,
                                          .router = options->router};
    CHECK_MESSAGE(fleet_run(&fleet, workload, &fleet_options) == 0, "%s", status_text());
    double late = 0, all = 0, percent = options->slo.ttft_percent > 0 ? options->slo.ttft_percent : 95;
    for (int64_t i = 0; i < fleet.n_records; i++) {
        all++;
        late += fleet.records[i].first_token_s - fleet.records[i].arrival_s > options->slo.ttft_s;
    }
    bool kept = options->slo.ttft_s <= 0 || late <= all - ceil(all * percent / 100);
    kept = kept && (options->slo.tpot_s <= 0 || fleet.tpot_s <= options->slo.tpot_s);
    fleet_close(&fleet);
    return kept;
}

static void check_smallest(const struct workload *workload, const struct planner_options *options,
                           const struct planner_answer *answer)
{
    CHECK_MESSAGE(answer->verdict == PLANNER_MEETS, "%s", answer->why);
    CHECK_MESSAGE(keeps(workload, options, answer->replicas), "%d replicas do not keep the limits", answer->replicas);
    for (int32_t n = 1; n < answer->replicas; n++) {
        CHECK_MESSAGE(!keeps(workload, options, n), "%d replicas would do, not %d", n, answer->replicas);
    }
    double hours = answer->metrics.span_s / 3600 * answer->replicas, tokens = answer->metrics.output_tokens;
    CHECK(fabs(answer->dollars_by_reservation - 2.5 * hours / tokens * 1e6) <= 1e-9 * answer->dollars_by_reservation);
    CHECK(answer->dollars_by_use <= answer->dollars_by_reservation * (1 + 1e-9) && answer->dollars_by_use > 0);
    CHECK(answer->dollars_per_hour == 2.5 * answer->replicas);
    CHECK(answer->binds[0] || answer->headroom_open);
}

static void test_smallest(int32_t *most)
{
    struct plan plan = tiny_plan(check_range(0, 1) ? "clsa" : "dense");
    struct device device = slow_device();
    struct workload workload = random_workload(150, 0.02);
    struct planner_options options = {.replica = random_options(&plan, &device),
                                      .slo = {.ttft_s = 0.3, .ttft_percent = 90},
                                      .router = (enum router)check_range(0, ROUTER_COUNT - 1),
                                      .price_per_hour = 2.5,
                                      .headroom = true};
    options.slo.tpot_s = check_range(0, 1) ? 0 : 0.05;
    int32_t before = 0;
    for (double load = 0.25; load <= 4; load *= 4) {
        struct workload scaled;
        struct planner_answer answer;
        CHECK(planner_scale(&scaled, &workload, load) == 0);
        CHECK_MESSAGE(planner_smallest(&answer, &scaled, &options) == 0, "%s", status_text());
        if (answer.verdict == PLANNER_TOO_STRICT || answer.verdict == PLANNER_TOO_MANY) {
            CHECK(answer.why[0] && !keeps(&scaled, &options, 64));
        } else {
            check_smallest(&scaled, &options, &answer);
            CHECK_MESSAGE(answer.replicas >= before, "%g times the load takes %d replicas, less took %d", load,
                          answer.replicas, before);
            before = answer.replicas;
            *most = before > *most ? before : *most;
        }
        free(scaled.requests);
    }
    workload_close(&workload);
}

// Just beyond its headroom a fleet fails, within it does not.
static void test_headroom(void)
{
    struct plan plan = tiny_plan("clsa");
    struct device device = slow_device();
    struct workload workload = random_workload(300, 0.1), scaled;
    struct planner_answer answer;
    struct planner_options options = {
        .replica = {.plan = &plan, .device = &device, .max_seqs = 2, .max_step_tokens = 64, .cache_tokens = 2000},
        .slo = {.ttft_s = 1},
        .price_per_hour = 2.5,
        .serving_power_w = 500,
        .headroom = true};
    CHECK_MESSAGE(planner_smallest(&answer, &workload, &options) == 0, "%s", status_text());
    CHECK_MESSAGE(answer.verdict == PLANNER_MEETS && answer.headroom >= 1 && !answer.headroom_open, "headroom %g: %s",
                  answer.headroom, answer.why);
    // Energy is counted as money is: what an hour takes, for the time in steps.
    CHECK(answer.watt_hours_by_use > 0 &&
          fabs(answer.watt_hours_by_use / answer.dollars_by_use / (500 / 2.5) - 1) < 1e-12);
    CHECK(planner_scale(&scaled, &workload, answer.headroom) == 0 && keeps(&scaled, &options, answer.replicas));
    free(scaled.requests);
    workload_close(&workload);
}

static void test_verdicts(void)
{
    struct plan plan = tiny_plan("dense");
    struct device device = slow_device();
    struct workload workload = random_workload(40, 0.01);
    struct planner_answer answer;
    struct planner_options options = {.replica = {.plan = &plan, .device = &device}, .slo = {.ttft_s = 1e-7}};
    CHECK(planner_smallest(&answer, &workload, &options) == 0 && answer.verdict == PLANNER_TOO_STRICT);
    CHECK_MESSAGE(strstr(answer.why, "TTFT P95") && strstr(answer.why, "0.0001 ms"), "%s", answer.why);
    options.slo = (struct slo){.tpot_s = 1e-9};
    CHECK(planner_smallest(&answer, &workload, &options) == 0 && answer.verdict == PLANNER_TOO_STRICT);
    options.slo = (struct slo){.ttft_s = 0.5};
    options.max_replicas = 1;
    workload.requests[39].arrival_ns = 1;
    for (int i = 0; i < 40; i++) {
        workload.requests[i].arrival_ns = i;    // all at once
        workload.requests[i].output_tokens = 200;
    }
    options.replica.max_seqs = 1;
    CHECK(planner_smallest(&answer, &workload, &options) == 0);
    CHECK_MESSAGE(answer.verdict == PLANNER_TOO_MANY && strstr(answer.why, "TTFT P95 is"), "%s", answer.why);
    device.memory_bytes.value = (double)plan_weight_bytes(&plan) / 0.9 + 1000;
    CHECK(planner_smallest(&answer, &workload, &options) == 0);
    CHECK_MESSAGE(answer.verdict == PLANNER_TOO_LARGE && strstr(answer.why, "fits with"), "%s", answer.why);
    options.slo = (struct slo){0};
    CHECK(planner_smallest(&answer, &workload, &options) == -EINVAL && strstr(status_text(), "limit"));
    options.slo = (struct slo){.ttft_s = 1};
    options.max_replicas = -1;
    CHECK(planner_smallest(&answer, &workload, &options) == -EINVAL);
    _Atomic bool stop = true;
    options.max_replicas = 0;
    device.memory_bytes.value = 1e9;
    options.replica.stop = &stop;
    CHECK(planner_smallest(&answer, &workload, &options) == 0 && answer.verdict == PLANNER_STOPPED);
    workload_close(&workload);
}

// Talks whose every turn begins with the one before: with affinity each talk finds on its replica what it would find on
// one that has them all.
static void test_talks(void)
{
    enum { TALKS = 7, TURNS = 5, BLOCK = 16 };
    struct workload_request requests[TALKS * TURNS];
    uint64_t blocks[TALKS * TURNS * 2 * TURNS];
    struct workload workload = {.requests = requests, .block_tokens = BLOCK, .blocks = blocks};
    struct plan plan = tiny_plan("dense");
    struct device device = slow_device();
    double reused[3];
    for (int t = 0; t < TURNS; t++) {
        for (int k = 0; k < TALKS; k++) {
            int32_t n = 2 * (t + 1);
            requests[workload.n] = (struct workload_request){.arrival_ns = (int64_t)workload.n * 10000000000,
                                                             .prefix_id = t > 0 ? k : -1,
                                                             .prefix_tokens = BLOCK * 2 * t,
                                                             .prompt_tokens = BLOCK * n,
                                                             .output_tokens = check_range(1, 9),
                                                             .first_block = (int32_t)workload.n_blocks,
                                                             .n_blocks = n};
            for (int b = 0; b < n; b++) {
                blocks[workload.n_blocks++] = 1000003u * (uint64_t)(k * 100 + b + 1);
            }
            workload.n++;
        }
    }
    for (int r = 0; r < 3; r++) {
        struct fleet_options options = {.replica = {.plan = &plan, .device = &device, .cache_tokens = 100000},
                                        .n_replicas = r == 0 ? 1 : 4,
                                        .router = r == 1 ? ROUTER_ROUND_ROBIN : ROUTER_PREFIX};
        struct fleet_result fleet;
        CHECK_MESSAGE(fleet_run(&fleet, &workload, &options) == 0, "%s", status_text());
        reused[r] = fleet.metrics.reused_tokens;
        fleet_close(&fleet);
    }
    // Turn t finds the 2 t blocks of the turn before, all but those of no turn.
    CHECK_MESSAGE(reused[0] == TALKS * BLOCK * TURNS * (TURNS - 1), "%g tokens found by one replica", reused[0]);
    CHECK_MESSAGE(reused[2] == reused[0], "%g tokens found with affinity, %g by one replica", reused[2], reused[0]);
    CHECK_MESSAGE(reused[1] < reused[0], "%g tokens found in turn", reused[1]);
}

// Prompts apart from answers: one request alone takes what it takes on one replica, and the way between; in traffic
// nothing is lost, answers never wait for prompts, and first tokens are those of the replicas for prompts alone.
static void test_split(void)
{
    struct fleet_result together, apart, prompts;
    struct plan plan = tiny_plan(check_range(0, 1) ? "clsa" : "dense");
    struct device device = slow_device();
    struct workload workload = random_workload(1, 1);
    struct fleet_options options = {.replica = random_options(&plan, &device), .n_replicas = 1};
    double per_s = 1e6, bytes;
    workload.requests[0].output_tokens = 20;
    options.replica.cache_tokens = 2000;
    CHECK_MESSAGE(fleet_run(&together, &workload, &options) == 0, "%s", status_text());
    CHECK_MESSAGE(fleet_run_split(&apart, &workload, &options, 1, per_s) == 0, "%s", status_text());
    bytes = (double)workload.requests[0].prompt_tokens * (double)plan_kv_bytes_per_token(&plan) +
            (double)plan_kv_bytes_per_sequence(&plan);
    CHECK(apart.records[0].first_token_s == together.records[0].first_token_s);
    CHECK_MESSAGE(fabs(apart.records[0].finished_s - together.records[0].finished_s - bytes / per_s) < 2e-9,
                  "finished at %.12g, on one replica at %.12g, %g s of handing over", apart.records[0].finished_s,
                  together.records[0].finished_s, bytes / per_s);
    fleet_close(&together);
    fleet_close(&apart);
    workload_close(&workload);
    workload = random_workload(80, 0.02);
    share_prefixes(&workload);
    options = (struct fleet_options){.replica = random_options(&plan, &device),
                                     .n_replicas = check_range(1, 3),
                                     .router = (enum router)check_range(0, ROUTER_COUNT - 1)};
    CHECK_MESSAGE(fleet_run_split(&apart, &workload, &options, 2, 1e9) == 0, "%s", status_text());
    CHECK(apart.n_replicas == options.n_replicas + 2 && apart.metrics.finished == workload.n);
    for (int64_t i = 0; i < workload.n; i++) {
        const struct request_record *record = &apart.records[i];
        CHECK(record->output_tokens == workload.requests[i].output_tokens);
        CHECK((record->output_tokens > 1) == (record->finished_s > record->first_token_s));
    }
    for (int32_t r = 2; r < apart.n_replicas; r++) {    // only what was preempted is computed again
        CHECK(apart.metrics.preemptions > 0 || apart.replicas[r].prefill_s == 0);
    }
    for (int64_t i = 0; i < workload.n; i++) {
        workload.requests[i].output_tokens = 1;
    }
    options.n_replicas = 2;
    CHECK_MESSAGE(fleet_run(&prompts, &workload, &options) == 0, "%s", status_text());
    for (int64_t i = 0; i < workload.n; i++) {
        CHECK(prompts.records[i].first_token_s == apart.records[i].first_token_s);
        CHECK(prompts.records[i].reused_tokens == apart.records[i].reused_tokens);
    }
    fleet_close(&apart);
    fleet_close(&prompts);
    workload.users = 3;
    CHECK(fleet_run_split(&apart, &workload, &options, 2, 1e9) == -EINVAL && strstr(status_text(), "closed loop"));
    workload.users = 0;
    CHECK(fleet_run_split(&apart, &workload, &options, 0, 1e9) == -EINVAL && !apart.records);
    CHECK(fleet_run_split(&apart, &workload, &options, 2, 0) == -EINVAL && strstr(status_text(), "link"));
    workload_close(&workload);
}

int main(void)
{
    check_begin();
    int32_t most = 0;
    for (int i = 0; i < 20 && !check_failures; i++) {
        test_against_serve();
        test_in_turn();
        test_jumps();
        test_split();
        test_least_load();
    }
    test_prefixes();
    test_talks();
    for (int i = 0; i < 4 && !check_failures; i++) {
        test_smallest(&most);
    }
    CHECK_MESSAGE(check_failures || most > 1, "no fleet had more than one replica: shows too little");
    test_headroom();
    test_verdicts();
    return check_end();
}
