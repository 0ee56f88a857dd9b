// tests/test_nvtx.c - ranges as a tool hears them: nested, named, with payloads; those of replayed stages not.
#include <dlfcn.h>

#include "cupti/collector.h"
#include "cupti/nvtx.h"
#include "engine/status.h"
#include "tests/check.h"

#ifdef CLSA_MOCK_NVTX
int main(void)
{
    check_begin();
    setenv("NVTX_INJECTION64_PATH", CLSA_MOCK_NVTX, 1);
    void *tool = dlopen(CLSA_MOCK_NVTX, RTLD_NOW), *symbol = tool ? dlsym(tool, "mock_nvtx_heard") : NULL;
    const char *(*heard)(void);
    memcpy(&heard, &symbol, sizeof heard);
    if (!symbol) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    const struct sample_sink nobody = {0};
    struct sample_source source = {.method = "token", .top_k = 64};
    struct collector *collector;
    CHECK(nvtx_listens() && strcmp(nvtx_state(), "a tool listens") == 0);
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &nobody) == 0);
    collector_set_source(collector, &source);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {7, PHASE_PREFILL, 1, 5, 5, 1, 0};
    struct observed_stage host = {STAGE_HOST, -1, 1, 5, 5, 0, 0}, ffn = {STAGE_FFN, 3, 1, 5, 5, 10, 20};
    struct request_sample request = {.request = 42, .state = REQUEST_RUNNING};
    o->request(o->user, &request);
    o->step_begin(o->user, &step);
    o->stage_begin(o->user, &host);
    o->stage_end(o->user, &host);
    o->layer_begin(o->user, 3);
    o->enqueue_begin(o->user, &ffn, false);
    o->enqueue_end(o->user, &ffn, false);
    o->layer_end(o->user, 3);
    o->step_end(o->user, &step);
    for (step.step = 8, step.phase = PHASE_DECODE; step.step < 10; step.step++) {
        o->step_begin(o->user, &step);
        o->enqueue_begin(o->user, &ffn, true);
        o->enqueue_end(o->user, &ffn, true);
        o->step_end(o->user, &step);
    }
    request.state = REQUEST_FINISHED;
    o->request(o->user, &request);
    request.state = REQUEST_RUNNING;
    o->request(o->user, &request);
    o->step_begin(o->user, &step);    // in whose midst the engine goes
    o->layer_begin(o->user, 300);     // more than have a registered name
    o->enqueue_begin(o->user, &ffn, false);
    collector_set_source(collector, &source);
    o->step_begin(o->user, &step);
    o->step_end(o->user, &step);
    collector_close(collector);
    const char *expected = "clsa:[request 42(prefill(step{7 -1 token}(host{7 -1 token})(layer 3(ffn{7 3 token}))))"
                           "(decode(step{8 -1 token})(step{9 -1 token})][request 42(step{10 -1 token}(layer 300"
                           "(ffn{10 3 token}))))](decode(step{10 -1 token}))";
    CHECK_MESSAGE(strcmp(heard(), expected) == 0, "heard    %s\nexpected %s", heard(), expected);
    return check_end();
}
#else
int main(void)
{
    return nvtx_listens() ? 1 : check_skip("clsa was built without NVTX's headers");
}
#endif
