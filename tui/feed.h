// tui/feed.h - the stream from the engine's thread to the screen's: a ring that never makes the engine wait.
//
// One producer (the sink, on the engine's thread) and one consumer (drain, on the screen's) share the ring without a
// lock. When it is full, samples are dropped and counted. Once a stage is lost, the rest of its step is dropped too, so
// that a step arrives whole or not at all and its sum stays true; part of the ring is kept free for the rare samples
// (sources, requests, counters). Sources keep their place in the stream. No clock, no I/O.
#pragma once

#include "engine/sample.h"

struct feed;

// `capacity` is rounded up to a power of two, at least 64. *out is NULL on failure.
int feed_open(struct feed **out, int32_t capacity);
void feed_close(struct feed *feed);    // NULL-safe; both threads must be done with it

// The producer's end. Its slots return at once, whatever the consumer does.
struct sample_sink feed_sink(struct feed *feed);

// The consumer's end: hands over what is there, in order. Returns the number of events.
int64_t feed_drain(struct feed *feed, const struct sample_sink *to);

// Samples lost so far, those included that the collector says it lost. Any thread.
int64_t feed_dropped(const struct feed *feed);
