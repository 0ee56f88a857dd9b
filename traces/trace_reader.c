// traces/trace_reader.c - packets back to samples.
//
// A source announces itself by an instant on its track; events on that track and on tracks below it are ours and must
// make sense (-EINVAL where they do not). All other events are another producer's: counted, never an error. Samples are
// handed on at the end of their slices, which is the order in which the writer was given them.
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/trace_reader_internal.h"

int reader_broken(const struct reader *reader, const char *format, ...)
{
    char what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return status_fail(-EINVAL, "%s: byte %lld: %s", reader->name, (long long)reader->offset, what);
}

static struct track *find_track(struct reader *reader, uint64_t uuid)
{
    int64_t index = id_map_get(&reader->track_index, uuid);
    return index < 0 ? NULL : &reader->tracks[index];
}

static int keep_gauge(struct track *track, const Perfetto__Protos__TrackDescriptor *descriptor)
{
    const Perfetto__Protos__CounterDescriptor *counter = descriptor->counter;
    bool bytes = counter->has_unit && counter->unit == PERFETTO__PROTOS__COUNTER_DESCRIPTOR__UNIT__UNIT_SIZE_BYTES;
    free(track->gauge);
    free(track->unit);
    track->gauge = strdup(descriptor->name ? descriptor->name : "");
    track->unit = strdup(bytes ? "B" : counter->unit_name ? counter->unit_name : "");
    return track->gauge && track->unit ? 0 : -ENOMEM;
}

static int add_track(struct reader *reader, const Perfetto__Protos__TrackDescriptor *descriptor)
{
    struct track *track = find_track(reader, descriptor->uuid);
    if (!track) {
        if (reader->n_tracks == reader->capacity) {
            int64_t capacity = reader->capacity ? 2 * reader->capacity : 64;
            struct track *grown = realloc(reader->tracks, (size_t)capacity * sizeof *grown);
            if (!grown) {
                return status_fail(-ENOMEM, "%s: out of memory for %lld tracks", reader->name, (long long)capacity);
            }
            reader->tracks = grown;
            reader->capacity = capacity;
        }
        int error = id_map_set(&reader->track_index, descriptor->uuid, reader->n_tracks);
        if (error) {
            return error;
        }
        track = &reader->tracks[reader->n_tracks++];
        *track = (struct track){.counter = -1};
    }
    track->parent = descriptor->parent_uuid;
    for (int32_t i = 0; descriptor->counter && descriptor->name && i < COUNTER_COUNT; i++) {
        track->counter = strcmp(descriptor->name, counter_name((enum counter)i)) == 0 ? i : track->counter;
    }
    if (descriptor->counter && track->counter < 0 && keep_gauge(track, descriptor)) {
        return status_fail(-ENOMEM, "%s: out of memory for a gauge", reader->name);
    }
    if (descriptor->name && strncmp(descriptor->name, TRACE_LAUNCHES, strlen(TRACE_LAUNCHES)) == 0) {
        track->thread = (int32_t)strtol(descriptor->name + strlen(TRACE_LAUNCHES), NULL, 10);
    }
    const Perfetto__Protos__ProcessDescriptor *process = descriptor->process;
    if (process && process->process_name && strcmp(process->process_name, "clsa") == 0 && process->n_cmdline > 0) {
        snprintf(reader->stats.command, sizeof reader->stats.command, "%s", process->cmdline[0]);
    }
    return 0;
}

// The source that a track belongs to; false: none of ours.
static bool find_source(struct reader *reader, const struct track *track, int32_t *source)
{
    for (int32_t depth = 0; track && depth < MAX_TRACK_DEPTH; depth++) {
        if (track->is_source) {
            *source = track->source;
            return true;
        }
        track = find_track(reader, track->parent);
    }
    return false;
}

int32_t reader_number32(const struct trace_event *event, enum trace_annotation annotation, bool *fits)
{
    int64_t value = event->number[annotation];
    *fits = *fits && value >= INT32_MIN && value <= INT32_MAX;
    return (int32_t)value;
}

static bool dtype_of(const struct trace_event *event, enum trace_annotation annotation, enum dtype *out)
{
    return dtype_from_name(out, event->text[annotation]) == 0;
}

