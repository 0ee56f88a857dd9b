// traces/trace_encode.c - packets as bytes, through protobuf-c.
#include "traces/trace_encode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/status.h"

char *trace_borrow(const char *text)
{
    return (char *)(uintptr_t)text;
}

static int reserve(struct byte_buffer *buffer, size_t n)
{
    if (buffer->capacity - buffer->n >= n) {
        return 0;
    }
    size_t capacity = buffer->capacity ? buffer->capacity : 4096;
    while (capacity - buffer->n < n) {
        capacity *= 2;
    }
    uint8_t *data = realloc(buffer->data, capacity);
    if (!data) {
        return status_fail(-ENOMEM, "out of memory for %zu bytes of trace", capacity);
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

int byte_buffer_append(struct byte_buffer *buffer, const uint8_t *bytes, size_t n)
{
    int error = n ? reserve(buffer, n) : 0;
    if (!error && n) {
        memcpy(buffer->data + buffer->n, bytes, n);
        buffer->n += n;
    }
    return error;
}

void byte_buffer_free(struct byte_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct byte_buffer){0};
}

int encode_packet(struct byte_buffer *out, const Perfetto__Protos__TracePacket *packet)
{
    size_t size = perfetto__protos__trace_packet__get_packed_size(packet);
    int error = reserve(out, size + 11);    // a tag and the longest varint
    if (error) {
        return error;
    }
    uint8_t *at = out->data + out->n;
    *at++ = 0x0a;
    size_t rest = size;
    for (; rest >= 0x80; rest >>= 7) {
        *at++ = (uint8_t)(rest | 0x80);
    }
    *at++ = (uint8_t)rest;
    at += perfetto__protos__trace_packet__pack(packet, at);
    out->n = (size_t)(at - out->data);
    return 0;
}

void packet_on_sequence(Perfetto__Protos__TracePacket *packet, uint32_t id, uint32_t flags)
{
    packet->optional_trusted_packet_sequence_id_case =
        PERFETTO__PROTOS__TRACE_PACKET__OPTIONAL_TRUSTED_PACKET_SEQUENCE_ID_TRUSTED_PACKET_SEQUENCE_ID;
    packet->trusted_packet_sequence_id = id;
    packet->has_sequence_flags = true;
    packet->sequence_flags = flags;
}

void event_begin(struct event *event, Perfetto__Protos__TrackEvent__Type type, uint64_t track, int64_t time_ns)
{
    perfetto__protos__trace_packet__init(&event->packet);
    perfetto__protos__track_event__init(&event->event);
    packet_on_sequence(&event->packet, TRACE_SEQUENCE, SEQUENCE_NEEDS_NAMES);
    event->packet.has_timestamp = true;
    event->packet.timestamp = (uint64_t)time_ns;
    event->packet.data_case = PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_EVENT;
    event->packet.track_event = &event->event;
    event->event.has_type = true;
    event->event.type = type;
    event->event.has_track_uuid = true;
    event->event.track_uuid = track;
    event->event.debug_annotations = event->pointers;
}

void event_name(struct event *event, int32_t name, int32_t category)
{
    event_name_iid(event, (uint64_t)name + 1, category);
}

void event_name_iid(struct event *event, uint64_t iid, int32_t category)
{
    event->event.name_field_case = PERFETTO__PROTOS__TRACK_EVENT__NAME_FIELD_NAME_IID;
    event->event.name_iid = iid;
    event->category = (uint64_t)category + 1;
    event->event.category_iids = &event->category;
    event->event.n_category_iids = 1;
}

static Perfetto__Protos__DebugAnnotation *annotate(struct event *event, enum trace_annotation annotation)
{
    size_t i = event->event.n_debug_annotations++;
    Perfetto__Protos__DebugAnnotation *added = &event->annotations[i];
    perfetto__protos__debug_annotation__init(added);
    added->name_field_case = PERFETTO__PROTOS__DEBUG_ANNOTATION__NAME_FIELD_NAME_IID;
    added->name_iid = (uint64_t)annotation + 1;
    event->pointers[i] = added;
    return added;
}

void event_number(struct event *event, enum trace_annotation annotation, int64_t value)
{
    Perfetto__Protos__DebugAnnotation *added = annotate(event, annotation);
    added->value_case = PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_INT_VALUE;
    added->int_value = value;
}

void event_nonzero(struct event *event, enum trace_annotation annotation, int64_t value)
{
    if (value != 0) {
        event_number(event, annotation, value);
    }
}

void event_text(struct event *event, enum trace_annotation annotation, const char *value)
{
    Perfetto__Protos__DebugAnnotation *added = annotate(event, annotation);
    added->value_case = PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_STRING_VALUE;
    added->string_value = trace_borrow(value);
}

void event_known_text(struct event *event, enum trace_annotation annotation, enum trace_text value)
{
    Perfetto__Protos__DebugAnnotation *added = annotate(event, annotation);
    added->value_case = PERFETTO__PROTOS__DEBUG_ANNOTATION__VALUE_STRING_VALUE_IID;
    added->string_value_iid = (uint64_t)value + 1;
}

int event_encode(struct event *event, struct byte_buffer *out)
{
    return encode_packet(out, &event->packet);
}

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int encode_clocks(struct byte_buffer *out)
{
    static const struct { uint32_t id; clockid_t clock; } read[3] = {
        {TRACE_CLOCK_BOOTTIME, CLOCK_BOOTTIME},
        {TRACE_CLOCK_MONOTONIC, CLOCK_MONOTONIC},
        {TRACE_CLOCK_REALTIME, CLOCK_REALTIME},
    };
    Perfetto__Protos__TracePacket packet = PERFETTO__PROTOS__TRACE_PACKET__INIT;
    Perfetto__Protos__ClockSnapshot snapshot = PERFETTO__PROTOS__CLOCK_SNAPSHOT__INIT;
    Perfetto__Protos__ClockSnapshot__Clock clocks[3], *pointers[3];
    for (int i = 0; i < 3; i++) {
        perfetto__protos__clock_snapshot__clock__init(&clocks[i]);
        clocks[i].has_clock_id = clocks[i].has_timestamp = true;
        clocks[i].clock_id = read[i].id;
        clocks[i].timestamp = read_clock(read[i].clock);
        pointers[i] = &clocks[i];
    }
    snapshot.n_clocks = 3;
    snapshot.clocks = pointers;
    snapshot.has_primary_trace_clock = true;
    snapshot.primary_trace_clock = PERFETTO__PROTOS__BUILTIN_CLOCK__BUILTIN_CLOCK_BOOTTIME;
    packet.has_timestamp = true;
    packet.timestamp = clocks[0].timestamp;
    packet.data_case = PERFETTO__PROTOS__TRACE_PACKET__DATA_CLOCK_SNAPSHOT;
    packet.clock_snapshot = &snapshot;
    return encode_packet(out, &packet);
}

// All names of a trace, known before its first event. The pointers go into the arrays given.
struct dictionary {
    Perfetto__Protos__InternedData data;
    Perfetto__Protos__EventCategory categories[CATEGORY_COUNT], *category_pointers[CATEGORY_COUNT];
    Perfetto__Protos__EventName names[NAME_COUNT], *name_pointers[NAME_COUNT];
    Perfetto__Protos__DebugAnnotationName annotations[ANNOTATION_COUNT], *annotation_pointers[ANNOTATION_COUNT];
    Perfetto__Protos__InternedString texts[TEXT_COUNT], *text_pointers[TEXT_COUNT];
    Perfetto__Protos__InternedComputeArgName arguments[ANNOTATION_COUNT], *argument_pointers[ANNOTATION_COUNT];
};

// Annotations that are arguments of work on a device too.
static bool is_argument(enum trace_annotation annotation)
{
    return annotation == ANNOTATION_SOURCE || annotation == ANNOTATION_DEVICE || annotation == ANNOTATION_STEP ||
           annotation == ANNOTATION_LAYER || annotation == ANNOTATION_BYTES ||
           (annotation >= ANNOTATION_STREAM && annotation <= ANNOTATION_DYNAMIC_SHARED);
}

static void fill_dictionary(struct dictionary *out)
{
    perfetto__protos__interned_data__init(&out->data);
    for (int32_t i = 0; i < CATEGORY_COUNT; i++) {
        perfetto__protos__event_category__init(&out->categories[i]);
        out->categories[i].has_iid = true;
        out->categories[i].iid = (uint64_t)i + 1;
        out->categories[i].name = trace_borrow(trace_category_name(i));
        out->category_pointers[i] = &out->categories[i];
    }
    for (int32_t i = 0; i < NAME_COUNT; i++) {
        perfetto__protos__event_name__init(&out->names[i]);
        out->names[i].has_iid = true;
        out->names[i].iid = (uint64_t)i + 1;
        out->names[i].name = trace_borrow(trace_name_text(i));
        out->name_pointers[i] = &out->names[i];
    }
    for (int32_t i = 0; i < ANNOTATION_COUNT; i++) {
        perfetto__protos__debug_annotation_name__init(&out->annotations[i]);
        out->annotations[i].has_iid = true;
        out->annotations[i].iid = (uint64_t)i + 1;
        out->annotations[i].name = trace_borrow(trace_annotation_name((enum trace_annotation)i));
        out->annotation_pointers[i] = &out->annotations[i];
        if (is_argument((enum trace_annotation)i)) {
            Perfetto__Protos__InternedComputeArgName *argument = &out->arguments[out->data.n_compute_arg_names];
            perfetto__protos__interned_compute_arg_name__init(argument);
            argument->has_iid = true;
            argument->iid = (uint64_t)i + 1;
            argument->name = trace_borrow(trace_annotation_name((enum trace_annotation)i));
            out->argument_pointers[out->data.n_compute_arg_names++] = argument;
        }
    }
    out->data.compute_arg_names = out->argument_pointers;
    for (int32_t i = 0; i < TEXT_COUNT; i++) {
        perfetto__protos__interned_string__init(&out->texts[i]);
        out->texts[i].has_iid = out->texts[i].has_str = true;
        out->texts[i].iid = (uint64_t)i + 1;
        out->texts[i].str.data = (uint8_t *)trace_borrow(trace_text_value((enum trace_text)i));
        out->texts[i].str.len = strlen(trace_text_value((enum trace_text)i));
        out->text_pointers[i] = &out->texts[i];
    }
    out->data.n_debug_annotation_string_values = TEXT_COUNT;
    out->data.debug_annotation_string_values = out->text_pointers;
    out->data.n_event_categories = CATEGORY_COUNT;
    out->data.event_categories = out->category_pointers;
    out->data.n_event_names = NAME_COUNT;
    out->data.event_names = out->name_pointers;
    out->data.n_debug_annotation_names = ANNOTATION_COUNT;
    out->data.debug_annotation_names = out->annotation_pointers;
}

static void describe(Perfetto__Protos__TracePacket *packet, Perfetto__Protos__TrackDescriptor *track, uint64_t uuid)
{
    perfetto__protos__trace_packet__init(packet);
    perfetto__protos__track_descriptor__init(track);
    packet_on_sequence(packet, TRACE_SEQUENCE, SEQUENCE_NEEDS_NAMES);
    packet->data_case = PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_DESCRIPTOR;
    packet->track_descriptor = track;
    track->has_uuid = true;
    track->uuid = uuid;
}

int encode_preamble(struct byte_buffer *out, uint64_t process_track, const char *command)
{
    int error = encode_clocks(out);
    if (error) {
        return error;
    }
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__TrackDescriptor track;
    Perfetto__Protos__ProcessDescriptor process = PERFETTO__PROTOS__PROCESS_DESCRIPTOR__INIT;
    Perfetto__Protos__TracePacketDefaults defaults = PERFETTO__PROTOS__TRACE_PACKET_DEFAULTS__INIT;
    struct dictionary dictionary;
    char *cmdline = trace_borrow(command);
    describe(&packet, &track, process_track);
    packet_on_sequence(&packet, TRACE_SEQUENCE, SEQUENCE_CLEARED | SEQUENCE_NEEDS_NAMES);
    packet.has_first_packet_on_sequence = packet.first_packet_on_sequence = true;
    packet.has_previous_packet_dropped = true;
    packet.previous_packet_dropped = 1;
    defaults.has_timestamp_clock_id = true;
    defaults.timestamp_clock_id = TRACE_CLOCK_BOOTTIME;
    packet.trace_packet_defaults = &defaults;
    fill_dictionary(&dictionary);
    packet.interned_data = &dictionary.data;
    process.has_pid = true;
    process.pid = (int32_t)getpid();
    process.process_name = trace_borrow("clsa");
    if (command) {
        process.n_cmdline = 1;
        process.cmdline = &cmdline;
    }
    track.process = &process;
    track.has_child_ordering = true;
    track.child_ordering = PERFETTO__PROTOS__TRACK_DESCRIPTOR__CHILD_TRACKS_ORDERING__EXPLICIT;
    return encode_packet(out, &packet);
}

static int encode_thread(struct byte_buffer *out, uint64_t track_uuid, int32_t index, const char *method)
{
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__TrackDescriptor track;
    Perfetto__Protos__ThreadDescriptor thread = PERFETTO__PROTOS__THREAD_DESCRIPTOR__INIT;
    char name[SOURCE_NAME_BYTES + 16];
    snprintf(name, sizeof name, "engine (%s)", method);
    describe(&packet, &track, track_uuid);
    // Not the kernel's thread ids: engines that ran one after the other on one thread must stand on rows of their own.
    thread.has_pid = thread.has_tid = true;
    thread.pid = (int32_t)getpid();
    thread.tid = (int64_t)getpid() + index;
    thread.thread_name = name;
    track.thread = &thread;
    track.has_child_ordering = true;
    track.child_ordering = PERFETTO__PROTOS__TRACK_DESCRIPTOR__CHILD_TRACKS_ORDERING__EXPLICIT;
    return encode_packet(out, &packet);
}

int encode_source(struct byte_buffer *out, uint64_t track, int32_t index, const struct sample_source *source,
                  int64_t time_ns)
{
    int error = encode_thread(out, track, index, source->method);
    if (error) {
        return error;
    }
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_INSTANT, track, time_ns);
    event_name(&event, NAME_SOURCE, CATEGORY_SOURCE);
    event_number(&event, ANNOTATION_SOURCE, source->id);
    event_text(&event, ANNOTATION_DEVICE, source->device);
    event_text(&event, ANNOTATION_BACKEND, source->backend);
    event_text(&event, ANNOTATION_MODEL, source->model);
    event_text(&event, ANNOTATION_METHOD, source->method);
    event_number(&event, ANNOTATION_N_LAYERS, source->n_layers);
    event_number(&event, ANNOTATION_TOP_K, source->top_k);
    event_number(&event, ANNOTATION_UNIT_TOKENS, source->unit_tokens);
    event_number(&event, ANNOTATION_INDEX_SETS, source->index_sets);
    event_number(&event, ANNOTATION_WINDOW_TOKENS, source->window_tokens);
    event_number(&event, ANNOTATION_PAGE_TOKENS, source->page_tokens);
    event_text(&event, ANNOTATION_WEIGHT_DTYPE, dtype_name(source->weight_dtype));
    event_text(&event, ANNOTATION_KV_DTYPE, dtype_name(source->kv_dtype));
    event_text(&event, ANNOTATION_INDEX_DTYPE, dtype_name(source->index_dtype));
    event_number(&event, ANNOTATION_THREADS, source->threads);
    event_number(&event, ANNOTATION_GRAPH, source->graph);
    return event_encode(&event, out);
}

