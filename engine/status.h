// engine/status.h - the error convention of every room.
//
// Functions return 0 or a negative errno. -EINVAL means that what the user gave is wrong (a flag, a file, its
// contents: exit status 2); anything else means that the machine could not do it (exit status 1). The text says why in
// words: the file, the place and the fix. It belongs to the calling thread and stays until that thread's next failure.
// Libraries never print and never exit.
#pragma once

// Stores the text and returns `error`, so that a failure is one line: return status_fail(-EINVAL, "...", ...).
__attribute__((format(printf, 2, 3))) int status_fail(int error, const char *format, ...);

// Puts words before the current text ("model.safetensors: " + text). Returns `error` unchanged.
__attribute__((format(printf, 2, 3))) int status_prefix(int error, const char *format, ...);

// The text of this thread's last failure; never NULL, "" if there was none.
const char *status_text(void);
