// tests/test_tui_whatif.c - what-if: its answers are the simulator's, under any knobs; a workload runs beside it.
#include <errno.h>

#include <jansson.h>

#include "sim/parallel.h"
#include "sim/serve.h"
#include "tests/check.h"
#include "tests/tui_stream.h"
#include "tui/whatif.h"

static void select_knob(struct whatif *whatif, enum knob knob)
{
    while (whatif->knob != (int32_t)knob) {
        whatif_select(whatif, 1);
    }
}

static bool set(struct whatif *whatif, enum knob knob, const char *text)
{
    select_knob(whatif, knob);
    return whatif_type(whatif, text);
}

// The same question asked without the dashboard.
static void test_answer(struct whatif *whatif)
{
    struct plan plan;
    struct device device;
    struct request_prediction expected;
    struct plan_options options = plan_options_default();
    CHECK(set(whatif, KNOB_MODEL, "paper") && set(whatif, KNOB_METHOD, "token") && set(whatif, KNOB_DEVICE, "B200"));
    CHECK(set(whatif, KNOB_BATCH, "16") && set(whatif, KNOB_CONTEXT, "64K") && set(whatif, KNOB_TOP_K, "1024"));
    CHECK(set(whatif, KNOB_OUTPUT, "100") && set(whatif, KNOB_COUNT, "4") && set(whatif, KNOB_INDEX_EVERY, "2"));
    options.top_k = 1024;
    options.index_every = 2;
    CHECK(plan_build(&plan, plan_find_model("paper-4b"), "token", &options) == 0);
    device = whatif->devices[whatif->now.knobs[KNOB_DEVICE]];
    CHECK(predict_request(&expected, &device, &plan, 16, 65536, 100, 0) == 0);
    const struct scenario_answer *answer = &whatif->answer;
    CHECK(answer->valid && answer->request.ttft_s == expected.ttft_s);
    CHECK(answer->request.prefill_s == expected.prefill_s);
    CHECK(answer->decode_tokens_per_s == 4 * expected.decode_tokens_per_s);
    CHECK(answer->fits == (expected.max_seqs >= 16) && answer->request.kv_bytes == expected.kv_bytes);
    struct plan part;
    struct device group;
    CHECK(set(whatif, KNOB_RANKS, "2") && parallel_split(&part, &group, &plan, &device, 2) == 0);
    CHECK(predict_request(&expected, &group, &part, 16, 65536, 100, 0) == 0);
    CHECK(answer->valid && answer->request.ttft_s == expected.ttft_s && answer->group.ranks == 2);
    CHECK(answer->request.weight_bytes == expected.weight_bytes);
    CHECK(set(whatif, KNOB_RANKS, "3") && !answer->valid && answer->why[0]);    // 20 heads do not divide
    CHECK(set(whatif, KNOB_RANKS, "1") && answer->valid);
    char text[64];
    whatif_value(whatif, &whatif->now, answer, KNOB_CONTEXT, text, sizeof text);
    CHECK_MESSAGE(strcmp(text, "64K") == 0, "context shown as %s", text);
    CHECK(!set(whatif, KNOB_CONTEXT, "many") && !set(whatif, KNOB_CONTEXT, "0") && !set(whatif, KNOB_CONTEXT, "64Q") &&
          !set(whatif, KNOB_METHOD, "nobody's") && !set(whatif, KNOB_BATCH, "99999999999999999999"));
    CHECK(whatif->now.knobs[KNOB_CONTEXT] == 65536);
    struct sample_source source = {.top_k = 64, .window_tokens = 128};
    CHECK(!whatif_copy(whatif, &source, 1, 1));
    strcpy(source.model, "demo-8m");
    strcpy(source.method, "clsa");
    CHECK(whatif_copy(whatif, &source, 3, 777) && whatif->now.knobs[KNOB_BATCH] == 3 &&
          whatif->answer.plan.index.budget_tokens == 64 && strcmp(whatif->answer.plan.shape.name, "demo-8m") == 0);
}

