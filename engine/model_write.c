// engine/model_write.c - random models on disk.
//
// The files are written into FOLDER.part-PID, which is renamed when the last one is safe: the folder appears whole or
// not at all. Tensors are drawn piece by piece, so that memory does not grow with the model.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/input_file.h"
#include "engine/model_file.h"
#include "engine/model_random.h"
#include "engine/output_file.h"
#include "engine/safetensors.h"
#include "engine/status.h"

enum { PIECE_ELEMENTS = 1 << 18, FILE_NAME_BYTES = 64 };

struct shard {
    int32_t first, n;                 // tensors
    char name[FILE_NAME_BYTES];
};

struct writer {
    const struct model_file_random_options *options;
    char *folder, *part;              // owned
    struct model_tensor *tensors;     // [n_tensors] every tensor once, in the order of the walk
    int32_t n_tensors, capacity;
    struct shard *shards;             // [n_shards]
    int32_t n_shards;
    int64_t total_bytes, done_bytes;
    void *piece;                      // [PIECE_ELEMENTS]
};

static int no_memory(const struct writer *writer)
{
    return status_fail(-ENOMEM, "%s: out of memory", writer->folder);
}

// Which tensors.

static int collect(void *user, const struct model_tensor *tensor)
{
    struct writer *writer = user;
    for (int32_t i = 0; i < writer->n_tensors; i++) {
        const struct model_tensor *known = &writer->tensors[i];
        if (strcmp(known->name, tensor->name) != 0) {
            continue;
        }
        if (known->n_rows != tensor->n_rows || known->n_cols != tensor->n_cols) {
            return status_fail(-EINVAL,
                               "two methods need tensor %s, one as [%d, %d], one as [%d, %d]: write a model for each",
                               tensor->name, known->n_rows, known->n_cols, tensor->n_rows, tensor->n_cols);
        }
        return 0;
    }
    if (writer->n_tensors == writer->capacity) {
        int32_t capacity = writer->capacity ? 2 * writer->capacity : 256;
        struct model_tensor *grown = realloc(writer->tensors, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return no_memory(writer);
        }
        writer->tensors = grown;
        writer->capacity = capacity;
    }
    writer->tensors[writer->n_tensors] = *tensor;
    writer->tensors[writer->n_tensors++].slot = NULL;    // of a walk that ends here
    return 0;
}

static int collect_plan(struct writer *writer, const struct plan *plan)
{
    struct model_weights weights = {.layers = calloc((size_t)plan->shape.n_layers, sizeof *weights.layers)};
    if (!weights.layers) {
        return no_memory(writer);
    }
    int error = model_layout_walk(plan, &weights, collect, writer);
    free(weights.layers);
    return error;
}

static int collect_all(struct writer *writer)
{
    const struct model_file_random_options *options = writer->options;
    const struct model_shape *shape = options->shape;
    struct plan native;
    int error = plan_build(&native, shape, shape->backbone == BACKBONE_YOCO ? "yoco" : "dense", NULL);
    error = error ? error : plan_check_runnable(&native);
    error = error ? error : collect_plan(writer, &native);
    for (int32_t i = 0; i < options->n_plans && !error; i++) {
        const struct plan *plan = options->plans[i];
        if (plan->shape.backbone != shape->backbone) {
            return status_fail(-EINVAL, "%s needs a %s backbone, the model has the other: write a model for each",
                               plan->method, plan->shape.backbone == BACKBONE_YOCO ? "YOCO" : "Transformer");
        }
        error = collect_plan(writer, plan);
    }
    return error;
}

// Which files.

static int64_t tensor_bytes(const struct writer *writer, int32_t i)
{
    return (int64_t)writer->tensors[i].n_rows * writer->tensors[i].n_cols * dtype_bytes(writer->options->weight_dtype);
}

