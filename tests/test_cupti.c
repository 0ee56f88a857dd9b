// tests/test_cupti.c - which stage a kernel is of, as the collector tells it.
//
// Steps are launched one by one or replayed as graphs, at random.
#include <errno.h>

#include "tests/cupti_heard.h"

static void test_refused(void)
{
    struct collector *collector;
    begin_test();
    mock.refuse(CUPTI_OTHER_SUBSCRIBER, "CUPTI for Nsight Systems");
    CHECK(collector_open(&collector, COLLECTOR_KERNELS, &sink) == -EBUSY && !collector);
    CHECK_MESSAGE(strstr(status_text(), "CUPTI for Nsight Systems"), "%s", status_text());
    mock.refuse(CUPTI_NO_PRIVILEGE, NULL);
    CHECK(collector_open(&collector, COLLECTOR_KERNELS, &sink) == -ENOTSUP && !collector);
    CHECK_MESSAGE(strstr(status_text(), "NVreg_RestrictProfilingToAdminUsers"), "%s", status_text());
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink) == 0);
    collector_close(collector);
    mock.refuse(0, NULL);
    CHECK(mock.subscriptions() == 0);
}

static void test_eager(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {4, PHASE_PREFILL, 1, 8, 8, 1, 0};
    struct observed_stage qkv = stage_of(STAGE_QKV, 0, 1000), write = stage_of(STAGE_KV_WRITE, 0, 500),
                          ffn = stage_of(STAGE_FFN, 0, 3000);
    CHECK(!o->device_stages && o->stage_begin);
    o->step_begin(o->user, &step);
    run_copy(mock.call(COPY, 10, 20), 4096);
    expect(device_ns - 100, 4, STAGE_HOST, -1);
    o->enqueue_begin(o->user, &qkv, false);
    uint32_t first = mock.call(LAUNCH, 30, 45);
    o->enqueue_end(o->user, &qkv, false);
    o->enqueue_begin(o->user, &write, false);    // done by another stage's kernel
    o->enqueue_end(o->user, &write, false);
    o->enqueue_begin(o->user, &ffn, false);
    uint32_t second = mock.call(LAUNCH, 50, 60), third = mock.call(LAUNCH, 61, 62);
    o->enqueue_end(o->user, &ffn, false);
    uint64_t t = device_ns;
    run_kernel(second, 0, t + 700, t + 1500, 7);    // out of order
    run_kernel(first, 0, t, t + 1000, 7);
    run_kernel(third, 0, t + 1600, t + 1800, 7);
    expect(t + 700, 4, STAGE_FFN, 0);
    expect(t, 4, STAGE_QKV, 0);
    expect(t + 1600, 4, STAGE_FFN, 0);
    device_ns = t + 2000;
    o->counter(o->user, COUNTER_BATCH, 1);
    step.device_ns = 1810;
    o->step_end(o->user, &step);
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == 1 && heard.n_stages == 2 && heard.n_launches == 4 && heard.n_sources == 1);
    CHECK(heard.steps[0].device_ns == 1810);
    CHECK(heard.n_counters == 2);    // ours, and the rate of the window
    const struct stage_sample *a = &heard.stages[0], *b = &heard.stages[1];
    CHECK(a->stage == STAGE_QKV && a->begin_ns == (int64_t)t && a->duration_ns == 1000 && a->bytes == 1000 &&
          a->flops == 2000);
    CHECK(b->stage == STAGE_FFN && b->begin_ns == (int64_t)t + 1000 && b->duration_ns == 700 && b->bytes == 3000);
    CHECK(a->step == 4 && a->phase == PHASE_PREFILL && a->n_seqs == 1 && a->context_tokens == 100);
    const struct kernel_sample *k = &heard.kernels[1];    // in the order of their beginnings
    CHECK(k->launch == first && k->grid[0] == 3 && k->grid[1] == 2 && k->block[0] == 128 && k->registers == 40 &&
          k->static_shared_bytes == 1024 && k->dynamic_shared_bytes == 2048 && strcmp(k->name, "_Z6kernelv") == 0 &&
          k->stream == 7 && k->context == 1 && k->work == WORK_KERNEL);
    CHECK(heard.kernels[0].work == WORK_COPY && heard.kernels[0].bytes == 4096);
    CHECK(heard.launches[1].launch == first && heard.launches[1].begin_ns == 30 &&
          heard.launches[1].duration_ns == 15 && heard.launches[1].thread == 77 &&
          strcmp(heard.launches[1].name, "cudaLaunchKernel") == 0 && heard.launches[1].step == 4);
    CHECK(heard.loss.dropped == 0 && heard.loss.invalid == 0);
}

