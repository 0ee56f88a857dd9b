// traces/trace_writer.c - samples to packets to a file.
//
// A slice's begin must stand before what it contains, but a step is told after its stages. So the packets of one step
// gather in a buffer of their own until the next step begins (or flush or close); then the step's begin goes out before
// them. Until then a request whose first token that step drew can still have its arrow lead through it. Everything else
// keeps the order in which the sink was called. Memory is bounded by one step, plus a few bytes per request.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/status.h"
#include "traces/trace_gzip.h"
#include "traces/trace_writer_internal.h"

enum {
    WRITE_BYTES = 1 << 20,          // hand over to the file at the latest when so much has gathered
    DEFAULT_FLUSH_MS = 500,
};

void writer_remember(struct trace_writer *writer, int error)
{
    if (error && !writer->error) {
        writer->error = error;
        snprintf(writer->error_text, sizeof writer->error_text, "%s", status_text());
        if (writer->failed) {
            writer->failed(writer->user, writer->error_text);
        }
    }
}

static int64_t clock_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// `end`: nothing follows.
static int write_out(struct trace_writer *writer, bool end)
{
    FILE *stream = writer->file.stream;
    const uint8_t *bytes = writer->out.data;
    size_t n = writer->out.n;
    if (writer->error || (n == 0 && !(end && writer->packer))) {
        return writer->error;
    }
    if (writer->packer) {
        int error = trace_packer_pack(writer->packer, bytes, n, end, &bytes, &n);
        if (error) {
            return status_prefix(error, "%s: ", writer->path);
        }
    }
    errno = 0;
    if (fwrite(bytes, 1, n, stream) != n || fflush(stream) != 0) {
        int error = errno ? errno : EIO;
        // What was flushed before is whole packets: leave exactly that.
        if (writer->in_place && ftruncate(fileno(stream), writer->file_bytes) != 0) {
            return status_fail(-error, "%s: cannot write: %s; its end is a broken packet", writer->path,
                               strerror(error));
        }
        return status_fail(-error, "%s: cannot write: %s", writer->path, strerror(error));
    }
    writer->file_bytes += (int64_t)n;
    writer->handed_bytes += (int64_t)writer->out.n;
    writer->out.n = 0;
    return 0;
}

void writer_put(struct trace_writer *writer, struct byte_buffer *buffer, struct event *event)
{
    int64_t time_ns = (int64_t)event->packet.timestamp;
    writer->last_ns = time_ns > writer->last_ns ? time_ns : writer->last_ns;
    writer_remember(writer, event_encode(event, buffer));
}

// Sources wait for a time: the first one known after their announcement becomes that of their description.
static void put_sources(struct trace_writer *writer, int64_t time_ns)
{
    for (; writer->n_unwritten > 0; writer->n_unwritten--) {
        int32_t index = writer->n_sources - writer->n_unwritten;
        const struct source_track *track = &writer->sources[index];
        writer_remember(writer, encode_source(&writer->out, track->track, index, &track->source, time_ns));
    }
}

// The pending step is done: its begin, then what gathered.
static void settle(struct trace_writer *writer)
{
    if (!writer->pending) {
        return;
    }
    put_sources(writer, writer->pending_begin_ns);
    if (writer->complete) {
        const struct step_sample *sample = &writer->pending_sample;
        struct event event;
        event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN,
                    writer->sources[writer->pending_source].track, sample->begin_ns);
        event_name(&event, NAME_PHASE + (int32_t)sample->phase, CATEGORY_STEP);
        event_nonzero(&event, ANNOTATION_STEP, sample->step);
        event_nonzero(&event, ANNOTATION_N_SEQS, sample->n_seqs);
        event_nonzero(&event, ANNOTATION_N_TOKENS, sample->n_tokens);
        event_nonzero(&event, ANNOTATION_CONTEXT_TOKENS, sample->context_tokens);
        event_nonzero(&event, ANNOTATION_DEVICE_NS, sample->device_ns);
        event.event.n_flow_ids = writer->n_flows;
        event.event.flow_ids = writer->flows;
        writer_put(writer, &writer->out, &event);
    }
    writer_remember(writer, byte_buffer_append(&writer->out, writer->step.data, writer->step.n));
    writer->step.n = 0;
    writer->n_flows = writer->n_decode_flows = 0;
    writer->pending = writer->complete = false;
}