// Random moves: every scenario has an answer or a reason, and doubling the devices doubles the rate.
static void test_random(struct whatif *whatif)
{
    int32_t valid = 0;
    for (int32_t n = 0; n < 500; n++) {
        if (n % 4 == 0) {
            CHECK(set(whatif, KNOB_RANKS, "1"));    // most others divide few models
            whatif_select(whatif, check_range(0, KNOB_N - 1));
        }
        whatif_select(whatif, check_range(-1, 1));
        whatif_change(whatif, check_range(0, 1) ? 1 : -1);
        const struct scenario_answer *answer = &whatif->answer;
        CHECK(answer->valid != (answer->why[0] != 0));
        valid += answer->valid;
        if (answer->valid) {
            CHECK(answer->request.ttft_s > 0 && answer->decode_tokens_per_s > 0);
            CHECK(answer->request.kv_bytes_per_seq > 0);
        }
        for (int knob = 0; knob < KNOB_N; knob++) {
            char text[64];
            CHECK(whatif->now.knobs[knob] >= 0);
            whatif_value(whatif, &whatif->now, answer, (enum knob)knob, text, sizeof text);
            CHECK(text[0] != 0);
        }
    }
    CHECK_MESSAGE(valid > 50, "only %d of 500 scenarios could be priced", valid);
}

static void test_pinned_and_json(struct whatif *whatif)
{
    char *text = NULL;
    size_t bytes = 0;
    json_error_t error;
    CHECK(set(whatif, KNOB_MODEL, "paper") && set(whatif, KNOB_METHOD, "clsa") && set(whatif, KNOB_DEVICE, "H100"));
    CHECK(set(whatif, KNOB_RANKS, "1") && set(whatif, KNOB_TOP_K, "0") && set(whatif, KNOB_WINDOW, "0") &&
          set(whatif, KNOB_CONTEXT, "32K") && set(whatif, KNOB_BATCH, "4") && set(whatif, KNOB_INDEX_EVERY, "0") &&
          set(whatif, KNOB_WEIGHTS, "model") && set(whatif, KNOB_KV, "model") && whatif->answer.valid);
    for (int32_t i = 0; i < WHATIF_PINNED; i++) {
        CHECK(whatif_pin(whatif));
    }
    CHECK(!whatif_pin(whatif));
    whatif_unpin(whatif);
    CHECK(whatif->n_pinned == WHATIF_PINNED - 1);
    FILE *stream = open_memstream(&text, &bytes);
    whatif_write_json(whatif, stream);
    fclose(stream);
    json_t *all = json_loads(text, 0, &error);
    CHECK_MESSAGE(json_is_array(all) && json_array_size(all) == WHATIF_PINNED, "not JSON: %s\n%s", error.text, text);
    json_t *rate = json_object_get(json_array_get(all, 0), "decode_tokens_per_s");
    CHECK(fabs(json_number_value(rate) - whatif->answer.decode_tokens_per_s) <= 1e-9 * json_number_value(rate));
    json_decref(all);
    free(text);
    while (whatif->n_pinned > 0) {
        whatif_unpin(whatif);
    }
    whatif_unpin(whatif);
    CHECK(whatif->n_pinned == 0);
}

static void wait_for_job(struct whatif *whatif, struct job_report *report)
{
    struct timespec moment = {.tv_nsec = 5000000};
    for (int32_t n = 0; n < 24000; n++) {    // two minutes, on a busy machine with sanitizers
        whatif_job_report(whatif->job, report);
        if (report->state != JOB_RUNNING) {
            return;
        }
        nanosleep(&moment, NULL);
    }
}

// The background's figures are those of the simulation itself; what is cancelled or cannot be done says so.
static void test_job(struct whatif *whatif)
{
    struct job_report report;
    struct workload workload;
    struct plan plan;
    struct device device;
    static struct serve_result expected;
    CHECK(set(whatif, KNOB_MODEL, "paper") && set(whatif, KNOB_METHOD, "clsa") && set(whatif, KNOB_DEVICE, "H100") &&
          set(whatif, KNOB_BATCH, "32") && set(whatif, KNOB_COUNT, "2") && set(whatif, KNOB_WORKLOAD, "paper") &&
          set(whatif, KNOB_RANKS, "1") && set(whatif, KNOB_TOP_K, "0") && set(whatif, KNOB_WINDOW, "0") &&
          set(whatif, KNOB_INDEX_EVERY, "0") && set(whatif, KNOB_RATE, "0") && set(whatif, KNOB_ANSWER, "0") &&
          set(whatif, KNOB_WEIGHTS, "model") && set(whatif, KNOB_KV, "model"));
    CHECK(whatif_simulate(whatif) == 0);
    wait_for_job(whatif, &report);
    CHECK_MESSAGE(report.state == JOB_DONE, "ended as %d: %s", (int)report.state, report.error);
    struct workload_options load = {.rate_factor = 0.5};
    CHECK(workload_load(&workload, "paper", &load) == 0);
    CHECK(plan_build(&plan, plan_find_model("paper-4b"), "clsa", NULL) == 0);
    device = whatif->devices[whatif->now.knobs[KNOB_DEVICE]];
    struct serve_options options = {.plan = &plan, .device = &device, .max_seqs = 32};
    CHECK(serve_run(&expected, &workload, &options) == 0);
    CHECK(report.metrics.finished == expected.metrics.finished);
    CHECK(report.metrics.ttft_s.p99 == expected.metrics.ttft_s.p99);
    serve_close(&expected);
    workload_close(&workload);
    CHECK(whatif_simulate(whatif) == 0);
    whatif_job_cancel(whatif->job);
    wait_for_job(whatif, &report);
    CHECK(report.state == JOB_CANCELLED || report.state == JOB_DONE);
    CHECK(set(whatif, KNOB_BATCH, "1024") && set(whatif, KNOB_WINDOW, "1M") && whatif_simulate(whatif) == 0);
    wait_for_job(whatif, &report);    // the windows alone fill the memory
    CHECK_MESSAGE(report.state == JOB_FAILED && report.error[0], "ended as %d", (int)report.state);
    CHECK(whatif_simulate(whatif) == 0);    // closed while it runs
}

