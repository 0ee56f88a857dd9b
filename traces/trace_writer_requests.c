// traces/trace_writer_requests.c - requests: a track each, and an arrow from its queue through its prefill, the step
// that drew its first token and every step that decoded it.
//
// A request that has its first token and has not finished takes part in each step that decodes. One that was preempted
// says nothing of it: its arrow leads through the steps for which it waits too.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "traces/trace_writer_internal.h"

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
            writer_remember(
                writer, status_fail(-ENOMEM, "%s: out of memory for %lld requests", writer->path, (long long)capacity));
            return NULL;
        }
        writer->requests = grown;
        writer->request_capacity = capacity;
    }
    int error = id_map_set(&source->request_index, (uint64_t)request, writer->n_requests);
    if (error) {
        writer_remember(writer, error);
        return NULL;
    }
    if (!source->requests) {
        writer_put_track(writer, buffer, &source->requests, source->track, "requests", REQUESTS_RANK);
    }
    struct request_track *track = &writer->requests[writer->n_requests++];
    char name[48];
    snprintf(name, sizeof name, "request %lld", (long long)request);
    *track = (struct request_track){.decoding = -1};
    // Rows in the order of arrival; more than fit a rank share the last.
    writer_put_track(writer, buffer, &track->track, source->requests, name, (int32_t)(writer->n_requests & INT32_MAX));
    return track;
}

static void add_flow(struct trace_writer *writer, uint64_t flow)
{
    if (writer->n_flows == writer->flow_capacity) {
        size_t capacity = writer->flow_capacity ? 2 * writer->flow_capacity : 16;
        uint64_t *grown = realloc(writer->flows, capacity * sizeof *grown);
        if (!grown) {
            writer_remember(writer, status_fail(-ENOMEM, "%s: out of memory for %zu flows", writer->path, capacity));
            return;
        }
        writer->flows = grown;
        writer->flow_capacity = capacity;
    }
    writer->flows[writer->n_flows++] = flow;
}

void writer_begin_flows(struct trace_writer *writer)
{
    const struct source_track *source = &writer->sources[writer->pending_source];
    for (int64_t i = 0; i < source->n_decoding; i++) {
        add_flow(writer, writer->requests[source->decoding[i]].track);
    }
    writer->n_decode_flows = writer->n_flows;
}

void writer_finish_flows(struct trace_writer *writer, enum phase phase)
{
    if (phase == PHASE_PREFILL && writer->n_decode_flows > 0) {    // it decoded nothing
        writer->n_flows -= writer->n_decode_flows;
        memmove(writer->flows, writer->flows + writer->n_decode_flows, writer->n_flows * sizeof *writer->flows);
        writer->n_decode_flows = 0;
    }
}

// Who decodes takes part in each step that decodes.
static void begin_decoding(struct trace_writer *writer, struct source_track *source, struct request_track *track)
{
    if (track->decoding >= 0) {
        return;
    }
    if (source->n_decoding == source->decoding_capacity) {
        int64_t capacity = source->decoding_capacity ? 2 * source->decoding_capacity : 16;
        int64_t *grown = realloc(source->decoding, (size_t)capacity * sizeof *grown);
        if (!grown) {
            writer_remember(writer, status_fail(-ENOMEM, "%s: out of memory for requests", writer->path));
            return;
        }
        source->decoding = grown;
        source->decoding_capacity = capacity;
    }
    track->decoding = source->n_decoding;
    source->decoding[source->n_decoding++] = track - writer->requests;
}

static void end_decoding(struct trace_writer *writer, struct source_track *source, struct request_track *track)
{
    if (track->decoding >= 0) {
        int64_t last = source->decoding[--source->n_decoding];
        source->decoding[track->decoding] = last;
        writer->requests[last].decoding = track->decoding;
        track->decoding = -1;
    }
}

// True if the request's first token was drawn in the step that is pending: its arrow leads through it.
static bool drawn_now(const struct trace_writer *writer, const struct request_sample *sample, int32_t source)
{
    return sample->state == REQUEST_FIRST_TOKEN && writer->pending && writer->pending_source == source &&
           writer->pending_step == sample->step;
}

static void annotate_request(struct event *event, const struct request_sample *sample)
{
    event_number(event, ANNOTATION_REQUEST, sample->request);
    event_number(event, ANNOTATION_STEP, sample->step);
    event_nonzero(event, ANNOTATION_PROMPT_TOKENS, sample->prompt_tokens);
    event_nonzero(event, ANNOTATION_OUTPUT_TOKENS, sample->output_tokens);
}

void writer_on_request(void *user, const struct request_sample *sample)
{
    struct trace_writer *writer = user;
    int32_t index = writer->error ? -1 : writer_find_source(writer, sample->source);
    if (index < 0) {
        return;
    }
    struct byte_buffer *buffer = writer_next_buffer(writer, sample->time_ns);
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
    if (sample->state == REQUEST_FIRST_TOKEN) {
        begin_decoding(writer, &writer->sources[index], track);
    } else {
        end_decoding(writer, &writer->sources[index], track);
    }
    if (track->open) {
        event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, track->track, sample->time_ns);
        if (finished) {
            annotate_request(&event, sample);
        }
        writer_put(writer, buffer, &event);
        track->open = false;
        if (finished) {
            return;
        }
    }
    event_begin(&event,
                finished ? PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_INSTANT
                         : PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN,
                track->track, sample->time_ns);
    event_name(&event, finished ? NAME_FINISHED : slice_names[sample->state], CATEGORY_REQUEST);
    annotate_request(&event, sample);
    if (!finished) {
        event.event.n_flow_ids = 1;
        event.event.flow_ids = &track->track;
    }
    if (drawn_now(writer, sample, index)) {
        add_flow(writer, track->track);
    }
    writer_put(writer, buffer, &event);
    track->open = !finished;
    writer_write_sometimes(writer);
}

// Requests that were given up end where the recording ends. Unlike those that finished they say nothing of their
// tokens.
void writer_end_requests(struct trace_writer *writer)
{
    for (int64_t i = 0; i < writer->n_requests; i++) {
        if (writer->requests[i].open) {
            struct event event;
            event_begin(&event, PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_END, writer->requests[i].track,
                        writer->last_ns);
            writer_put(writer, &writer->out, &event);
        }
    }
}
