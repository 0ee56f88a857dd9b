// traces/trace_encode_device.c - GpuRenderStageEvent, GpuCounterEvent, GpuInfo and their names, through protobuf-c.
#include "traces/trace_encode_device.h"

#include <string.h>
#include <unistd.h>

#include "traces/kernel_name.h"

typedef Perfetto__Protos__GpuRenderStageEvent__ExtraComputeArg Argument;

enum { MAX_ARGUMENTS = 6, MAX_GPUS = 64, MAX_UNITS = 2 };

static void begin_packet(Perfetto__Protos__TracePacket *packet)
{
    perfetto__protos__trace_packet__init(packet);
    packet_on_sequence(packet, TRACE_SEQUENCE, SEQUENCE_NEEDS_NAMES);
}

static void at_time(Perfetto__Protos__TracePacket *packet, int64_t time_ns)
{
    packet->has_timestamp = true;
    packet->timestamp = (uint64_t)time_ns;
}

static int encode_names(struct byte_buffer *out, Perfetto__Protos__InternedData *data)
{
    Perfetto__Protos__TracePacket packet;
    begin_packet(&packet);
    packet.interned_data = data;
    return encode_packet(out, &packet);
}

int encode_event_name(struct byte_buffer *out, uint64_t iid, const char *name)
{
    Perfetto__Protos__InternedData data = PERFETTO__PROTOS__INTERNED_DATA__INIT;
    Perfetto__Protos__EventName entry = PERFETTO__PROTOS__EVENT_NAME__INIT, *pointer = &entry;
    entry.has_iid = true;
    entry.iid = iid;
    entry.name = trace_borrow(name);
    data.n_event_names = 1;
    data.event_names = &pointer;
    return encode_names(out, &data);
}

// An iid may not be 0: the only context whose number is not its iid.
static uint64_t context_iid(int32_t context)
{
    return context ? (uint32_t)context : UINT64_C(1) << 32;
}

int encode_context_name(struct byte_buffer *out, int32_t context)
{
    Perfetto__Protos__InternedData data = PERFETTO__PROTOS__INTERNED_DATA__INIT;
    Perfetto__Protos__InternedGraphicsContext entry = PERFETTO__PROTOS__INTERNED_GRAPHICS_CONTEXT__INIT,
                                              *pointer = &entry;
    entry.has_iid = entry.has_pid = entry.has_api = true;
    entry.iid = context_iid(context);
    entry.pid = (int32_t)getpid();
    entry.api = PERFETTO__PROTOS__INTERNED_GRAPHICS_CONTEXT__API__CUDA;
    data.n_graphics_contexts = 1;
    data.graphics_contexts = &pointer;
    return encode_names(out, &data);
}

int encode_specification(struct byte_buffer *out, uint64_t iid, const char *name, const char *description, bool compute)
{
    Perfetto__Protos__InternedData data = PERFETTO__PROTOS__INTERNED_DATA__INIT;
    Perfetto__Protos__InternedGpuRenderStageSpecification entry, *pointer = &entry;
    perfetto__protos__interned_gpu_render_stage_specification__init(&entry);
    entry.has_iid = entry.has_category = true;
    entry.iid = iid;
    entry.name = trace_borrow(name);
    entry.description = trace_borrow(description);
    entry.category = compute ? PERFETTO__PROTOS__INTERNED_GPU_RENDER_STAGE_SPECIFICATION__RENDER_STAGE_CATEGORY__COMPUTE
                             : PERFETTO__PROTOS__INTERNED_GPU_RENDER_STAGE_SPECIFICATION__RENDER_STAGE_CATEGORY__OTHER;
    data.n_gpu_specifications = 1;
    data.gpu_specifications = &pointer;
    return encode_names(out, &data);
}

static void add_argument(Argument *arguments, Argument **pointers, size_t *n, enum trace_annotation name, int64_t value)
{
    Argument *added = &arguments[*n];
    perfetto__protos__gpu_render_stage_event__extra_compute_arg__init(added);
    added->name_field_case = PERFETTO__PROTOS__GPU_RENDER_STAGE_EVENT__EXTRA_COMPUTE_ARG__NAME_FIELD_NAME_IID;
    added->name_iid = (uint64_t)name + 1;
    added->value_case = PERFETTO__PROTOS__GPU_RENDER_STAGE_EVENT__EXTRA_COMPUTE_ARG__VALUE_INT_VALUE;
    added->int_value = value;
    pointers[(*n)++] = added;
}

