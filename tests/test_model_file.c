// tests/test_model_file.c - models drawn, written, mapped: the same bits every way, and wrong requests refused.
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/model_folder.h"

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
    refuse_plan(file, &shape, "yoco-token", 0,
                "model.layers.2.layer_indexer.q_proj.weight|[16, 64]|--methods yoco-token");
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
    test_round_trip();
    test_format();
    test_draws();
    test_random_variants();
    test_wrong_requests();
    test_full_disk();
    test_many_wrong_opens();
    clear_folder(place);
    return check_end();
}
