// traces/trace_writer_requests.c - requests: a track each, with an arrow from the step that drew the first token.
#include <errno.h>
#include <stdlib.h>

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
            writer_remember(writer, status_fail(-ENOMEM, "%s: out of memory for %lld requests", writer->path, (long long)capacity));
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
    *track = (struct request_track){0};
    // Rows in the order of arrival; more than fit a rank share the last.
    writer_put_track(writer, buffer, &track->track, source->requests, name, (int32_t)(writer->n_requests & INT32_MAX));
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
            writer_remember(writer, status_fail(-ENOMEM, "%s: out of memory for %zu flows", writer->path, capacity));
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
    event_begin(&event, finished ? PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_INSTANT
                                 : PERFETTO__PROTOS__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN, track->track, sample->time_ns);
    event_name(&event, finished ? NAME_FINISHED : slice_names[sample->state], CATEGORY_REQUEST);
    annotate_request(&event, sample);
    if (add_flow(writer, sample, index, track->track)) {
        event.event.n_terminating_flow_ids = 1;
        event.event.terminating_flow_ids = &track->track;
    }
    writer_put(writer, buffer, &event);
    track->open = !finished;
    writer_write_sometimes(writer);
}

// Requests that were given up end where the recording ends. Unlike those that finished they say nothing of their tokens.
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
