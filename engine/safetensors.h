// engine/safetensors.h - the header of one safetensors file: read with suspicion, written to be mapped.
//
// A file is 8 bytes (little-endian length of the header), a JSON header, and the data of the tensors. Everything a
// header claims is checked before anyone follows it: lengths, JSON, dtypes (F32, BF16), shapes, and that the tensors
// tile the data exactly, each aligned to its elements. Bytes in, table out: no files, no tensor data is touched.
#pragma once

#include <stdint.h>

#include "engine/dtype.h"

enum { SAFETENSORS_LENGTH_BYTES = 8, SAFETENSORS_MAX_HEADER_BYTES = 100 * 1000 * 1000 };

struct safetensors_tensor {
    char *name;               // owned by the table; no control characters
    enum dtype dtype;         // f32 | bf16
    int32_t n_dims;           // 1 or 2
    int32_t n_rows, n_cols;   // one dimension: n_rows == 1
    int64_t begin, bytes;     // within the data
};

struct safetensors {
    int64_t data_offset;                  // of the data in the file
    int32_t n_tensors;
    struct safetensors_tensor *tensors;   // [n_tensors] ascending by begin, owned
};

// Parses the head of a file of which all `file_bytes` are in memory at `file`. `where` names it in errors. -EINVAL with
// file, tensor and fix; *out is then empty.
int safetensors_parse(struct safetensors *out, const void *file, int64_t file_bytes, const char *where);
void safetensors_free(struct safetensors *table);    // harmless when empty

// The length and the header of a file that holds `tensors` [n] in this order, padded so that the data begins at a
// multiple of 64. Fills in `begin` and `bytes` of each. *out is owned by the caller, free with free(). -ENOMEM; -EINVAL
// if the header would be too large.
int safetensors_header(char **out, int64_t *out_bytes, struct safetensors_tensor *tensors, int32_t n);
