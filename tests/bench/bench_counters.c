// tests/bench/bench_counters.c - what a GPU's own counters say that stages move, beside what the cost model says.
//
// First the counters are checked: a kernel that reads a known number of bytes, a clearing that writes them. Then decode
// steps of each method run eagerly, every stage counted by itself (cupti/stage_counts.h), and the same steps
// undisturbed under the sampler of performance monitors, whose sum over the steps must agree. Rows of results.tsv:
// dram.<stage> (MB of one step, all layers; the floor is the cost model's), what of it was written, dram.step and
// dram.sampled. A machine without a usable GPU is told so.
//
// What a stage left in L2 to be written is written when a later stage pushes it out, and counts there; what it finds in
// L2 is not read. With --cold the cache is filled with other bytes before each stage: a stage then reads all of its
// input and writes back nothing of others. Rows are named dram.cold.<stage>.
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/command.h"
#include "cli/measure.h"
#include "cupti/collector.h"
#include "cupti/nvml.h"
#include "cupti/pm_sampling.h"
#include "cupti/range_profiler.h"
#include "cupti/stage_counts.h"
#include "engine/engine.h"
#include "engine/status.h"
#include "tests/bench/results.h"

enum { MAX_BATCHES = 4, COUNTED_STEPS = 3, SAMPLED_STEPS = 20, ANSWER_TOKENS = 512 };
enum { STEPS_OF_A_READING = 4 };    // the device's buffer holds a third of a second
enum { COLD_BYTES = 256 << 20 };    // several times the L2 cache
enum { KNOWN_BYTES = 1 << 30, KNOWN_REPEATS = 32, BUSY_BYTES = 10000000, BLOCKS = 132 * 16, THREADS = 256 };

struct bench {
    const char *model, *methods, *batches, *prompt;
    struct results results;
    int32_t context, device;
    bool cold;
    int32_t *prompt_tokens;    // [context]
    char name[SOURCE_NAME_BYTES];
};

// ---------------------------------------------------------------------------------------------------------------------
// Known work

// Every thread reads 16 bytes at a time; what it read could be stored, so that nothing is optimised away.
static const char *const read_kernel =
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry read_stream(.param .u64 from, .param .u64 n, .param .u64 out)\n{\n"
    "    .reg .pred %p;\n    .reg .b32 %r<12>;\n    .reg .b64 %q<8>;\n"
    "    ld.param.u64 %q0, [from];\n    ld.param.u64 %q1, [n];\n"
    "    mov.u32 %r0, %ctaid.x;\n    mov.u32 %r1, %ntid.x;\n    mov.u32 %r2, %tid.x;\n    mad.lo.u32 %r3, %r0, %r1, "
    "%r2;\n"
    "    cvt.u64.u32 %q2, %r3;\n    mov.u32 %r4, %nctaid.x;\n    mul.lo.u32 %r5, %r4, %r1;\n    cvt.u64.u32 %q3, %r5;\n"
    "    mov.u32 %r6, 0;\n"
    "LOOP:\n    setp.ge.u64 %p, %q2, %q1;\n    @%p bra DONE;\n    shl.b64 %q4, %q2, 4;\n    add.u64 %q5, %q0, %q4;\n"
    "    ld.global.v4.u32 {%r7, %r8, %r9, %r10}, [%q5];\n    xor.b32 %r6, %r6, %r7;\n    xor.b32 %r6, %r6, %r8;\n"
    "    xor.b32 %r6, %r6, %r9;\n    xor.b32 %r6, %r6, %r10;\n    add.u64 %q2, %q2, %q3;\n    bra LOOP;\n"
    "DONE:\n    setp.ne.u32 %p, %r6, 0x9e3779b9;\n    @%p bra END;\n    ld.param.u64 %q6, [out];\n"
    "    st.global.u32 [%q6], %r6;\n"
    "END:\n    ret;\n}\n";

// The driver's functions for it.
struct known {
    int (*init)(unsigned);
    int (*device)(int32_t *, int);
    int (*retain)(void **, int32_t);
    int (*release)(int32_t);
    int (*set)(void *);
    int (*load)(void **, const void *);
    int (*function)(void **, void *, const char *);
    int (*alloc)(unsigned long long *, size_t);
    int (*release_memory)(unsigned long long);
    int (*clear)(unsigned long long, unsigned, size_t);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                  void **);
    int (*synchronize)(void);
    int32_t handle;
    unsigned long long memory;
    void *kernel;
};

