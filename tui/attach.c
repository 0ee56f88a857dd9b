// tui/attach.c - the dashboard's side of the socket, and what both sides agree on.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/status.h"
#include "tui/listen.h"
#include "tui/listen_wire.h"

enum { BUFFER_BYTES = 1 << 20, GREETING_MS = 2000, PUMP_BYTES = 1 << 25 };    // per pump: keys stay alive

struct attachment {
    int fd;
    bool ended;
    int64_t dropped;
    struct sample_source source;    // the last one
    bool has_source;
    unsigned char *buffer;     // [BUFFER_BYTES], owned
    size_t used;
};

struct wire_greeting wire_greeting(void)
{
    return (struct wire_greeting){.magic = "clsatop", .event_bytes = sizeof(struct event),
                                  .source_bytes = sizeof(struct sample_source), .stages = STAGE_COUNT, .version = 2};
}

int wire_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) {
        return status_fail(-EINVAL, "%s: too long for a socket", path);
    }
    strcpy(address->sun_path, path);
    return 0;
}

static int greet(struct attachment *attachment, const char *path)
{
    struct wire_greeting expected = wire_greeting(), got;
    size_t n = 0;
    while (n < sizeof got) {
        struct pollfd ready = {.fd = attachment->fd, .events = POLLIN};
        ssize_t more = poll(&ready, 1, GREETING_MS) > 0
                           ? recv(attachment->fd, (char *)&got + n, sizeof got - n, 0) : 0;
        if (more <= 0) {
            return status_fail(-EINVAL, "%s: whoever listens there does not answer as clsa does", path);
        }
        n += (size_t)more;
    }
    return memcmp(&expected, &got, sizeof got) == 0
               ? 0 : status_fail(-EINVAL, "%s: another build of clsa listens there", path);
}

int attachment_open(struct attachment **out, const char *path)
{
    struct sockaddr_un address;
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    *out = NULL;
    int error = wire_address(&address, path);
    struct attachment *attachment = calloc(1, sizeof *attachment);
    if (!attachment) {
        return status_fail(-ENOMEM, "out of memory for an attachment");
    }
    attachment->buffer = malloc(BUFFER_BYTES);
    attachment->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!error && (!attachment->buffer || attachment->fd < 0)) {
        error = status_fail(-ENOMEM, "%s: no socket or no memory", path);
    }
    if (!error && connect(attachment->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        error = status_fail(-EINVAL, "%s: %s; clsa run --listen %s would listen there", path, strerror(errno), path);
    }
    if (!error && (getsockopt(attachment->fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 ||
                   peer.uid != geteuid())) {
        error = status_fail(-EINVAL, "%s: another user listens there", path);
    }
    error = error ? error : greet(attachment, path);
    if (error) {
        attachment_close(attachment);
        return error;
    }
    *out = attachment;
    return 0;
}

void attachment_close(struct attachment *attachment)
{
    if (attachment) {
        if (attachment->fd >= 0) {
            close(attachment->fd);
        }
        free(attachment->buffer);
        free(attachment);
    }
}

// Hands on the whole records of the buffer and keeps the rest.
static int64_t deliver(struct attachment *attachment, const struct sample_sink *to)
{
    size_t at = 0;
    int64_t n = 0;
    for (;;) {
        struct event event;
        struct sample_source source;
        if (attachment->used - at < sizeof event) {
            break;
        }
        memcpy(&event, attachment->buffer + at, sizeof event);
        size_t record = sizeof event + (event.kind == EVENT_SOURCE ? sizeof source : 0);
        if (attachment->used - at < record) {
            break;
        }
        if (event.kind == EVENT_SOURCE) {
            memcpy(&source, attachment->buffer + at + sizeof event, sizeof source);
            source.device[SOURCE_NAME_BYTES - 1] = source.backend[SOURCE_NAME_BYTES - 1] = 0;
            attachment->source = source;
            attachment->has_source = true;
        }
        at += record;
        if ((int)event.kind == WIRE_DROPPED) {
            attachment->dropped = event.of.source;
        } else if ((unsigned)event.kind <= EVENT_COUNTER) {
            event_deliver(&event, &source, to);
            n++;
        } else {
            attachment->ended = true;    // not what clsa sends
        }
    }
    memmove(attachment->buffer, attachment->buffer + at, attachment->used - at);
    attachment->used -= at;
    return n;
}

int64_t attachment_pump(struct attachment *attachment, const struct sample_sink *to)
{
    int64_t n = 0;
    for (size_t taken = 0; taken < PUMP_BYTES && !attachment->ended;) {
        ssize_t more = recv(attachment->fd, attachment->buffer + attachment->used, BUFFER_BYTES - attachment->used,
                            MSG_DONTWAIT);
        if (more < 0 && (errno == EAGAIN || errno == EINTR)) {
            break;
        }
        if (more <= 0) {
            attachment->ended = true;
            break;
        }
        attachment->used += (size_t)more;
        taken += (size_t)more;
        n += deliver(attachment, to);
    }
    return n;
}

bool attachment_ended(const struct attachment *attachment)
{
    return attachment->ended;
}

const struct sample_source *attachment_source(const struct attachment *attachment)
{
    return attachment->has_source ? &attachment->source : NULL;
}

int64_t attachment_dropped(const struct attachment *attachment)
{
    return attachment->dropped;
}
