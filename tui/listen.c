// tui/listen.c - the engine's side of the socket.
#include "tui/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/status.h"
#include "tui/feed.h"
#include "tui/listen_wire.h"

enum {
    FEED_EVENTS = 1 << 16,
    CLIENTS = 4,
    SOURCES = 64,                  // the recent ones, for who comes late
    REQUESTS = 256,                // likewise: what became of requests
    BUFFER_BYTES = 1 << 20,        // written at once
    BEHIND_MS = 2000,              // a client that takes nothing for so long is let go
    PERIOD_MS = 50
};

struct listener {
    char path[WIRE_PATH_BYTES];
    int fd;
    int clients[CLIENTS];          // -1: none
    pthread_t thread;
    bool started;
    atomic_bool stop;
    struct feed *feed;
    struct sample_source sources[SOURCES];
    int64_t n_sources;
    struct request_sample requests[REQUESTS];
    int64_t n_requests;
    int64_t told_dropped;
    unsigned char *buffer;         // [BUFFER_BYTES] what goes to all, owned
    size_t used;
};

static void let_go(struct listener *listener, int32_t client)
{
    close(listener->clients[client]);
    listener->clients[client] = -1;
}

// All of it, or the client is let go.
static void send_all(struct listener *listener, int32_t client, const void *bytes, size_t n)
{
    const unsigned char *at = bytes;
    while (n > 0 && listener->clients[client] >= 0) {
        ssize_t sent = send(listener->clients[client], at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            at += sent;
            n -= (size_t)sent;
            continue;
        }
        struct pollfd ready = {.fd = listener->clients[client], .events = POLLOUT};
        if ((errno != EAGAIN && errno != EINTR) || poll(&ready, 1, BEHIND_MS) <= 0) {
            let_go(listener, client);
        }
    }
}

static void flush(struct listener *listener)
{
    for (int32_t i = 0; i < CLIENTS; i++) {
        send_all(listener, i, listener->buffer, listener->used);
    }
    listener->used = 0;
}

static void put(struct listener *listener, const struct event *event, const struct sample_source *source)
{
    size_t n = sizeof *event + (source ? sizeof *source : 0);
    if (listener->used + n > BUFFER_BYTES) {
        flush(listener);
    }
    memcpy(listener->buffer + listener->used, event, sizeof *event);
    if (source) {
        memcpy(listener->buffer + listener->used + sizeof *event, source, sizeof *source);
    }
    listener->used += n;
}

static void on_source(void *user, const struct sample_source *source)
{
    struct listener *listener = user;
    listener->sources[listener->n_sources++ % SOURCES] = *source;
    put(listener, &(struct event){.kind = EVENT_SOURCE}, source);
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    put(user, &(struct event){.kind = EVENT_STAGE, .of.stage = *sample}, NULL);
}

static void on_step(void *user, const struct step_sample *sample)
{
    put(user, &(struct event){.kind = EVENT_STEP, .of.step = *sample}, NULL);
}

static void on_request(void *user, const struct request_sample *sample)
{
    struct listener *listener = user;
    listener->requests[listener->n_requests++ % REQUESTS] = *sample;
    put(user, &(struct event){.kind = EVENT_REQUEST, .of.request = *sample}, NULL);
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    put(user, &(struct event){.kind = EVENT_COUNTER, .of.counter = *sample}, NULL);
}

// A place for a client of the same user, who is greeted and told the sources.
static void take_client(struct listener *listener)
{
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    int32_t place = 0;
    while (place < CLIENTS && listener->clients[place] >= 0) {
        place++;
    }
    if (fd < 0) {
        return;
    }
    if (place == CLIENTS || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 || peer.uid != geteuid()) {
        close(fd);
        return;
    }
    struct wire_greeting greeting = wire_greeting();
    listener->clients[place] = fd;
    send_all(listener, place, &greeting, sizeof greeting);
    int64_t first = listener->n_sources > SOURCES ? listener->n_sources - SOURCES : 0;
    for (int64_t i = first; i < listener->n_sources; i++) {
        struct event event = {.kind = EVENT_SOURCE};
        send_all(listener, place, &event, sizeof event);
        send_all(listener, place, &listener->sources[i % SOURCES], sizeof listener->sources[0]);
    }
    first = listener->n_requests > REQUESTS ? listener->n_requests - REQUESTS : 0;
    for (int64_t i = first; i < listener->n_requests; i++) {
        struct event event = {.kind = EVENT_REQUEST, .of.request = listener->requests[i % REQUESTS]};
        send_all(listener, place, &event, sizeof event);
    }
}

