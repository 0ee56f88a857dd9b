// traces/trace_encode_device.h - packets of work on devices, of hardware counters and of losses. Private to the writer.
//
// Names are interned in packets of their own, before the first event that uses them.
#pragma once

#include "traces/trace_encode.h"

// The numbers under which a piece of work's names were interned.
struct kernel_iids {
    uint64_t event;        // what launches point at
    uint64_t name, kernel, queue, stage;
};

int encode_gpu_info(struct byte_buffer *out, int32_t device, const char *name);
int encode_context_name(struct byte_buffer *out, int32_t context);
int encode_specification(struct byte_buffer *out, uint64_t iid, const char *name, const char *description,
                         bool compute);
int encode_kernel_name(struct byte_buffer *out, uint64_t iid, const struct kernel_sample *sample);
int encode_event_name(struct byte_buffer *out, uint64_t iid, const char *name);
int encode_kernel(struct byte_buffer *out, const struct kernel_iids *iids, const struct kernel_sample *sample);

// A gauge's name and number, and a reading of it.
int encode_gauge_name(struct byte_buffer *out, uint64_t iid, const struct gauge_sample *sample);
int encode_gauge(struct byte_buffer *out, uint64_t iid, const struct gauge_sample *sample);

// On the sequence of losses; `first`: the first packet there.
int encode_loss(struct byte_buffer *out, uint64_t track, bool first, const struct loss_sample *sample);

// Lets a host's slice point at the work that it enqueued. `correlation` and `id` live until event_encode.
void event_correlate(struct event *event, Perfetto__Protos__GpuCorrelation *correlation, uint64_t *id);
