// tests/test_collector.c - an engine's calls become samples: order, sizes, times, rates; and one stream feeds many
// sinks.
#include <errno.h>
#include <stdlib.h>

#include "cupti/collector.h"
#include "tests/check.h"

enum { KINDS = 64 };

struct heard {
    char order[KINDS * 2];    // s stage, S step, r request, c counter, o source
    int n;
    struct sample_source source;
    struct stage_sample stages[KINDS];
    struct step_sample steps[KINDS];
    struct request_sample requests[KINDS];
    struct counter_sample counters[KINDS];
    int n_stages, n_steps, n_requests, n_counters;
};

static void hear(struct heard *heard, char kind)
{
    heard->order[heard->n++ % (KINDS * 2 - 1)] = kind;
}
static void on_source(void *user, const struct sample_source *source)
{
    struct heard *heard = user;
    hear(heard, 'o');
    heard->source = *source;
}
static void on_stage(void *user, const struct stage_sample *sample)
{
    struct heard *heard = user;
    hear(heard, 's');
    heard->stages[heard->n_stages++ % KINDS] = *sample;
}
static void on_step(void *user, const struct step_sample *sample)
{
    struct heard *heard = user;
    hear(heard, 'S');
    heard->steps[heard->n_steps++ % KINDS] = *sample;
}
static void on_request(void *user, const struct request_sample *sample)
{
    struct heard *heard = user;
    hear(heard, 'r');
    heard->requests[heard->n_requests++ % KINDS] = *sample;
}
static void on_counter(void *user, const struct counter_sample *sample)
{
    struct heard *heard = user;
    hear(heard, 'c');
    heard->counters[heard->n_counters++ % KINDS] = *sample;
}

static struct sample_sink hearing(struct heard *heard)
{
    *heard = (struct heard){0};
    return (struct sample_sink){heard, on_source, on_stage, on_step, on_request, on_counter, NULL, NULL, NULL, NULL};
}

static void wait_ns(int64_t duration_ns)
{
    for (int64_t begin_ns = collector_now_ns(); collector_now_ns() - begin_ns < duration_ns;) {
    }
}

static void run_stage(const struct observer *observer, const struct observed_stage *stage, int64_t duration_ns)
{
    observer->stage_begin(observer->user, stage);
    wait_ns(duration_ns);
    observer->stage_end(observer->user, stage);
}

static void test_step(void)
{
    struct heard heard;
    struct sample_sink sink = hearing(&heard);
    struct collector *collector;
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink) == 0);
    const struct observer *observer = collector_observer(collector);
    struct sample_source source = {.id = -9, .method = "clsa", .n_layers = 3};
    int32_t id = collector_set_source(collector, &source);
    CHECK(heard.source.id == id && strcmp(heard.source.method, "clsa") == 0 && heard.source.n_layers == 3);

    struct request_sample request = {
        .source = 99, .request = 4, .state = REQUEST_SUBMITTED, .prompt_tokens = 7, .step = -1};
    observer->request(observer->user, &request);
    CHECK(strcmp(heard.order, "or") == 0);    // outside a step: at once
    struct observed_step step = {11, PHASE_DECODE, 2, 3, 40, 2, 0};
    struct observed_stage ffn = {STAGE_FFN, 1, 2, 3, 40, 1000, 2000}, sample = {STAGE_SAMPLE, -1, 2, 2, 40, 10, 20};
    int64_t before_ns = collector_now_ns();
    observer->step_begin(observer->user, &step);
    observer->layer_begin(observer->user, 1);
    run_stage(observer, &ffn, 200000);
    observer->layer_end(observer->user, 1);
    request.state = REQUEST_FIRST_TOKEN;
    observer->request(observer->user, &request);
    run_stage(observer, &sample, 100000);
    observer->counter(observer->user, COUNTER_BATCH, 2.5);
    CHECK(strcmp(heard.order, "or") == 0);    // inside a step: nothing yet
    step.device_ns = 77;
    observer->step_end(observer->user, &step);
    int64_t after_ns = collector_now_ns();
    CHECK_MESSAGE(strcmp(heard.order, "orsrscS") == 0, "order: %s", heard.order);

    const struct stage_sample *first = &heard.stages[0], *second = &heard.stages[1];
    const struct step_sample *whole = &heard.steps[0];
    CHECK(first->source == id && first->step == 11 && first->phase == PHASE_DECODE && first->stage == STAGE_FFN &&
          first->layer == 1 && first->n_seqs == 2 && first->n_tokens == 3 && first->context_tokens == 40 &&
          first->bytes == 1000 && first->flops == 2000);
    CHECK(second->stage == STAGE_SAMPLE && second->layer == -1);
    CHECK(whole->source == id && whole->step == 11 && whole->phase == PHASE_DECODE && whole->n_seqs == 2 &&
          whole->n_tokens == 3 && whole->context_tokens == 40 && whole->device_ns == 77);
    CHECK(before_ns <= whole->begin_ns && whole->begin_ns <= first->begin_ns && first->duration_ns >= 200000 &&
          first->begin_ns + first->duration_ns <= second->begin_ns && second->duration_ns >= 100000 &&
          second->begin_ns + second->duration_ns <= whole->begin_ns + whole->duration_ns &&
          whole->begin_ns + whole->duration_ns <= after_ns);
    CHECK(heard.requests[1].source == id && heard.requests[1].time_ns >= first->begin_ns + first->duration_ns &&
          heard.requests[1].time_ns <= second->begin_ns && heard.requests[1].prompt_tokens == 7);
    CHECK(heard.counters[0].counter == COUNTER_BATCH && heard.counters[0].value == 2.5 &&
          heard.counters[0].source == id);

    // At close the rate of a window that was not full: the two tokens that the step drew.
    collector_close(collector);
    CHECK(strcmp(heard.order, "orsrscSc") == 0 && heard.counters[1].counter == COUNTER_TOKENS_PER_S);
    double seconds = (double)(heard.counters[1].time_ns - whole->begin_ns) * 1e-9;
    CHECK(fabs(heard.counters[1].value * seconds - 2.0) < 1e-6);
}

