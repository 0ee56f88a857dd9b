// tests/test_workload.c - request lists: the readers, our descriptions, their laws, wrong files, and the published
// statistics of real traces where those are at hand (CLSA_WORKLOADS, or ../shared/workloads).
#include "engine/status.h"
#include "tests/check.h"
#include "workloads/workload.h"

#include <dirent.h>
#include <errno.h>
#include <unistd.h>

// Parses a copy: the parser may overwrite newlines.
static int parse(struct workload *out, const char *text, const struct workload_options *options)
{
    char *copy = strdup(text);
    int error = workload_parse(out, copy, strlen(copy), "here", options);
    free(copy);
    return error;
}

static void test_mooncake(void)
{
    struct workload workload;
    struct workload_statistics statistics;
    const char *text =
        "{\"timestamp\": 1000, \"input_length\": 1100, \"output_length\": 7, \"hash_ids\": [5, 6, 7]}\n"
        "\n{\"timestamp\": 3500, \"input_length\": 1500, \"output_length\": 9, \"hash_ids\": [5, 6, 8]}\r\n"
        "{\"timestamp\": 4000, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": [9, 6]}";
    CHECK_MESSAGE(parse(&workload, text, NULL) == 0, "%s", status_text());
    CHECK(workload.n == 3 && workload.requests[0].arrival_ns == 0 && workload.requests[1].arrival_ns == 2500000000);
    CHECK(workload.requests[1].prompt_tokens == 1500 && workload.requests[1].output_tokens == 9);
    CHECK(workload.requests[0].prefix_id == -1 && workload.requests[1].prefix_id == 6);
    CHECK(workload.requests[1].reused_tokens == 1024 && workload.requests[2].reused_tokens == 0);
    CHECK(workload_measure(&statistics, &workload) == 0 && fabs(statistics.prefix_hit_share - 2.0 / 8) < 1e-12);
    CHECK(fabs(statistics.rate_per_s - 2 / 3.0) < 1e-9 && statistics.prompt.max == 1500);
    int32_t alike[] = {1, 512, 1000, 1024}, apart[] = {1025, 1100};
    for (int i = 0; i < 4; i++) {    // the first two share two blocks; the third has one of them, behind another
        CHECK(workload_key(&workload, 0, alike[i]) == workload_key(&workload, 1, alike[i]));
        CHECK(workload_key(&workload, 0, alike[i]) != workload_key(&workload, 2, alike[i]));
        CHECK(i == 0 || workload_key(&workload, 0, alike[i]) != workload_key(&workload, 0, alike[i - 1]));
    }
    for (int i = 0; i < 2; i++) {
        CHECK(workload_key(&workload, 0, apart[i]) != workload_key(&workload, 1, apart[i]));
    }
    CHECK(workload_shares(&workload));
    CHECK(workload_prefix_unit(&workload, 64) == 512 && workload_prefix_unit(&workload, 100) == 600);
    workload_close(&workload);
    CHECK(parse(&workload, text, &(struct workload_options){.length_factor = 0.25}) == 0);
    CHECK(workload.block_tokens == 128);
    CHECK(workload_key(&workload, 0, 256) == workload_key(&workload, 1, 256));
    CHECK(workload_key(&workload, 0, 257) != workload_key(&workload, 1, 257));
    workload_close(&workload);
}

static void test_csv(void)
{
    struct workload workload;
    const char *azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.9799600,4808,10\n"
                        "2023-11-17 00:00:00.0799601,3180,8\n";
    CHECK_MESSAGE(parse(&workload, azure, NULL) == 0, "%s", status_text());
    CHECK(workload.n == 2 && workload.requests[1].arrival_ns == 100000100);
    CHECK(workload.requests[0].prompt_tokens == 4808 && workload.requests[1].output_tokens == 8);
    workload_close(&workload);
    const char *servegen = "# a sample\narrival_s,client,input_tokens,output_tokens,reason_tokens\n"
                           "2.5,a,10,20,15\n1.25,b,30,40,0\n";
    CHECK_MESSAGE(parse(&workload, servegen, NULL) == 0, "%s", status_text());
    CHECK(workload.n == 2 && workload.requests[0].prompt_tokens == 30);    // sorted by arrival
    CHECK(workload.requests[1].arrival_ns == 1250000000 && workload.requests[1].think_tokens == 15);
    workload_close(&workload);
}

