// engine/model_file.c - mapped and random models: a sorted table of named tensors behind one interface.
//
// A mapped model's table is filled and checked whole by open; a random model's grows as plans ask. Sizes are checked
// against the length of the mapping, so reading a tensor cannot fault unless someone truncates the file meanwhile.
#include "engine/model_file.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cpu/thread_pool.h"
#include "engine/input_file.h"
#include "engine/model_random.h"
#include "engine/safetensors.h"
#include "engine/status.h"

enum { MAX_JSON_BYTES = 64 << 20, TENSOR_ALIGNMENT = 64 };
enum { FILL_PIECE = 1 << 20 };    // elements of a random tensor that one thread draws: a millisecond or two

struct mapping {
    void *data;
    int64_t bytes;
    char *name;                       // of the file in the folder, owned
};

struct entry {
    struct model_file_tensor tensor;
    char *name;                       // owned
    void *owned;                      // tensor.data of a random model
};

struct model_file {
    struct model_config config;
    char *folder;                     // NULL: random
    uint64_t seed;
    struct mapping *mappings;
    int32_t n_mappings;
    struct entry **entries;           // [n_entries] ascending by (name, rows, columns)
    int32_t n_entries, capacity;
    struct layer_weights **layers;    // [n_layers] what model_file_weights gave away
    int32_t n_layers;
};

