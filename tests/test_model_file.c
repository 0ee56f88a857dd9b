// tests/test_model_file.c - models drawn, written, mapped: the same bits every way, and every kind of damage refused.
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/input_file.h"
#include "engine/model_file.h"
#include "engine/safetensors.h"
#include "engine/status.h"
#include "tests/check.h"

static char place[] = "/tmp/clsa-model-XXXXXX";

// Small helpers.

static const char *path_of(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", place, name);
    return path;
}

static int write_random(const char *folder, const struct model_shape *shape, enum dtype weight_dtype, uint64_t seed,
                        const struct plan *const *plans, int32_t n_plans, int64_t max_shard_bytes)
{
    const struct model_file_random_options options = {
        .shape = shape, .weight_dtype = weight_dtype, .seed = seed, .plans = plans, .n_plans = n_plans,
        .max_shard_bytes = max_shard_bytes,
    };
    return model_file_write(folder, &options);
}

static void clear_folder(const char *path)
{
    DIR *directory = opendir(path);
    for (struct dirent *item; directory && (item = readdir(directory));) {
        char inner[512];
        snprintf(inner, sizeof inner, "%s/%s", path, item->d_name);
        if (item->d_name[0] != '.' && unlink(inner) != 0) {
            clear_folder(inner);
        }
    }
    if (directory) {
        closedir(directory);
    }
    rmdir(path);
}

static int items_in(const char *path)
{
    DIR *directory = opendir(path);
    int n = 0;
    for (struct dirent *item; directory && (item = readdir(directory));) {
        n += item->d_name[0] != '.';
    }
    if (directory) {
        closedir(directory);
    }
    return n;
}

static char *slurp(const char *path, size_t *length)
{
    char *text = NULL;
    CHECK_MESSAGE(input_file_read(&text, length, path, 1 << 30) == 0, "%s", status_text());
    if (!text) {
        exit(check_end());
    }
    return text;
}

static void spill(const char *path, const void *data, size_t length)
{
    FILE *stream = fopen(path, "wb");
    CHECK(stream && fwrite(data, 1, length, stream) == length);
    if (stream) {
        fclose(stream);
    }
}

// `words` are separated by '|'.
static void check_text(const char *words)
{
    char copy[512];
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|")) {
        CHECK_MESSAGE(strstr(status_text(), word) != NULL, "\"%s\" is not in: %s", word, status_text());
    }
}

static struct model_shape random_shape(enum backbone backbone)
{
    struct model_shape shape = *plan_find_model("tiny");
    shape.backbone = backbone;
    shape.hidden = check_range(1, 80);
    shape.ffn = check_range(1, 80);
    shape.n_layers = check_range(2, 6);
    shape.n_kv_heads = check_range(1, 3);
    shape.n_heads = shape.n_kv_heads * check_range(1, 5);
    shape.head_dim = 2 * check_range(1, 10);
    shape.vocab = check_range(1, 300);
    shape.tied_embeddings = check_range(0, 1);
    return shape;
}

// Plans of every method of the backbone.
static int32_t all_plans(struct plan *plans, const struct plan **pointers, const struct model_shape *shape)
{
    int32_t n = 0;
    for (int32_t i = 0; i < plan_method_count(); i++) {
        if (plan_method(i)->backbone == shape->backbone) {
            CHECK_MESSAGE(plan_build(&plans[n], shape, plan_method(i)->name, NULL) == 0, "%s", status_text());
            pointers[n] = &plans[n];
            n++;
        }
    }
    return n;
}

static struct model_file *open_model(const char *folder)
{
    struct model_file *file;
    CHECK_MESSAGE(model_file_open(&file, folder) == 0, "%s", status_text());
    if (!file) {
        exit(check_end());
    }
    return file;
}

// Comparing weights.

