// traces/import_events.h - what a Chrome trace of PyTorch's profiler holds that is of use, as arrays.
//
// Kineto's categories in both spellings: kernel, gpu_memcpy, gpu_memset, cuda_runtime and cuda_driver (calls that
// enqueue work), user_annotation and gpu_user_annotation; everything else is counted only. Times are nanoseconds from
// the earliest of these events on. Private to this room.
#pragma once

#include <stddef.h>

#include "engine/sample.h"
#include "traces/intern_table.h"

struct import_work {
    enum device_work work;
    int32_t name;                   // index into names
    int32_t device, context, stream;
    uint32_t correlation;           // 0: none
    int32_t grid[3], block[3], registers, shared_bytes;
    int64_t bytes;
    int64_t begin_ns, duration_ns;
};

struct import_launch {
    int32_t name, thread;
    uint32_t correlation;
    int64_t begin_ns, duration_ns;
};

struct import_annotation {
    int32_t name;
    bool on_device;
    int32_t device;                 // where it is on one
    int64_t begin_ns, duration_ns;
};

struct import_events {
    struct intern_table names;
    struct import_work *works;              // [n_works], by begin
    struct import_launch *launches;         // [n_launches], by correlation
    struct import_annotation *annotations;  // [n_annotations], by begin
    int64_t n_works, n_launches, n_annotations;
    int64_t works_capacity, launches_capacity, annotations_capacity;
    char devices[16][SOURCE_NAME_BYTES];    // what the file says of devices by number; "" where it does not
    int64_t n_events;                       // all that the file holds
    int64_t n_other;                        // of no use here: operators, Python's functions, flows, ...
    int64_t n_invalid;                      // of use, but without a time, or before their begin
};

// Reads a file, plain or gzipped. -EINVAL as of traces/import_json.h; -ENOMEM. *out is the caller's, also on failure.
int import_events_read(struct import_events *out, int fd, const char *name);
void import_events_free(struct import_events *events);
