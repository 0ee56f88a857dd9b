// traces/trace_internal.h - what the writer, the reader and the checker share: the words of a trace, and packets.
//
// Private to this room. The schema and what stands where: traces/trace.proto.
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "engine/sample.h"
#include "trace.pb-c.h"
#include "traces/id_map.h"
#include "traces/trace_file.h"

// Annotations by number; iid = number + 1, so those of stages are the shortest on the wire.
enum trace_annotation {
    ANNOTATION_STEP, ANNOTATION_LAYER, ANNOTATION_N_SEQS, ANNOTATION_N_TOKENS, ANNOTATION_CONTEXT_TOKENS,
    ANNOTATION_BYTES, ANNOTATION_FLOPS, ANNOTATION_MEASURED_BYTES,
    ANNOTATION_DEVICE_NS,                                               // of a step
    ANNOTATION_FLOOR_NS, ANNOTATION_FLOOR_PERCENT, ANNOTATION_BOUND,    // for people: follow from the rates given
    ANNOTATION_REQUEST, ANNOTATION_PROMPT_TOKENS, ANNOTATION_OUTPUT_TOKENS,
    ANNOTATION_SOURCE, ANNOTATION_DEVICE, ANNOTATION_BACKEND, ANNOTATION_MODEL, ANNOTATION_METHOD, ANNOTATION_N_LAYERS,
    ANNOTATION_TOP_K, ANNOTATION_UNIT_TOKENS, ANNOTATION_INDEX_SETS, ANNOTATION_WINDOW_TOKENS, ANNOTATION_PAGE_TOKENS,
    ANNOTATION_WEIGHT_DTYPE, ANNOTATION_KV_DTYPE, ANNOTATION_INDEX_DTYPE, ANNOTATION_THREADS, ANNOTATION_GRAPH,
    // Of work on a device, beside `source`, `device`, `step`, `layer`, `bytes`. Those that ui.perfetto.dev looks for.
    ANNOTATION_STREAM, ANNOTATION_REGISTERS, ANNOTATION_STATIC_SHARED, ANNOTATION_DYNAMIC_SHARED,
    ANNOTATION_DROPPED, ANNOTATION_INVALID,
    ANNOTATION_COUNT
};
const char *trace_annotation_name(enum trace_annotation annotation);

// Texts of annotations; iid = number + 1.
enum trace_text { TEXT_BANDWIDTH, TEXT_COMPUTE, TEXT_COUNT };
const char *trace_text_value(enum trace_text text);

// Categories; iid = number + 1. The first PHASE_COUNT are the phases: a stage's category.
enum trace_category { CATEGORY_STEP = PHASE_COUNT, CATEGORY_REQUEST, CATEGORY_SOURCE, CATEGORY_LAUNCH, CATEGORY_COUNT };
const char *trace_category_name(int32_t category);

// Names of events; iid = number + 1. First the stages, then the phases, then these, then those of kernels and launches
// as they come.
enum trace_name {
    NAME_PHASE = STAGE_COUNT,
    NAME_SOURCE = STAGE_COUNT + PHASE_COUNT,
    NAME_QUEUE,
    NAME_FINISHED,
    NAME_COUNT
};
const char *trace_name_text(int32_t name);

// Bits of sequence_flags, in short.
enum {
    SEQUENCE_CLEARED = PERFETTO__PROTOS__TRACE_PACKET__SEQUENCE_FLAGS__SEQ_INCREMENTAL_STATE_CLEARED,
    SEQUENCE_NEEDS_NAMES = PERFETTO__PROTOS__TRACE_PACKET__SEQUENCE_FLAGS__SEQ_NEEDS_INCREMENTAL_STATE,
};

// A loss stands on a sequence of its own: Perfetto forgets the names of a sequence that has lost something.
enum { TRACE_SEQUENCE = 1, TRACE_LOSS_SEQUENCE = 2 };
#define TRACE_LOSS_NAME "records lost"
#define TRACE_LOSS_CATEGORY "loss"