static int read_source(struct reader *reader, struct track *track, const struct trace_event *event)
{
    bool fits = true;
    struct sample_source source = {
        .id = reader_number32(event, ANNOTATION_SOURCE, &fits),
        .n_layers = reader_number32(event, ANNOTATION_N_LAYERS, &fits),
        .top_k = reader_number32(event, ANNOTATION_TOP_K, &fits),
        .unit_tokens = reader_number32(event, ANNOTATION_UNIT_TOKENS, &fits),
        .index_sets = reader_number32(event, ANNOTATION_INDEX_SETS, &fits),
        .window_tokens = reader_number32(event, ANNOTATION_WINDOW_TOKENS, &fits),
        .page_tokens = reader_number32(event, ANNOTATION_PAGE_TOKENS, &fits),
        .threads = reader_number32(event, ANNOTATION_THREADS, &fits),
        .graph = event->number[ANNOTATION_GRAPH] != 0,
    };
    if (!fits || !dtype_of(event, ANNOTATION_WEIGHT_DTYPE, &source.weight_dtype) ||
        !dtype_of(event, ANNOTATION_KV_DTYPE, &source.kv_dtype) ||
        !dtype_of(event, ANNOTATION_INDEX_DTYPE, &source.index_dtype)) {
        return reader_broken(reader, "a source's description with a number out of range or an unknown dtype");
    }
    snprintf(source.device, sizeof source.device, "%s", event->text[ANNOTATION_DEVICE]);
    snprintf(source.backend, sizeof source.backend, "%s", event->text[ANNOTATION_BACKEND]);
    snprintf(source.model, sizeof source.model, "%s", event->text[ANNOTATION_MODEL]);
    snprintf(source.method, sizeof source.method, "%s", event->text[ANNOTATION_METHOD]);
    track->is_source = true;
    track->source = source.id;
    int error = id_map_set(&reader->source_ids, (uint32_t)source.id, 1);
    if (error) {
        return error;
    }
    if (reader->sink.source) {
        reader->sink.source(reader->sink.user, &source);
    }
    return 0;
}

void reader_cover(struct trace_stats *stats, int64_t *count, int64_t begin_ns, int64_t end_ns)
{
    bool first = stats->stage_samples + stats->step_samples + stats->request_samples + stats->counter_samples +
                 stats->kernel_samples + stats->launch_samples + stats->gauge_samples + stats->loss_samples == 0;
    stats->begin_ns = first || begin_ns < stats->begin_ns ? begin_ns : stats->begin_ns;
    stats->end_ns = first || end_ns > stats->end_ns ? end_ns : stats->end_ns;
    ++*count;
}

static int read_request(struct reader *reader, int32_t source, enum request_state state,
                        const struct trace_event *event)
{
    bool fits = true;
    struct request_sample sample = {
        .source = source,
        .request = event->number[ANNOTATION_REQUEST],
        .state = state,
        .prompt_tokens = reader_number32(event, ANNOTATION_PROMPT_TOKENS, &fits),
        .output_tokens = reader_number32(event, ANNOTATION_OUTPUT_TOKENS, &fits),
        .step = event->number[ANNOTATION_STEP],
        .time_ns = event->time_ns,
    };
    if (!fits) {
        return reader_broken(reader, "a request with a number out of range");
    }
    reader_cover(&reader->stats, &reader->stats.request_samples, sample.time_ns, sample.time_ns);
    if (reader->sink.request) {
        reader->sink.request(reader->sink.user, &sample);
    }
    return 0;
}

static int begin_step(struct reader *reader, struct open_slice *slice, int32_t source, const struct trace_event *event)
{
    bool fits = true;
    slice->kind = SLICE_STEP;
    slice->as.step = (struct step_sample){
        .source = source,
        .step = event->number[ANNOTATION_STEP],
        .n_seqs = reader_number32(event, ANNOTATION_N_SEQS, &fits),
        .n_tokens = reader_number32(event, ANNOTATION_N_TOKENS, &fits),
        .context_tokens = reader_number32(event, ANNOTATION_CONTEXT_TOKENS, &fits),
        .begin_ns = event->time_ns,
        .device_ns = event->number[ANNOTATION_DEVICE_NS],
    };
    if (!fits || phase_from_name(&slice->as.step.phase, event->name) != 0) {
        return reader_broken(reader, "a step with an unknown phase or a number out of range");
    }
    return 0;
}