static const struct {
    size_t offset;
    const char *name;
} driver_functions[] = {
    {offsetof(struct known, init), "cuInit"},
    {offsetof(struct known, device), "cuDeviceGet"},
    {offsetof(struct known, retain), "cuDevicePrimaryCtxRetain"},
    {offsetof(struct known, release), "cuDevicePrimaryCtxRelease_v2"},
    {offsetof(struct known, set), "cuCtxSetCurrent"},
    {offsetof(struct known, load), "cuModuleLoadData"},
    {offsetof(struct known, function), "cuModuleGetFunction"},
    {offsetof(struct known, alloc), "cuMemAlloc_v2"},
    {offsetof(struct known, release_memory), "cuMemFree_v2"},
    {offsetof(struct known, clear), "cuMemsetD32_v2"},
    {offsetof(struct known, launch), "cuLaunchKernel"},
    {offsetof(struct known, synchronize), "cuCtxSynchronize"},
};

static int known_open(struct known *known, int32_t device)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context = NULL, *module = NULL;
    *known = (struct known){0};
    for (size_t i = 0; library && i < sizeof driver_functions / sizeof driver_functions[0]; i++) {
        void *symbol = dlsym(library, driver_functions[i].name);
        library = symbol ? library : NULL;
        *(void **)((char *)known + driver_functions[i].offset) = symbol;
    }
    if (!library || known->init(0) || known->device(&known->handle, device)) {
        return status_fail(-ENODEV, "no GPU");
    }
    int result = known->retain(&context, known->handle);
    result = result ? result : known->set(context);
    result = result ? result : known->load(&module, read_kernel);
    result = result ? result : known->function(&known->kernel, module, "read_stream");
    result = result ? result : known->alloc(&known->memory, KNOWN_BYTES);
    result = result ? result : known->clear(known->memory, 0, KNOWN_BYTES / 4);
    return result ? status_fail(-EIO, "CUDA error %d", result) : 0;
}

static int known_read(struct known *known, int64_t bytes)
{
    unsigned long long n = (unsigned long long)bytes / 16;
    void *arguments[] = {&known->memory, &n, &known->memory};
    return known->launch(known->kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, NULL, arguments, NULL);
}

static void known_close(struct known *known)
{
    if (known->memory) {
        known->release_memory(known->memory);
    }
    if (known->release) {
        known->release(known->handle);
    }
}

static int check_ranges(struct bench *bench, struct known *known)
{
    static const char *const metrics[] = {"dram__bytes_read.sum", "dram__bytes_write.sum"};
    struct range_options options = {.device = bench->device, .metrics = metrics, .n_metrics = 2};
    struct range_profiler *profiler;
    const double *values;
    int error = range_profiler_open(&profiler, &options), n = 0;
    if (error) {
        return error;
    }
    for (int64_t bytes = KNOWN_BYTES / 64; bytes <= KNOWN_BYTES; bytes *= 8) {    // 16 MiB fits into the L2 cache
        range_profiler_push(profiler);
        error = error ? error : known_read(known, bytes);
        range_profiler_pop(profiler);
    }
    range_profiler_push(profiler);
    error = error ? error : known->clear(known->memory, 0, KNOWN_BYTES / 4);
    range_profiler_pop(profiler);
    n = range_profiler_collect(profiler, &values);
    for (int i = 0; i < n; i++) {
        printf("range %d: read %.0f, written %.0f bytes\n", i, values[2 * i], values[2 * i + 1]);
    }
    range_profiler_close(profiler);
    return n < 0 ? n : error ? status_fail(-EIO, "CUDA error %d", error) : 0;
}

// What the sampler has seen.
struct sampled {
    int32_t n_metrics, n;
    double sum[16];    // of each metric
    int64_t first_ns, last_ns;
    int64_t busy_begin_ns, busy_end_ns;    // from the first sample with many bytes to the last
};