// Each wrong text, and a word that the error must hold.
static void test_wrong_files(void)
{
#define CLASS                                                                                                          \
    "\"classes\": [{\"name\": \"c\", \"prompt\": {\"law\": \"constant\", \"tokens\": 3}, "                             \
    "\"output\": {\"law\": \"constant\", \"tokens\": 2}}]"
#define HEAD "{\"name\": \"n\", \"source\": \"s\", \"seed\": 1, \"requests\": 3, "
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "is empty"},
        {"a,b,c\n1,2,3\n", "line 1: expected the columns"},
        {"arrival_s,input_tokens,output_tokens\n", "holds no request"},
        {"arrival_s,input_tokens,output_tokens\n1,2,3\n1,2\n", "line 3: 2 columns"},
        {"arrival_s,input_tokens,output_tokens\n1,2,3,4\n", "line 2: 4 columns"},
        {"arrival_s,input_tokens,output_tokens\n1,0,3\n", "column 2"},
        {"arrival_s,input_tokens,output_tokens\n-1,2,3\n", "column 1"},
        {"arrival_s,input_tokens,output_tokens\n1,2,99999999999\n", "column 3"},
        {"arrival_s,input_tokens,output_tokens,input_tokens\n1,2,3,4\n", "already"},
        {"arrival_s,input_tokens,output_tokens,reason_tokens\n1,2,3,4\n", "thought"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:17:03.9,1,1\n", "such as 2023"},
        {"{\"timestamp\": -1, \"input_length\": 3, \"output_length\": 2}", "line 1: \"timestamp\""},
        {"{\"timestamp\": 0, \"input_length\": 3, \"output_length\": 2}\n{\"timestamp\": 1", "line 2"},
        {"{\"timestamp\": 0, \"input_length\": 3, \"output_length\": 2, \"hash_ids\": [1, \"x\"]}", "hash_ids"},
        {"{\"name\": }", "line 1, column"},
        {"{\"name\": \"n\"}", "\"source\""},
        {HEAD "\"arrivals\": {\"law\": \"poisson\", \"rate_per_s\": 1}, \"classes\": []}", "\"classes\""},
        {HEAD "\"arrivals\": {\"law\": \"sometimes\", \"rate_per_s\": 1}, " CLASS "}", "poisson, gamma"},
        {HEAD "\"arrivals\": {\"law\": \"poisson\", \"rate_per_s\": 0}, " CLASS "}", "\"rate_per_s\""},
        {HEAD "\"arrivals\": {\"law\": \"gamma\", \"rate_per_s\": 1}, " CLASS "}", "\"cv\""},
        {HEAD "\"arrivals\": {\"law\": \"poisson\", \"rate_per_s\": 1, \"users\": 3}, " CLASS "}",
         "no key of this place"},
        {HEAD "\"arrivals\": {\"law\": \"poisson\", \"rate_per_s\": 1}, \"speed\": 1, " CLASS "}", "\"speed\""},
        {HEAD "\"arrivals\": {\"law\": \"poisson\", \"rate_per_s\": 1}, \"classes\": [{\"name\": \"c\", "
              "\"prompt\": {\"law\": \"quantiles\", \"at\": [0, 0.5], \"tokens\": [1, 2]}, "
              "\"output\": {\"law\": \"constant\", \"tokens\": 2}}]}",
         "classes[0].prompt.\"at\""},
        {HEAD "\"arrivals\": {\"law\": \"poisson\", \"rate_per_s\": 1}, \"classes\": [{\"name\": \"c\", \"prompt\": 3, "
              "\"output\": {\"law\": \"constant\", \"tokens\": 2}}]}",
         "classes[0].prompt"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct workload workload;
        int error = parse(&workload, cases[i].text, NULL);
        CHECK_MESSAGE(error == -EINVAL && strncmp(status_text(), "here: ", 6) == 0 &&
                          strstr(status_text(), cases[i].word),
                      "case %zu: %d, \"%s\": expected \"%s\" in it", i, error, status_text(), cases[i].word);
        CHECK(workload.requests == NULL && workload.n == 0);
    }
    struct workload workload;
    CHECK(workload_load(&workload, "no/such/file", NULL) == -EINVAL && strstr(status_text(), "reasoning"));
    CHECK(workload_load(&workload, "tests", NULL) == -EINVAL);
}