static void *serve(void *user)
{
    struct listener *listener = user;
    struct sample_sink sink = {.user = listener, .source = on_source, .stage = on_stage, .step = on_step,
                               .request = on_request, .counter = on_counter};
    for (bool last = false; !last;) {
        struct pollfd incoming = {.fd = listener->fd, .events = POLLIN};
        last = atomic_load(&listener->stop);    // read first: what was put in before is sent below
        if (!last && poll(&incoming, 1, PERIOD_MS) > 0) {
            take_client(listener);
        }
        feed_drain(listener->feed, &sink);
        int64_t dropped = feed_dropped(listener->feed);
        if (dropped != listener->told_dropped) {
            put(listener, &(struct event){.kind = (enum event_kind)WIRE_DROPPED, .of.source = dropped}, NULL);
            listener->told_dropped = dropped;
        }
        flush(listener);
    }
    return NULL;
}

// Binds the socket, where a dead one may be in the way.
static int bind_socket(struct listener *listener)
{
    struct sockaddr_un address;
    struct stat info;
    int error = wire_address(&address, listener->path);
    if (error) {
        return error;
    }
    if (lstat(listener->path, &info) == 0) {
        int probe = S_ISSOCK(info.st_mode) ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
        bool alive = probe >= 0 && connect(probe, (struct sockaddr *)&address, sizeof address) == 0;
        if (probe >= 0) {
            close(probe);
        }
        if (!S_ISSOCK(info.st_mode) || alive) {
            return status_fail(alive ? -EADDRINUSE : -EINVAL, "%s: %s", listener->path,
                               alive ? "somebody listens there already" : "there is a file, and it is no socket");
        }
        unlink(listener->path);
    }
    mode_t before = umask(0077);
    bool bound = bind(listener->fd, (struct sockaddr *)&address, sizeof address) == 0;
    int why = errno;
    umask(before);
    if (!bound || listen(listener->fd, CLIENTS) != 0) {
        return status_fail(bound ? -errno : -why, "%s: %s", listener->path, strerror(bound ? errno : why));
    }
    return 0;
}

int listener_open(struct listener **out, const char *path)
{
    *out = NULL;
    struct listener *listener = calloc(1, sizeof *listener);
    if (!listener) {
        return status_fail(-ENOMEM, "out of memory for a listener");
    }
    for (int32_t i = 0; i < CLIENTS; i++) {
        listener->clients[i] = -1;
    }
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    listener->buffer = malloc(BUFFER_BYTES);
    int error = listener->fd < 0 || !listener->buffer ? status_fail(-ENOMEM, "%s: no socket or no memory", path) : 0;
    error = error ? error : feed_open(&listener->feed, FEED_EVENTS);
    if (!error) {
        snprintf(listener->path, sizeof listener->path, "%s", path);
        error = strlen(path) < sizeof listener->path ? bind_socket(listener)
                                                     : status_fail(-EINVAL, "%s: too long for a socket", path);
    }
    if (error) {
        listener->path[0] = 0;    // not ours to remove
    } else if ((error = pthread_create(&listener->thread, NULL, serve, listener)) != 0) {
        error = status_fail(-error, "the listener's thread cannot be started: %s", strerror(error));
    } else {
        listener->started = true;
    }
    if (error) {
        listener_close(listener);
        return error;
    }
    *out = listener;
    return 0;
}

void listener_close(struct listener *listener)
{
    if (!listener) {
        return;
    }
    if (listener->started) {
        atomic_store(&listener->stop, true);
        pthread_join(listener->thread, NULL);
    }
    for (int32_t i = 0; i < CLIENTS; i++) {
        if (listener->clients[i] >= 0) {
            let_go(listener, i);
        }
    }
    if (listener->fd >= 0) {
        close(listener->fd);
    }
    if (listener->path[0]) {
        unlink(listener->path);
    }
    feed_close(listener->feed);
    free(listener->buffer);
    free(listener);
}

struct sample_sink listener_sink(struct listener *listener)
{
    return feed_sink(listener->feed);
}
