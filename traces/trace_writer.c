// traces/trace_writer.c - samples to packets to a file.
//
// A slice's begin must stand before what it contains, but a step is told after its stages. So the packets of one step
// gather in a buffer of their own until the next step begins (or flush or close); then the step's begin goes out before
// them. Until then a request whose first token that step drew can still have its arrow leave from there. Everything else
// keeps the order in which the sink was called. Memory is bounded by one step, plus a few bytes per request.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/output_file.h"
#include "engine/status.h"
#include "traces/trace_encode.h"

enum {
    MAX_LANES = 8,                  // kernels of one source at the same time; more share the last lane
    WRITE_BYTES = 1 << 20,          // hand over to the file at the latest when so much has gathered
    DEFAULT_FLUSH_MS = 500,
    LANE_RANK = 1, REQUESTS_RANK = 50,
};

struct request_track {
    uint64_t track;
    bool open;                      // a slice has begun
};

struct source_track {
    struct sample_source source;
    uint64_t lanes[MAX_LANES];      // tracks; [0] is the thread's own. 0: not made yet
    int64_t lane_end_ns[MAX_LANES];
    uint64_t counters[COUNTER_COUNT];
    uint64_t requests;              // the track above those of requests
    struct id_map request_index;    // request -> index into the writer's requests
};

struct trace_writer {
    struct output_file file;        // the stream of either way of writing
    bool in_place;
    char *path;                     // owned
    int64_t flush_interval_ns, flushed_ns;
    int error;                      // the first failure; nothing is written after it
    char error_text[512];
    int64_t bytes;                  // encoded so far
    int64_t file_bytes;             // of them safely handed to the file
    int64_t last_ns;                // the latest time of an event

    struct byte_buffer out;         // ready for the file
    struct byte_buffer step;        // the pending step, without its begin
    bool pending, complete;         // a step is gathering; its own sample has come
    int32_t pending_source;         // index
    int64_t pending_step, pending_begin_ns;
    struct step_sample pending_sample;
    uint64_t *flows;                // [n_flows] arrows that leave from the pending step, owned
    size_t n_flows, flow_capacity;

    uint64_t n_tracks;              // uuids count up from 1
    struct source_track *sources;   // [n_sources], owned
    int32_t n_sources, n_unwritten; // the last n_unwritten wait for the first time that is known
    struct id_map source_index;     // id -> index
    struct request_track *requests; // [n_requests], owned
    int64_t n_requests, request_capacity;
};

static void remember(struct trace_writer *writer, int error)
{
    if (error && !writer->error) {
        writer->error = error;
        snprintf(writer->error_text, sizeof writer->error_text, "%s", status_text());
    }
}

static int64_t clock_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int write_out(struct trace_writer *writer)
{
    FILE *stream = writer->file.stream;
    if (writer->error || writer->out.n == 0) {
        return writer->error;
    }
    errno = 0;
    if (fwrite(writer->out.data, 1, writer->out.n, stream) != writer->out.n || fflush(stream) != 0) {
        int error = errno ? errno : EIO;
        // What was flushed before is whole packets: leave exactly that.
        if (writer->in_place && ftruncate(fileno(stream), writer->file_bytes) != 0) {
            return status_fail(-error, "%s: cannot write: %s; its end is a broken packet", writer->path, strerror(error));
        }
        return status_fail(-error, "%s: cannot write: %s", writer->path, strerror(error));
    }
    writer->file_bytes += (int64_t)writer->out.n;
    writer->out.n = 0;
    return 0;
}

// Encodes into `buffer` and counts the bytes.
static void put(struct trace_writer *writer, struct byte_buffer *buffer, struct event *event)
{
    size_t before = buffer->n;
    int64_t time_ns = (int64_t)event->packet.timestamp;
    writer->last_ns = time_ns > writer->last_ns ? time_ns : writer->last_ns;
    remember(writer, event_encode(event, buffer));
    writer->bytes += (int64_t)(buffer->n - before);
}

