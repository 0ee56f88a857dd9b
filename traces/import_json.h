// traces/import_json.h - the events of a Chrome trace, one by one, from a file of any size.
//
// Reads {"traceEvents": [...], ...} and the bare array, plain or gzipped, without holding more than one event. The
// other members of the object are handed over whole where they are small (what Kineto says of devices), else skipped.
// Private to this room and to the fuzzer.
#pragma once

#include <jansson.h>
#include <stdint.h>

enum {
    IMPORT_MAX_EVENT_BYTES = 1 << 22,     // of one event's text; longer ones are an error: nothing of use is that long
    IMPORT_MAX_MEMBER_BYTES = 1 << 20,    // of another member's; longer ones are skipped
};

struct import_json {
    const char *name;    // of the file, for messages
    void *user;
    int (*event)(void *user, const json_t *event);                       // an error ends the reading
    int (*member)(void *user, const char *key, const json_t *value);
};

// From a descriptor, which is closed. -EINVAL names the file, the byte (unpacked) and what was expected there; a file
// that ends within its events is such an error, after all whole events were handed over.
int import_json_read(const struct import_json *reader, int fd);
