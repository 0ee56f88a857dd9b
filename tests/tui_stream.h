// tests/tui_stream.h - a made-up stream of samples, the same on every machine: what the dashboard's tests look at.
#pragma once

#include "engine/sample.h"
#include "sim/device.h"

// Three methods, one after the other: each prefills a prompt in chunks and decodes. Every figure follows from `seed`.
struct stream_options {
    uint64_t seed;
    int32_t decode_steps, prefill_steps, requests;    // per method
};

void tui_stream(const struct sample_sink *sink, const struct stream_options *options);

// A device with round figures: 100 GB/s, 1 TFLOP/s.
struct device tui_stream_device(void);
