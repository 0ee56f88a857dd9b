// tests/fuzz/fuzz_safetensors.c - any bytes as a safetensors file: refused with a text, or tensors that tile its data.
#include <errno.h>
#include <stdlib.h>

#include "engine/safetensors.h"
#include "engine/status.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct safetensors table;
    int error = safetensors_parse(&table, data, (int64_t)size, "model.safetensors");
    if (error) {
        require((error == -EINVAL || error == -ENOMEM) && *status_text());
        require(table.n_tensors == 0 && table.tensors == NULL);
        return 0;
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
    return 0;
}
