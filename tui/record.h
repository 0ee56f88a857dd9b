// tui/record.h - a stream on its way to the screen, written to a trace as well while that is wanted.
//
// A sink before another. Recording begins and ends between two steps, so that every step in the file is whole; sources
// that were announced before are announced in the file too.
#pragma once

#include "engine/sample.h"

struct recorder;

int recorder_open(struct recorder **out, const struct sample_sink *to);    // -ENOMEM
int recorder_close(struct recorder *recorder);         // ends the file; its first failure. NULL-safe
struct sample_sink recorder_sink(struct recorder *recorder);

int recorder_start(struct recorder *recorder, const char *path);
int recorder_stop(struct recorder *recorder);          // once the step that is under way has ended
// The last half minute, recorded or not, as a trace of its own.
int recorder_dump(struct recorder *recorder, const char *path);
bool recorder_active(const struct recorder *recorder);
