// traces/trace_reader_device.c - packets of devices back to kernels, launches, gauges and losses.
//
// A piece of work is ours if its kernel was interned with the source, device and stream that it belongs to.
#include <stdlib.h>
#include <string.h>

#include "traces/durations.h"
#include "traces/trace_reader_internal.h"

static int unknown(struct reader *reader)
{
    reader->stats.unknown_packets++;
    return 0;
}

// What work it is, from the words of its specification. False: none of ours.
static bool resolve_stage(struct kernel_sample *sample, const struct trace_interned *stage)
{
    char description[64];
    snprintf(description, sizeof description, "%s", stage && stage->detail ? stage->detail : "");
    char *work = strchr(description, ' ');
    if (!work) {
        return false;
    }
    *work++ = 0;
    int32_t kind = WORK_KERNEL;
    while (kind <= (int32_t)WORK_FILL && strcmp(work, trace_work_name((enum device_work)kind)) != 0) {
        kind++;
    }
    sample->work = (enum device_work)kind;
    sample->stage = STAGE_COUNT;
    return kind <= (int32_t)WORK_FILL && phase_from_name(&sample->phase, description) == 0 &&
           (strcmp(stage->text, TRACE_NO_STAGE) == 0 || stage_from_name(&sample->stage, stage->text) == 0);
}

static void read_shape(int32_t out[3], const Perfetto__Protos__GpuRenderStageEvent__Dim3 *shape)
{
    out[0] = shape ? (int32_t)shape->x : 0;
    out[1] = shape ? (int32_t)shape->y : 0;
    out[2] = shape ? (int32_t)shape->z : 0;
}

static int read_launch_arguments(struct reader *reader, struct kernel_sample *sample, const struct trace_packet *packet)
{
    const Perfetto__Protos__GpuRenderStageEvent__ComputeKernelLaunch *launch =
        packet->packet->gpu_render_stage_event->launch;
    sample->layer = -1;
    for (size_t i = 0; launch && i < launch->n_args; i++) {
        int64_t value;
        switch (trace_argument(packet->sequence, launch->args[i], &value)) {
        case ANNOTATION_STEP: sample->step = value; break;
        case ANNOTATION_BYTES: sample->bytes = value; break;
        case ANNOTATION_LAYER:
            if (value < INT32_MIN || value > INT32_MAX) {
                return reader_broken(reader, "device work in layer %lld", (long long)value);
            }
            sample->layer = (int32_t)value;
            break;
        default: break;
        }
    }
    read_shape(sample->grid, launch ? launch->grid_size : NULL);
    read_shape(sample->block, launch ? launch->workgroup_size : NULL);
    return 0;
}

int reader_kernel(struct reader *reader, const struct trace_packet *packet)
{
    const Perfetto__Protos__GpuRenderStageEvent *event = packet->packet->gpu_render_stage_event;
    const struct trace_interned *kernel = trace_interned(packet->sequence, INTERN_KERNEL, event->kernel_iid);
    if (!kernel || !kernel->ours || id_map_get(&reader->source_ids, (uint32_t)kernel->source) < 0) {
        return unknown(reader);
    }
    struct kernel_sample sample = {
        .source = kernel->source,
        .name = kernel->text,
        .device = kernel->device,
        .context = (int32_t)(uint32_t)event->context,
        .stream = kernel->stream,
        .launch = event->submission_id,
        .registers = kernel->registers,
        .static_shared_bytes = kernel->static_shared,
        .dynamic_shared_bytes = kernel->dynamic_shared,
        .begin_ns = (int64_t)packet->packet->timestamp,
        .duration_ns = (int64_t)event->duration,
    };
    if (!resolve_stage(&sample, trace_interned(packet->sequence, INTERN_SPECIFICATION, event->stage_iid))) {
        return reader_broken(reader, "device work of an unknown phase, stage or kind");
    }
    if (sample.begin_ns < 0 || sample.duration_ns < 0 || sample.begin_ns > INT64_MAX - sample.duration_ns) {
        return reader_broken(reader, "device work that ends before it begins, or beyond the clock's range");
    }
    int error = read_launch_arguments(reader, &sample, packet);
    if (error) {
        return error;
    }
    reader_cover(&reader->stats, &reader->stats.kernel_samples, sample.begin_ns, sample.begin_ns + sample.duration_ns);
    if (reader->sink.kernel) {
        reader->sink.kernel(reader->sink.user, &sample);
    }
    return 0;
}

