// tui/listen.h - a running engine's samples for dashboards that attach: a Unix socket, for the same user only.
//
// The engine's thread puts samples into a feed and never waits; a thread of the listener's hands them to whoever is
// there. A dashboard that does not keep up is let go. Who comes late is told the sources and what became of the last
// requests first. What goes over the socket is this program's own memory layout: both ends must be the same build, and
// the first bytes say so.
#pragma once

#include <stdbool.h>

#include "engine/sample.h"

struct listener;

// Makes the socket; a file that is there already is taken over only if it is a socket that nobody listens on.
// -EADDRINUSE: somebody does; -EINVAL: no socket, or a path that is too long for one.
int listener_open(struct listener **out, const char *path);
void listener_close(struct listener *listener);    // sends what is left, removes the socket; NULL-safe
struct sample_sink listener_sink(struct listener *listener);

// The dashboard's end.
struct attachment;

// -EINVAL: nobody listens there, another user does, or another build.
int attachment_open(struct attachment **out, const char *path);
void attachment_close(struct attachment *attachment);    // NULL-safe
// Hands on what has come; returns the number of samples. A stream that ended stays so, and attachment_ended says it.
int64_t attachment_pump(struct attachment *attachment, const struct sample_sink *to);
bool attachment_ended(const struct attachment *attachment);
const struct sample_source *attachment_source(const struct attachment *attachment);    // the last one; NULL: none yet
int64_t attachment_dropped(const struct attachment *attachment);    // samples lost at the engine's side