static void on_sample(void *user, const struct pm_sample *sample)
{
    struct sampled *sampled = user;
    sampled->first_ns = sampled->n++ ? sampled->first_ns : sample->begin_ns;
    sampled->last_ns = sample->end_ns;
    if (sample->values[0] > BUSY_BYTES) {
        sampled->busy_begin_ns = sampled->busy_begin_ns ? sampled->busy_begin_ns : sample->begin_ns;
        sampled->busy_end_ns = sample->end_ns;
    }
    for (int32_t i = 0; i < sampled->n_metrics; i++) {
        sampled->sum[i] += sample->values[i];
    }
}

static int check_sampling(struct bench *bench, struct known *known)
{
    const struct timespec idle = {.tv_nsec = 20000000};    // the chip does nothing before and after
    struct pm_options options = {.device = bench->device};
    struct pm_sampler *sampler;
    struct sampled sampled = {0};
    bool lost = false;
    int error = pm_sampler_open(&sampler, &options);
    if (error) {
        return error;
    }
    const char *const *metrics = pm_sampler_metrics(sampler, &sampled.n_metrics);
    error = pm_sampler_start(sampler);
    nanosleep(&idle, NULL);
    int64_t begin_ns = collector_now_ns();
    for (int i = 0; i < KNOWN_REPEATS && !error; i++) {
        error = known_read(known, KNOWN_BYTES);
    }
    known->synchronize();
    int64_t end_ns = collector_now_ns();
    nanosleep(&idle, NULL);
    int64_t read_ns = collector_now_ns();
    int n = error ? error : pm_sampler_read(sampler, on_sample, &sampled, &lost);
    read_ns = collector_now_ns() - read_ns;
    printf(
        "sampled %d over %.1f ms (lost %d, read in %.1f ms): the kernels ran for %.3f ms, samples are busy from %+.3f "
        "ms after their launch to %+.3f ms after their end\n",
        n, (double)(sampled.last_ns - sampled.first_ns) * 1e-6, lost, (double)read_ns * 1e-6,
        (double)(end_ns - begin_ns) * 1e-6, (double)(sampled.busy_begin_ns - begin_ns) * 1e-6,
        (double)(sampled.busy_end_ns - end_ns) * 1e-6);
    for (int32_t i = 0; i < sampled.n_metrics && n > 0; i++) {
        printf("  %-64s sum %.6g mean %.6g\n", metrics[i], sampled.sum[i], sampled.sum[i] / n);
    }
    printf("  read %.4f of the bytes that the kernels read\n", sampled.sum[0] / ((double)KNOWN_BYTES * KNOWN_REPEATS));
    pm_sampler_close(sampler);
    return n < 0 ? n : 0;
}

static void check_nvml(const struct bench *bench)
{
    struct nvml *nvml;
    struct nvml_reading r;
    if (nvml_open(&nvml, bench->device, NULL, NULL)) {
        printf("nvml: %s\n", status_text());
        return;
    }
    int64_t begin_ns = collector_now_ns();
    nvml_read(nvml, &r);
    printf("nvml: SM %.0f MHz, memory %.0f MHz, %.1f W, %.3f J, %.0f C, %.0f bytes, slowed %g %g %g; read in %.2f ms\n",
           r.sm_clock_mhz, r.memory_clock_mhz, r.power_w, r.energy_j, r.temperature_c, r.memory_bytes,
           r.slowed_by_power, r.slowed_by_heat, r.slowed_otherwise, (double)(collector_now_ns() - begin_ns) * 1e-6);
    nvml_close(nvml);
}

static void tell_failure(int error)
{
    if (error) {
        printf("%s\n", status_text());
    }
}

static int check_counters(struct bench *bench, struct known *known)
{
    check_nvml(bench);
    int error = check_ranges(bench, known);
    tell_failure(error);
    int sampling = check_sampling(bench, known);
    tell_failure(sampling);
    return error && sampling ? error : 0;    // one of them is enough to go on
}

// ---------------------------------------------------------------------------------------------------------------------
// Cold stages

