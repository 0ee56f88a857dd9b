// tests/model_folder.h - a folder for models that are written, damaged and opened.
#pragma once

#include "engine/model_file.h"

extern char place[];    // the folder, once main() has called mkdtemp(place)
const char *path_of(const char *name);    // of something in it; good for four calls
void clear_folder(const char *path);      // and everything below it
int items_in(const char *path);

// Ends the program where there is nothing to read. The text is the caller's to free.
char *slurp(const char *path, size_t *length);
void spill(const char *path, const void *data, size_t length);

// model_file_write's arguments one by one.
int write_random(const char *folder, const struct model_shape *shape, enum dtype weight_dtype, uint64_t seed,
                 const struct plan *const *plans, int32_t n_plans, int64_t max_shard_bytes);
struct model_file *open_model(const char *folder);    // ends the program where that fails

void check_text(const char *words);    // that every one of them, separated by '|', is in the text of the last error
