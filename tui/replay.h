// tui/replay.h - a trace file played like a running engine: its samples handed on when their time has come.
//
// The whole file is held in memory, ordered by when its samples were known. Time is an argument: the player has its own
// clock, which runs `speed` times as fast as the caller's and stands while paused. The file's samples keep their times.
#pragma once

#include "engine/sample.h"

struct replay;

// speed 0: everything at once. -EINVAL as trace_read; a file cut in its middle plays to there, and `cut` says so.
int replay_open(struct replay **out, const char *path, double speed);
void replay_close(struct replay *replay);    // NULL-safe
bool replay_cut(const struct replay *replay);
const struct sample_source *replay_first_source(const struct replay *replay);    // NULL: none; borrowed until close

// Hands on what became due between the last call and now, at most `max` samples; returns their number.
int64_t replay_advance(struct replay *replay, int64_t now_ns, int64_t max, const struct sample_sink *to);

// Hands on everything that is left, whatever the time.
int64_t replay_all(struct replay *replay, const struct sample_sink *to);

void replay_pause(struct replay *replay, bool pause);
int64_t replay_step(struct replay *replay, const struct sample_sink *to);    // up to and with the next step's end
double replay_part(const struct replay *replay);                             // what was handed on, [0, 1]