static int begin_stage(struct reader *reader, struct open_slice *slice, int32_t source, const struct trace_event *event)
{
    bool fits = true;
    slice->kind = SLICE_STAGE;
    slice->as.stage = (struct stage_sample){
        .source = source,
        .step = event->number[ANNOTATION_STEP],
        .layer = trace_event_has(event, ANNOTATION_LAYER) ? reader_number32(event, ANNOTATION_LAYER, &fits) : -1,
        .n_seqs = reader_number32(event, ANNOTATION_N_SEQS, &fits),
        .n_tokens = reader_number32(event, ANNOTATION_N_TOKENS, &fits),
        .context_tokens = reader_number32(event, ANNOTATION_CONTEXT_TOKENS, &fits),
        .measured_bytes = event->number[ANNOTATION_MEASURED_BYTES],
        .bytes = event->number[ANNOTATION_BYTES],
        .flops = event->number[ANNOTATION_FLOPS],
        .begin_ns = event->time_ns,
    };
    if (!fits || phase_from_name(&slice->as.stage.phase, event->category) != 0 ||
        stage_from_name(&slice->as.stage.stage, event->name) != 0) {
        return reader_broken(reader, "a stage with an unknown name or phase, or a number out of range");
    }
    return 0;
}

static bool is_phase(const char *category)
{
    bool found = false;
    for (int32_t i = 0; i < PHASE_COUNT; i++) {
        found = found || strcmp(category, phase_name((enum phase)i)) == 0;
    }
    return found;
}

static int begin_slice(struct reader *reader, struct track *track, int32_t source, const struct trace_packet *packet,
                       const struct trace_event *event)
{
    if (track->n_open == MAX_OPEN_SLICES) {
        return reader_broken(reader, "more than %d slices are open on one track", MAX_OPEN_SLICES);
    }
    if (track->n_open == track->capacity) {
        int32_t capacity = track->capacity ? 2 * track->capacity : 2;
        struct open_slice *grown = realloc(track->open, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return status_fail(-ENOMEM, "%s: out of memory for slices", reader->name);
        }
        track->open = grown;
        track->capacity = capacity;
    }
    struct open_slice *slice = &track->open[track->n_open++];
    *slice = (struct open_slice){.kind = SLICE_UNKNOWN, .begin_ns = event->time_ns};
    if (strcmp(event->category, "step") == 0) {
        return begin_step(reader, slice, source, event);
    }
    if (is_phase(event->category)) {
        return begin_stage(reader, slice, source, event);
    }
    if (strcmp(event->category, "request") == 0) {
        slice->kind = SLICE_REQUEST;
        enum request_state state = strcmp(event->name, "queue") == 0     ? REQUEST_SUBMITTED
                                   : strcmp(event->name, "prefill") == 0 ? REQUEST_RUNNING
                                                                         : REQUEST_FIRST_TOKEN;
        return read_request(reader, source, state, event);
    }
    if (strcmp(event->category, "launch") == 0 && packet->packet->track_event->gpu_correlation) {
        return reader_begin_launch(reader, track, slice, source, packet, event);
    }
    reader->stats.unknown_packets++;
    return 0;
}

static int end_slice(struct reader *reader, struct track *track, int32_t source, const struct trace_event *event)
{
    if (track->n_open == 0) {
        return reader_broken(reader, "a slice ends that never began");
    }
    struct open_slice *slice = &track->open[--track->n_open];
    switch (slice->kind) {
    case SLICE_STEP:
        slice->as.step.duration_ns = event->time_ns - slice->begin_ns;
        reader_cover(&reader->stats, &reader->stats.step_samples, slice->begin_ns, event->time_ns);
        if (reader->sink.step) {
            reader->sink.step(reader->sink.user, &slice->as.step);
        }
        return 0;
    case SLICE_STAGE:
        slice->as.stage.duration_ns = event->time_ns - slice->begin_ns;
        reader_cover(&reader->stats, &reader->stats.stage_samples, slice->begin_ns, event->time_ns);
        if (reader->sink.stage) {
            reader->sink.stage(reader->sink.user, &slice->as.stage);
        }
        return 0;
    case SLICE_LAUNCH:
        slice->as.launch.name = slice->name;    // the slice may have moved since
        slice->as.launch.duration_ns = event->time_ns - slice->begin_ns;
        reader_cover(&reader->stats, &reader->stats.launch_samples, slice->begin_ns, event->time_ns);
        if (reader->sink.launch) {
            reader->sink.launch(reader->sink.user, &slice->as.launch);
        }
        return 0;
    case SLICE_REQUEST:    // its end is a sample of its own only where it says so
        return trace_event_has(event, ANNOTATION_REQUEST) ? read_request(reader, source, REQUEST_FINISHED, event) : 0;
    case SLICE_UNKNOWN: break;
    }
    reader->stats.unknown_packets++;
    return 0;
}