static void test_streams(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct observed_stage stages[2] = {stage_of(STAGE_QKV, 3, 1), stage_of(STAGE_INDEX_SCORE, 3, 1)};
    o->step_begin(o->user, &step);
    for (uint32_t s = 0; s < 2; s++) {
        o->enqueue_begin(o->user, &stages[s], false);
        run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns + s * 10, device_ns + s * 10 + 500, 7 + s);
        o->enqueue_end(o->user, &stages[s], false);
    }
    device_ns += 1000;
    o->step_end(o->user, &step);
    collector_close(collector);
    CHECK(heard.n_stages == 2 && heard.stages[0].duration_ns == 500 && heard.stages[1].duration_ns == 500 &&
          heard.stages[1].begin_ns == heard.stages[0].begin_ns + 10);
}

static void test_graphs(void)
{
    enum { STAGES = 40, REPLAYS = 30 };
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 2, 2, 8, 2, 0};
    uint64_t stages_told = 0;
    for (int recording = 0; recording < 3; recording++) {
        int32_t n = 1 + (int32_t)(check_random() % STAGES), kernels_of[STAGES];
        struct observed_stage stages[STAGES];
        uint64_t node = 100;
        for (int32_t s = 0; s < n; s++) {
            stages[s] = stage_of((enum stage)(check_random() % STAGE_HOST), s / 4, 0);
            kernels_of[s] = (int32_t)(check_random() % 4);
        }
        for (int replay = 0; replay <= REPLAYS; replay++, step.step++) {
            bool captured = replay == 0;
            o->step_begin(o->user, &step);
            uint32_t call = captured ? 0 : mock.call(GRAPH_LAUNCH, 1, 2);
            for (int32_t s = 0; s < n; s++) {
                stages[s].bytes = step.step * 1000 + s;
                o->enqueue_begin(o->user, &stages[s], !captured);
                for (int32_t k = 0; captured && k < kernels_of[s]; k++) {
                    mock.call(LAUNCH, 1, 2);    // enqueues nothing
                    mock.node(CUPTI_NODE_CREATED, node++, 0);
                }
                o->enqueue_end(o->user, &stages[s], !captured);
            }
            if (captured) {
                uint64_t original = 100;
                for (; original < node; original++) {
                    mock.node(CUPTI_NODE_CLONED, 1000 + original, original);
                }
                for (original = 100; original < node; original++) {
                    mock.node(CUPTI_NODE_DESTROYED, original, 0);
                }
                mock.node(CUPTI_NODE_CREATED, 5000, 0);    // a copy that no stage enqueued
                mock.node(CUPTI_NODE_CLONED, 6000, 5000);
                call = mock.call(GRAPH_LAUNCH, 1, 2);
            }
            uint64_t at = 1100;
            for (int32_t s = 0; s < n; s++) {
                for (int32_t k = 0; k < kernels_of[s]; k++, device_ns += 50) {
                    run_kernel(call, at++, device_ns, device_ns + 40, 7);
                    expect(device_ns, step.step, stages[s].stage, stages[s].layer);
                }
                stages_told += kernels_of[s] > 0;
            }
            run_kernel(call, 6000, device_ns, device_ns + 10, 7);
            expect(device_ns, step.step, STAGE_COUNT, -1);
            device_ns += 50;
            o->step_end(o->user, &step);
            if (check_random() % 7 == 0) {
                usleep(120000);    // longer than a flush
            }
        }
    }
    for (uint64_t node = 1000; node < 1000 + 4 * STAGES + 100; node++) {    // the engine closes before the collector
        mock.node(CUPTI_NODE_DESTROYED, node, 0);
    }
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == (int32_t)step.step && heard.n_launches == heard.n_steps);
    CHECK_MESSAGE(heard.n_stages == (int32_t)stages_told, "%d stages, %llu expected", heard.n_stages,
                  (unsigned long long)stages_told);
    for (int32_t s = 0; s < heard.n_stages; s++) {
        CHECK(heard.stages[s].bytes / 1000 == heard.stages[s].step && heard.stages[s].duration_ns % 40 == 0);
    }
    CHECK(heard.loss.dropped == 0);
}

