// engine/safetensors.c - parsing and making the header.
#include "engine/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"

enum { NAME_SHOWN = 80 };    // names come from the file and may be of any length

static const char *const stored_names[DTYPE_COUNT] = {[DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16"};

static int fail(const char *where, const char *name, const char *problem)
{
    return status_fail(-EINVAL, "%s: tensor %.*s: %s", where, NAME_SHOWN, name, problem);
}

// Names reach the terminal in tables and errors.
static bool printable(const char *name)
{
    for (const char *c = name; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 127) {
            return false;
        }
    }
    return *name != 0;
}

static int parse_dtype(struct safetensors_tensor *tensor, const json_t *object, const char *where)
{
    const char *dtype = json_string_value(json_object_get(object, "dtype"));
    for (int i = 0; dtype && i < DTYPE_COUNT; i++) {
        if (stored_names[i] && strcmp(dtype, stored_names[i]) == 0) {
            tensor->dtype = (enum dtype)i;
            return 0;
        }
    }
    return status_fail(-EINVAL, "%s: tensor %.*s: dtype is %.16s; expected F32 or BF16: convert the model", where,
                       NAME_SHOWN, tensor->name, dtype ? dtype : "missing");
}

static int parse_shape(struct safetensors_tensor *tensor, const json_t *object, const char *where)
{
    const json_t *shape = json_object_get(object, "shape");
    size_t n = json_array_size(shape);
    if (n != 1 && n != 2) {
        return fail(where, tensor->name, "\"shape\" must list one or two sizes");
    }
    int32_t sizes[2] = {1, 1};
    for (size_t i = 0; i < n; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 1 || json_integer_value(size) > INT32_MAX) {
            return fail(where, tensor->name, "each size in \"shape\" must be a whole number from 1 to 2147483647");
        }
        sizes[2 - n + i] = (int32_t)json_integer_value(size);
    }
    tensor->n_dims = (int32_t)n;
    tensor->n_rows = sizes[0];
    tensor->n_cols = sizes[1];
    return 0;
}

static int parse_offsets(struct safetensors_tensor *tensor, const json_t *object, int64_t data_offset,
                         int64_t data_bytes, const char *where)
{
    const json_t *offsets = json_object_get(object, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        return fail(where, tensor->name, "\"data_offsets\" must be two whole numbers");
    }
    int64_t from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from || to > data_bytes) {
        return status_fail(-EINVAL,
                           "%s: tensor %.*s: data_offsets [%" PRId64 ", %" PRId64 "] leave the %" PRId64
                           " bytes of data: the file is truncated or corrupt; copy it again",
                           where, NAME_SHOWN, tensor->name, from, to, data_bytes);
    }
    // Two sizes below 2^31 and 4 bytes each: below 2^64, but not below 2^63.
    int64_t bytes;
    if (__builtin_mul_overflow((int64_t)tensor->n_rows * tensor->n_cols, dtype_bytes(tensor->dtype), &bytes) ||
        to - from != bytes) {
        return status_fail(-EINVAL,
                           "%s: tensor %.*s: %s [%d, %d] does not fill data_offsets [%" PRId64 ", %" PRId64
                           "]: the file is corrupt; copy it again",
                           where, NAME_SHOWN, tensor->name, stored_names[tensor->dtype], tensor->n_rows, tensor->n_cols,
                           from, to);
    }
    if ((data_offset + from) % dtype_bytes(tensor->dtype) != 0) {
        return fail(where, tensor->name, "its data is not aligned to its elements: save the model again");
    }
    tensor->begin = from;
    tensor->bytes = bytes;
    return 0;
}

static int parse_tensor(struct safetensors_tensor *tensor, const char *name, const json_t *object, int64_t data_offset,
                        int64_t data_bytes, const char *where)
{
    if (!printable(name)) {
        return status_fail(-EINVAL, "%s: a tensor's name is empty or has control characters", where);
    }
    if (!json_is_object(object)) {
        return fail(where, name, "expected an object with dtype, shape and data_offsets");
    }
    tensor->name = strdup(name);
    if (!tensor->name) {
        return status_fail(-ENOMEM, "%s: out of memory", where);
    }
    int error = parse_dtype(tensor, object, where);
    error = error ? error : parse_shape(tensor, object, where);
    return error ? error : parse_offsets(tensor, object, data_offset, data_bytes, where);
}

static int compare_begin(const void *a, const void *b)
{
    const struct safetensors_tensor *left = a, *right = b;
    return left->begin < right->begin ? -1 : left->begin > right->begin;
}

// The format allows neither overlap nor holes.
static int check_tiling(const struct safetensors *table, int64_t data_bytes, const char *where)
{
    int64_t end = 0;
    for (int32_t i = 0; i < table->n_tensors; i++) {
        const struct safetensors_tensor *tensor = &table->tensors[i];
        if (tensor->begin != end) {
            return fail(where, tensor->name,
                        tensor->begin < end ? "its data overlaps another tensor's: the file is corrupt; copy it again"
                                            : "bytes before its data belong to no tensor: the file is corrupt");
        }
        end += tensor->bytes;
    }
    if (end != data_bytes) {
        return status_fail(-EINVAL, "%s: %" PRId64 " bytes at its end belong to no tensor: the file is corrupt", where,
                           data_bytes - end);
    }
    return 0;
}

