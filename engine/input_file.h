// engine/input_file.h - opening and reading the files that a user names.
//
// A name that leads nowhere, to something that is no regular file or to what may not be read is wrong input (-EINVAL);
// what the machine then cannot do (I/O, memory) is its errno. Both with the path in the text.
#pragma once

#include <stddef.h>
#include <stdint.h>

// The status that belongs to `error`, an errno from opening what a user named, to read or to write.
int input_file_error(int error);

// Opens a regular file for reading. *descriptor is the caller's to close; -1 on failure.
int input_file_open(int *descriptor, int64_t *bytes, const char *path);

// Reads a whole file of at most max_bytes. *out is owned by the caller, free with free(); text[length] is 0. NULL on
// failure.
int input_file_read(char **out, size_t *length, const char *path, int64_t max_bytes);