static void same_matrix(const char *what, const struct matrix *a, const struct matrix *b)
{
    bool same = a->n_rows == b->n_rows && a->n_cols == b->n_cols && a->dtype == b->dtype && !a->data == !b->data;
    CHECK_MESSAGE(same, "%s: shapes differ", what);
    if (same && a->data) {
        size_t bytes = (size_t)a->n_rows * (size_t)a->n_cols * (size_t)dtype_bytes(a->dtype);
        CHECK_MESSAGE(memcmp(a->data, b->data, bytes) == 0, "%s: values differ", what);
    }
}

static void same_weights(const struct model_weights *a, const struct model_weights *b, int32_t n_layers)
{
    same_matrix("embedding", &a->embedding, &b->embedding);
    same_matrix("memory norm", &a->memory_norm, &b->memory_norm);
    same_matrix("memory k", &a->memory_k, &b->memory_k);
    same_matrix("memory v", &a->memory_v, &b->memory_v);
    same_matrix("final norm", &a->final_norm, &b->final_norm);
    same_matrix("head", &a->head, &b->head);
    // The layers hold nothing but matrices.
    const int32_t n = (int32_t)(sizeof *a->layers / sizeof(struct matrix));
    for (int32_t l = 0; l < n_layers; l++) {
        const struct matrix *left = (const struct matrix *)(const void *)&a->layers[l];
        const struct matrix *right = (const struct matrix *)(const void *)&b->layers[l];
        for (int32_t i = 0; i < n; i++) {
            char what[64];
            snprintf(what, sizeof what, "layer %d, matrix %d", l, i);
            same_matrix(what, &left[i], &right[i]);
        }
    }
}

// What was written and mapped equals what is drawn, for every method, sharded or not.
static void test_round_trip(void)
{
    struct plan plans[16];
    const struct plan *pointers[16];
    for (int round = 0; round < 16; round++) {
        struct model_shape shape = random_shape(round % 2 ? BACKBONE_YOCO : BACKBONE_TRANSFORMER);
        enum dtype dtype = round / 2 % 2 ? DTYPE_F32 : DTYPE_BF16;
        int64_t max_shard_bytes = round / 4 % 2 ? check_range(1, 20000) : 0;
        uint64_t seed = check_random();
        const char *folder = path_of("round");
        int32_t n_plans = all_plans(plans, pointers, &shape);
        if (round % 3 == 0) {
            mkdir(folder, 0777);    // an empty folder may stand there
        }
        int error = write_random(folder, &shape, dtype, seed, pointers, n_plans, max_shard_bytes);
        CHECK_MESSAGE(error == 0, "%s", status_text());
        struct model_file *mapped = open_model(folder), *drawn;
        CHECK(model_file_random(&drawn, &shape, dtype, seed) == 0);
        CHECK(model_file_config(mapped)->native.weight_dtype == dtype);
        CHECK(access(path_of("round/model.safetensors.index.json"), F_OK) != 0 || max_shard_bytes > 0);
        for (int32_t i = 0; i < n_plans; i++) {
            struct model_weights a, b;
            CHECK_MESSAGE(model_file_weights(mapped, &plans[i], &a) == 0, "%s", status_text());
            CHECK_MESSAGE(model_file_weights(drawn, &plans[i], &b) == 0, "%s", status_text());
            same_weights(&a, &b, shape.n_layers);
        }
        CHECK(model_file_tensor_count(mapped) == model_file_tensor_count(drawn));
        model_file_close(drawn);
        model_file_close(mapped);
        clear_folder(folder);
    }
    CHECK(items_in(place) == 0);
}