static int deliver_gauge(struct reader *reader, const struct gauge_sample *sample)
{
    if (sample->time_ns < 0) {
        return reader_broken(reader, "a time beyond the clock's range");
    }
    reader_cover(&reader->stats, &reader->stats.gauge_samples, sample->time_ns, sample->time_ns);
    if (reader->sink.gauge) {
        reader->sink.gauge(reader->sink.user, sample);
    }
    return 0;
}

int reader_track_gauge(struct reader *reader, const struct track *track, int32_t source, double value, int64_t time_ns)
{
    struct gauge_sample sample = {source, track->gauge, track->unit, value, time_ns};
    return deliver_gauge(reader, &sample);
}

int reader_gauges(struct reader *reader, const struct trace_packet *packet)
{
    const Perfetto__Protos__GpuCounterEvent *event = packet->packet->gpu_counter_event;
    const struct trace_interned *gauge = NULL;
    if (event->desc_case == PERFETTO__PROTOS__GPU_COUNTER_EVENT__DESC_COUNTER_DESCRIPTOR_IID) {
        gauge = trace_interned(packet->sequence, INTERN_GAUGE, event->counter_descriptor_iid);
    }
    int source, unit = 0;
    if (!gauge || !gauge->detail || sscanf(gauge->detail, "source %d:%n", &source, &unit) != 1 || unit == 0 ||
        gauge->detail[unit] != ' ' || id_map_get(&reader->source_ids, (uint32_t)source) < 0) {
        return unknown(reader);
    }
    int error = 0;
    for (size_t i = 0; i < event->n_counters && !error; i++) {
        const Perfetto__Protos__GpuCounterEvent__GpuCounter *counter = event->counters[i];
        bool real = counter->value_case == PERFETTO__PROTOS__GPU_COUNTER_EVENT__GPU_COUNTER__VALUE_DOUBLE_VALUE;
        struct gauge_sample sample = {
            .source = source,
            .name = gauge->text,
            .unit = gauge->detail + unit + 1,
            .value = real ? counter->double_value : counter->value_case ? (double)counter->int_value : 0.0,
            .time_ns = (int64_t)packet->packet->timestamp,
        };
        error = deliver_gauge(reader, &sample);
    }
    return error;
}

// A source tells what it has lost so far: what counts is the last of each.
static void count_loss(struct reader *reader, const struct loss_sample *sample)
{
    struct trace_stats *stats = &reader->stats;
    bool found = false;
    stats->dropped = stats->invalid = 0;
    for (int64_t i = 0; i < reader->n_tracks; i++) {
        struct track *track = &reader->tracks[i];
        if (!found && track->is_source && track->source == sample->source) {
            track->dropped = sample->dropped;
            track->invalid = sample->invalid;
            found = true;
        }
        stats->dropped = saturating_sum(stats->dropped, track->dropped);
        stats->invalid = saturating_sum(stats->invalid, track->invalid);
    }
}

int reader_loss(struct reader *reader, int32_t source, const struct trace_event *event)
{
    struct loss_sample sample = {
        .source = source,
        .dropped = event->number[ANNOTATION_DROPPED],
        .invalid = event->number[ANNOTATION_INVALID],
        .time_ns = event->time_ns,
    };
    reader_cover(&reader->stats, &reader->stats.loss_samples, sample.time_ns, sample.time_ns);
    count_loss(reader, &sample);
    if (reader->sink.loss) {
        reader->sink.loss(reader->sink.user, &sample);
    }
    return 0;
}

int reader_begin_launch(struct reader *reader, const struct track *track, struct open_slice *slice, int32_t source,
                        const struct trace_packet *packet, const struct trace_event *event)
{
    const Perfetto__Protos__GpuCorrelation *correlation = packet->packet->track_event->gpu_correlation;
    if (correlation->n_render_stage_submission_event_ids != 1) {
        return reader_broken(reader, "a launch that points at %zu numbers of work, not one",
                             correlation->n_render_stage_submission_event_ids);
    }
    slice->kind = SLICE_LAUNCH;
    snprintf(slice->name, sizeof slice->name, "%s", event->name);
    slice->as.launch = (struct launch_sample){
        .source = source,
        .launch = (uint32_t)correlation->render_stage_submission_event_ids[0],
        .step = event->number[ANNOTATION_STEP],
        .thread = track->thread,
        .begin_ns = event->time_ns,
    };
    return 0;
}
