// tests/mock/mock_cupti.h - a libcupti.so without a GPU: what a test makes it say.
//
// The library is built from mock_cupti.c and found through CUDA_HOME like the real one. A test gets these functions
// with dlsym from the same file. Work is "launched" by a call of the calling thread, which leaves the records that
// CUPTI would leave; what ran is told separately, so that a test decides order and times.
#pragma once

#include <stdint.h>

#include "cupti/cupti_api.h"

struct mock_cupti {
    void (*refuse)(int result, const char *other);         // what the next subscription is answered; 0: it succeeds
    void (*drop)(uint32_t n);                              // counts records as dropped
    // A call of a function of the runtime by this thread; returns its correlation id.
    uint32_t (*call)(uint32_t id, uint64_t start, uint64_t end);
    void (*record)(const void *record, size_t bytes);      // of a kind that is enabled; others are ignored
    void (*node)(uint32_t event, uint64_t node, uint64_t original);    // of a graph, by this thread
    void (*hold)(int what);                                // a flush completes no buffer: 1: that has calls
                                                           // or their tags; 2: at all; 3: that has tags
    void (*keep)(int calls, int flushes);                  // buffers of calls and tags, or else of the device, that
                                                           // are there now: that many flushes complete later ones first
    int (*enabled)(uint32_t kind);
    uint64_t (*now)(void);                                 // by the clock that was registered
    int (*subscriptions)(void);                            // so far
};