static int read_counter(struct reader *reader, const struct track *track, int32_t source,
                        const Perfetto__Protos__TrackEvent *event, int64_t time_ns)
{
    bool real =
        event->counter_value_field_case == PERFETTO__PROTOS__TRACK_EVENT__COUNTER_VALUE_FIELD_DOUBLE_COUNTER_VALUE;
    double value = real                              ? event->double_counter_value
                   : event->counter_value_field_case ? (double)event->counter_value
                                                     : 0.0;
    if (track->counter < 0) {
        return reader_track_gauge(reader, track, source, value, time_ns);
    }
    struct counter_sample sample = {
        .source = source,
        .counter = (enum counter)track->counter,
        .value = value,
        .time_ns = time_ns,
    };
    reader_cover(&reader->stats, &reader->stats.counter_samples, time_ns, time_ns);
    if (reader->sink.counter) {
        reader->sink.counter(reader->sink.user, &sample);
    }
    return 0;
}

static int read_event(struct reader *reader, const struct trace_packet *packet)
{
    struct trace_event event;
    trace_event_resolve(&event, packet);
    struct track *track = find_track(reader, event.track);
    int32_t source;
    bool describes = track && event.type == PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_INSTANT &&
                     strcmp(event.category, "source") == 0 && trace_event_has(&event, ANNOTATION_SOURCE);
    if (!describes && !find_source(reader, track, &source)) {
        reader->stats.unknown_packets++;
        return 0;
    }
    if (event.time_ns < 0) {
        return reader_broken(reader, "a time beyond the clock's range");
    }
    if (describes) {
        return read_source(reader, track, &event);
    }
    switch (event.type) {
    case PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN:
        return begin_slice(reader, track, source, packet, &event);
    case PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END: return end_slice(reader, track, source, &event);
    case PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_COUNTER:
        if (track->counter >= 0 || track->gauge) {
            return read_counter(reader, track, source, packet->packet->track_event, event.time_ns);
        }
        break;
    case PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_INSTANT:
        if (strcmp(event.category, "request") == 0 && trace_event_has(&event, ANNOTATION_REQUEST)) {
            return read_request(reader, source, REQUEST_FINISHED, &event);
        }
        if (strcmp(event.category, TRACE_LOSS_CATEGORY) == 0 && trace_event_has(&event, ANNOTATION_DROPPED)) {
            return reader_loss(reader, source, &event);
        }
        break;
    default: break;
    }
    reader->stats.unknown_packets++;
    return 0;
}

static int on_packet(void *user, const struct trace_packet *packet)
{
    struct reader *reader = user;
    const Perfetto__Protos__TracePacket *content = packet->packet;
    reader->offset = packet->offset;
    if (content && content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_DESCRIPTOR) {
        return add_track(reader, content->track_descriptor);
    }
    if (content && content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_TRACK_EVENT) {
        return read_event(reader, packet);
    }
    if (content && content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_RENDER_STAGE_EVENT) {
        return reader_kernel(reader, packet);
    }
    if (content && content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_COUNTER_EVENT) {
        return reader_gauges(reader, packet);
    }
    bool known = content && (content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_CLOCK_SNAPSHOT ||
                             content->data_case == PERFETTO__PROTOS__TRACE_PACKET__DATA_GPU_INFO ||
                             content->interned_data || content->trace_packet_defaults);
    reader->stats.unknown_packets += !known;
    return 0;
}

int trace_read_stream(FILE *stream, int64_t size, const char *name, const struct sample_sink *sink,
                      struct trace_stats *stats)
{
    struct reader reader = {.name = name, .sink = sink ? *sink : (struct sample_sink){0}};
    struct trace_decoding decoding = {
        .name = name, .stream = stream, .size = size, .packet = on_packet, .user = &reader,
    };
    int error = trace_decode(&decoding);
    reader.stats.packets = decoding.packets;
    reader.stats.bytes = decoding.offset;
    reader.stats.truncated = decoding.truncated;
    if (stats) {
        *stats = reader.stats;
    }
    for (int64_t i = 0; i < reader.n_tracks; i++) {
        free(reader.tracks[i].open);
        free(reader.tracks[i].gauge);
        free(reader.tracks[i].unit);
    }
    free(reader.tracks);
    id_map_free(&reader.track_index);
    id_map_free(&reader.source_ids);
    return error;
}

int trace_read(const char *path, const struct sample_sink *sink, struct trace_stats *stats)
{
    FILE *stream;
    int64_t size;
    if (stats) {
        *stats = (struct trace_stats){0};
    }
    int error = trace_open_file(&stream, &size, path);
    if (error) {
        return error;
    }
    error = trace_read_stream(stream, size, path, sink, stats);
    fclose(stream);
    return error;
}
