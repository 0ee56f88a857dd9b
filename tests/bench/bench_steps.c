// tests/bench/bench_steps.c - whole steps on a GPU: the paper's experiment, as rows of results.tsv.
//
// Runs cli/paper.c with every method and appends decode_step and prefill (ms), end_to_end (tokens/s) and, where a
// method selects, stages.index_select (ms: all layers of one step; stage.* is one layer); prints, beside them, the
// stages of one step and the tables of clsa compare --paper. A machine without a usable GPU is told so and nothing is
// measured.
// --results takes another file, so that the rows of a machine without the checkout can be brought back; --commit and
// --driver say what such a machine cannot know. Quantities under another --kv-dtype than bf16 end in it:
// decode_step.kv_fp8.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/gpu_rates.h"
#include "cli/measure.h"
#include "cli/paper.h"
#include "engine/status.h"
#include "tests/bench/results.h"

struct bench {
    const char *model, *methods, *prompt, *kv_dtype;
    struct results results;
    int32_t context, output, batch, device;
    struct device rates;
};

static void row(const struct bench *bench, const struct paper_point *point, const char *quantity, double value,
                double spread, double floor, const char *unit)
{
    char name[64];
    bool told = point->plan->kv_dtype != DTYPE_BF16;
    snprintf(name, sizeof name, "%s%s%s", quantity, told ? ".kv_" : "", told ? dtype_name(point->plan->kv_dtype) : "");
    printf("%-11s %7d %4d  %-12s %10.5g %s  floor %.4g\n", point->plan->method, point->context, point->batch, name,
           value, unit, floor);
    fflush(stdout);
    results_add(&bench->results, &(struct result){.device = bench->rates.name,
                                                  .command = "bench_steps",
                                                  .model = point->plan->shape.name,
                                                  .method = point->plan->method,
                                                  .context = point->context,
                                                  .sequences = point->batch,
                                                  .quantity = name,
                                                  .median = value,
                                                  .spread = spread,
                                                  .floor = floor,
                                                  .unit = unit});
}

static void on_point(void *user, const struct paper_point *point)
{
    const struct bench *bench = user;
    if (!isnan(point->prefill_s)) {
        row(bench, point, "prefill", point->prefill_s * 1e3, NAN, NAN, "ms");
    }
    row(bench, point, "decode_step", point->step_s * 1e3, point->spread_s * 1e3, point->floor_s * 1e3, "ms");
    if (point->stage_s[STAGE_INDEX_SELECT] > 0) {
        row(bench, point, "stages.index_select", point->stage_s[STAGE_INDEX_SELECT] * 1e3, NAN, NAN, "ms");
    }
    printf("  us:");
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        if (point->stage_s[stage] > 0) {
            printf(" %s %.0f", stage_name((enum stage)stage), point->stage_s[stage] * 1e6);
        }
    }
    printf("\n");
    if (!isnan(point->end_to_end)) {
        row(bench, point, "end_to_end", point->end_to_end, NAN, NAN, "tokens/s");
    }
}

// Plans of the methods named, and a random model for each backbone. files [2] are the caller's.
static int choose(const struct bench *bench, struct plan *plans, struct model_file **files,
                  struct paper_options *options)
{
    const struct model_shape *shape = plan_find_model(bench->model);
    struct plan_flags flags = plan_flags_default();
    char list[512];
    if (!shape || snprintf(list, sizeof list, "%s", bench->methods) >= (int)sizeof list) {
        return status_fail(-EINVAL, "--model %s: not the name of a size", bench->model);
    }
    flags.kv_dtype = bench->kv_dtype;
    int error = plan_flags_resolve(&flags);
    for (int b = 0; b < 2 && !error; b++) {
        error = command_model_open(&files[b], bench->model, b == BACKBONE_YOCO ? "yoco" : "dense", &flags, 1);
    }
    if (error) {
        return error;
    }
    for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        const struct method_info *method = plan_find_method(name);
        struct plan *plan = &plans[options->n_methods];
        error =
            !method || options->n_methods == PAPER_MAX_METHODS ? status_fail(-EINVAL, "--methods: %s", name) : 0;
        error = error ? error : command_plan_build(plan, files[method->backbone], name, &flags);
        if (error) {
            return error;
        }
        options->methods[options->n_methods++] = (struct paper_method){plan, files[method->backbone]};
    }
    return 0;
}

static int run(struct bench *bench)
{
    static struct plan plans[PAPER_MAX_METHODS];
    struct model_file *files[2] = {NULL, NULL};
    struct table *tables[PAPER_TABLES] = {NULL};
    int32_t *text = NULL, n_text = 0;
    struct paper_options options = {
        .backend = "cuda",
        .device = bench->device,
        .chunk_tokens = measure_chunk("cuda"),
        .contexts = {bench->context / 16, bench->context / 4, bench->context},
        .output_tokens = bench->output,
        .max_batch = bench->batch,
        .rates = &bench->rates,
        .point = on_point,
        .user = bench,
    };
    int error = gpu_rates(&bench->rates, bench->device);
    error = error ? error : measure_read_prompt(&text, &n_text, bench->prompt);
    error = error ? error : choose(bench, plans, files, &options);
    error = error ? error : results_open(&bench->results);
    if (!error) {
        printf("%s: %.0f GB/s, %.0f TFLOP/s, %.2f us a launch\n", bench->rates.name,
               bench->rates.bytes_per_s.value * 1e-9, bench->rates.flops_per_s[DTYPE_BF16].value * 1e-12,
               bench->rates.launch_s.value * 1e6);
        options.text = text;
        options.n_text = n_text;
        error = paper_run(tables, &options);
    }
    static const char *const titles[PAPER_TABLES] = {"measured", "with selection as slow as the paper's implies",
                                                     "the paper's own figures (B200), not measured here"};
    for (int i = 0; i < PAPER_TABLES && !error; i++) {
        printf("\n%s\n", titles[i]);
        table_print(tables[i], stdout);
    }
    for (int i = 0; i < PAPER_TABLES; i++) {
        table_close(tables[i]);
    }
    model_file_close(files[0]);
    model_file_close(files[1]);
    free(text);
    return results_close(&bench->results, error);
}

int main(int argc, char **argv)
{
    struct bench bench = {.model = "paper-4b",
                          .methods = "dense,yoco,clsa,clsa-block,yoco-token,token,indexcache,block,dsa,quest",
                          .prompt = "workloads/texts/constitution.txt",
                          .results = RESULTS_DEFAULT,
                          .context = 131072,
                          .output = 10000,
                          .batch = 1024};
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &bench.model, 0, 0, "NAME", "a size; weights are random"},
        {"methods", OPTION_TEXT, &bench.methods, 0, 0, "M,M,...", "methods, the dense one first"},
        {"prompt", OPTION_TEXT, &bench.prompt, 0, 0, "FILE", "text, repeated"},
        {"context", OPTION_INT, &bench.context, 16, 1 << 24, "tokens",
         "the longest; a quarter and a sixteenth are run too"},
        {"output", OPTION_INT, &bench.output, 1, 1 << 20, "tokens", "of a request, for end-to-end throughput"},
        {"batch", OPTION_INT, &bench.batch, 1, 1024, "sequences", "the largest"},
        {"kv-dtype", OPTION_TEXT, &bench.kv_dtype, 0, 0, "bf16|fp8", "type of cached keys and values"},
        {"device", OPTION_INT, &bench.device, 0, 1023, "N", "GPU"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_steps", "Whole steps on a GPU.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_steps", error);
}