static bool same(const struct workload *a, const struct workload *b)
{
    return a->n == b->n && memcmp(a->requests, b->requests, (size_t)a->n * sizeof *a->requests) == 0;
}

// Every shipped description loads, is what its seed says, and another seed is another list.
static void test_presets(void)
{
    for (int32_t i = 0; i < workload_preset_count(); i++) {
        const char *name = workload_preset(i)->name;
        struct workload first, again, other;
        struct workload_options few = {.max_requests = 1000}, seeded = {.max_requests = 1000, .seed = 77};
        CHECK_MESSAGE(workload_load(&first, name, &few) == 0, "%s", status_text());
        CHECK(workload_load(&again, name, &few) == 0 && workload_load(&other, name, &seeded) == 0);
        CHECK(strcmp(first.name, name) == 0 && first.n == 1000 && same(&first, &again));
        CHECK(strcmp(name, "paper") == 0 || !same(&first, &other));    // the paper's has nothing to draw
        for (int64_t r = 0; r < first.n; r++) {
            const struct workload_request *request = &first.requests[r];
            CHECK(request->prompt_tokens >= 1 && request->output_tokens >= 1 && request->class_index < first.n_classes);
            CHECK(r == 0 || request->arrival_ns >= first.requests[r - 1].arrival_ns);
            CHECK(request->think_tokens <= request->output_tokens && request->prefix_tokens <= request->prompt_tokens);
        }
        workload_close(&first);
        workload_close(&again);
        workload_close(&other);
    }
}

static bool between(double value, double low, double high)
{
    return value >= low && value <= high;
}

// The laws of a description, seen in many draws. Tolerances are five deviations of the estimates or more.
static void test_laws(void)
{
    char text[1024];
    struct workload workload;
    struct workload_statistics statistics;
    struct workload_options options = {.seed = check_random() | 1};
    snprintf(text, sizeof text,
             "{\"name\": \"n\", \"source\": \"s\", \"seed\": 1, \"requests\": 40000, "
             "\"arrivals\": {\"law\": \"gamma\", \"rate_per_s\": 4, \"cv\": 2}, \"classes\": ["
             "{\"name\": \"a\", \"weight\": 3, "
             "\"prompt\": {\"law\": \"lognormal\", \"median_tokens\": 1000, \"sigma\": 0.5}, "
             "\"output\": {\"law\": \"quantiles\", \"at\": [0, 0.5, 1], \"tokens\": [100, 400, 1600]}, "
             "\"correlation\": 0.8, \"think_share\": 0.25}, "
             "{\"name\": \"b\", \"prompt\": {\"law\": \"constant\", \"tokens\": 50}, "
             "\"output\": {\"law\": \"constant\", \"tokens\": 5}, \"prefix\": {\"groups\": 10, \"tokens\": 200}}]}");
    CHECK_MESSAGE(parse(&workload, text, &options) == 0, "%s", status_text());
    CHECK(workload_measure(&statistics, &workload) == 0);
    CHECK_MESSAGE(between(statistics.rate_per_s, 3.8, 4.2) && between(statistics.gap_cv, 1.8, 2.2), "rate %g, CV %g",
                  statistics.rate_per_s, statistics.gap_cv);
    double n[2] = {0}, log_prompt = 0, log_output = 0, square[2] = {0}, product = 0, reused = 0;
    for (int64_t i = 0; i < workload.n; i++) {
        const struct workload_request *request = &workload.requests[i];
        n[request->class_index]++;
        if (request->class_index == 0) {
            double x = log(request->prompt_tokens / 1000.0), y = log(request->output_tokens / 400.0);
            log_prompt += x;
            log_output += y;
            square[0] += x * x;
            square[1] += y * y;
            product += x * y;
            CHECK(request->output_tokens >= 100 && request->output_tokens <= 1600 && request->prefix_id == -1);
        } else {
            CHECK(request->prompt_tokens == 250 && request->prefix_tokens == 200 && request->output_tokens == 5);
            reused += request->reused_tokens == 200;
        }
    }
    CHECK(between(n[0] / (n[0] + n[1]), 0.735, 0.765));
    CHECK(fabs(log_prompt / n[0]) < 0.02 && between(sqrt(square[0] / n[0]), 0.48, 0.52));
    CHECK(fabs(log_output / n[0]) < 0.03);
    // A uniform rank's linear score correlates with the normal one by sqrt(3/pi) of the copula's correlation.
    CHECK_MESSAGE(between(product / sqrt(square[0] * square[1]), 0.74, 0.82), "correlation %g",
                  product / sqrt(square[0] * square[1]));
    CHECK(reused == n[1] - 10);    // the first of each group brings the prefix
    workload_close(&workload);
}

