// traces/trace_writer_device.c - kernels, launches, gauges and losses.
//
// They are told in no order, some time after their step: each is written where it comes. A piece of work is one packet,
// on the queue of its stream; what does not change from one launch to the next (name, registers, source) is interned.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/kernel_name.h"
#include "traces/trace_encode_device.h"
#include "traces/trace_writer_internal.h"

// The entry of a key; `*fresh`: it was made now, and its name must be written. NULL: failed, remembered.
static struct intern_entry *find(struct trace_writer *writer, struct intern_table *table, const struct intern_key *key,
                                 bool *fresh)
{
    int64_t before = table->n;
    struct intern_entry *entry = intern_table_find(table, key);
    if (!entry) {
        writer_remember(writer, -ENOMEM);
    }
    *fresh = table->n > before;
    return entry;
}

// 0 where it failed; remembered.
static uint64_t event_name_of(struct trace_writer *writer, struct byte_buffer *buffer, const char *name)
{
    struct intern_key key = {.text = name};
    bool fresh;
    struct intern_entry *entry = find(writer, &writer->device.names, &key, &fresh);
    if (entry && fresh) {
        entry->value = (uint64_t)(NAME_COUNT + writer->device.names.n);
        writer_remember(writer, encode_event_name(buffer, entry->value, entry->text));
    }
    return entry ? entry->value : 0;
}

static uint64_t kernel_of(struct trace_writer *writer, struct byte_buffer *buffer, const struct kernel_sample *sample)
{
    struct intern_key key = {
        .text = sample->name ? sample->name : "",
        .numbers = {sample->source, sample->device, sample->stream, sample->registers, sample->static_shared_bytes,
                    sample->dynamic_shared_bytes},
    };
    bool fresh;
    struct intern_entry *entry = find(writer, &writer->device.kernels, &key, &fresh);
    if (entry && fresh) {
        entry->value = (uint64_t)writer->device.kernels.n;
        writer_remember(writer, encode_kernel_name(buffer, entry->value, sample));
    }
    return entry ? entry->value : 0;
}

static uint64_t queue_of(struct trace_writer *writer, struct byte_buffer *buffer, const struct kernel_sample *sample)
{
    struct intern_key key = {.text = "", .numbers = {sample->context, sample->stream}};
    bool fresh;
    struct intern_entry *entry = find(writer, &writer->device.queues, &key, &fresh);
    if (entry && fresh) {
        char name[32], description[32];
        snprintf(name, sizeof name, "stream %d", sample->stream);
        snprintf(description, sizeof description, "context %d", sample->context);
        entry->value = ++writer->device.n_specifications;
        writer_remember(writer, encode_specification(buffer, entry->value, name, description, false));
    }
    return entry ? entry->value : 0;
}

static uint64_t stage_of(struct trace_writer *writer, struct byte_buffer *buffer, const struct kernel_sample *sample)
{
    uint64_t *iid = &writer->device.stage_iids[sample->work][sample->phase][sample->stage];
    if (!*iid) {
        char description[32];
        const char *name = sample->stage == STAGE_COUNT ? TRACE_NO_STAGE : stage_name(sample->stage);
        snprintf(description, sizeof description, "%s %s", phase_name(sample->phase), trace_work_name(sample->work));
        *iid = ++writer->device.n_specifications;
        writer_remember(writer, encode_specification(buffer, *iid, name, description, sample->work == WORK_KERNEL));
    }
    return *iid;
}

// A context and a device are described once, before the first work there.
static void describe_place(struct trace_writer *writer, struct byte_buffer *buffer, const struct source_track *source,
                           const struct kernel_sample *sample)
{
    bool fresh;
    struct intern_key context = {.text = "", .numbers = {sample->context}};
    if (find(writer, &writer->device.contexts, &context, &fresh) && fresh) {
        writer_remember(writer, encode_context_name(buffer, sample->context));
    }
    struct intern_key device = {.text = source->source.device, .numbers = {sample->device}};
    if (find(writer, &writer->device.devices, &device, &fresh) && fresh) {
        writer_remember(writer, encode_gpu_info(buffer, sample->device, source->source.device));
    }
}

// The number by which a launch and its work know each other. Odd above 32 bits: of work whose launch is not known.
static uint64_t event_id(int32_t source, bool known, uint64_t number)
{
    return (2 * (uint64_t)source + !known) << 32 | (number & UINT32_MAX);
}

void writer_on_kernel(void *user, const struct kernel_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    struct byte_buffer *buffer = writer_next_buffer(writer, sample->begin_ns);
    char name[128];
    kernel_short_name(name, sizeof name, sample->name ? sample->name : "");
    describe_place(writer, buffer, &writer->sources[index], sample);
    struct kernel_iids iids = {
        .event = event_id(index, sample->launch, sample->launch ? sample->launch : ++writer->device.n_unlaunched),
        .name = event_name_of(writer, buffer, name[0] ? name : trace_work_name(sample->work)),
        .kernel = kernel_of(writer, buffer, sample),
        .queue = queue_of(writer, buffer, sample),
        .stage = stage_of(writer, buffer, sample),
    };
    writer_remember(writer, encode_kernel(buffer, &iids, sample));
    writer_write_sometimes(writer);
}

