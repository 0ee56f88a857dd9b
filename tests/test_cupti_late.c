// tests/test_cupti_late.c - records that come late, in another order, or not at all.
#include "tests/cupti_heard.h"

static void test_losses(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    struct cupti_overhead overhead = {.kind = CUPTI_OVERHEAD, .start = 1000, .end = 4000};
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, 0, 0, 7);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns + 50, device_ns, 7);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns, device_ns + 50, 7);
    expect(device_ns, 0, STAGE_FFN, 1);
    o->enqueue_end(o->user, &ffn, false);
    run_kernel(4000000000u, 0, device_ns + 60, device_ns + 70, 7);    // no call is known
    expect(device_ns + 60, -1, STAGE_COUNT, -1);
    mock.record(&overhead, sizeof overhead);
    mock.drop(5);
    o->step_end(o->user, &step);
    usleep(250000);
    mock.drop(2);
    device_ns += 100;
    collector_close(collector);
    check_kernels();
    CHECK_MESSAGE(heard.loss.invalid == 2 && heard.loss.dropped == 7, "invalid %lld dropped %lld",
                  (long long)heard.loss.invalid, (long long)heard.loss.dropped);
    CHECK(heard.n_gauges == 1 && heard.n_steps == 1);
}

static void test_losses_of_sources(void)
{
    begin_test();
    struct collector *collector;
    struct sample_source announced = {.method = "clsa"};
    CHECK(collector_open(&collector, COLLECTOR_KERNELS, &sink) == 0);
    int32_t first = collector_set_source(collector, &announced);
    mock.drop(5);
    int32_t second = collector_set_source(collector, &announced);
    CHECK_MESSAGE(heard.loss.source == first && heard.loss.dropped == 5, "source %d lost %lld", heard.loss.source,
                  (long long)heard.loss.dropped);
    mock.drop(2);
    collector_close(collector);
    CHECK_MESSAGE(heard.loss.source == second && heard.loss.dropped == 2, "source %d lost %lld", heard.loss.source,
                  (long long)heard.loss.dropped);
}

static void test_late_calls(int held)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {9, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    run_copy(mock.call(COPY, 1, 2), 64);
    expect(device_ns - 100, -1, STAGE_COUNT, -1);
    mock.hold(held);
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns, device_ns + 50, 7);
    expect(device_ns, 9, STAGE_FFN, 1);
    device_ns += 100;
    o->enqueue_end(o->user, &ffn, false);
    usleep(150000);    // a flush or two
    mock.hold(0);
    usleep(150000);
    o->step_end(o->user, &step);
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_kernels == 2 && heard.n_steps == 1 && heard.n_launches == 1 && heard.launches[0].step == 9);
}

static void test_busy(void)
{
    enum { BUSY = 8 };
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    mock.hold(2);
    for (; step.step < BUSY; step.step++) {
        o->step_begin(o->user, &step);
        o->enqueue_begin(o->user, &ffn, false);
        run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns, device_ns + 50, 7);
        expect(device_ns, step.step, STAGE_FFN, 1);
        device_ns += 100;
        o->enqueue_end(o->user, &ffn, false);
        o->step_end(o->user, &step);
    }
    usleep(250000);
    CHECK(heard.n_steps == 0 && heard.n_kernels == 0);
    mock.hold(0);
    for (int32_t n = 0; n < 2000 && heard.n_steps < BUSY - 2; n++) {    // 20 s, on a busy machine with sanitizers
        usleep(10000);
    }
    CHECK_MESSAGE(heard.n_steps == BUSY - 2, "%d steps", heard.n_steps);    // the last ones could have more
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == BUSY && heard.n_stages == BUSY && heard.loss.dropped == 0);
}

static void run_step(const struct observer *o, int64_t number)
{
    struct observed_step step = {number, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns, device_ns + 50, 7);
    expect(device_ns, number, STAGE_FFN, 1);
    device_ns += 100;
    o->enqueue_end(o->user, &ffn, false);
    o->step_end(o->user, &step);
}

// The first step's tag, or its work, comes after those of later steps: the step waits, and so do they.
static void test_overtaken(int calls, int flushes)
{
    enum { LATER = 6 };
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    for (int64_t number = 0; number < LATER; number++) {
        run_step(o, number);
        if (number == 0) {
            mock.keep(calls, flushes);
        }
    }
    for (int32_t n = 0; n < 2000 && heard.n_steps < LATER - 2; n++) {
        usleep(10000);
    }
    collector_close(collector);
    check_kernels();
    CHECK_MESSAGE(heard.n_steps == LATER && heard.n_stages == LATER && heard.loss.dropped == 0,
                  "%d steps, %d stages, %lld lost", heard.n_steps, heard.n_stages, (long long)heard.loss.dropped);
}

// What an engine enqueues after one that went in the midst of a stage is not that one's.
static void test_left(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    collector_set_source(collector, &(struct sample_source){.method = "clsa"});
    run_copy(mock.call(COPY, 1, 2), 64);
    expect(device_ns - 100, -1, STAGE_COUNT, -1);
    run_step(o, 1);
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == 1 && heard.loss.dropped == 0);
}

// No tag comes for longer than one that was passed by is waited for.
static void test_patience(void)
{
    enum { STEPS = 4 };
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    mock.hold(3);
    for (int64_t number = 0; number < STEPS; number++) {
        run_step(o, number);
    }
    usleep(1500000);
    mock.hold(0);
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == STEPS && heard.n_stages == STEPS && heard.loss.dropped == 0);
}

int main(void)
{
    check_begin();
    load_mock();
    test_losses();
    test_losses_of_sources();
    test_late_calls(1);
    test_late_calls(3);
    test_busy();
    test_overtaken(1, 4);
    test_overtaken(0, 1);
    test_left();
    test_patience();
    return check_end();
}