int encode_kernel_name(struct byte_buffer *out, uint64_t iid, const struct kernel_sample *sample)
{
    Perfetto__Protos__InternedData data = PERFETTO__PROTOS__INTERNED_DATA__INIT;
    Perfetto__Protos__InternedComputeKernel entry = PERFETTO__PROTOS__INTERNED_COMPUTE_KERNEL__INIT, *pointer = &entry;
    Argument arguments[MAX_ARGUMENTS], *pointers[MAX_ARGUMENTS];
    size_t n = 0;
    add_argument(arguments, pointers, &n, ANNOTATION_SOURCE, sample->source);
    add_argument(arguments, pointers, &n, ANNOTATION_DEVICE, sample->device);
    add_argument(arguments, pointers, &n, ANNOTATION_STREAM, sample->stream);
    if (sample->registers) {
        add_argument(arguments, pointers, &n, ANNOTATION_REGISTERS, sample->registers);
    }
    if (sample->static_shared_bytes) {
        add_argument(arguments, pointers, &n, ANNOTATION_STATIC_SHARED, sample->static_shared_bytes);
    }
    if (sample->dynamic_shared_bytes) {
        add_argument(arguments, pointers, &n, ANNOTATION_DYNAMIC_SHARED, sample->dynamic_shared_bytes);
    }
    entry.has_iid = true;
    entry.iid = iid;
    const char *name = sample->name ? sample->name : "";
    char short_name[128];
    kernel_short_name(short_name, sizeof short_name, name);
    entry.name = trace_borrow(name);
    entry.demangled_name = strlen(short_name) < strlen(name) ? short_name : NULL;
    entry.n_args = n;
    entry.args = pointers;
    data.n_compute_kernels = 1;
    data.compute_kernels = &pointer;
    return encode_names(out, &data);
}

// False: no shape, as of a copy.
static bool fill_shape(Perfetto__Protos__GpuRenderStageEvent__Dim3 *out, const int32_t shape[3])
{
    perfetto__protos__gpu_render_stage_event__dim3__init(out);
    out->has_x = out->has_y = out->has_z = true;
    out->x = (uint32_t)shape[0];
    out->y = (uint32_t)shape[1];
    out->z = (uint32_t)shape[2];
    return shape[0] || shape[1] || shape[2];
}

int encode_kernel(struct byte_buffer *out, const struct kernel_iids *iids, const struct kernel_sample *sample)
{
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__GpuRenderStageEvent event = PERFETTO__PROTOS__GPU_RENDER_STAGE_EVENT__INIT;
    Perfetto__Protos__GpuRenderStageEvent__ComputeKernelLaunch launch;
    Perfetto__Protos__GpuRenderStageEvent__Dim3 grid, block;
    Argument arguments[MAX_ARGUMENTS], *pointers[MAX_ARGUMENTS];
    size_t n = 0;
    begin_packet(&packet);
    at_time(&packet, sample->begin_ns);
    packet.data_case = PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_RENDER_STAGE_EVENT;
    packet.gpu_render_stage_event = &event;
    event.has_event_id = event.has_duration = event.has_hw_queue_iid = event.has_stage_iid = true;
    event.has_context = event.has_kernel_iid = true;
    event.event_id = iids->event;
    event.duration = (uint64_t)sample->duration_ns;
    event.hw_queue_iid = iids->queue;
    event.stage_iid = iids->stage;
    event.has_gpu_id = sample->device != 0;
    event.gpu_id = sample->device;
    event.context = context_iid(sample->context);
    event.has_submission_id = sample->launch != 0;
    event.submission_id = sample->launch;
    event.name_field_case = PERFETTO__PROTOS__GPU_RENDER_STAGE_EVENT__NAME_FIELD_NAME_IID;
    event.name_iid = iids->name;
    event.kernel_iid = iids->kernel;
    if (sample->step) {
        add_argument(arguments, pointers, &n, ANNOTATION_STEP, sample->step);
    }
    if (sample->layer != -1) {    // absent: outside layers
        add_argument(arguments, pointers, &n, ANNOTATION_LAYER, sample->layer);
    }
    if (sample->bytes) {
        add_argument(arguments, pointers, &n, ANNOTATION_BYTES, sample->bytes);
    }
    perfetto__protos__gpu_render_stage_event__compute_kernel_launch__init(&launch);
    launch.grid_size = fill_shape(&grid, sample->grid) ? &grid : NULL;
    launch.workgroup_size = fill_shape(&block, sample->block) ? &block : NULL;
    launch.n_args = n;
    launch.args = pointers;
    event.launch = &launch;
    return encode_packet(out, &packet);
}

