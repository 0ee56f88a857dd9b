// engine/output_file.h - files that appear whole or not at all.
//
// Bytes go to a file of another name beside the final one, which commit syncs and renames. Killed at any moment, the
// final path holds what it held before. What is there and no regular file, a pipe or a device, cannot be renamed over:
// it is written in place. Used by every writer of files.
#pragma once

#include <stdint.h>
#include <stdio.h>

struct output_file {
    FILE *stream;          // write here; NULL when not open
    char *path, *part;     // owned; part is NULL where path is written in place
};

// Opens `path`.part-PID for writing. A folder that is missing or read-only, a directory in the file's place or an empty
// name is a negative errno with the path in the text.
int output_file_open(struct output_file *file, const char *path);

// Whether `path` could be written, before the work whose result it is to hold. Leaves nothing behind; what is there
// stays. Errors as above, and for a file that may not be written.
int output_file_check(const char *path);

// Flushes, syncs and renames. On any failure since open (a full disk) the part is removed and the errno returned.
int output_file_commit(struct output_file *file);

// Removes the part. Harmless when not open or already committed.
void output_file_abandon(struct output_file *file);