static void test_rates_by_window(void)
{
    struct workload workload;
    const char *text = "{\"name\": \"n\", \"source\": \"s\", \"seed\": 5, \"requests\": 11000, \"arrivals\": {\"law\": "
                       "\"constant\", \"rates_per_s\": [10, 1], \"window_s\": 100}, " CLASS "}";
    CHECK_MESSAGE(parse(&workload, text, NULL) == 0, "%s", status_text());
    int64_t in[2] = {0};
    for (int64_t i = 0; i < workload.n; i++) {
        in[workload.requests[i].arrival_ns / 100000000000 % 2]++;
    }
    CHECK_MESSAGE(llabs(in[0] - 10000) <= 20 && llabs(in[1] - 1000) <= 20, "%lld and %lld", (long long)in[0],
                  (long long)in[1]);
    workload_close(&workload);
}

static void test_options(void)
{
    struct workload whole, changed;
    struct workload_options options = {.rate_factor = 2, .length_factor = 0.5, .max_prompt_tokens = 3000,
                                       .max_output_tokens = 100, .max_requests = 500};
    CHECK(workload_load(&whole, "agents", &(struct workload_options){.max_requests = 500}) == 0);
    CHECK(workload_load(&changed, "agents", &options) == 0 && changed.n == 500);
    for (int64_t i = 0; i < changed.n; i++) {
        const struct workload_request *a = &whole.requests[i], *b = &changed.requests[i];
        CHECK(llabs(b->arrival_ns - a->arrival_ns / 2) <= 1);
        CHECK(b->prompt_tokens == (int32_t)fmin(round(a->prompt_tokens * 0.5), 3000));
        CHECK(b->output_tokens == (int32_t)fmin(fmax(round(a->output_tokens * 0.5), 1), 100));
        CHECK(b->prefix_tokens <= b->prompt_tokens && b->reused_tokens <= b->prefix_tokens);
        for (int64_t k = 0; k < i && i < 50; k++) {
            int32_t shared = b->prefix_id == changed.requests[k].prefix_id ? b->prefix_tokens : 0;
            shared = shared < changed.requests[k].prefix_tokens ? shared : changed.requests[k].prefix_tokens;
            CHECK(shared == 0 || workload_key(&changed, i, shared) == workload_key(&changed, k, shared));
            CHECK(workload_key(&changed, i, shared + 1) != workload_key(&changed, k, shared + 1));
        }
    }
    workload_close(&changed);
    options = (struct workload_options){.output_tokens = 32768, .max_requests = 500};
    CHECK(workload_load(&changed, "agents", &options) == 0 && changed.n == 500);
    for (int64_t i = 0; i < changed.n; i++) {
        CHECK(changed.requests[i].output_tokens == 32768);
        CHECK(changed.requests[i].prompt_tokens == whole.requests[i].prompt_tokens);
    }
    workload_close(&changed);
    CHECK(workload_load(&changed, "agents", &(struct workload_options){.prompt_tokens = 100, .max_requests = 5}) == 0);
    CHECK(changed.requests[3].prompt_tokens == 100 && changed.requests[3].prefix_tokens == 100);
    workload_close(&whole);
    workload_close(&changed);
}