// Sources wait for a time: the first one known after their announcement becomes that of their description.
static void put_sources(struct trace_writer *writer, int64_t time_ns)
{
    size_t before = writer->out.n;
    for (; writer->n_unwritten > 0; writer->n_unwritten--) {
        int32_t index = writer->n_sources - writer->n_unwritten;
        const struct source_track *track = &writer->sources[index];
        remember(writer, encode_source(&writer->out, track->lanes[0], index, &track->source, time_ns));
    }
    writer->bytes += (int64_t)(writer->out.n - before);
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
                    writer->sources[writer->pending_source].lanes[0], sample->begin_ns);
        event_name(&event, NAME_PHASE + (int32_t)sample->phase, CATEGORY_STEP);
        event_nonzero(&event, ANNOTATION_STEP, sample->step);
        event_nonzero(&event, ANNOTATION_N_SEQS, sample->n_seqs);
        event_nonzero(&event, ANNOTATION_N_TOKENS, sample->n_tokens);
        event_nonzero(&event, ANNOTATION_CONTEXT_TOKENS, sample->context_tokens);
        event.event.n_flow_ids = writer->n_flows;
        event.event.flow_ids = writer->flows;
        put(writer, &writer->out, &event);
    }
    remember(writer, byte_buffer_append(&writer->out, writer->step.data, writer->step.n));
    writer->step.n = 0;
    writer->n_flows = 0;
    writer->pending = writer->complete = false;
}

// Writes when enough bytes or enough time have gathered. The pending step stays: arrows may still leave from it.
static void write_sometimes(struct trace_writer *writer)
{
    int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    if (writer->out.n >= WRITE_BYTES || now_ns - writer->flushed_ns >= writer->flush_interval_ns) {
        remember(writer, write_out(writer));
        writer->flushed_ns = now_ns;
    }
}

// The index of a source by its id, -1 with the failure remembered: an announcement must come first.
static int32_t find_source(struct trace_writer *writer, int32_t id)
{
    int64_t index = id_map_get(&writer->source_index, (uint32_t)id);
    if (index < 0) {
        remember(writer, status_fail(-EINVAL, "%s: a sample of source %d came before its description", writer->path, id));
    }
    return writer->error ? -1 : (int32_t)index;
}

// Begins or continues the pending step that (source, step) belongs to.
static void gather(struct trace_writer *writer, int32_t source, int64_t step, int64_t begin_ns)
{
    if (writer->pending && (writer->pending_source != source || writer->pending_step != step || writer->complete)) {
        settle(writer);
        write_sometimes(writer);
    }
    if (!writer->pending) {
        writer->pending = true;
        writer->pending_source = source;
        writer->pending_step = step;
        writer->pending_begin_ns = begin_ns;
    }
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
        remember(writer, status_fail(-ENOMEM, "%s: out of memory for a source", writer->path));
        return;
    }
    writer->sources = sources;
    sources[n - 1] = (struct source_track){.source = *source, .lanes = {++writer->n_tracks}};
    for (int32_t i = 0; i < MAX_LANES; i++) {
        sources[n - 1].lane_end_ns[i] = INT64_MIN;
    }
    writer->n_sources++;
    writer->n_unwritten++;
    remember(writer, id_map_set(&writer->source_index, (uint32_t)source->id, (int64_t)n - 1));
}

static void put_track(struct trace_writer *writer, struct byte_buffer *buffer, uint64_t *track, uint64_t parent,
                      const char *name, int32_t rank)
{
    size_t before = buffer->n;
    *track = ++writer->n_tracks;
    remember(writer, encode_track(buffer, *track, parent, name, rank));
    writer->bytes += (int64_t)(buffer->n - before);
}