// The bytes of a file mean what the format says, read here without our reader.
static void test_format(void)
{
    const struct model_shape *shape = plan_find_model("tiny");
    struct plan plan;
    const struct plan *pointer = &plan;
    CHECK(plan_build(&plan, shape, "clsa", NULL) == 0);
    CHECK(write_random(path_of("format"), shape, DTYPE_F32, 7, &pointer, 1, 0) == 0);
    size_t length;
    char *bytes = slurp(path_of("format/model.safetensors"), &length);
    uint64_t header;
    memcpy(&header, bytes, sizeof header);
    json_t *root = json_loadb(bytes + 8, (size_t)header, 0, NULL);
    CHECK(root && header % 8 == 0 && (8 + header) % 64 == 0);
    struct model_file *mapped = open_model(path_of("format"));
    int64_t total = 0;
    for (int32_t i = 0; i < model_file_tensor_count(mapped); i++) {
        const struct model_file_tensor *tensor = model_file_tensor(mapped, i);
        json_t *entry = json_object_get(root, tensor->name), *offsets = json_object_get(entry, "data_offsets");
        const char *dtype = json_string_value(json_object_get(entry, "dtype"));
        CHECK_MESSAGE(dtype && strcmp(dtype, "F32") == 0, "%s", tensor->name);
        json_int_t begin = json_integer_value(json_array_get(offsets, 0));
        CHECK(json_integer_value(json_array_get(offsets, 1)) - begin == tensor->bytes);
        CHECK(memcmp(bytes + 8 + header + begin, tensor->data, (size_t)tensor->bytes) == 0);
        bool norm = strstr(tensor->name, "norm") != NULL;
        CHECK(json_array_size(json_object_get(entry, "shape")) == (norm ? 1 : 2));
        CHECK(!norm || ((const float *)tensor->data)[tensor->n_cols - 1] == 1.0f);
        total += tensor->bytes;
    }
    CHECK(8 + (int64_t)header + total == (int64_t)length);
    CHECK(json_object_get(root, "model.layers.2.indexer.q_proj.weight") != NULL);
    CHECK(json_object_get(root, "model.layers.3.indexer.q_proj.weight") == NULL);
    CHECK(json_object_get(root, "model.layers.2.self_attn.k_proj.weight") == NULL);
    model_file_close(mapped);
    json_decref(root);
    free(bytes);
    clear_folder(path_of("format"));
}

// Mean 0, deviation 1/sqrt(inputs), no two tensors alike, neighbours uncorrelated, aligned to 64 bytes.
static void test_draws(void)
{
    struct model_shape shape = *plan_find_model("bench-100m");
    struct model_file *file;
    struct model_weights weights;
    struct plan plan;
    CHECK(plan_build(&plan, &shape, "yoco", NULL) == 0);
    CHECK(model_file_random(&file, &shape, DTYPE_F32, check_random()) == 0);
    CHECK(model_file_weights(file, &plan, &weights) == 0);
    const struct matrix *matrices[] = {&weights.layers[0].gate, &weights.layers[1].gate, &weights.layers[1].down};
    double cross = 0;
    for (int i = 0; i < 3; i++) {
        const struct matrix *m = matrices[i];
        const float *data = m->data, *other = matrices[0]->data;
        int64_t n = (int64_t)m->n_rows * m->n_cols;
        double sum = 0, square = 0, fourth = 0, neighbours = 0;
        CHECK((uintptr_t)m->data % 64 == 0);
        for (int64_t j = 0; j < n; j++) {
            double x = (double)data[j] * sqrt(m->n_cols);
            sum += x;
            square += x * x;
            fourth += x * x * x * x;
            neighbours += j ? x * (double)data[j - 1] * sqrt(m->n_cols) : 0;
            cross += i == 1 ? x * (double)other[j] * sqrt(m->n_cols) : 0;
        }
        // Six deviations of each estimate: a wrong verdict once in 10^8 runs.
        double noise = 6 / sqrt((double)n);
        CHECK_MESSAGE(fabs(sum / (double)n) < noise, "mean %g", sum / (double)n);
        CHECK_MESSAGE(fabs(square / (double)n - 1) < 1.5 * noise, "variance %g", square / (double)n);
        CHECK_MESSAGE(fabs(fourth / (double)n - 2.7) < 10 * noise, "fourth moment %g", fourth / (double)n);
        CHECK_MESSAGE(fabs(neighbours / (double)n) < noise, "correlation %g", neighbours / (double)n);
        CHECK(i != 1 || fabs(cross / (double)n) < noise);
    }
    model_file_close(file);
}