static void describe_child(Perfetto__Protos__TrackDescriptor *track, uint64_t parent, const char *name, int32_t rank)
{
    track->has_parent_uuid = true;
    track->parent_uuid = parent;
    track->static_or_dynamic_name_case = PERFETTO__PROTOS__TRACK_DESCRIPTOR__STATIC_OR_DYNAMIC_NAME_NAME;
    track->name = trace_borrow(name);
    track->has_sibling_order_rank = true;
    track->sibling_order_rank = rank;
    track->has_sibling_merge_behavior = true;
    track->sibling_merge_behavior =
        PERFETTO__PROTOS__TRACK_DESCRIPTOR__SIBLING_MERGE_BEHAVIOR__SIBLING_MERGE_BEHAVIOR_NONE;
}

int encode_counter_track(struct byte_buffer *out, uint64_t track_uuid, uint64_t parent, const char *name,
                         const char *unit, int32_t rank)
{
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__TrackDescriptor track;
    Perfetto__Protos__CounterDescriptor descriptor = PERFETTO__PROTOS__COUNTER_DESCRIPTOR__INIT;
    describe(&packet, &track, track_uuid);
    describe_child(&track, parent, name, rank);
    if (strcmp(unit, "B") == 0) {    // shown as KiB, MiB
        descriptor.has_unit = true;
        descriptor.unit = PERFETTO__PROTOS__COUNTER_DESCRIPTOR__UNIT__UNIT_SIZE_BYTES;
    } else {
        descriptor.unit_name = trace_borrow(unit);
    }
    track.counter = &descriptor;
    return encode_packet(out, &packet);
}

int encode_track(struct byte_buffer *out, uint64_t track_uuid, uint64_t parent, const char *name, int32_t rank)
{
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__TrackDescriptor track;
    describe(&packet, &track, track_uuid);
    describe_child(&track, parent, name, rank);
    track.has_child_ordering = true;
    track.child_ordering = PERFETTO__PROTOS__TRACK_DESCRIPTOR__CHILD_TRACKS_ORDERING__EXPLICIT;
    return encode_packet(out, &packet);
}