static int split(struct writer *writer)
{
    int64_t limit = writer->options->max_shard_bytes, filled = 0;
    writer->shards = calloc((size_t)writer->n_tensors, sizeof *writer->shards);    // a tensor each at most
    if (!writer->shards) {
        return no_memory(writer);
    }
    for (int32_t i = 0; i < writer->n_tensors; i++) {
        int64_t bytes = tensor_bytes(writer, i);
        if (i == 0 || (limit > 0 && filled + bytes > limit)) {
            writer->shards[writer->n_shards++].first = i;
            filled = 0;
        }
        writer->shards[writer->n_shards - 1].n++;
        filled += bytes;
        writer->total_bytes += bytes;
    }
    for (int32_t i = 0; i < writer->n_shards; i++) {
        char *name = writer->shards[i].name;
        if (writer->n_shards == 1) {
            snprintf(name, FILE_NAME_BYTES, "model.safetensors");
        } else {
            snprintf(name, FILE_NAME_BYTES, "model-%05d-of-%05d.safetensors", i + 1, writer->n_shards);
        }
    }
    return 0;
}

// Writing.

static int put(struct output_file *file, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, file->stream) != bytes) {
        int error = errno;
        return status_fail(-error, "%s: cannot write: %s; nothing was left behind", file->path, strerror(error));
    }
    return 0;
}

static int open_in_part(const struct writer *writer, struct output_file *file, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", writer->part, name) < 0) {
        return no_memory(writer);
    }
    int error = output_file_open(file, path);
    free(path);
    return error;
}

// Ends a file on which everything so far returned `error`.
static int settle(struct output_file *file, int error)
{
    if (error) {
        output_file_abandon(file);
        return error;
    }
    return output_file_commit(file);
}

static int put_tensor(struct writer *writer, struct output_file *file, const struct model_tensor *tensor)
{
    const struct model_file_random_options *options = writer->options;
    int64_t elements = (int64_t)tensor->n_rows * tensor->n_cols;
    for (int64_t first = 0; first < elements; first += PIECE_ELEMENTS) {
        int64_t n = elements - first < PIECE_ELEMENTS ? elements - first : PIECE_ELEMENTS;
        int64_t bytes = n * dtype_bytes(options->weight_dtype);
        model_random_fill(writer->piece, tensor, options->weight_dtype, options->seed, first, n);
        int error = put(file, writer->piece, (size_t)bytes);
        if (error) {
            return error;
        }
        writer->done_bytes += bytes;
        error = options->progress ? options->progress(options->user, writer->done_bytes, writer->total_bytes) : 0;
        if (error) {
            return error;
        }
    }
    return 0;
}

static int put_header(struct writer *writer, struct output_file *file, const struct shard *shard)
{
    struct safetensors_tensor *table = calloc((size_t)shard->n, sizeof *table);
    char *header = NULL;
    int64_t bytes;
    if (!table) {
        return no_memory(writer);
    }
    for (int32_t i = 0; i < shard->n; i++) {
        struct model_tensor *tensor = &writer->tensors[shard->first + i];
        table[i] = (struct safetensors_tensor){
            .name = tensor->name, .dtype = writer->options->weight_dtype,
            .n_dims = tensor->fill == MODEL_FILL_NORMAL ? 2 : 1, .n_rows = tensor->n_rows, .n_cols = tensor->n_cols,
        };
    }
    int error = safetensors_header(&header, &bytes, table, shard->n);
    error = error ? error : put(file, header, (size_t)bytes);
    free(header);
    free(table);
    return error;
}

static int write_shard(struct writer *writer, const struct shard *shard)
{
    struct output_file file;
    int error = open_in_part(writer, &file, shard->name);
    if (error) {
        return error;
    }
    error = put_header(writer, &file, shard);
    for (int32_t i = 0; i < shard->n && !error; i++) {
        error = put_tensor(writer, &file, &writer->tensors[shard->first + i]);
    }
    return settle(&file, error);
}

static int write_text(struct writer *writer, const char *name, const char *text)
{
    struct output_file file;
    int error = open_in_part(writer, &file, name);
    if (error) {
        return error;
    }
    error = put(&file, text, strlen(text));
    error = error ? error : put(&file, "\n", 1);
    return settle(&file, error);
}

