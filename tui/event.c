// tui/event.c - samples as values.
#include "tui/event.h"

// Saturates: the times may come from a damaged file.
static int64_t sum(int64_t a, int64_t b)
{
    int64_t result;
    return __builtin_add_overflow(a, b, &result) ? INT64_MAX : result;
}

int64_t event_time_ns(const struct event *event)
{
    switch (event->kind) {
    case EVENT_STAGE: return sum(event->of.stage.begin_ns, event->of.stage.duration_ns);
    case EVENT_STEP: return sum(event->of.step.begin_ns, event->of.step.duration_ns);
    case EVENT_REQUEST: return event->of.request.time_ns;
    case EVENT_COUNTER: return event->of.counter.time_ns;
    case EVENT_KERNEL: return sum(event->of.kernel.begin_ns, event->of.kernel.duration_ns);
    case EVENT_GAUGE: return event->of.gauge.time_ns;
    case EVENT_SOURCE: break;
    }
    return INT64_MIN;
}

void event_deliver(const struct event *event, const struct sample_source *source, const struct sample_sink *to)
{
    if (event->kind == EVENT_SOURCE && to->source) {
        to->source(to->user, source);
    } else if (event->kind == EVENT_STAGE && to->stage) {
        to->stage(to->user, &event->of.stage);
    } else if (event->kind == EVENT_STEP && to->step) {
        to->step(to->user, &event->of.step);
    } else if (event->kind == EVENT_REQUEST && to->request) {
        to->request(to->user, &event->of.request);
    } else if (event->kind == EVENT_COUNTER && to->counter) {
        to->counter(to->user, &event->of.counter);
    } else if (event->kind == EVENT_KERNEL && to->kernel) {
        to->kernel(to->user, &event->of.kernel);
    } else if (event->kind == EVENT_GAUGE && to->gauge) {
        to->gauge(to->user, &event->of.gauge);
    }
}