// A track on which nothing is running at `begin_ns`: slices of one track may nest but not overlap.
static uint64_t pick_lane(struct trace_writer *writer, struct source_track *source, int64_t begin_ns, int64_t end_ns)
{
    int32_t lane = 0;
    while (lane + 1 < MAX_LANES && source->lane_end_ns[lane] > begin_ns) {
        lane++;
    }
    if (!source->lanes[lane]) {
        char name[48];
        snprintf(name, sizeof name, "at the same time, %d", lane);
        put_track(writer, &writer->step, &source->lanes[lane], source->lanes[0], name, LANE_RANK + lane);
    }
    source->lane_end_ns[lane] = end_ns;
    return source->lanes[lane];
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    gather(writer, index, sample->step, sample->begin_ns);
    int64_t end_ns = sample->begin_ns + sample->duration_ns;
    uint64_t track = pick_lane(writer, &writer->sources[index], sample->begin_ns, end_ns);
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
    put(writer, &writer->step, &event);
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, track, end_ns);
    put(writer, &writer->step, &event);
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    gather(writer, index, sample->step, sample->begin_ns);
    writer->complete = true;
    writer->pending_sample = *sample;
    writer->pending_begin_ns = sample->begin_ns;
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, writer->sources[index].lanes[0],
                sample->begin_ns + sample->duration_ns);
    put(writer, &writer->step, &event);
}

// Where a sample that belongs to no step goes: behind the pending one, or straight out.
static struct byte_buffer *next_buffer(struct trace_writer *writer, int64_t time_ns)
{
    if (writer->pending) {
        return &writer->step;
    }
    put_sources(writer, time_ns);
    return &writer->out;
}

// The track of a request, made when it is first heard of. NULL: failed, remembered.
static struct request_track *find_request(struct trace_writer *writer, struct source_track *source, int64_t request,
                                          struct byte_buffer *buffer)
{
    int64_t index = id_map_get(&source->request_index, (uint64_t)request);
    if (index >= 0) {
        return &writer->requests[index];
    }
    if (writer->n_requests == writer->request_capacity) {
        int64_t capacity = writer->request_capacity ? 2 * writer->request_capacity : 64;
        struct request_track *grown = realloc(writer->requests, (size_t)capacity * sizeof *grown);
        if (!grown) {
            remember(writer, status_fail(-ENOMEM, "%s: out of memory for %lld requests", writer->path, (long long)capacity));
            return NULL;
        }
        writer->requests = grown;
        writer->request_capacity = capacity;
    }
    int error = id_map_set(&source->request_index, (uint64_t)request, writer->n_requests);
    if (error) {
        remember(writer, error);
        return NULL;
    }
    if (!source->requests) {
        put_track(writer, buffer, &source->requests, source->lanes[0], "requests", REQUESTS_RANK);
    }
    struct request_track *track = &writer->requests[writer->n_requests++];
    char name[48];
    snprintf(name, sizeof name, "request %lld", (long long)request);
    *track = (struct request_track){0};
    // Rows in the order of arrival; more than fit a rank share the last.
    put_track(writer, buffer, &track->track, source->requests, name, (int32_t)(writer->n_requests & INT32_MAX));
    return track;
}

// True if the sample's first token was drawn in the step that is pending: its arrow leaves from there.
static bool add_flow(struct trace_writer *writer, const struct request_sample *sample, int32_t source, uint64_t flow)
{
    if (sample->state != REQUEST_FIRST_TOKEN || !writer->pending || writer->pending_source != source ||
        writer->pending_step != sample->step) {
        return false;
    }
    if (writer->n_flows == writer->flow_capacity) {
        size_t capacity = writer->flow_capacity ? 2 * writer->flow_capacity : 16;
        uint64_t *grown = realloc(writer->flows, capacity * sizeof *grown);
        if (!grown) {
            remember(writer, status_fail(-ENOMEM, "%s: out of memory for %zu flows", writer->path, capacity));
            return false;
        }
        writer->flows = grown;
        writer->flow_capacity = capacity;
    }
    writer->flows[writer->n_flows++] = flow;
    return true;
}

static void annotate_request(struct event *event, const struct request_sample *sample)
{
    event_number(event, ANNOTATION_REQUEST, sample->request);
    event_number(event, ANNOTATION_STEP, sample->step);
    event_nonzero(event, ANNOTATION_PROMPT_TOKENS, sample->prompt_tokens);
    event_nonzero(event, ANNOTATION_OUTPUT_TOKENS, sample->output_tokens);
}

