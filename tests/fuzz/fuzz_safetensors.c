// tests/fuzz/fuzz_safetensors.c - any bytes as a safetensors file: refused with a text, or tensors that tile its data.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/safetensors.h"
#include "engine/status.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

static void parse(const unsigned char *data, size_t size)
{
    struct safetensors table;
    int error = safetensors_parse(&table, data, (int64_t)size, "model.safetensors");
    if (error) {
        require((error == -EINVAL || error == -ENOMEM) && *status_text());
        require(table.n_tensors == 0 && table.tensors == NULL);
        return;
    }
    int64_t end = table.data_offset;
    for (int32_t i = 0; i < table.n_tensors; i++) {
        const struct safetensors_tensor *tensor = &table.tensors[i];
        require(table.data_offset + tensor->begin == end && end % dtype_bytes(tensor->dtype) == 0);
        require(tensor->bytes == (int64_t)tensor->n_rows * tensor->n_cols * dtype_bytes(tensor->dtype));
        require(tensor->bytes > 0 && *tensor->name);
        end += tensor->bytes;
    }
    require(end == (int64_t)size);
    safetensors_free(&table);
}

// The input as a whole file; and, so that a changed header is not always one of the wrong length, its last bytes as the
// header of a file with as much data as its first two bytes say.
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    parse(data, size);
    if (size < SAFETENSORS_LENGTH_BYTES) {
        return 0;
    }
    size_t length = size - SAFETENSORS_LENGTH_BYTES, data_bytes = (size_t)(data[0] | (data[1] & 15) << 8);
    unsigned char *file = calloc(1, SAFETENSORS_LENGTH_BYTES + length + data_bytes);
    if (!file) {
        return 0;
    }
    for (int i = 0; i < SAFETENSORS_LENGTH_BYTES; i++) {
        file[i] = (unsigned char)(length >> (8 * i));
    }
    memcpy(file + SAFETENSORS_LENGTH_BYTES, data + SAFETENSORS_LENGTH_BYTES, length);
    parse(file, SAFETENSORS_LENGTH_BYTES + length + data_bytes);
    free(file);
    return 0;
}