// A row of launches is called by this and its thread's number; rows beside it by that and one more.
#define TRACE_LAUNCHES "launches of thread "

// What the specification of a piece of device work says: its stage is the name, "decode kernel" the description.
#define TRACE_NO_STAGE "unattributed"
const char *trace_work_name(enum device_work work);    // "kernel", "copy", "fill"

enum { TRACE_CLOCK_MONOTONIC = 3, TRACE_CLOCK_REALTIME = 1, TRACE_CLOCK_BOOTTIME = 6 };

// Packets of a trace, with the names of their sequences.

enum trace_intern {
    INTERN_CATEGORY, INTERN_NAME, INTERN_ANNOTATION,
    INTERN_TEXT,              // values of annotations
    INTERN_SPECIFICATION,     // queues and kinds of device work; `detail`: description
    INTERN_CONTEXT, INTERN_KERNEL,
    INTERN_ARGUMENT,          // names of a kernel's arguments
    INTERN_GAUGE,             // `detail`: description
    INTERN_COUNT
};

struct trace_interned {
    char *text;               // owned
    char *detail;             // owned; NULL: none
    int32_t annotation;       // for names of annotations and arguments: enum trace_annotation, -1: not one of ours
    // Of a kernel: its arguments. `ours`: all that fix its place are there and in range.
    bool ours;
    int32_t source, device, stream, registers, static_shared, dynamic_shared;
};

struct trace_sequence {
    uint32_t id;
    bool cleared;                        // a packet has begun its names
    int64_t packets;
    struct id_map names[INTERN_COUNT];   // iid -> index into `interned`
    struct trace_interned *interned;     // [n_interned], owned
    int64_t n_interned, capacity;
    uint64_t default_track;              // 0: none
    uint32_t default_clock;
};

// Learns the names of a packet; -ENOMEM. Forgets them all, and the sequence's defaults.
int trace_intern_all(struct trace_sequence *sequence, const Perfetto__Protos__InternedData *data);
void trace_forget_names(struct trace_sequence *sequence);

// NULL: not interned on that sequence.
const struct trace_interned *trace_interned(const struct trace_sequence *sequence, enum trace_intern kind,
                                            uint64_t iid);

struct trace_packet {
    const Perfetto__Protos__TracePacket *packet;    // valid during the call; NULL: no packet, or too large a one
    const struct trace_sequence *sequence;          // NULL: the packet names none
    int64_t offset;                                 // of its first byte in the file
};

struct trace_decoding {
    const char *name;       // of the file, for messages
    FILE *stream;
    int64_t size;           // bytes in it, or TRACE_SIZE_UNKNOWN: up to its end
    int (*packet)(void *user, const struct trace_packet *packet);    // an error ends the decoding
    void *user;
    int64_t packets, offset;    // out: packets seen, bytes consumed
    bool truncated;             // out: the last packet is not whole
};

// Reads packet by packet. -EINVAL: not a trace, broken at the named byte, or truncated.
int trace_decode(struct trace_decoding *decoding);

// An event's annotations, its names and its track, resolved.
struct trace_event {
    int32_t type;                             // Perfetto__Protos__TrackEvent__Type
    uint64_t track;                           // 0: none
    int64_t time_ns;
    const char *name, *category;              // "" if none
    int64_t unresolved;                       // names by iids that the sequence does not know
    uint64_t present;                         // bit per annotation
    int64_t number[ANNOTATION_COUNT];         // 0 where absent
    const char *text[ANNOTATION_COUNT];       // "" where absent
};
void trace_event_resolve(struct trace_event *out, const struct trace_packet *packet);

static inline bool trace_event_has(const struct trace_event *event, enum trace_annotation annotation)
{
    return event->present & UINT64_C(1) << annotation;
}

// Which of our words an argument of device work is called by: enum trace_annotation, -1: none, or its value is no
// number.
int32_t trace_argument(const struct trace_sequence *sequence,
                       const Perfetto__Protos__GpuRenderStageEvent__ExtraComputeArg *argument, int64_t *value);