// Two sizes of one indexer side by side in a random model; the backbone's tensors are the same objects.
static void test_random_variants(void)
{
    struct model_shape shape = *plan_find_model("tiny");
    struct model_file *file;
    struct model_weights small, large, again;
    struct plan plan, other;
    struct plan_options options = plan_options_default();
    options.index_dim = 32;
    CHECK(plan_build(&plan, &shape, "clsa", NULL) == 0 && plan_build(&other, &shape, "clsa", &options) == 0);
    CHECK(model_file_random(&file, &shape, DTYPE_BF16, 3) == 0);
    CHECK(model_file_weights(file, &plan, &small) == 0 && model_file_weights(file, &other, &large) == 0);
    CHECK(model_file_weights(file, &plan, &again) == 0);
    CHECK(small.layers[2].index.q.n_rows == 16 && large.layers[2].index.q.n_rows == 32);
    CHECK(small.layers[2].index.q.data == again.layers[2].index.q.data && small.embedding.data == large.embedding.data);
    CHECK(small.layers[3].index.q.data == NULL && small.layers[2].q_norm.data == NULL && small.layers[1].q_norm.data);
    model_file_close(file);
    shape.backbone = BACKBONE_TRANSFORMER;
    CHECK(model_file_random(&file, &shape, DTYPE_BF16, 3) == 0);
    CHECK(model_file_weights(file, &plan, &small) == -EINVAL);
    check_text("random model|Transformer|--methods clsa");
    model_file_close(file);
}

// Wrong requests to a sound model.

static void refuse_plan(struct model_file *file, const struct model_shape *shape, const char *method, int32_t index_dim,
                        const char *words)
{
    struct plan plan;
    struct model_weights weights, before;
    struct plan_options options = plan_options_default();
    options.index_dim = index_dim;
    memset(&weights, 0x5a, sizeof weights);
    before = weights;
    CHECK_MESSAGE(plan_build(&plan, shape, method, &options) == 0, "%s", status_text());
    CHECK_MESSAGE(model_file_weights(file, &plan, &weights) == -EINVAL, "%s was not refused", method);
    CHECK(memcmp(&weights, &before, sizeof weights) == 0);
    check_text(words);
}

static void test_wrong_requests(void)
{
    struct model_shape shape = *plan_find_model("tiny");
    struct plan plan;
    const struct plan *pointer = &plan;
    CHECK(plan_build(&plan, &shape, "clsa", NULL) == 0);
    CHECK(write_random(path_of("model"), &shape, DTYPE_BF16, 7, &pointer, 1, 0) == 0);
    struct model_file *file = open_model(path_of("model"));
    refuse_plan(file, &shape, "dense", 0, "model|YOCO|dense|clsa model init --methods dense");
    refuse_plan(file, &shape, "yoco-token", 0, "model.layers.2.layer_indexer.q_proj.weight|[16, 64]|--methods yoco-token");
    refuse_plan(file, &shape, "clsa", 32, "model.safetensors|layers.2.indexer.q_proj.weight is [16, 64]|[32, 64]");
    shape.hidden = 66;
    refuse_plan(file, &shape, "clsa", 0, "hidden is 64|66");
    model_file_close(file);

    // Folders that are taken, missing or of another kind stay as they are.
    shape.hidden = 64;
    CHECK(write_random(path_of("model"), &shape, DTYPE_BF16, 8, &pointer, 1, 0) == -EINVAL);
    check_text("model|not empty");
    CHECK(write_random(path_of("model/config.json"), &shape, DTYPE_BF16, 8, &pointer, 1, 0) == -EINVAL);
    CHECK(write_random(path_of("no/such/folder"), &shape, DTYPE_BF16, 8, &pointer, 1, 0) == -EINVAL);
    check_text("no/such/folder");
    CHECK(write_random("", &shape, DTYPE_BF16, 8, &pointer, 1, 0) == -EINVAL);
    CHECK(write_random("/proc/clsa-model", &shape, DTYPE_BF16, 8, &pointer, 1, 0) < 0);
    shape.backbone = BACKBONE_TRANSFORMER;
    CHECK(write_random(path_of("other"), &shape, DTYPE_BF16, 8, &pointer, 1, 0) == -EINVAL);
    check_text("clsa|YOCO");
    CHECK(items_in(place) == 1 && items_in(path_of("model")) == 2);
    clear_folder(path_of("model"));
}