static int parse_table(struct safetensors *out, const json_t *root, int64_t data_bytes, const char *where)
{
    // The cast only lets the object be walked; nothing is changed.
    json_t *walked = (json_t *)(uintptr_t)root;
    const char *name;
    json_t *value;
    out->tensors = calloc(json_object_size(root) + 1, sizeof *out->tensors);
    if (!out->tensors) {
        return status_fail(-ENOMEM, "%s: out of memory for its %zu tensors", where, json_object_size(root));
    }
    json_object_foreach(walked, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(value)) {
                return status_fail(-EINVAL, "%s: \"__metadata__\" is not an object", where);
            }
            continue;
        }
        struct safetensors_tensor *tensor = &out->tensors[out->n_tensors++];
        int error = parse_tensor(tensor, name, value, out->data_offset, data_bytes, where);
        if (error) {
            return error;
        }
    }
    qsort(out->tensors, (size_t)out->n_tensors, sizeof *out->tensors, compare_begin);
    return check_tiling(out, data_bytes, where);
}

int safetensors_parse(struct safetensors *out, const void *file, int64_t file_bytes, const char *where)
{
    const unsigned char *bytes = file;
    *out = (struct safetensors){0};
    if (file_bytes < SAFETENSORS_LENGTH_BYTES) {
        return status_fail(-EINVAL, "%s: %" PRId64 " bytes are no safetensors file: it is truncated; copy it again",
                           where, file_bytes);
    }
    uint64_t length = 0;
    for (int i = SAFETENSORS_LENGTH_BYTES - 1; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    if (length > SAFETENSORS_MAX_HEADER_BYTES) {
        return status_fail(-EINVAL, "%s: its header claims %" PRIu64 " bytes, at most %d are allowed: this is no "
                           "safetensors file", where, length, SAFETENSORS_MAX_HEADER_BYTES);
    }
    if ((int64_t)length > file_bytes - SAFETENSORS_LENGTH_BYTES) {
        return status_fail(-EINVAL,
                           "%s: its header claims %" PRIu64 " bytes, the file has %" PRId64
                           ": it is truncated; copy it again",
                           where, length, file_bytes);
    }
    json_error_t problem;
    json_t *root = json_loadb((const char *)bytes + SAFETENSORS_LENGTH_BYTES, (size_t)length, JSON_REJECT_DUPLICATES,
                              &problem);
    if (!root) {
        return status_fail(-EINVAL, "%s: byte %d of its header: %s", where, problem.position, problem.text);
    }
    int error = 0;
    if (json_is_object(root)) {
        out->data_offset = SAFETENSORS_LENGTH_BYTES + (int64_t)length;
        error = parse_table(out, root, file_bytes - out->data_offset, where);
    } else {
        error = status_fail(-EINVAL, "%s: its header is not a JSON object", where);
    }
    json_decref(root);
    if (error) {
        safetensors_free(out);
    }
    return error;
}

void safetensors_free(struct safetensors *table)
{
    for (int32_t i = 0; i < table->n_tensors; i++) {
        free(table->tensors[i].name);
    }
    free(table->tensors);
    *table = (struct safetensors){0};
}

static json_t *describe(const struct safetensors_tensor *tensor)
{
    json_t *shape = tensor->n_dims == 1 ? json_pack("[i]", tensor->n_cols)
                                        : json_pack("[ii]", tensor->n_rows, tensor->n_cols);
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", stored_names[tensor->dtype], "shape", shape, "data_offsets",
                     (json_int_t)tensor->begin, (json_int_t)(tensor->begin + tensor->bytes));
}

int safetensors_header(char **out, int64_t *out_bytes, struct safetensors_tensor *tensors, int32_t n)
{
    enum { DATA_ALIGNMENT = 64 };    // a cache line, and a vector register of AVX-512
    *out = NULL;
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    int64_t end = 0;
    bool complete = root != NULL;
    for (int32_t i = 0; i < n && complete; i++) {
        tensors[i].begin = end;
        tensors[i].bytes = (int64_t)tensors[i].n_rows * tensors[i].n_cols * dtype_bytes(tensors[i].dtype);
        end += tensors[i].bytes;
        complete = json_object_set_new(root, tensors[i].name, describe(&tensors[i])) == 0;
    }
    char *text = complete ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) {
        return status_fail(-ENOMEM, "out of memory for a header of %d tensors", n);
    }
    size_t length = strlen(text);
    size_t total = (SAFETENSORS_LENGTH_BYTES + length + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    if (total - SAFETENSORS_LENGTH_BYTES > SAFETENSORS_MAX_HEADER_BYTES) {
        free(text);
        return status_fail(-EINVAL, "%d tensors do not fit into the header of one file: write smaller shards", n);
    }
    char *head = malloc(total);
    if (!head) {
        free(text);
        return status_fail(-ENOMEM, "out of memory for a header of %d tensors", n);
    }
    for (int i = 0; i < SAFETENSORS_LENGTH_BYTES; i++) {
        head[i] = (char)((total - SAFETENSORS_LENGTH_BYTES) >> (8 * i) & 0xff);
    }
    memcpy(head + SAFETENSORS_LENGTH_BYTES, text, length);
    memset(head + SAFETENSORS_LENGTH_BYTES + length, ' ', total - SAFETENSORS_LENGTH_BYTES - length);
    free(text);
    *out = head;
    *out_bytes = (int64_t)total;
    return 0;
}
