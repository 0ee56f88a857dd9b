// traces/trace_writer_internal.h - the writer's state, which its files share. Private to them.
#pragma once

#include "engine/output_file.h"
#include "traces/intern_table.h"
#include "traces/trace.h"
#include "traces/trace_encode.h"

enum {
    MAX_LANES = 8,                  // slices of one kind at the same time; more share the last lane
    STAGES_RANK = 1, LAUNCHES_RANK = 20, REQUESTS_RANK = 50, COUNTERS_RANK = 100, GAUGES_RANK = 200,
};

// Tracks side by side, because slices of one track may nest but not overlap.
struct lanes {
    uint64_t tracks[MAX_LANES];     // 0: not made yet
    int64_t end_ns[MAX_LANES];      // of the last slice there
};

struct request_track {
    uint64_t track;                 // its number is that of the request's arrow too
    bool open;                      // a slice has begun
    int64_t decoding;               // place in its source's `decoding`, -1: not there
};

struct source_track {
    struct sample_source source;
    struct trace_ceilings ceilings; // 0: not known
    uint64_t track;                 // its own, on which its steps stand
    struct lanes stages;            // of a host: [0] is its own track; of a device they begin beside it
    uint64_t counters[COUNTER_COUNT];
    uint64_t requests;              // the track above those of requests
    struct id_map request_index;    // request -> index into the writer's requests
    int64_t *decoding;              // [n_decoding] requests that decode, as indices, owned
    int64_t n_decoding, decoding_capacity;
};

// Names and tracks of work on devices.
struct device_names {
    struct intern_table names;      // of events, beyond trace_name: value is the iid
    struct intern_table kernels, queues, contexts, devices, gauges, threads;
    uint64_t stage_iids[WORK_FILL + 1][PHASE_COUNT][STAGE_COUNT + 1];    // 0: not interned yet
    uint64_t n_specifications;      // queues and stages share their numbers
    struct lanes *launches;         // [threads.n], owned
    uint64_t n_unlaunched;          // pieces of work of which no launch is known
    int64_t n_losses;
};

struct trace_writer {
    struct output_file file;        // the stream of either way of writing
    bool in_place;
    struct trace_packer *packer;    // NULL: not packed
    char *path;                     // owned
    int64_t flush_interval_ns, flushed_ns;
    int error;                      // the first failure; nothing is written after it
    char error_text[512];
    bool (*ceilings)(void *user, const struct sample_source *source, struct trace_ceilings *out);
    void (*failed)(void *user, const char *why);
    void *user;
    int64_t handed_bytes;           // of packets, safely handed to the file
    int64_t file_bytes;             // what the file has for them
    int64_t last_ns;                // the latest time of an event

    struct byte_buffer out;         // ready for the file
    struct byte_buffer step;        // the pending step, without its begin
    bool pending, complete;         // a step is gathering; its own sample has come
    int32_t pending_source;         // index
    int64_t pending_step, pending_begin_ns;
    struct step_sample pending_sample;
    uint64_t *flows;                // [n_flows] arrows that lead through the pending step, owned
    size_t n_flows, flow_capacity;
    size_t n_decode_flows;          // the first of them: of requests that decoded when it began

    uint64_t n_tracks;              // uuids count up from 1
    struct source_track *sources;   // [n_sources], owned
    int32_t n_sources, n_unwritten; // the last n_unwritten wait for the first time that is known
    struct id_map source_index;     // id -> index
    struct request_track *requests; // [n_requests], owned
    int64_t n_requests, request_capacity;
    struct device_names device;
};

void writer_remember(struct trace_writer *writer, int error);    // keeps the first failure and its text

// Encodes an event into `buffer`.
void writer_put(struct trace_writer *writer, struct byte_buffer *buffer, struct event *event);

// A new track of slices.
void writer_put_track(struct trace_writer *writer, struct byte_buffer *buffer, uint64_t *track, uint64_t parent,
                      const char *name, int32_t rank);

// A track of `lanes` on which nothing is running at `begin_ns`. One that has to be made is called by `name`.
uint64_t writer_pick_lane(struct trace_writer *writer, struct byte_buffer *buffer, struct lanes *lanes, uint64_t parent,
                          const char *name, int32_t rank, int64_t begin_ns, int64_t end_ns);

// Where a sample that belongs to no step goes: behind the pending one, or straight out.
struct byte_buffer *writer_next_buffer(struct trace_writer *writer, int64_t time_ns);

// Writes when enough bytes or enough time have gathered. The pending step stays: arrows may still leave from it.
void writer_write_sometimes(struct trace_writer *writer);

// The index of a source by its id, -1 with the failure remembered (or one remembered before): an announcement must come
// first.
int32_t writer_find_source(struct trace_writer *writer, int32_t id);

// trace_writer_requests.c
void writer_on_request(void *user, const struct request_sample *sample);
void writer_end_requests(struct trace_writer *writer);
void writer_begin_flows(struct trace_writer *writer);                   // when a step begins to gather
void writer_finish_flows(struct trace_writer *writer, enum phase phase);    // when its phase is known

// trace_writer_device.c
void writer_on_kernel(void *user, const struct kernel_sample *sample);
void writer_on_launch(void *user, const struct launch_sample *sample);
void writer_on_gauge(void *user, const struct gauge_sample *sample);
void writer_on_loss(void *user, const struct loss_sample *sample);
void writer_free_device(struct trace_writer *writer);