// The rows of a source's launches from one thread.
static struct lanes *launches_of(struct trace_writer *writer, int32_t source, int32_t thread)
{
    struct device_names *device = &writer->device;
    struct intern_key key = {.text = "", .numbers = {source, thread}};
    bool fresh;
    struct intern_entry *entry = find(writer, &device->threads, &key, &fresh);
    if (entry && fresh) {
        struct lanes *grown = realloc(device->launches, (size_t)device->threads.n * sizeof *grown);
        if (!grown) {
            writer_remember(writer, status_fail(-ENOMEM, "%s: out of memory for threads", writer->path));
            return NULL;
        }
        device->launches = grown;
        entry->value = (uint64_t)device->threads.n - 1;
        grown[entry->value] = (struct lanes){0};
    }
    return entry ? &device->launches[entry->value] : NULL;
}

void writer_on_launch(void *user, const struct launch_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    struct byte_buffer *buffer = writer_next_buffer(writer, sample->begin_ns);
    struct lanes *lanes = launches_of(writer, index, sample->thread);
    if (!lanes) {
        return;
    }
    char row[48];
    snprintf(row, sizeof row, TRACE_LAUNCHES "%d", sample->thread);
    int64_t end_ns = sample->begin_ns + sample->duration_ns;
    uint64_t track = writer_pick_lane(writer, buffer, lanes, writer->sources[index].track, row, LAUNCHES_RANK,
                                      sample->begin_ns, end_ns);
    uint64_t name = event_name_of(writer, buffer, sample->name ? sample->name : "");
    uint64_t id = event_id(index, true, sample->launch);
    Perfetto__Protos__GpuCorrelation correlation;
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN, track, sample->begin_ns);
    event_name_iid(&event, name, CATEGORY_LAUNCH);
    event_nonzero(&event, ANNOTATION_STEP, sample->step);
    event_correlate(&event, &correlation, &id);
    writer_put(writer, buffer, &event);
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, track, end_ns);
    writer_put(writer, buffer, &event);
    writer_write_sometimes(writer);
}

// Vendors' metrics go where Perfetto looks for hardware counters: their names hold "__". So does a gauge that is called
// like a counter of ours, which a reader would take it for.
static bool is_metric(const char *name)
{
    bool ours = false;
    for (int32_t i = 0; i < COUNTER_COUNT; i++) {
        ours = ours || strcmp(name, counter_name((enum counter)i)) == 0;
    }
    return ours || strstr(name, "__") != NULL;
}

static void put_gauge(struct trace_writer *writer, struct byte_buffer *buffer, uint64_t track,
                      const struct gauge_sample *sample)
{
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_COUNTER, track, sample->time_ns);
    event.event.counter_value_field_case = PERFETTO__PROTOS__TRACK_EVENT__COUNTER_VALUE_FIELD_DOUBLE_COUNTER_VALUE;
    event.event.double_counter_value = sample->value;
    writer_put(writer, buffer, &event);
}

void writer_on_gauge(void *user, const struct gauge_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    char text[320];
    int length = snprintf(text, sizeof text, "%zu %s%s", strlen(sample->name), sample->name, sample->unit);
    if (length >= (int)sizeof text) {
        writer_remember(writer, status_fail(-EINVAL, "%s: a gauge's name and unit of %d bytes", writer->path, length));
        return;
    }
    struct byte_buffer *buffer = writer_next_buffer(writer, sample->time_ns);
    struct intern_table *gauges = &writer->device.gauges;
    bool fresh, metric = is_metric(sample->name);
    struct intern_entry *entry = find(writer, gauges, &(struct intern_key){.text = text, .numbers = {index}}, &fresh);
    if (!entry) {
        return;
    }
    if (fresh && metric) {
        entry->value = (uint64_t)gauges->n;
        writer_remember(writer, encode_gauge_name(buffer, entry->value, sample));
    } else if (fresh) {
        entry->value = ++writer->n_tracks;
        writer_remember(writer, encode_counter_track(buffer, entry->value, writer->sources[index].track, sample->name,
                                                     sample->unit, GAUGES_RANK + (int32_t)(gauges->n & INT16_MAX)));
    }
    if (metric) {
        writer_remember(writer, encode_gauge(buffer, entry->value, sample));
    } else {
        put_gauge(writer, buffer, entry->value, sample);
    }
    writer_write_sometimes(writer);
}

void writer_on_loss(void *user, const struct loss_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    struct byte_buffer *buffer = writer_next_buffer(writer, sample->time_ns);
    bool first = writer->device.n_losses++ == 0;
    writer_remember(writer, encode_loss(buffer, writer->sources[index].track, first, sample));
    writer_write_sometimes(writer);
}

void writer_free_device(struct trace_writer *writer)
{
    struct device_names *device = &writer->device;
    struct intern_table *tables[] = {&device->names,   &device->kernels, &device->queues, &device->contexts,
                                     &device->devices, &device->gauges,  &device->threads};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        intern_table_free(tables[i]);
    }
    free(device->launches);
}