static char *join(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

int model_file_load_config(struct model_config *out, const char *path)
{
    struct stat info;
    bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    char *file = folder ? join(path, "config.json") : strdup(path);
    char *text = NULL;
    size_t length;
    if (!file) {
        return status_fail(-ENOMEM, "%s: out of memory", path);
    }
    int error = input_file_read(&text, &length, file, MAX_JSON_BYTES);
    if (!error) {
        error = model_config_parse(out, text, length, file);
    }
    free(text);
    free(file);
    return error;
}

// The table.

static int compare(const struct entry *entry, const char *name, int32_t n_rows, int32_t n_cols)
{
    int order = strcmp(entry->name, name);
    order = order ? order : (entry->tensor.n_rows > n_rows) - (entry->tensor.n_rows < n_rows);
    return order ? order : (entry->tensor.n_cols > n_cols) - (entry->tensor.n_cols < n_cols);
}

// The first place whose entry is not below (name, rows, columns).
static int32_t place_of(const struct model_file *file, const char *name, int32_t n_rows, int32_t n_cols)
{
    int32_t low = 0, high = file->n_entries;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (compare(file->entries[middle], name, n_rows, n_cols) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// The entry of that name, with that shape if there is one; NULL if the name is unknown.
static struct entry *find_entry(const struct model_file *file, const char *name, int32_t n_rows, int32_t n_cols)
{
    int32_t place = place_of(file, name, n_rows, n_cols);
    if (place == file->n_entries || strcmp(file->entries[place]->name, name) != 0) {
        place--;
    }
    return place >= 0 && strcmp(file->entries[place]->name, name) == 0 ? file->entries[place] : NULL;
}

// Adds an entry without data. NULL: no memory.
static struct entry *add_entry(struct model_file *file, const char *name, int32_t n_rows, int32_t n_cols,
                               enum dtype dtype)
{
    if (file->n_entries == file->capacity) {
        int32_t capacity = file->capacity ? 2 * file->capacity : 64;
        struct entry **grown = realloc(file->entries, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return NULL;
        }
        file->entries = grown;
        file->capacity = capacity;
    }
    struct entry *entry = calloc(1, sizeof *entry);
    char *copy = strdup(name);
    if (!entry || !copy) {
        free(entry);
        free(copy);
        return NULL;
    }
    int32_t place = place_of(file, name, n_rows, n_cols);
    memmove(file->entries + place + 1, file->entries + place, (size_t)(file->n_entries - place) * sizeof entry);
    file->entries[place] = entry;
    file->n_entries++;
    entry->name = copy;
    entry->tensor = (struct model_file_tensor){
        .name = copy, .file = "", .dtype = dtype, .n_rows = n_rows, .n_cols = n_cols,
        .bytes = (int64_t)n_rows * n_cols * dtype_bytes(dtype),
    };
    return entry;
}

// Mapping files.

static int add_tensors(struct model_file *file, const struct safetensors *table, const struct mapping *mapping,
                       const char *path)
{
    for (int32_t i = 0; i < table->n_tensors; i++) {
        const struct safetensors_tensor *tensor = &table->tensors[i];
        const struct entry *other = find_entry(file, tensor->name, tensor->n_rows, tensor->n_cols);
        if (other) {
            return status_fail(-EINVAL, "%s: tensor %.80s is also in %s: remove the file that does not belong here",
                               path, tensor->name, other->tensor.file);
        }
        struct entry *entry = add_entry(file, tensor->name, tensor->n_rows, tensor->n_cols, tensor->dtype);
        if (!entry) {
            return status_fail(-ENOMEM, "%s: out of memory for its %d tensors", path, table->n_tensors);
        }
        entry->tensor.file = mapping->name;
        entry->tensor.data = (const char *)mapping->data + table->data_offset + tensor->begin;
    }
    return 0;
}

static int map_data(struct mapping *mapping, const char *path)
{
    int descriptor;
    int error = input_file_open(&descriptor, &mapping->bytes, path);
    if (error) {
        return error;
    }
    if (mapping->bytes > 0) {
        mapping->data = mmap(NULL, (size_t)mapping->bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (mapping->data == MAP_FAILED) {
            int cause = errno;
            mapping->data = NULL;
            error = status_fail(-cause, "%s: cannot map %lld bytes: %s", path, (long long)mapping->bytes,
                                strerror(cause));
        }
    }
    close(descriptor);
    return error;
}

static int map_file(struct model_file *file, const char *name)
{
    struct mapping *grown = realloc(file->mappings, (size_t)(file->n_mappings + 1) * sizeof *grown);
    char *path = join(file->folder, name);
    if (grown) {
        file->mappings = grown;
    }
    if (!grown || !path) {
        free(path);
        return status_fail(-ENOMEM, "%s/%s: out of memory", file->folder, name);
    }
    struct mapping *mapping = &file->mappings[file->n_mappings++];    // from here on close releases it
    *mapping = (struct mapping){.name = strdup(name)};
    struct safetensors table = {0};
    int error = mapping->name ? map_data(mapping, path) : status_fail(-ENOMEM, "%s: out of memory", path);
    error = error ? error : safetensors_parse(&table, mapping->data, mapping->bytes, path);
    error = error ? error : add_tensors(file, &table, mapping, path);
    safetensors_free(&table);
    free(path);
    return error;
}

static bool is_mapped(const struct model_file *file, const char *name)
{
    for (int32_t i = 0; i < file->n_mappings; i++) {
        if (strcmp(file->mappings[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

// Each shard named by the index, and then: what it places in a shard is there, and nothing else is.
static int map_shards(struct model_file *file, json_t *map, const char *where)
{
    enum { MAX_SHARDS = 4096 };
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value)
    {
        const char *shard = json_string_value(value);
        if (!shard || !*shard || strchr(shard, '/') || shard[0] == '.') {
            return status_fail(-EINVAL, "%s: the file of tensor %.80s is no plain file name in the same folder", where,
                               name);
        }
        if (is_mapped(file, shard)) {
            continue;
        }
        if (file->n_mappings == MAX_SHARDS) {
            return status_fail(-EINVAL, "%s: names more than %d files", where, MAX_SHARDS);
        }
        int error = map_file(file, shard);
        if (error) {
            return error;
        }
    }
    json_object_foreach(map, name, value)
    {
        const struct entry *entry = find_entry(file, name, 0, 0);
        if (!entry || strcmp(entry->tensor.file, json_string_value(value)) != 0) {
            return status_fail(-EINVAL,
                               "%s: tensor %.80s is not in %.80s: the shard is of another model; copy it again", where,
                               name, json_string_value(value));
        }
    }
    for (int32_t i = 0; i < file->n_entries; i++) {
        if (!json_object_get(map, file->entries[i]->name)) {
            return status_fail(-EINVAL, "%s: does not list tensor %.80s of %s", where, file->entries[i]->name,
                               file->entries[i]->tensor.file);
        }
    }
    return 0;
}

static int map_index(struct model_file *file, const char *path)
{
    char *text = NULL;
    size_t length;
    int error = input_file_read(&text, &length, path, MAX_JSON_BYTES);
    if (error) {
        return error;
    }
    json_error_t problem;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &problem);
    json_t *map = json_object_get(root, "weight_map");
    if (!root) {
        error = status_fail(-EINVAL, "%s: line %d: %s", path, problem.line, problem.text);
    } else if (!json_is_object(map)) {
        error = status_fail(-EINVAL, "%s: \"weight_map\" is missing; expected an object of tensor: file", path);
    } else {
        error = map_shards(file, map, path);
    }
    json_decref(root);
    free(text);
    return error;
}

static int map_folder(struct model_file *file)
{
    char *whole = join(file->folder, "model.safetensors");
    char *index = join(file->folder, "model.safetensors.index.json");
    int error;
    if (!whole || !index) {
        error = status_fail(-ENOMEM, "%s: out of memory", file->folder);
    } else if (access(whole, F_OK) == 0) {
        error = map_file(file, "model.safetensors");
    } else if (access(index, F_OK) == 0) {
        error = map_index(file, index);
    } else {
        error = status_fail(-EINVAL, "%s: holds neither model.safetensors nor model.safetensors.index.json",
                            file->folder);
    }
    free(index);
    free(whole);
    return error;
}

// Tensors for a plan.

struct request {
    struct model_file *file;
    const struct plan *plan;
};

static const char *place(const struct model_file *file)
{
    return file->folder ? file->folder : "the random model";
}

// Why a mapped model cannot serve `tensor`.
static int refuse(const struct request *request, const struct model_tensor *tensor, const struct entry *found)
{
    const char *method = request->plan->method;
    if (!found) {
        return status_fail(-EINVAL, "%s: has no tensor %s [%d, %d]: write a model with `clsa model init --methods %s`",
                           place(request->file), tensor->name, tensor->n_rows, tensor->n_cols, method);
    }
    return status_fail(-EINVAL,
                       "%s/%s: tensor %s is [%d, %d], %s needs [%d, %d]: leave its sizes as the model has them, or "
                       "write a model with `clsa model init --methods %s`",
                       place(request->file), found->tensor.file, tensor->name, found->tensor.n_rows,
                       found->tensor.n_cols, method, tensor->n_rows, tensor->n_cols, method);
}

static int draw_tensor(struct model_file *file, const struct model_tensor *tensor, struct entry **out)
{
    struct entry *entry =
        add_entry(file, tensor->name, tensor->n_rows, tensor->n_cols, file->config.native.weight_dtype);
    if (!entry) {
        return status_fail(-ENOMEM, "out of memory for tensor %s", tensor->name);
    }
    *out = entry;
    return 0;
}

// A large tensor is drawn in pieces by all processors: any piece has the same bits whoever draws it.
struct fill {
    const struct model_file *file;
    const struct entry *entry;
    const struct model_tensor *tensor;
};

static void fill_piece(void *user, int32_t piece, int32_t thread)
{
    const struct fill *fill = user;
    const struct model_file_tensor *tensor = &fill->entry->tensor;
    int64_t first = (int64_t)piece * FILL_PIECE, n = (int64_t)tensor->n_rows * tensor->n_cols - first;
    (void)thread;
    model_random_fill((char *)fill->entry->owned + first * dtype_bytes(tensor->dtype), fill->tensor, tensor->dtype,
                      fill->file->seed, first, n < FILL_PIECE ? n : FILL_PIECE);
}

static int fill_entry(struct model_file *file, struct entry *entry, const struct model_tensor *tensor)
{
    struct thread_pool *pool = NULL;
    int64_t n = (int64_t)tensor->n_rows * tensor->n_cols;
    struct fill fill = {file, entry, tensor};
    // Rounded up: aligned_alloc wants whole multiples, and vector loads may run over the end of the last row.
    size_t bytes = ((size_t)entry->tensor.bytes + TENSOR_ALIGNMENT - 1) / TENSOR_ALIGNMENT * TENSOR_ALIGNMENT;
    entry->owned = aligned_alloc(TENSOR_ALIGNMENT, bytes);
    if (!entry->owned) {
        return status_fail(-ENOMEM, "out of memory: tensor %s needs %lld bytes", tensor->name,
                           (long long)entry->tensor.bytes);
    }
    int error = thread_pool_open(&pool, n > FILL_PIECE ? thread_pool_processors() : 1);
    if (error) {
        return error;
    }
    thread_pool_run(pool, fill_piece, &fill, (int32_t)((n + FILL_PIECE - 1) / FILL_PIECE));
    thread_pool_close(pool);
    entry->tensor.data = entry->owned;
    return 0;
}

static int give_tensor(void *user, const struct model_tensor *tensor)
{
    const struct request *request = user;
    struct model_file *file = request->file;
    struct entry *entry = find_entry(file, tensor->name, tensor->n_rows, tensor->n_cols);
    bool fits = entry && entry->tensor.n_rows == tensor->n_rows && entry->tensor.n_cols == tensor->n_cols;
    if (!fits && file->folder) {
        return refuse(request, tensor, entry);
    }
    int error = fits ? 0 : draw_tensor(file, tensor, &entry);
    if (!error && !entry->tensor.data) {
        error = fill_entry(file, entry, tensor);
    }
    if (!error) {
        *tensor->slot = (struct matrix){entry->tensor.data, entry->tensor.dtype, tensor->n_rows, tensor->n_cols};
    }
    return error;
}

static int check_sizes(const struct model_file *file, const struct plan *plan)
{
    const struct model_shape *own = &file->config.native.shape, *shape = &plan->shape;
    if (own->backbone != shape->backbone) {
        bool yoco = shape->backbone == BACKBONE_YOCO;
        return status_fail(-EINVAL, "%s: is a %s, %s needs a %s: write one with `clsa model init --methods %s`",
                           place(file), yoco ? "Transformer" : "YOCO", plan->method, yoco ? "YOCO" : "Transformer",
                           plan->method);
    }
    const struct {
        const char *name;
        int32_t own, asked;
    } sizes[] = {
        {"hidden", own->hidden, shape->hidden},
        {"ffn", own->ffn, shape->ffn},
        {"n_layers", own->n_layers, shape->n_layers},
        {"n_heads", own->n_heads, shape->n_heads},
        {"n_kv_heads", own->n_kv_heads, shape->n_kv_heads},
        {"head_dim", own->head_dim, shape->head_dim},
        {"vocab", own->vocab, shape->vocab},
        {"tied_embeddings", own->tied_embeddings, shape->tied_embeddings},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].own != sizes[i].asked) {
            return status_fail(-EINVAL, "%s: its %s is %d, the plan's %d: build the plan from the model's own shape",
                               place(file), sizes[i].name, sizes[i].own, sizes[i].asked);
        }
    }
    return plan_check_runnable(plan);
}

int model_file_weights(struct model_file *file, const struct plan *plan, struct model_weights *out)
{
    int error = check_sizes(file, plan);
    if (error) {
        return error;
    }
    struct model_weights weights = {.layers = calloc((size_t)plan->shape.n_layers, sizeof *weights.layers)};
    struct layer_weights **grown = realloc(file->layers, (size_t)(file->n_layers + 1) * sizeof *grown);
    if (grown) {
        file->layers = grown;
    }
    if (!weights.layers || !grown) {
        free(weights.layers);
        return status_fail(-ENOMEM, "%s: out of memory", place(file));
    }
    struct request request = {file, plan};
    error = model_layout_walk(plan, &weights, give_tensor, &request);
    if (error) {
        free(weights.layers);
        return error;
    }
    if (plan->shape.tied_embeddings) {
        weights.head = weights.embedding;
    }
    file->layers[file->n_layers++] = weights.layers;
    *out = weights;
    return 0;
}

// Opening and closing.

// The cost model labels samples with bytes of the config's dtype.
static int check_dtypes(const struct model_file *file)
{
    for (int32_t i = 0; i < file->n_entries; i++) {
        const struct model_file_tensor *tensor = &file->entries[i]->tensor;
        if (tensor->dtype != file->config.native.weight_dtype) {
            return status_fail(-EINVAL, "%s/%s: tensor %.80s is %s, but config.json says %s: correct \"torch_dtype\"",
                               file->folder, tensor->file, tensor->name, dtype_name(tensor->dtype),
                               dtype_name(file->config.native.weight_dtype));
        }
    }
    return 0;
}

static int open_folder(struct model_file *file)
{
    int error = model_file_load_config(&file->config, file->folder);
    if (error) {
        return error;
    }
    if (!file->config.runnable) {
        return status_fail(-EINVAL,
                           "%s: only models that `clsa model init` wrote can be opened; `clsa sim` prices others",
                           file->folder);
    }
    struct model_weights unused;
    error = map_folder(file);
    error = error ? error : check_dtypes(file);
    return error ? error : model_file_weights(file, &file->config.native, &unused);
}

int model_file_open(struct model_file **out, const char *folder)
{
    *out = NULL;
    struct stat info;
    if (stat(folder, &info) != 0) {
        int error = errno;
        return status_fail(input_file_error(error), "%s: cannot open: %s", folder, strerror(error));
    }
    if (!S_ISDIR(info.st_mode)) {
        return status_fail(-EINVAL, "%s: is no folder; expected one with config.json and *.safetensors", folder);
    }
    struct model_file *file = calloc(1, sizeof *file);
    if (!file || !(file->folder = strdup(folder))) {
        free(file);
        return status_fail(-ENOMEM, "%s: out of memory", folder);
    }
    int error = open_folder(file);
    if (error) {
        model_file_close(file);
        return error;
    }
    *out = file;
    return 0;
}

int model_file_random(struct model_file **out, const struct model_shape *shape, enum dtype weight_dtype, uint64_t seed)
{
    *out = NULL;
    struct model_file *file = calloc(1, sizeof *file);
    if (!file) {
        return status_fail(-ENOMEM, "out of memory");
    }
    file->seed = seed;
    file->config.runnable = true;
    struct plan_options options = plan_options_default();
    options.weight_dtype = (int32_t)weight_dtype;
    const char *method = shape->backbone == BACKBONE_YOCO ? "yoco" : "dense";
    int error = plan_build(&file->config.native, shape, method, &options);
    error = error ? error : plan_check_runnable(&file->config.native);
    if (error) {
        model_file_close(file);
        return error;
    }
    *out = file;
    return 0;
}

void model_file_close(struct model_file *file)
{
    if (!file) {
        return;
    }
    for (int32_t i = 0; i < file->n_layers; i++) {
        free(file->layers[i]);
    }
    for (int32_t i = 0; i < file->n_entries; i++) {
        free(file->entries[i]->owned);
        free(file->entries[i]->name);
        free(file->entries[i]);
    }
    for (int32_t i = 0; i < file->n_mappings; i++) {
        if (file->mappings[i].data) {
            munmap(file->mappings[i].data, (size_t)file->mappings[i].bytes);
        }
        free(file->mappings[i].name);
    }
    free(file->layers);
    free(file->entries);
    free(file->mappings);
    free(file->folder);
    free(file);
}

const struct model_config *model_file_config(const struct model_file *file)
{
    return &file->config;
}

int32_t model_file_tensor_count(const struct model_file *file)
{
    return file->n_entries;
}

const struct model_file_tensor *model_file_tensor(const struct model_file *file, int32_t index)
{
    return &file->entries[index]->tensor;
}