int encode_gpu_info(struct byte_buffer *out, int32_t device, const char *name)
{
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__GpuInfo info = PERFETTO__PROTOS__GPU_INFO__INIT;
    Perfetto__Protos__GpuInfo__Gpu gpus[MAX_GPUS], *pointers[MAX_GPUS];
    if (device < 0 || device >= MAX_GPUS) {
        return 0;    // no such list is read by anybody
    }
    for (int32_t i = 0; i <= device; i++) {    // those before it stay as they are: empty names say nothing
        perfetto__protos__gpu_info__gpu__init(&gpus[i]);
        pointers[i] = &gpus[i];
    }
    gpus[device].name = trace_borrow(name);
    gpus[device].vendor = strncmp(name, "NVIDIA", strlen("NVIDIA")) == 0 ? trace_borrow("NVIDIA") : NULL;
    info.n_gpus = (size_t)device + 1;
    info.gpus = pointers;
    begin_packet(&packet);
    packet.data_case = PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_INFO;
    packet.gpu_info = &info;
    return encode_packet(out, &packet);
}

// Units that Perfetto has a number for; of others the description tells. Returns how many stand above the fraction's
// line.
static size_t units_of(const char *unit, Perfetto__Protos__GpuCounterDescriptor__MeasureUnit out[MAX_UNITS])
{
#define UNIT(name) PERFETTO__PROTOS__GPU_COUNTER_DESCRIPTOR__MEASURE_UNIT__##name
    static const struct {
        const char *text;
        Perfetto__Protos__GpuCounterDescriptor__MeasureUnit above, below;
    } units[] = {
        {"B", UNIT(BYTE), UNIT(NONE)},     {"B/s", UNIT(BYTE), UNIT(SECOND)}, {"Hz", UNIT(HERTZ), UNIT(NONE)},
        {"MHz", UNIT(MEGAHERTZ), UNIT(NONE)}, {"ns", UNIT(NANOSECOND), UNIT(NONE)}, {"s", UNIT(SECOND), UNIT(NONE)},
        {"mW", UNIT(MILLIWATT), UNIT(NONE)}, {"W", UNIT(WATT), UNIT(NONE)}, {"J", UNIT(JOULE), UNIT(NONE)},
        {"C", UNIT(CELSIUS), UNIT(NONE)},  {"%", UNIT(PERCENT), UNIT(NONE)},
    };
#undef UNIT
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(units[i].text, unit) == 0) {
            out[0] = units[i].above;
            out[1] = units[i].below;
            return 1;
        }
    }
    out[1] = PERFETTO__PROTOS__GPU_COUNTER_DESCRIPTOR__MEASURE_UNIT__NONE;
    return 0;
}