// A disk that fills up: one error, and nothing stays.
static void test_full_disk(void)
{
    struct model_shape shape = *plan_find_model("demo-8m");
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 1 << 20;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int whole = write_random(path_of("full"), &shape, DTYPE_BF16, 1, NULL, 0, 0);
    int sharded = write_random(path_of("full"), &shape, DTYPE_BF16, 1, NULL, 0, 2000000);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    CHECK(whole == -EFBIG && sharded == -EFBIG);
    check_text("full|large");
    CHECK(items_in(place) == 0);
}

// Damage.

struct damage {
    const char *file, *find, *replace;    // the first `find` becomes `replace`
    const char *words;
};

static const struct damage damages[] = {
    {"config.json", "\"hidden_size\": 64", "\"hidden_size\": 66", "model.safetensors|is [512, 64]|[512, 66]"},
    {"config.json", "\"hidden_size\": 64", "\"hidden_size\": -4", "config.json|\"hidden_size\" is -4"},
    {"config.json", "\"clsa\"", "\"llama\"", "only models|clsa sim"},
    {"config.json", "\"bfloat16\"", "\"float32\"", "is bf16|config.json says f32|torch_dtype"},
    {"config.json", "\"bfloat16\"", "\"float16\"", "\"torch_dtype\" is \"float16\""},
    {"config.json", "\"yoco\"", "\"transformer\"", "no tensor model.layers.2.self_attn.k_proj.weight"},
    {"config.json", "{", "", "config.json: line "},
    {"model.safetensors", "model.norm.weight", "model.nurm.weight", "no tensor model.norm.weight"},
    {"model.safetensors", "[192,64]", "[64,192]", "gate_proj.weight is [64, 192]|[192, 64]"},
    {"model.safetensors", "[192,64]", "[192,65]", "does not fill"},
    {"model.safetensors", "[192,64]", "[-92,64]", "shape"},
    {"model.safetensors", "[192,64]", "[1,2,3]1", "byte"},
    {"model.safetensors", "BF16", "F16\",", "byte"},
    {"model.safetensors", "\"BF16\"", "\"F16\" ", "embed_tokens|dtype is F16|convert"},
    {"model.safetensors", "data_offsets", "data_0ffsets", "data_offsets"},
    {"model.safetensors", "{", "[", "byte"},
    {"model.safetensors", "model.norm.weight", "model.n\\u0001.weig", "control characters"},
    {"model.safetensors", "\"model.layers.1.input_", "\"model.layers.0.input_", "duplicate"},
};

static char *find_bytes(char *text, size_t length, const char *word)
{
    return memmem(text, length, word, strlen(word));
}

static void write_tiny(const char *folder, int64_t max_shard_bytes)
{
    const struct model_shape *shape = plan_find_model("tiny");
    CHECK_MESSAGE(write_random(folder, shape, DTYPE_BF16, 5, NULL, 0, max_shard_bytes) == 0, "%s",
                  status_text());
}

static void refuse_folder(const char *words)
{
    struct model_file *file = (struct model_file *)(void *)&damages;
    int error = model_file_open(&file, path_of("model"));
    CHECK_MESSAGE(error == -EINVAL && file == NULL, "returned %d; expected: %s", error, words);
    check_text(words);
    model_file_close(file);
}