// More stages than the buffer begins with; a step that never ends; two sources.
static void test_pending(void)
{
    struct heard heard;
    struct sample_sink sink = hearing(&heard);
    struct collector *collector;
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink) == 0);
    const struct observer *observer = collector_observer(collector);
    struct sample_source source = {.method = "dense"};
    int32_t first = collector_set_source(collector, &source);
    struct observed_step step = {0, PHASE_PREFILL, 1, 5, 5, 0, 0};
    struct observed_stage stage = {STAGE_QKV, 0, 1, 5, 5, 1, 1};
    observer->step_begin(observer->user, &step);
    for (int i = 0; i < 5000; i++) {
        run_stage(observer, &stage, 0);
    }
    CHECK(heard.n_stages == 0);
    observer->step_end(observer->user, &step);
    CHECK(heard.n_stages == 5000 && heard.n_steps == 1);
    observer->step_begin(observer->user, &step);
    run_stage(observer, &stage, 0);
    int32_t second = collector_set_source(collector, &source);    // the engine failed and was closed
    CHECK(heard.n_stages == 5001 && heard.n_steps == 1 && second != first);
    CHECK(heard.stages[5000 % KINDS].source == first);
    observer->step_begin(observer->user, &step);
    observer->step_end(observer->user, &step);
    CHECK(heard.n_steps == 2 && heard.steps[1].source == second);
    collector_close(collector);
    collector_close(NULL);
    // Another collector of the process: its sources are others.
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink) == 0);
    int32_t third = collector_set_source(collector, &source);
    CHECK(third != first && third != second);
    collector_close(collector);
    CHECK(collector_open(&collector, (enum collector_source)77, &sink) == -ENOTSUP && !collector);
}