// The fleet is the planner's own, and stays with the scenarios that asked for it.
static void test_fleet(struct whatif *whatif)
{
    struct job_report report;
    struct workload workload;
    struct workload_statistics statistics;
    struct plan plan;
    struct device device;
    struct planner_answer expected;
    CHECK(set(whatif, KNOB_MODEL, "paper") && set(whatif, KNOB_METHOD, "clsa") && set(whatif, KNOB_DEVICE, "H100") &&
          set(whatif, KNOB_WORKLOAD, "rag") && set(whatif, KNOB_WINDOW, "0") && set(whatif, KNOB_RATE, "3") &&
          set(whatif, KNOB_ANSWER, "600") &&
          set(whatif, KNOB_TTFT_MS, "0") && set(whatif, KNOB_TPOT_MS, "0"));
    CHECK(whatif_plan(whatif) == -EINVAL);    // no limit
    CHECK(set(whatif, KNOB_TTFT_MS, "4000") && set(whatif, KNOB_TPOT_MS, "40"));
    CHECK(whatif->answer.fleet == 0 && whatif_pin(whatif) && whatif_plan(whatif) == 0);
    wait_for_job(whatif, &report);
    whatif_poll(whatif, &report);
    CHECK_MESSAGE(report.state == JOB_DONE && report.fleet, "ended as %d: %s", (int)report.state, report.error);
    CHECK(workload_load(&workload, "rag", NULL) == 0 && workload_measure(&statistics, &workload) == 0);
    workload_close(&workload);
    struct workload_options load = {.rate_factor = 3 / statistics.rate_per_s, .output_tokens = 600};
    CHECK(workload_load(&workload, "rag", &load) == 0);
    CHECK(plan_build(&plan, plan_find_model("paper-4b"), "clsa", NULL) == 0);
    device = whatif->devices[whatif->now.knobs[KNOB_DEVICE]];
    struct planner_options options = {
        .replica = {.plan = &plan, .device = &device}, .slo = {.ttft_s = 4, .tpot_s = 0.04},
        .router = ROUTER_LEAST_LOAD, .price_per_hour = device.price_per_hour.value, .headroom = true,
    };
    CHECK(planner_smallest(&expected, &workload, &options) == 0 && expected.verdict == PLANNER_MEETS);
    CHECK(report.answer.replicas == expected.replicas && report.answer.headroom == expected.headroom);
    CHECK(whatif->answer.fleet == expected.replicas && whatif->pinned_answers[0].fleet == expected.replicas);
    CHECK(set(whatif, KNOB_METHOD, "dense") && whatif->answer.fleet == 0);
    whatif_poll(whatif, &report);
    CHECK(whatif->answer.fleet == 0 && whatif->pinned_answers[0].fleet == expected.replicas);
    workload_close(&workload);
    whatif_unpin(whatif);
    CHECK(whatif_plan(whatif) == 0);
    whatif_job_cancel(whatif->job);
    wait_for_job(whatif, &report);
    CHECK(report.state == JOB_CANCELLED || report.state == JOB_DONE);
}

int main(void)
{
    struct whatif *whatif;
    struct device device = tui_stream_device();
    check_begin();
    CHECK(whatif_open(&whatif, &device) == 0);
    CHECK(strcmp(whatif->devices[whatif->n_devices - 1].name, "made-up") == 0);
    test_answer(whatif);
    test_random(whatif);
    test_pinned_and_json(whatif);
    test_fleet(whatif);
    test_job(whatif);
    whatif_close(whatif);
    return check_end();
}