static void test_damage(void)
{
    write_tiny(path_of("model"), 0);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        const struct damage *damage = &damages[i];
        char path[256];
        snprintf(path, sizeof path, "%s/model/%s", place, damage->file);
        size_t length;
        char *whole = slurp(path, &length), *found = find_bytes(whole, length, damage->find);
        CHECK_MESSAGE(found != NULL, "%s: no %s", damage->file, damage->find);
        size_t before = (size_t)(found - whole), cut = strlen(damage->find), put = strlen(damage->replace);
        char *damaged = malloc(length + put);
        memcpy(damaged, whole, before);
        memcpy(damaged + before, damage->replace, put);
        memcpy(damaged + before + put, whole + before + cut, length - before - cut);
        spill(path, damaged, length - cut + put);
        refuse_folder(damage->words);
        spill(path, whole, length);
        free(damaged);
        free(whole);
    }
    model_file_close(open_model(path_of("model")));
    clear_folder(path_of("model"));
}

// Cut anywhere, or longer than it says: refused by name.
static void test_truncation(void)
{
    write_tiny(path_of("model"), 0);
    size_t length;
    char *whole = slurp(path_of("model/model.safetensors"), &length);
    for (int i = 0; i < 200; i++) {
        size_t cut = i < 20 ? (size_t)i : i < 100 ? (size_t)check_range(0, 6000) : check_random() % length;
        spill(path_of("model/model.safetensors"), whole, cut);
        refuse_folder("model/model.safetensors: ");
    }
    char *longer = malloc(length + 1);
    memcpy(longer, whole, length);
    longer[length] = 0;
    spill(path_of("model/model.safetensors"), longer, length + 1);
    refuse_folder("model.safetensors: 1 bytes at its end");
    free(longer);
    // A length that no file has, and one that wraps around.
    for (int i = 0; i < 2; i++) {
        uint64_t claimed = i ? UINT64_MAX : (uint64_t)100000001;
        memcpy(whole, &claimed, sizeof claimed);
        spill(path_of("model/model.safetensors"), whole, length);
        refuse_folder("model.safetensors|header claims");
    }
    free(whole);
    unlink(path_of("model/model.safetensors"));
    refuse_folder("neither model.safetensors nor");
    mkdir(path_of("model/model.safetensors"), 0777);
    refuse_folder("not a regular file");
    rmdir(path_of("model/model.safetensors"));
    unlink(path_of("model/config.json"));
    refuse_folder("config.json");
    clear_folder(path_of("model"));
    refuse_folder("model|No such");
    spill(path_of("model"), "x", 1);
    refuse_folder("no folder");
    unlink(path_of("model"));
}

static void put_index(const char *map)
{
    char text[4096];
    snprintf(text, sizeof text, "{\"weight_map\": %s}", map);
    spill(path_of("model/model.safetensors.index.json"), text, strlen(text));
}

static void test_shards(void)
{
    write_tiny(path_of("model"), 100000);
    size_t length;
    char *index = slurp(path_of("model/model.safetensors.index.json"), &length);
    model_file_close(open_model(path_of("model")));
    put_index("{\"a\": \"../model.safetensors\"}");
    refuse_folder("index.json|tensor a|plain file name");
    put_index("{\"a\": 3}");
    refuse_folder("index.json|tensor a");
    put_index("{\"a\": \"absent.safetensors\"}");
    refuse_folder("absent.safetensors|No such");
    put_index("{\"a\": \"config.json\"}");
    refuse_folder("config.json: |no safetensors file");
    put_index("[]");
    refuse_folder("weight_map");
    spill(path_of("model/model.safetensors.index.json"), index, length / 2);
    refuse_folder("index.json: line");
    // A tensor listed in the wrong shard, one listed nowhere, and one that is in two.
    char *name = find_bytes(index, length, "model-00001-of-"), *last = find_bytes(index, length, "lm_head.weight");
    CHECK(name && last);
    name[10] = '2';
    spill(path_of("model/model.safetensors.index.json"), index, length);
    refuse_folder("index.json|embed_tokens.weight is not in model-00002");
    name[10] = '1';
    memcpy(last, "lm_hood", 7);
    spill(path_of("model/model.safetensors.index.json"), index, length);
    refuse_folder("index.json|lm_h");
    memcpy(last, "lm_head", 7);
    spill(path_of("model/model.safetensors.index.json"), index, length);
    size_t shard_length;
    char first[64];
    snprintf(first, sizeof first, "model/%.32s", name);
    char *shard = slurp(path_of(first), &shard_length);
    snprintf(first, sizeof first, "model/model-00002%.21s", name + 11);
    spill(path_of(first), shard, shard_length);
    refuse_folder("model-00002|is also in model-00001");
    free(shard);
    free(index);
    clear_folder(path_of("model"));
}