// The counts' observer, with other bytes in the cache before each stage. There is one at a time.
static struct {
    struct observer observer;
    const struct observer *counts;
    struct known *known;
    bool on;
} cold;

static void on_cold_begin(void *user, const struct observed_stage *stage, bool replayed)
{
    if (cold.on) {
        cold.known->synchronize();
        known_read(cold.known, COLD_BYTES);    // a failure shows in the stages' own launches
        cold.known->synchronize();
    }
    cold.counts->enqueue_begin(user, stage, replayed);
}

static const struct observer *cold_observer(struct known *known, const struct observer *counts)
{
    cold.counts = counts;
    cold.known = known;
    cold.observer = *counts;
    cold.observer.enqueue_begin = on_cold_begin;
    return &cold.observer;
}

// ---------------------------------------------------------------------------------------------------------------------
// Steps

static void row(const struct bench *bench, const char *method, int32_t batch, const char *quantity, double megabytes,
                double model)
{
    results_add(&bench->results, &(struct result){.device = bench->name,
                                                  .command = "bench_counters",
                                                  .model = bench->model,
                                                  .method = method,
                                                  .context = bench->context,
                                                  .sequences = batch,
                                                  .quantity = quantity,
                                                  .median = megabytes,
                                                  .spread = NAN,
                                                  .floor = model > 0 ? model : NAN,
                                                  .unit = "MB"});
}

// Stages of the counted steps, all layers together, per step.
static void tell_counts(const struct bench *bench, const char *method, int32_t batch, const struct stage_counts *counts,
                        int64_t first)
{
    double model[STAGE_COUNT] = {0}, read[STAGE_COUNT] = {0}, written[STAGE_COUNT] = {0}, all_model = 0, all_read = 0,
           all_written = 0;
    int64_t n;
    const struct stage_count *all = stage_counts_all(counts, &n);
    const double scale = 1e-6 / COUNTED_STEPS;
    for (int64_t i = first; i < n; i++) {
        model[all[i].stage.stage] += (double)all[i].stage.bytes * scale;
        read[all[i].stage.stage] += (double)all[i].read_bytes * scale;
        written[all[i].stage.stage] += (double)all[i].written_bytes * scale;
    }
    for (int s = 0; s < STAGE_COUNT; s++) {
        char quantity[64];
        double sum = read[s] + written[s];
        if (sum == 0 && model[s] == 0) {
            continue;
        }
        snprintf(quantity, sizeof quantity, "dram.%s%s", bench->cold ? "cold." : "", stage_name((enum stage)s));
        printf("%-11s %3d  %-22s model %10.2f  read %10.2f  written %8.2f MB  ratio %6.3f\n", method, batch, quantity,
               model[s], read[s], written[s], sum / model[s]);
        row(bench, method, batch, quantity, sum, model[s]);
        snprintf(quantity, sizeof quantity, "dram.%s%s.written", bench->cold ? "cold." : "", stage_name((enum stage)s));
        row(bench, method, batch, quantity, written[s], 0);
        all_model += model[s];
        all_read += read[s];
        all_written += written[s];
    }
    const char *whole = bench->cold ? "dram.cold.step" : "dram.step";
    printf("%-11s %3d  %-22s model %10.2f  read %10.2f  written %8.2f MB  ratio %6.3f\n", method, batch, whole,
           all_model, all_read, all_written, (all_read + all_written) / all_model);
    row(bench, method, batch, whole, all_read + all_written, all_model);
    fflush(stdout);
}

// What each layer's stage moved, the mean of the counted steps: whether some layer differs.
static void tell_layers(const struct stage_counts *counts, int64_t first)
{
    static const enum stage told[] = {STAGE_QKV, STAGE_ATTENTION, STAGE_OUTPUT, STAGE_FFN};
    int64_t n;
    const struct stage_count *all = stage_counts_all(counts, &n);
    for (size_t s = 0; s < sizeof told / sizeof *told; s++) {
        double read[512] = {0}, written[512] = {0};
        int32_t layers = 0;
        for (int64_t i = first; i < n; i++) {
            int32_t layer = all[i].stage.layer;
            if (all[i].stage.stage == told[s] && layer >= 0 && layer < 512) {
                read[layer] += (double)all[i].read_bytes * 1e-6 / COUNTED_STEPS;
                written[layer] += (double)all[i].written_bytes * 1e-6 / COUNTED_STEPS;
                layers = layer >= layers ? layer + 1 : layers;
            }
        }
        printf("  %s, read+written MB by layer:", stage_name(told[s]));
        for (int32_t layer = 0; layer < layers; layer++) {
            printf(" %.2f+%.2f", read[layer], written[layer]);
        }
        printf("\n");
    }
}