// Rates over windows of a second: the clock of this test is the real one, so one window is all it waits for.
static void test_rate(void)
{
    struct heard heard;
    struct sample_sink sink = hearing(&heard);
    struct collector *collector;
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink) == 0);
    const struct observer *observer = collector_observer(collector);
    struct sample_source source = {.method = "dense"};
    collector_set_source(collector, &source);
    struct observed_step step = {0, PHASE_DECODE, 4, 4, 5, 4, 0};
    struct observed_stage stage = {STAGE_SAMPLE, -1, 4, 4, 5, 1, 1};
    int64_t tokens = 0, begin_ns = 0;
    while (heard.n_counters == 0) {
        observer->step_begin(observer->user, &step);
        run_stage(observer, &stage, 10000000);
        observer->step_end(observer->user, &step);
        begin_ns = tokens == 0 ? heard.steps[0].begin_ns : begin_ns;
        step.step++;
        tokens += 4;
    }
    const struct counter_sample *rate = &heard.counters[0];
    double seconds = (double)(rate->time_ns - begin_ns) * 1e-9;
    CHECK(rate->counter == COUNTER_TOKENS_PER_S && seconds >= 1.0);
    CHECK_MESSAGE(fabs(rate->value * seconds - (double)tokens) < 1e-6 * (double)tokens, "%g/s over %g s of %lld tokens",
                  rate->value, seconds, (long long)tokens);
    collector_close(collector);
    CHECK(heard.n_counters == 1);    // the next window had no tokens
}

// Stages with a device's own times: whole, in order, inside the step, the last ending when the pass was seen to end.
static void test_device_stages(void)
{
    struct heard heard;
    struct sample_sink sink = hearing(&heard);
    struct collector *collector;
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink) == 0);
    const struct observer *observer = collector_observer(collector);
    struct sample_source source = {.method = "clsa"};
    int32_t id = collector_set_source(collector, &source);
    struct observed_step step = {5, PHASE_DECODE, 1, 1, 9, 1, 0};
    struct device_stage stages[2] = {{{STAGE_QKV, 3, 1, 1, 9, 100, 200}, 0, 40000},
                                     {{STAGE_FFN, 3, 1, 1, 9, 300, 400}, 41000, 90000}};
    observer->step_begin(observer->user, &step);
    wait_ns(200000);
    int64_t before_ns = collector_now_ns();
    observer->device_stages(observer->user, stages, 2);
    int64_t after_ns = collector_now_ns();
    observer->step_end(observer->user, &step);
    CHECK_MESSAGE(strcmp(heard.order, "ossS") == 0, "order: %s", heard.order);
    const struct stage_sample *first = &heard.stages[0], *second = &heard.stages[1];
    int64_t end_ns = second->begin_ns + second->duration_ns;
    CHECK(first->source == id && first->step == 5 && first->stage == STAGE_QKV && first->layer == 3 &&
          first->bytes == 100 && first->flops == 200 && first->duration_ns == 40000);
    CHECK(second->stage == STAGE_FFN && second->duration_ns == 49000 && second->begin_ns - first->begin_ns == 41000);
    CHECK(before_ns <= end_ns && end_ns <= after_ns && heard.steps[0].begin_ns <= first->begin_ns);
    collector_close(collector);
}

static void test_fanout(void)
{
    struct heard heard[3];
    struct sample_fanout fanout = {.n = 3};
    for (int i = 0; i < 3; i++) {
        fanout.sinks[i] = hearing(&heard[i]);
    }
    fanout.sinks[1] = (struct sample_sink){.user = &heard[1], .step = on_step};    // the others of its slots are NULL
    struct sample_sink sink = sample_fanout_sink(&fanout);
    struct sample_source source = {.id = 2};
    struct stage_sample stage = {.step = 3};
    struct step_sample step = {.step = 4};
    struct request_sample request = {.step = 5};
    struct counter_sample counter = {.value = 6};
    sink.source(sink.user, &source);
    sink.stage(sink.user, &stage);
    sink.step(sink.user, &step);
    sink.request(sink.user, &request);
    sink.counter(sink.user, &counter);
    CHECK(strcmp(heard[0].order, "osSrc") == 0 && strcmp(heard[1].order, "S") == 0 &&
          strcmp(heard[2].order, "osSrc") == 0);
    CHECK(heard[2].source.id == 2 && heard[2].stages[0].step == 3 && heard[1].steps[0].step == 4 &&
          heard[2].requests[0].step == 5 && heard[0].counters[0].value == 6);
}

// The samples' clock is the one that traces name.
static void test_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    int64_t before_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, at_ns = collector_now_ns();
    clock_gettime(CLOCK_BOOTTIME, &now);
    CHECK(before_ns <= at_ns && at_ns <= (int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
}

int main(void)
{
    check_begin();
    test_step();
    test_pending();
    test_rate();
    test_device_stages();
    test_fanout();
    test_clock();
    return check_end();
}
