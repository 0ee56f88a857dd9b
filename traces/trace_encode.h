// traces/trace_encode.h - packets as bytes. Private to the writer.
#pragma once

#include <stddef.h>

#include "traces/trace_internal.h"

struct byte_buffer {
    uint8_t *data;          // owned
    size_t n, capacity;
};

int byte_buffer_append(struct byte_buffer *buffer, const uint8_t *bytes, size_t n);    // 0 or -ENOMEM
void byte_buffer_free(struct byte_buffer *buffer);

// protobuf-c's structs hold texts that may be written to; packing only reads them.
char *trace_borrow(const char *text);
// One packet of a Trace message: tag of field 1, length, packet.
int encode_packet(struct byte_buffer *out, const Perfetto__Protos__TracePacket *packet);
void packet_on_sequence(Perfetto__Protos__TracePacket *packet, uint32_t id, uint32_t flags);

// An event being put together; all memory is its own or borrowed until event_encode.
struct event {
    Perfetto__Protos__TracePacket packet;
    Perfetto__Protos__TrackEvent event;
    Perfetto__Protos__DebugAnnotation annotations[ANNOTATION_COUNT];
    Perfetto__Protos__DebugAnnotation *pointers[ANNOTATION_COUNT];
    uint64_t category;
};

void event_name_iid(struct event *event, uint64_t iid, int32_t category);    // a name interned later
void event_begin(struct event *event, Perfetto__Protos__TrackEvent__Type type, uint64_t track, int64_t time_ns);
void event_name(struct event *event, int32_t name, int32_t category);                 // numbers of trace_internal.h
void event_number(struct event *event, enum trace_annotation annotation, int64_t value);    // 0 too is written
void event_nonzero(struct event *event, enum trace_annotation annotation, int64_t value);   // absent means 0
void event_known_text(struct event *event, enum trace_annotation annotation, enum trace_text value);
void event_text(struct event *event, enum trace_annotation annotation, const char *value);
int event_encode(struct event *event, struct byte_buffer *out);

int encode_preamble(struct byte_buffer *out, uint64_t process_track, const char *command);
// The track of a source, the index-th of the trace, and on it at `time_ns` the instant that describes it.
int encode_source(struct byte_buffer *out, uint64_t track, int32_t index, const struct sample_source *source,
                  int64_t time_ns);
int encode_counter_track(struct byte_buffer *out, uint64_t track, uint64_t parent, const char *name, const char *unit,
                         int32_t rank);
// A track of slices. rank orders it among its siblings.
int encode_track(struct byte_buffer *out, uint64_t track, uint64_t parent, const char *name, int32_t rank);