void writer_write_sometimes(struct trace_writer *writer)
{
    int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    if (writer->out.n >= WRITE_BYTES || now_ns - writer->flushed_ns >= writer->flush_interval_ns) {
        writer_remember(writer, write_out(writer, false));
        writer->flushed_ns = now_ns;
    }
}

int32_t writer_find_source(struct trace_writer *writer, int32_t id)
{
    int64_t index = id_map_get(&writer->source_index, (uint32_t)id);
    if (index < 0) {
        writer_remember(
            writer, status_fail(-EINVAL, "%s: a sample of source %d came before its description", writer->path, id));
    }
    return writer->error ? -1 : (int32_t)index;
}

// Begins or continues the pending step that (source, step) belongs to.
static void gather(struct trace_writer *writer, int32_t source, int64_t step, int64_t begin_ns)
{
    if (writer->pending && (writer->pending_source != source || writer->pending_step != step || writer->complete)) {
        settle(writer);
        writer_write_sometimes(writer);
    }
    if (!writer->pending) {
        writer->pending = true;
        writer->pending_source = source;
        writer->pending_step = step;
        writer->pending_begin_ns = begin_ns;
        writer_begin_flows(writer);
    }
}

// Whether stages run beside the host. Then its step does not enclose them, and they stand on a row of their own.
static bool is_device(const struct sample_source *source)
{
    return strncmp(source->backend, "cuda", strlen("cuda")) == 0;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct trace_writer *writer = user;
    if (writer->error) {
        return;
    }
    settle(writer);
    size_t n = (size_t)writer->n_sources + 1;
    struct source_track *sources = realloc(writer->sources, n * sizeof *sources);
    if (!sources) {
        writer_remember(writer, status_fail(-ENOMEM, "%s: out of memory for a source", writer->path));
        return;
    }
    writer->sources = sources;
    struct source_track *track = &sources[n - 1];
    *track = (struct source_track){.source = *source, .track = ++writer->n_tracks};
    if (writer->ceilings && !writer->ceilings(writer->user, source, &track->ceilings)) {
        track->ceilings = (struct trace_ceilings){0};
    }
    track->stages.tracks[0] = is_device(source) ? 0 : track->track;
    writer->n_sources++;
    writer->n_unwritten++;
    writer_remember(writer, id_map_set(&writer->source_index, (uint32_t)source->id, (int64_t)n - 1));
}

void writer_put_track(struct trace_writer *writer, struct byte_buffer *buffer, uint64_t *track, uint64_t parent,
                      const char *name, int32_t rank)
{
    *track = ++writer->n_tracks;
    writer_remember(writer, encode_track(buffer, *track, parent, name, rank));
}

uint64_t writer_pick_lane(struct trace_writer *writer, struct byte_buffer *buffer, struct lanes *lanes, uint64_t parent,
                          const char *name, int32_t rank, int64_t begin_ns, int64_t end_ns)
{
    int32_t lane = 0;
    while (lane + 1 < MAX_LANES && lanes->end_ns[lane] > begin_ns) {
        lane++;
    }
    if (!lanes->tracks[lane]) {
        char text[64];
        snprintf(text, sizeof text, lane ? "%s, %d" : "%s", name, lane + 1);
        writer_put_track(writer, buffer, &lanes->tracks[lane], parent, text, rank + lane);
    }
    lanes->end_ns[lane] = end_ns;
    return lanes->tracks[lane];
}

// The type of what a stage multiplies.
static enum dtype operands_of(const struct sample_source *source, enum stage stage)
{
    switch (stage) {
    case STAGE_ATTENTION:
    case STAGE_WINDOW_ATTENTION: return source->kv_dtype == DTYPE_FP8 ? DTYPE_BF16 : source->kv_dtype;    // widened
    case STAGE_INDEX_SCORE: return source->index_dtype;
    default: return source->weight_dtype;
    }
}

