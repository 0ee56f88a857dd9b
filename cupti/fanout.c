// cupti/fanout.c - one stream of samples to several sinks.
#include "cupti/collector.h"

static void on_source(void *user, const struct sample_source *source)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].source) {
            fanout->sinks[i].source(fanout->sinks[i].user, source);
        }
    }
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].stage) {
            fanout->sinks[i].stage(fanout->sinks[i].user, sample);
        }
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].step) {
            fanout->sinks[i].step(fanout->sinks[i].user, sample);
        }
    }
}

static void on_request(void *user, const struct request_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].request) {
            fanout->sinks[i].request(fanout->sinks[i].user, sample);
        }
    }
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].counter) {
            fanout->sinks[i].counter(fanout->sinks[i].user, sample);
        }
    }
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].kernel) {
            fanout->sinks[i].kernel(fanout->sinks[i].user, sample);
        }
    }
}

static void on_launch(void *user, const struct launch_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].launch) {
            fanout->sinks[i].launch(fanout->sinks[i].user, sample);
        }
    }
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].gauge) {
            fanout->sinks[i].gauge(fanout->sinks[i].user, sample);
        }
    }
}

static void on_loss(void *user, const struct loss_sample *sample)
{
    const struct sample_fanout *fanout = user;
    for (int32_t i = 0; i < fanout->n; i++) {
        if (fanout->sinks[i].loss) {
            fanout->sinks[i].loss(fanout->sinks[i].user, sample);
        }
    }
}

struct sample_sink sample_fanout_sink(struct sample_fanout *fanout)
{
    return (struct sample_sink){
        .user = fanout,
        .source = on_source,
        .stage = on_stage,
        .step = on_step,
        .request = on_request,
        .counter = on_counter,
        .kernel = on_kernel,
        .launch = on_launch,
        .gauge = on_gauge,
        .loss = on_loss,
    };
}
