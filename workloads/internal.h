// workloads/internal.h - what the files of this room share. Not a public header.
#pragma once

#include "workloads/workload.h"

// Appends a request; *capacity belongs to the caller and begins at 0.
int workload_append(struct workload *workload, int64_t *capacity, const struct workload_request *request);

// Readers. `text` ends with a 0; lines are cut in place.
int workload_read_mooncake(struct workload *out, char *text, const char *where);
int workload_read_csv(struct workload *out, char *text, const char *where);
// Our own description.
int workload_describe(struct workload *out, const char *text, size_t length, const char *where,
                      const struct workload_options *options);

uint64_t workload_mix(uint64_t z);    // bits of z, well mixed; one to one