static void add_floor(struct event *event, const struct source_track *source, const struct stage_sample *sample)
{
    const struct trace_ceilings *ceilings = &source->ceilings;
    double flops_per_s = ceilings->flops_per_s[operands_of(&source->source, sample->stage)];
    double memory_ns = ceilings->bytes_per_s > 0 ? 1e9 * (double)sample->bytes / ceilings->bytes_per_s : 0;
    double compute_ns = flops_per_s > 0 ? 1e9 * (double)sample->flops / flops_per_s : 0;
    double floor_ns = memory_ns > compute_ns ? memory_ns : compute_ns;
    if (!(floor_ns >= 0.5 && floor_ns < 1e18)) {    // nothing to do, nothing known, or no sane number
        return;
    }
    event_number(event, ANNOTATION_FLOOR_NS, llrint(floor_ns));
    if (sample->duration_ns > 0) {
        event_number(event, ANNOTATION_FLOOR_PERCENT, llrint(100.0 * floor_ns / (double)sample->duration_ns));
    }
    event_known_text(event, ANNOTATION_BOUND, memory_ns > compute_ns ? TEXT_BANDWIDTH : TEXT_COMPUTE);
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    gather(writer, index, sample->step, sample->begin_ns);
    int64_t end_ns = sample->begin_ns + sample->duration_ns;
    struct source_track *source = &writer->sources[index];
    uint64_t track = writer_pick_lane(writer, &writer->step, &source->stages, source->track, "stages", STAGES_RANK,
                                      sample->begin_ns, end_ns);
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN, track, sample->begin_ns);
    event_name(&event, (int32_t)sample->stage, (int32_t)sample->phase);
    event_nonzero(&event, ANNOTATION_STEP, sample->step);
    if (sample->layer != -1) {    // absent: outside layers
        event_number(&event, ANNOTATION_LAYER, sample->layer);
    }
    event_nonzero(&event, ANNOTATION_N_SEQS, sample->n_seqs);
    event_nonzero(&event, ANNOTATION_N_TOKENS, sample->n_tokens);
    event_nonzero(&event, ANNOTATION_CONTEXT_TOKENS, sample->context_tokens);
    event_nonzero(&event, ANNOTATION_BYTES, sample->bytes);
    event_nonzero(&event, ANNOTATION_FLOPS, sample->flops);
    event_nonzero(&event, ANNOTATION_MEASURED_BYTES, sample->measured_bytes);
    add_floor(&event, source, sample);
    writer_put(writer, &writer->step, &event);
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, track, end_ns);
    writer_put(writer, &writer->step, &event);
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    gather(writer, index, sample->step, sample->begin_ns);
    writer->complete = true;
    writer->pending_sample = *sample;
    writer_finish_flows(writer, sample->phase);
    writer->pending_begin_ns = sample->begin_ns;
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, writer->sources[index].track,
                sample->begin_ns + sample->duration_ns);
    writer_put(writer, &writer->step, &event);
}

struct byte_buffer *writer_next_buffer(struct trace_writer *writer, int64_t time_ns)
{
    if (writer->pending) {
        return &writer->step;
    }
    put_sources(writer, time_ns);
    return &writer->out;
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    struct byte_buffer *buffer = writer_next_buffer(writer, sample->time_ns);
    struct source_track *source = &writer->sources[index];
    uint64_t *track = &source->counters[sample->counter];
    if (!*track) {
        *track = ++writer->n_tracks;
        writer_remember(writer,
                        encode_counter_track(buffer, *track, source->track, counter_name(sample->counter),
                                             counter_unit(sample->counter), COUNTERS_RANK + (int32_t)sample->counter));
    }
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_COUNTER, *track, sample->time_ns);
    event.event.counter_value_field_case = PERFETTO__PROTOS__TRACK_EVENT__COUNTER_VALUE_FIELD_DOUBLE_COUNTER_VALUE;
    event.event.double_counter_value = sample->value;
    writer_put(writer, buffer, &event);
    writer_write_sometimes(writer);
}

static bool ends_in_gz(const char *path)
{
    size_t n = strlen(path);
    return n >= 3 && strcmp(path + n - 3, ".gz") == 0;
}