static void test_again(void)
{
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct observed_stage ffn = stage_of(STAGE_FFN, 5, 1);
    struct collector *second;
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    CHECK(mock.subscriptions() == 1 && mock.enabled(CUPTI_KERNEL) && mock.enabled(CUPTI_EXTERNAL));
    CHECK(!mock.enabled(CUPTI_GRAPH));
    CHECK(collector_open(&second, COLLECTOR_KERNELS, &sink) == -EBUSY);
    const struct observer *o = collector_observer(collector);
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    mock.node(CUPTI_NODE_CREATED, 71, 0);
    o->enqueue_end(o->user, &ffn, false);
    mock.node(CUPTI_NODE_CLONED, 72, 71);
    o->step_end(o->user, &step);
    collector_close(collector);
    CHECK(!mock.enabled(CUPTI_KERNEL) && !mock.enabled(CUPTI_MEMCPY) && !mock.enabled(CUPTI_EXTERNAL));
    CHECK(heard.n_kernels == 0 && heard.n_steps == 1);

    collector = open_kernels(COLLECTOR_KERNELS);
    o = collector_observer(collector);
    CHECK(mock.subscriptions() == 1);
    step.step = 1;
    o->step_begin(o->user, &step);
    uint32_t call = mock.call(GRAPH_LAUNCH, 1, 2);
    o->enqueue_begin(o->user, &ffn, true);
    o->enqueue_end(o->user, &ffn, true);
    run_kernel(call, 72, device_ns, device_ns + 9, 7);
    expect(device_ns, 1, STAGE_FFN, 5);
    device_ns += 100;
    o->step_end(o->user, &step);
    collector_close(collector);
    check_kernels();
}

static void test_whole_graphs(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_GRAPHS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {2, PHASE_DECODE, 1, 1, 8, 1, 0};
    struct device_stage marked = {stage_of(STAGE_FFN, 0, 10), 0, 300};
    struct cupti_graph graph = {
        .kind = CUPTI_GRAPH, .start = device_ns, .end = device_ns + 400, .context = 1, .stream = 7};
    CHECK(mock.enabled(CUPTI_GRAPH) && o->device_stages);
    o->step_begin(o->user, &step);
    graph.correlation = mock.call(GRAPH_LAUNCH, 1, 2);
    mock.record(&graph, sizeof graph);
    expect(device_ns, 2, STAGE_COUNT, -1);
    o->device_stages(o->user, &marked, 1);
    o->step_end(o->user, &step);
    device_ns += 500;
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_stages == 1 && heard.stages[0].duration_ns == 300 && heard.kernels[0].duration_ns == 400);
}

static void test_clock(void)
{
    int64_t before = collector_now_ns(), at = (int64_t)mock.now(), after = collector_now_ns();
    CHECK(before <= at && at <= after);
}

int main(void)
{
    check_begin();
    load_mock();
    test_refused();
    test_eager();
    test_streams();
    test_graphs();
    test_again();
    test_whole_graphs();
    test_clock();
    return check_end();
}