static int write_index(struct writer *writer)
{
    json_t *map = json_object();
    bool complete = map != NULL;
    for (int32_t i = 0; i < writer->n_shards; i++) {
        const struct shard *shard = &writer->shards[i];
        for (int32_t t = shard->first; t < shard->first + shard->n && complete; t++) {
            complete = json_object_set_new(map, writer->tensors[t].name, json_string(shard->name)) == 0;
        }
    }
    json_t *root = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)writer->total_bytes, "weight_map",
                             map);
    char *text = complete && root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    int error = text ? write_text(writer, "model.safetensors.index.json", text) : no_memory(writer);
    free(text);
    return error;
}

static int write_files(struct writer *writer)
{
    char *config = NULL;
    int error = 0;
    for (int32_t i = 0; i < writer->n_shards && !error; i++) {
        error = write_shard(writer, &writer->shards[i]);
    }
    if (!error && writer->n_shards > 1) {
        error = write_index(writer);
    }
    error = error ? error : model_config_write(&config, writer->options->shape, writer->options->weight_dtype);
    error = error ? error : write_text(writer, "config.json", config);
    free(config);
    return error;
}

// The folder.

// Names what stands in the way of a new folder before hours of writing.
static int check_free(const char *folder)
{
    DIR *directory = opendir(folder);
    if (!directory) {
        int error = errno;
        if (error == ENOENT) {
            return 0;
        }
        return status_fail(input_file_error(error), "%s: cannot become a model folder: %s", folder, strerror(error));
    }
    int n = 0;
    const struct dirent *item;
    while ((item = readdir(directory))) {
        n += strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0;
    }
    closedir(directory);
    return n == 0 ? 0 : status_fail(-EINVAL, "%s: exists and is not empty; name a new folder", folder);
}

static int make_part(const struct writer *writer)
{
    int error = check_free(writer->folder);
    if (!error && mkdir(writer->part, 0777) != 0) {
        int cause = errno;
        error = status_fail(input_file_error(cause), "%s: cannot create: %s", writer->folder, strerror(cause));
    }
    return error;
}

static void sync_folder(const char *folder)
{
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
        fsync(descriptor);    // some file systems refuse; the files themselves are safe
        close(descriptor);
    }
}

static void remove_part(const struct writer *writer)
{
    int descriptor = open(writer->part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
        for (int32_t i = 0; i < writer->n_shards; i++) {
            unlinkat(descriptor, writer->shards[i].name, 0);
        }
        unlinkat(descriptor, "model.safetensors.index.json", 0);
        unlinkat(descriptor, "config.json", 0);
        close(descriptor);
    }
    rmdir(writer->part);
}

static int write_folder(struct writer *writer)
{
    int error = make_part(writer);
    if (error) {
        return error;
    }
    error = write_files(writer);
    if (!error) {
        sync_folder(writer->part);
        if (rename(writer->part, writer->folder) != 0) {
            int cause = errno;
            error = status_fail(-cause, "%s: cannot rename %s to it: %s", writer->folder, writer->part,
                                strerror(cause));
        }
    }
    if (error) {
        remove_part(writer);
    }
    return error;
}

static int set_folder(struct writer *writer, const char *folder)
{
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') {
        length--;
    }
    if (length == 0) {
        return status_fail(-EINVAL, "the model's folder has no name");
    }
    writer->folder = strndup(folder, length);
    if (!writer->folder || asprintf(&writer->part, "%s.part-%ld", writer->folder, (long)getpid()) < 0) {
        writer->part = NULL;
        return status_fail(-ENOMEM, "%s: out of memory", folder);
    }
    return 0;
}

int model_file_write(const char *folder, const struct model_file_random_options *options)
{
    struct writer writer = {.options = options};
    int error = set_folder(&writer, folder);
    error = error ? error : collect_all(&writer);
    error = error ? error : split(&writer);
    if (!error && !(writer.piece = malloc((size_t)PIECE_ELEMENTS * sizeof(float)))) {
        error = no_memory(&writer);
    }
    error = error ? error : write_folder(&writer);
    free(writer.piece);
    free(writer.shards);
    free(writer.tensors);
    free(writer.part);
    free(writer.folder);
    return error;
}
