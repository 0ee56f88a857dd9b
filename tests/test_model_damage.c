// tests/test_model_damage.c - damaged models, one kind after the other: each is refused by name.
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/safetensors.h"
#include "engine/status.h"
#include "tests/check.h"
#include "tests/model_folder.h"

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

int main(void)
{
    check_begin();
    if (!mkdtemp(place)) {
        return check_skip("no temporary folder");
    }
    test_headers();
    test_damage();
    test_truncation();
    test_shards();
    clear_folder(place);
    return check_end();
}