// Headers alone: what tiles the data and what does not.
static void test_headers(void)
{
    static const struct {
        const char *header;
        int32_t data_bytes;
        const char *words;    // NULL: accepted
    } cases[] = {
        {"{}", 0, NULL},
        {"{\"__metadata__\":{\"a\":\"b\"}}", 0, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL},
        {"{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[4,8]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, NULL},
        {"{\"__metadata__\":3}", 0, "__metadata__"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "1 bytes at its end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "leave the 7 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16, "belong to no tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "leave the 8 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "leave the 8 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, "tensor b|overlaps"},
        {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6, "tensor b|aligned"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483647,2147483647],\"data_offsets\":[0,4]}}", 4, "does not fill"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "from 1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "one or two"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1],\"data_offsets\":[0,4]}}", 4, "one or two"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "whole number"},
        {"{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, "tensor a|I64|F32 or BF16"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype is missing"},
        {"{\"a\":[]}", 0, "tensor a|object"},
        {"{\"\":{}}", 0, "name"},
        {"[]", 0, "not a JSON object"},
        {"{} {}", 0, "header"},
        {"", 0, "header"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        // The header is padded so that only what the case says can be misaligned. Exact size: a read past it is caught.
        uint64_t length = (strlen(cases[i].header) + 7) / 8 * 8;
        size_t bytes = 8 + (size_t)length + (size_t)cases[i].data_bytes;
        char *file = malloc(bytes);
        memcpy(file, &length, 8);
        memset(file + 8, ' ', (size_t)length);
        memcpy(file + 8, cases[i].header, strlen(cases[i].header));
        struct safetensors table;
        int error = safetensors_parse(&table, file, (int64_t)bytes, "dir/x.safetensors");
        CHECK_MESSAGE(error == (cases[i].words ? -EINVAL : 0), "%s: returned %d", cases[i].header, error);
        if (cases[i].words) {
            check_text("dir/x.safetensors: ");
            check_text(cases[i].words);
            CHECK(table.n_tensors == 0 && table.tensors == NULL);
        }
        safetensors_free(&table);
        free(file);
    }
}

static void test_many_wrong_opens(void)
{
    struct model_file *file;
    CHECK(model_file_open(&file, "/dev/null") == -EINVAL && file == NULL);
    CHECK(model_file_open(&file, "") == -EINVAL && file == NULL);
    struct model_config config;
    CHECK(model_file_load_config(&config, place) == -EINVAL);
    check_text("config.json");
    CHECK(model_file_load_config(&config, "tests/data/config/llama-3.1-8b.json") == 0);
    CHECK(config.native.shape.n_layers == 32);
    model_file_close(NULL);
}

int main(void)
{
    check_begin();
    if (!mkdtemp(place)) {
        return check_skip("no temporary folder");
    }
    test_headers();
    test_round_trip();
    test_format();
    test_draws();
    test_random_variants();
    test_wrong_requests();
    test_full_disk();
    test_damage();
    test_truncation();
    test_shards();
    test_many_wrong_opens();
    clear_folder(place);
    return check_end();
}
