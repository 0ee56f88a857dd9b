// traces/trace_reader_internal.h - the reader's state, which its files share. Private to them.
#pragma once

#include "traces/trace_internal.h"

enum {
    MAX_OPEN_SLICES = 16,    // of one track; ours nest two deep
    LAUNCH_NAME_BYTES = 128, // longer names of calls are cut
    MAX_TRACK_DEPTH = 4,     // a request's track stands on "requests", that on the source's
};

enum slice_kind { SLICE_UNKNOWN, SLICE_STEP, SLICE_STAGE, SLICE_REQUEST, SLICE_LAUNCH };

struct open_slice {
    enum slice_kind kind;
    int64_t begin_ns;
    char name[LAUNCH_NAME_BYTES];   // a launch's
    union {
        struct step_sample step;
        struct stage_sample stage;
        struct launch_sample launch;
    } as;
};

struct track {
    uint64_t parent;
    int32_t counter;                // enum counter, -1: not one of ours
    char *gauge, *unit;             // of a counter that is not one of ours, owned; may be NULL
    int32_t thread;                 // of a row of launches
    bool is_source;
    int32_t source;                 // its id, where is_source
    int64_t dropped, invalid;       // what was lost of that source, by its last loss
    struct open_slice *open;        // [n_open], owned
    int32_t n_open, capacity;
};

struct reader {
    const char *name;               // of the file
    int64_t offset;                 // of the packet at hand
    struct sample_sink sink;
    struct trace_stats stats;
    struct id_map track_index;      // uuid -> index
    struct track *tracks;           // [n_tracks], owned
    struct id_map source_ids;       // of sources that were described
    int64_t n_tracks, capacity;
};

// -EINVAL with the file, the packet's place and what is wrong.
__attribute__((format(printf, 2, 3))) int reader_broken(const struct reader *reader, const char *format, ...);

// Counts a sample: `count` is its kind's in stats.
void reader_cover(struct trace_stats *stats, int64_t *count, int64_t begin_ns, int64_t end_ns);

// A number that must fit 32 bits; `fits` becomes false where it does not.
int32_t reader_number32(const struct trace_event *event, enum trace_annotation annotation, bool *fits);

// trace_reader_device.c. An event that is not one of ours counts as unknown.
int reader_kernel(struct reader *reader, const struct trace_packet *packet);
int reader_gauges(struct reader *reader, const struct trace_packet *packet);
int reader_track_gauge(struct reader *reader, const struct track *track, int32_t source, double value, int64_t time_ns);
int reader_loss(struct reader *reader, int32_t source, const struct trace_event *event);
int reader_begin_launch(struct reader *reader, const struct track *track, struct open_slice *slice, int32_t source,
                        const struct trace_packet *packet, const struct trace_event *event);