int encode_gauge_name(struct byte_buffer *out, uint64_t iid, const struct gauge_sample *sample)
{
    Perfetto__Protos__InternedData data = PERFETTO__PROTOS__INTERNED_DATA__INIT;
    Perfetto__Protos__InternedGpuCounterDescriptor entry, *entries = &entry;
    Perfetto__Protos__GpuCounterDescriptor descriptor = PERFETTO__PROTOS__GPU_COUNTER_DESCRIPTOR__INIT;
    Perfetto__Protos__GpuCounterDescriptor__GpuCounterSpec spec, *specs = &spec;
    Perfetto__Protos__GpuCounterDescriptor__MeasureUnit units[MAX_UNITS];
    char description[320];
    snprintf(description, sizeof description, "source %d: %s", sample->source, sample->unit);
    perfetto__protos__gpu_counter_descriptor__gpu_counter_spec__init(&spec);
    spec.has_counter_id = true;
    spec.counter_id = (uint32_t)iid;
    spec.name = trace_borrow(sample->name);
    spec.description = description;
    spec.n_numerator_units = units_of(sample->unit, units);
    spec.numerator_units = &units[0];
    spec.n_denominator_units = units[1] != PERFETTO__PROTOS__GPU_COUNTER_DESCRIPTOR__MEASURE_UNIT__NONE;
    spec.denominator_units = &units[1];
    // As our other counters: a value holds from its time on.
    spec.has_value_direction = true;
    spec.value_direction =
        PERFETTO__PROTOS__GPU_COUNTER_DESCRIPTOR__GPU_COUNTER_SPEC__VALUE_DIRECTION__VALUE_DIRECTION_FORWARDS_LOOKING;
    descriptor.n_specs = 1;
    descriptor.specs = &specs;
    perfetto__protos__interned_gpu_counter_descriptor__init(&entry);
    entry.has_iid = true;
    entry.iid = iid;
    entry.counter_descriptor = &descriptor;
    data.n_gpu_counter_descriptors = 1;
    data.gpu_counter_descriptors = &entries;
    return encode_names(out, &data);
}

int encode_gauge(struct byte_buffer *out, uint64_t iid, const struct gauge_sample *sample)
{
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__GpuCounterEvent event = PERFETTO__PROTOS__GPU_COUNTER_EVENT__INIT;
    Perfetto__Protos__GpuCounterEvent__GpuCounter counter, *counters = &counter;
    perfetto__protos__gpu_counter_event__gpu_counter__init(&counter);
    counter.has_counter_id = true;
    counter.counter_id = (uint32_t)iid;
    counter.value_case = PERFETTO__PROTOS__GPU_COUNTER_EVENT__GPU_COUNTER__VALUE_DOUBLE_VALUE;
    counter.double_value = sample->value;
    event.desc_case = PERFETTO__PROTOS__GPU_COUNTER_EVENT__DESC_COUNTER_DESCRIPTOR_IID;
    event.counter_descriptor_iid = iid;
    event.n_counters = 1;
    event.counters = &counters;
    begin_packet(&packet);
    at_time(&packet, sample->time_ns);
    packet.data_case = PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_COUNTER_EVENT;
    packet.gpu_counter_event = &event;
    return encode_packet(out, &packet);
}

static void annotate_by_name(struct event *event, enum trace_annotation annotation, int64_t value)
{
    event_number(event, annotation, value);
    Perfetto__Protos__DebugAnnotation *added = event->pointers[event->event.n_debug_annotations - 1];
    added->name_field_case = PERFETTO__PROTOS__DEBUG_ANNOTATION__NAME_FIELD_NAME;
    added->name = trace_borrow(trace_annotation_name(annotation));
}

int encode_loss(struct byte_buffer *out, uint64_t track, bool first, const struct loss_sample *sample)
{
    struct event event;
    char *category = trace_borrow(TRACE_LOSS_CATEGORY);
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_INSTANT, track, sample->time_ns);
    packet_on_sequence(&event.packet, TRACE_LOSS_SEQUENCE, SEQUENCE_CLEARED);
    event.packet.has_first_packet_on_sequence = event.packet.first_packet_on_sequence = first;
    event.packet.has_previous_packet_dropped = true;
    event.packet.previous_packet_dropped = 1;    // for no known reason
    event.event.name_field_case = PERFETTO__PROTOS__TRACK_EVENT__NAME_FIELD_NAME;
    event.event.name = trace_borrow(TRACE_LOSS_NAME);
    event.event.n_categories = 1;
    event.event.categories = &category;
    annotate_by_name(&event, ANNOTATION_DROPPED, sample->dropped);
    annotate_by_name(&event, ANNOTATION_INVALID, sample->invalid);
    return event_encode(&event, out);
}

void event_correlate(struct event *event, Perfetto__Protos__GpuCorrelation *correlation, uint64_t *id)
{
    perfetto__protos__gpu_correlation__init(correlation);
    correlation->n_render_stage_submission_event_ids = 1;
    correlation->render_stage_submission_event_ids = id;
    event->event.gpu_correlation = correlation;
    event->event.has_gpu_api = true;
    event->event.gpu_api = PERFETTO__PROTOS__GPU_API__GPU_API_CUDA;
}