static int open_stream(struct trace_writer *writer, const struct trace_writer_options *options)
{
    int error = 0;
    if (!options->in_place) {
        error = output_file_open(&writer->file, options->path);
    } else if (!(writer->file.stream = fopen(options->path, "wbe"))) {
        error = status_fail(-errno, "%s: cannot write: %s", options->path, strerror(errno));
    }
    if (!error) {
        setvbuf(writer->file.stream, NULL, _IONBF, 0);    // `out` is the buffer: nothing may follow a failed write
    }
    return error;
}

static void free_writer(struct trace_writer *writer)
{
    for (int32_t i = 0; i < writer->n_sources; i++) {
        id_map_free(&writer->sources[i].request_index);
        free(writer->sources[i].decoding);
    }
    id_map_free(&writer->source_index);
    writer_free_device(writer);
    trace_packer_close(writer->packer);
    byte_buffer_free(&writer->out);
    byte_buffer_free(&writer->step);
    free(writer->sources);
    free(writer->requests);
    free(writer->flows);
    free(writer->path);
    free(writer);
}

int trace_writer_open(struct trace_writer **out, const struct trace_writer_options *options)
{
    *out = NULL;
    struct trace_writer *writer = calloc(1, sizeof *writer);
    if (!writer || !(writer->path = strdup(options->path))) {
        free(writer);
        return status_fail(-ENOMEM, "%s: out of memory", options->path);
    }
    int32_t interval_ms = options->flush_interval_ms ? options->flush_interval_ms : DEFAULT_FLUSH_MS;
    writer->in_place = options->in_place;
    writer->ceilings = options->ceilings;
    writer->flush_interval_ns = (int64_t)interval_ms * 1000000;
    writer->flushed_ns = clock_ns(CLOCK_MONOTONIC);
    writer->failed = options->failed;
    writer->user = options->user;
    int error = ends_in_gz(options->path) || options->gzip ? trace_packer_open(&writer->packer) : 0;
    error = error ? error : open_stream(writer, options);
    if (error) {
        free_writer(writer);
        return error;
    }
    error = encode_preamble(&writer->out, ++writer->n_tracks, options->command);
    error = error ? error : write_out(writer, false);
    if (error) {
        trace_writer_abandon(writer);
        return error;
    }
    *out = writer;
    return 0;
}

struct sample_sink trace_writer_sink(struct trace_writer *writer)
{
    return (struct sample_sink){
        .user = writer,
        .source = on_source,
        .stage = on_stage,
        .step = on_step,
        .request = writer_on_request,
        .counter = on_counter,
        .kernel = writer_on_kernel,
        .launch = writer_on_launch,
        .gauge = writer_on_gauge,
        .loss = writer_on_loss,
    };
}

int trace_writer_flush(struct trace_writer *writer)
{
    settle(writer);
    writer_remember(writer, write_out(writer, false));
    writer->flushed_ns = clock_ns(CLOCK_MONOTONIC);
    return writer->error ? status_fail(writer->error, "%s", writer->error_text) : 0;
}

int64_t trace_writer_bytes(const struct trace_writer *writer)
{
    return writer->handed_bytes + (int64_t)(writer->out.n + writer->step.n);
}

void trace_writer_abandon(struct trace_writer *writer)
{
    if (!writer) {
        return;
    }
    if (writer->in_place) {
        fclose(writer->file.stream);
    } else {
        output_file_abandon(&writer->file);
    }
    free_writer(writer);
}

int trace_writer_close(struct trace_writer *writer)
{
    if (!writer) {
        return 0;
    }
    settle(writer);
    writer_end_requests(writer);
    put_sources(writer, clock_ns(CLOCK_BOOTTIME));
    writer_remember(writer, write_out(writer, true));
    int error = writer->error ? status_fail(writer->error, "%s", writer->error_text) : 0;
    if (writer->in_place) {
        if (fclose(writer->file.stream) != 0 && !error) {
            error = status_fail(-errno, "%s: cannot write: %s", writer->path, strerror(errno));
        }
    } else if (error) {
        output_file_abandon(&writer->file);
    } else {
        error = output_file_commit(&writer->file);
    }
    free_writer(writer);
    return error;
}