// A fit draws what it was fitted to, within what so many draws can tell; and is a good description whatever the list.
static void test_fit(void)
{
    struct workload drawn, again;
    struct workload_statistics a, b;
    char *text, *copy;
    const char *description =
        "{\"name\": \"n\", \"source\": \"s\", \"seed\": 3, \"requests\": 20000, "
        "\"arrivals\": {\"law\": \"gamma\", \"rate_per_s\": 7, \"cv\": 1.7}, \"classes\": [{\"name\": \"c\", "
        "\"prompt\": {\"law\": \"lognormal\", \"median_tokens\": 500, \"sigma\": 0.8}, "
        "\"output\": {\"law\": \"lognormal\", \"median_tokens\": 900, \"sigma\": 1.1}, "
        "\"correlation\": 0.6, \"think_share\": 0.4}]}";
    CHECK_MESSAGE(parse(&drawn, description, NULL) == 0, "%s", status_text());
    CHECK(workload_fit(&text, &drawn) == 0 && strstr(text, "\"correlation\""));
    double correlation = strtod(strstr(text, "\"correlation\"") + 14, NULL);
    CHECK_MESSAGE(fabs(correlation - 0.6) < 0.03, "a correlation of 0.6 was fitted as %g", correlation);
    CHECK_MESSAGE(parse(&again, text, &(struct workload_options){.seed = check_random() | 1}) == 0, "%s",
                  status_text());
    CHECK(workload_measure(&a, &drawn) == 0 && workload_measure(&b, &again) == 0 && a.n == b.n);
    CHECK_MESSAGE(fabs(b.prompt.mean / a.prompt.mean - 1) < 0.05 && fabs(b.output.mean / a.output.mean - 1) < 0.08,
                  "means of %g and %g, fitted to %g and %g", b.prompt.mean, b.output.mean, a.prompt.mean,
                  a.output.mean);
    CHECK(abs(b.prompt.p50 - a.prompt.p50) < 0.05 * a.prompt.p50 &&
          abs(b.output.p95 - a.output.p95) < 0.1 * a.output.p95);
    CHECK(fabs(b.rate_per_s / a.rate_per_s - 1) < 0.06 && fabs(b.gap_cv / a.gap_cv - 1) < 0.06);
    CHECK(fabs(b.think_share - a.think_share) < 0.01);
    free(text);
    workload_close(&again);
    workload_close(&drawn);
    for (int i = 0; i < 20; i++) {    // few requests, equal ones, all at once, users
        struct workload_request requests[6];
        struct workload few = {.name = "few", .n = check_range(1, 6), .requests = requests, .block_tokens = 1,
                               .n_classes = 1, .classes = {"c"}, .users = check_range(0, 2) ? 0 : 2};
        for (int64_t k = 0; k < few.n; k++) {
            requests[k] = (struct workload_request){.arrival_ns = few.users ? 0 : k * (i % 3) * (int64_t)1000000000,
                                                    .prefix_id = -1,
                                                    .prompt_tokens = check_range(1, 3),
                                                    .output_tokens = check_range(1, 3)};
        }
        CHECK(workload_fit(&copy, &few) == 0);
        CHECK_MESSAGE(parse(&again, copy, NULL) == 0 && again.n == few.n, "%s", status_text());
        free(copy);
        workload_close(&again);
    }
}

// Random damage to good texts: an error or a list, never anything else.
static void test_damage(void)
{
    static const char *const good[] = {
        "{\"timestamp\": 1000, \"input_length\": 1100, \"output_length\": 7, \"hash_ids\": [5, 6, 7]}\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.9799600,4808,10\n",
        HEAD "\"arrivals\": {\"law\": \"closed-loop\", \"users\": 2, \"pause_s\": 1}, " CLASS "}",
    };
    for (int i = 0; i < 3000; i++) {
        char text[512];
        struct workload workload;
        snprintf(text, sizeof text, "%s", good[i % 3]);
        size_t length = strlen(text);
        for (int damage = check_range(1, 3); damage > 0; damage--) {
            text[check_random() % length] = (char)check_range(1, 255);
        }
        if (check_range(0, 3) == 0) {
            text[check_random() % length] = 0;
        }
        struct workload_options few = {.max_requests = 10};
        int error = workload_parse(&workload, text, strlen(text), "here", &few);
        CHECK(error == 0 || error == -EINVAL);
        workload_close(&workload);
    }
}

// What the fuzzer kept is parsed again.
static void test_corpus(void)
{
    static const char folder[] = "tests/fuzz/corpus/workload";
    DIR *directory = opendir(folder);
    int32_t n = 0;
    CHECK_MESSAGE(directory != NULL, "%s: cannot read: run from the top of the checkout", folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[512];
        struct workload workload;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.') {
            int error = workload_load(&workload, path, &(struct workload_options){.max_requests = 64});
            CHECK_MESSAGE(error == 0 || error == -EINVAL, "%s: %d", path, error);
            workload_close(&workload);
            n++;
        }
    }
    if (directory) {
        closedir(directory);
    }
    CHECK_MESSAGE(n >= 100, "%s: %d files", folder, n);
}

