// tests/bench/pty.h - a program on a pseudo-terminal that nobody looks at: keys in, and when something was drawn.
//
// A thread of its own takes what the program draws as soon as it comes, so that drawing never waits for the measurer.
// What is drawn is not interpreted: a frame is what comes until nothing has come for a few milliseconds.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pty;

// Starts argv (ends with NULL; argv[0] is a path) with TERM=xterm-256color. NULL on failure, which stderr tells.
struct pty *pty_open(char *const argv[], int32_t rows, int32_t cols);
// Asks for the end by `q`, waits for it, and kills what does not end. Returns the exit status, 128 + signal, or -1.
// NULL-safe.
int pty_close(struct pty *pty);
pid_t pty_pid(const struct pty *pty);

double pty_now_s(void);              // CLOCK_MONOTONIC

// Writes the keys; what is drawn from now on counts for pty_drawn.
void pty_send(struct pty *pty, const char *keys);

// Waits for the end of a frame that was drawn since the last pty_send (or pty_open) and holds `text` (NULL: any), in
// one piece and without changes of colour within. Returns when its last byte came; negative where none did in time.
double pty_drawn(struct pty *pty, const char *text, double timeout_s);

int64_t pty_frames(struct pty *pty);    // since pty_open: how often something was drawn after a pause

// CPU time in seconds that the process has used so far: its main thread, or all of them. Negative if it is gone.
double pty_cpu_s(const struct pty *pty, bool main_thread_only);