static int steps(struct engine *engine, int n)
{
    const struct engine_output *outputs;
    int result = 0;
    for (int i = 0; i < n && result >= 0; i++) {
        result = engine_step(engine, &outputs);
    }
    return result < 0 ? result : 0;
}

static int sample_steps(const struct bench *bench, struct engine *engine, const char *method, int32_t batch)
{
    struct pm_options options = {.device = bench->device};
    struct pm_sampler *sampler;
    struct sampled sampled = {0};
    bool lost = false;
    int error = pm_sampler_open(&sampler, &options);
    if (error) {
        return error;
    }
    pm_sampler_metrics(sampler, &sampled.n_metrics);
    int64_t begin_ns = collector_now_ns();
    error = pm_sampler_start(sampler);
    for (int i = 0; i < SAMPLED_STEPS && !error; i += STEPS_OF_A_READING) {
        bool lost_now = false;
        error = steps(engine, STEPS_OF_A_READING);
        int read = error ? 0 : pm_sampler_read(sampler, on_sample, &sampled, &lost_now);
        error = read < 0 ? read : error;
        lost = lost || lost_now;
    }
    int64_t end_ns = collector_now_ns();
    int stopped = pm_sampler_stop(sampler);
    bool lost_last = false;
    int n = error || stopped ? -1 : pm_sampler_read(sampler, on_sample, &sampled, &lost_last);
    n = n < 0 ? n : sampled.n;
    double megabytes = (sampled.sum[0] + sampled.sum[1]) * 1e-6 / SAMPLED_STEPS;
    printf("%-11s %3d  %-22s %d samples in %.2f ms a step, lost %d: %.2f MB; means", method, batch, "dram.sampled", n,
           (double)(end_ns - begin_ns) * 1e-6 / SAMPLED_STEPS, lost, megabytes);
    for (int32_t i = 2; i < sampled.n_metrics && n > 0; i++) {
        printf(" %.4g", sampled.sum[i] / n);
    }
    printf("\n");
    pm_sampler_close(sampler);
    if (n > 0) {
        row(bench, method, batch, "dram.sampled", megabytes, 0);
    }
    return error ? error : n < 0 ? status_prefix(-EIO, "sampling: ") : 0;
}

// Prefills one prompt, then for each batch size forks it, warms up, counts and samples.
static int run_batches(struct bench *bench, struct engine *engine, struct stage_counts *counts, const char *method,
                       const int32_t *batches, int n_batches)
{
    const struct engine_output *outputs;
    const struct counters_libraries libraries = {0};
    struct engine_request request = {
        .prompt = bench->prompt_tokens, .n_prompt = bench->context, .max_output_tokens = ANSWER_TOKENS};
    int64_t id, fork, first;
    int n = 0, error = engine_submit(engine, &request, &id);
    while (!error && n == 0) {
        n = engine_step(engine, &outputs);
        error = n < 0 ? n : 0;
    }
    for (int b = 0; b < n_batches && !error; b++) {
        while (!error && engine_stats(engine).running < batches[b]) {
            error = engine_fork(engine, id, &fork);
        }
        error = error ? error : steps(engine, 2);
        stage_counts_all(counts, &first);
        int counting = error ? error : stage_counts_start(counts, bench->device, &libraries);
        cold.on = bench->cold;
        int64_t begin_ns = collector_now_ns();
        error = error ? error : steps(engine, COUNTED_STEPS);
        printf("counted in %.1f ms a step\n", (double)(collector_now_ns() - begin_ns) * 1e-6 / COUNTED_STEPS);
        cold.on = false;
        counting = counting ? counting : stage_counts_stop(counts);
        tell_failure(error ? 0 : counting);
        if (!error && !counting) {
            tell_counts(bench, method, batches[b], counts, first);
            tell_layers(counts, first);
        }
        tell_failure(error || bench->cold ? 0 : sample_steps(bench, engine, method, batches[b]));
    }
    return error;
}