// ---------------------------------------------------------------------------------------------------------------------
// Real traces

struct published {
    const char *file;
    double rate_per_s;    // as published, to the digits given
    int32_t n, prompt_mean, prompt_p50, prompt_p95, prompt_max;
    int32_t output_mean, output_p50, output_p95, output_p99, output_max;
    double prefix_hit_percent;
};

// A percentile may be off by its definition: where it falls between two requests, either may be published.
static bool close_to(double value, double published, double relative)
{
    return fabs(value - published) <= 0.5 + relative * published;
}

static void check_published(const char *folder, const struct published *expected)
{
    char path[1024];
    struct workload workload;
    struct workload_statistics got;
    snprintf(path, sizeof path, "%s/%s", folder, expected->file);
    if (workload_load(&workload, path, NULL) != 0) {
        check_failed(__FILE__, __LINE__, "%s", status_text());
        return;
    }
    CHECK(workload_measure(&got, &workload) == 0);
    CHECK_MESSAGE(got.n == expected->n, "%s: %lld requests", expected->file, (long long)got.n);
    CHECK_MESSAGE(fabs(got.rate_per_s / expected->rate_per_s - 1) < 0.004, "%s: %g per s", expected->file,
                  got.rate_per_s);
    const struct {
        double got, published, relative;
    } values[] = {
        {got.prompt.mean, expected->prompt_mean, 0},       {got.prompt.p50, expected->prompt_p50, 0.001},
        {got.prompt.p95, expected->prompt_p95, 0.003},     {got.prompt.max, expected->prompt_max, 0},
        {got.output.mean, expected->output_mean, 0},       {got.output.p50, expected->output_p50, 0.001},
        {got.output.p95, expected->output_p95, 0.003},     {got.output.p99, expected->output_p99, 0.003},
        {got.output.max, expected->output_max, 0},
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        CHECK_MESSAGE(values[i].published == 0 || close_to(values[i].got, values[i].published, values[i].relative),
                      "%s: figure %zu is %g, published %g", expected->file, i, values[i].got, values[i].published);
    }
    CHECK_MESSAGE(fabs(100 * got.prefix_hit_share - expected->prefix_hit_percent) < 0.05, "%s: %g%% of blocks hit",
                  expected->file, 100 * got.prefix_hit_share);
    workload_close(&workload);
}

static void test_real_traces(void)
{
    static const struct published traces[] = {
        {"mooncake_conversation_trace.jsonl", 3.40, 12031, 12035, 6909, 39552, 126195, 343, 350, 698, 1120, 2000, 36.6},
        {"mooncake_synthetic_trace.jsonl", 3.91, 3993, 15325, 11587, 49009, 191378, 149, 69, 519, 769, 893, 64.0},
        {"azure2023_conv.csv", 5.53, 19366, 1155, 1020, 4083, 14050, 211, 129, 451, 601, 1000, 0},
        {"azure2023_code.csv", 2.57, 8819, 2048, 1469, 7315, 7437, 28, 13, 90, 252, 1899, 0},
        {"servegen_r1_hour08_sample.csv", 9.54, 34335, 1830, 87, 12742, 47091, 3781, 3029, 10251, 16172, 28763, 0},
        {"servegen_r1_hour22_sample.csv", 35.1, 126480, 702, 285, 1913, 55083, 824, 528, 1656, 5544, 32768, 0},
    };
    const char *folder = getenv("CLSA_WORKLOADS");
    folder = folder ? folder : "../shared/workloads";
    if (access(folder, R_OK) != 0) {
        printf("skipped: no traces in %s; CLSA_WORKLOADS names another folder\n", folder);
        return;
    }
    for (size_t i = 0; i < sizeof traces / sizeof traces[0]; i++) {
        check_published(folder, &traces[i]);
    }
}

int main(void)
{
    check_begin();
    test_mooncake();
    test_csv();
    test_wrong_files();
    test_presets();
    test_laws();
    test_rates_by_window();
    test_options();
    test_fit();
    test_damage();
    test_corpus();
    test_real_traces();
    return check_end();
}
