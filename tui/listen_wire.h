// tui/listen_wire.h - what both ends of the socket agree on: a greeting, then events; a source follows its event.
#pragma once

#include <stddef.h>
#include <sys/un.h>

#include "tui/event.h"

enum { WIRE_PATH_BYTES = sizeof ((struct sockaddr_un *)NULL)->sun_path };

// An event of this kind tells how many samples were lost so far, in of.source.
enum { WIRE_DROPPED = EVENT_GAUGE + 1 };

struct wire_greeting {
    char magic[8];
    uint32_t event_bytes, source_bytes, stages, version;
};

struct wire_greeting wire_greeting(void);
int wire_address(struct sockaddr_un *address, const char *path);    // -EINVAL: too long