static int run_method(struct bench *bench, struct known *known, const char *name)
{
    const struct plan_flags flags = plan_flags_default();
    struct model_file *file = NULL;
    struct stage_counts *counts = NULL;
    struct engine *engine = NULL;
    struct sample_source source;
    struct plan plan;
    char list[64], *rest = NULL;
    int32_t batches[MAX_BATCHES];
    int n = 0;
    snprintf(list, sizeof list, "%s", bench->batches);
    for (char *word = strtok_r(list, ",", &rest); word && n < MAX_BATCHES; word = strtok_r(NULL, ",", &rest)) {
        batches[n++] = atoi(word);
    }
    int error = command_model_open(&file, bench->model, name, &flags, 1);
    error = error ? error : command_plan_build(&plan, file, name, &flags);
    error = error ? error : stage_counts_open(&counts);
    struct engine_options options = {
        .plan = &plan,
        .model = file,
        .backend = "cuda",
        .device = bench->device,
        .max_seqs = n > 0 ? batches[n - 1] : 1,
        .max_context = bench->context + ANSWER_TOKENS,
        .max_step_tokens = measure_chunk("cuda"),
        .eager = true,
        .observer = counts ? cold_observer(known, stage_counts_observer(counts)) : NULL,
    };
    error = error ? error : engine_open(&engine, &options);
    if (!error) {
        engine_source(engine, &source);
        memcpy(bench->name, source.device, sizeof bench->name);
        error = run_batches(bench, engine, counts, name, batches, n);
    }
    engine_close(engine);
    stage_counts_close(counts);
    model_file_close(file);
    return error ? status_prefix(error, "%s: ", name) : 0;
}

static int run(struct bench *bench)
{
    char list[256], *rest = NULL;
    int32_t *text = NULL, n_text = 0;
    snprintf(list, sizeof list, "%s", bench->methods);
    struct known known;
    int error = known_open(&known, bench->device);
    error = error ? error : check_counters(bench, &known);
    error = error ? error : measure_read_prompt(&text, &n_text, bench->prompt);
    bench->prompt_tokens = error ? NULL : malloc((size_t)bench->context * sizeof *bench->prompt_tokens);
    for (int32_t t = 0; bench->prompt_tokens && t < bench->context; t++) {
        bench->prompt_tokens[t] = text[t % n_text];
    }
    error = error ? error : results_open(&bench->results);
    for (char *name = strtok_r(list, ",", &rest); name && !error; name = strtok_r(NULL, ",", &rest)) {
        error = run_method(bench, &known, name);
    }
    known_close(&known);
    free(bench->prompt_tokens);
    free(text);
    return results_close(&bench->results, error);
}

int main(int argc, char **argv)
{
    struct bench bench = {.model = "paper-4b",
                          .methods = "clsa,token,dense",
                          .batches = "1,8",
                          .prompt = "workloads/texts/constitution.txt",
                          .results = RESULTS_DEFAULT,
                          .context = 131072};
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &bench.model, 0, 0, "NAME", "a size; weights are random"},
        {"methods", OPTION_TEXT, &bench.methods, 0, 0, "M,M,...", "methods"},
        {"batches", OPTION_TEXT, &bench.batches, 0, 0, "N,N,...", "sequences, ascending, at most four numbers"},
        {"prompt", OPTION_TEXT, &bench.prompt, 0, 0, "FILE", "text, repeated"},
        {"context", OPTION_INT, &bench.context, 16, 1 << 24, "tokens", "of each sequence"},
        {"cold", OPTION_FLAG, &bench.cold, 0, 0, NULL, "other bytes in the cache before each stage"},
        {"device", OPTION_INT, &bench.device, 0, 1023, "N", "GPU"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_counters", "Bytes moved, counted by a GPU.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_counters", error);
}