static void on_request(void *user, const struct request_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    struct byte_buffer *buffer = next_buffer(writer, sample->time_ns);
    struct request_track *track = find_request(writer, &writer->sources[index], sample->request, buffer);
    if (!track) {
        return;
    }
    static const int32_t slice_names[] = {
        [REQUEST_SUBMITTED] = NAME_QUEUE,
        [REQUEST_RUNNING] = NAME_PHASE + (int32_t)PHASE_PREFILL,
        [REQUEST_FIRST_TOKEN] = NAME_PHASE + (int32_t)PHASE_DECODE,
    };
    struct event event;
    bool finished = sample->state == REQUEST_FINISHED;
    if (track->open) {
        event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, track->track, sample->time_ns);
        if (finished) {
            annotate_request(&event, sample);
        }
        put(writer, buffer, &event);
        track->open = false;
        if (finished) {
            return;
        }
    }
    event_begin(&event, finished ? PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_INSTANT
                                 : PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN, track->track, sample->time_ns);
    event_name(&event, finished ? NAME_FINISHED : slice_names[sample->state], CATEGORY_REQUEST);
    annotate_request(&event, sample);
    if (add_flow(writer, sample, index, track->track)) {
        event.event.n_terminating_flow_ids = 1;
        event.event.terminating_flow_ids = &track->track;
    }
    put(writer, buffer, &event);
    track->open = !finished;
    write_sometimes(writer);
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    struct byte_buffer *buffer = next_buffer(writer, sample->time_ns);
    struct source_track *source = &writer->sources[index];
    uint64_t *track = &source->counters[sample->counter];
    if (!*track) {
        size_t before = buffer->n;
        *track = ++writer->n_tracks;
        remember(writer, encode_counter_track(buffer, *track, source->lanes[0], sample->counter));
        writer->bytes += (int64_t)(buffer->n - before);
    }
    struct event event;
    event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_COUNTER, *track, sample->time_ns);
    event.event.counter_value_field_case = PERFETTO__PROTOS__TRACK_EVENT__COUNTER_VALUE_FIELD_DOUBLE_COUNTER_VALUE;
    event.event.double_counter_value = sample->value;
    put(writer, buffer, &event);
    write_sometimes(writer);
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
    }
    id_map_free(&writer->source_index);
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
    writer->flush_interval_ns = (int64_t)interval_ms * 1000000;
    writer->flushed_ns = clock_ns(CLOCK_MONOTONIC);
    int error = open_stream(writer, options);
    if (!error) {
        error = encode_preamble(&writer->out, ++writer->n_tracks, options->command);
        writer->bytes = (int64_t)writer->out.n;
        error = error ? error : write_out(writer);
        if (error && writer->in_place) {
            fclose(writer->file.stream);
        } else if (error) {
            output_file_abandon(&writer->file);
        }
    }
    if (error) {
        free_writer(writer);
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
        .request = on_request,
        .counter = on_counter,
    };
}

int trace_writer_flush(struct trace_writer *writer)
{
    settle(writer);
    remember(writer, write_out(writer));
    writer->flushed_ns = clock_ns(CLOCK_MONOTONIC);
    return writer->error ? status_fail(writer->error, "%s", writer->error_text) : 0;
}

int64_t trace_writer_bytes(const struct trace_writer *writer)
{
    return writer->bytes;
}

// Requests that were given up end where the recording ends. Unlike those that finished they say nothing of their tokens.
static void end_requests(struct trace_writer *writer)
{
    for (int64_t i = 0; i < writer->n_requests; i++) {
        if (writer->requests[i].open) {
            struct event event;
            event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, writer->requests[i].track,
                        writer->last_ns);
            put(writer, &writer->out, &event);
        }
    }
}

int trace_writer_close(struct trace_writer *writer)
{
    if (!writer) {
        return 0;
    }
    settle(writer);
    end_requests(writer);
    put_sources(writer, clock_ns(CLOCK_BOOTTIME));
    remember(writer, write_out(writer));
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
