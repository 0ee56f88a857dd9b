// tests/bench/bench_sim_speed.c - how long the simulator takes for a workload: by default a day of a service.
//
// One replica answers it, calibrated and as a bare roofline, --turns times each in turn. What is counted is the
// processor time of the thread that draws the requests and simulates them. Appends requests per second to --results.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/calibrated.h"
#include "cli/choice.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "sim/serve.h"
#include "tests/bench/results.h"

enum { MAX_TURNS = 64, CALIBRATED = 0, ROOFLINE = 1, MODES = 2 };
static const char *const mode_names[MODES] = {"calibrated", "roofline"};

struct bench {
    const char *workload, *model, *method, *device_name, *calibration_file;
    struct results results;
    int64_t requests;
    int32_t turns;
    struct plan plan;
    struct device devices[MODES];
    double seconds[MODES][MAX_TURNS];
};

static double thread_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int turn(struct bench *bench, int mode, int32_t number)
{
    static struct serve_result result;
    struct workload workload;
    struct workload_options drawn = {.max_requests = bench->requests};
    struct serve_options options = {.plan = &bench->plan, .device = &bench->devices[mode]};
    double begin_s = thread_s();
    int error = workload_load(&workload, bench->workload, &drawn);
    error = error ? error : serve_run(&result, &workload, &options);
    bench->seconds[mode][number] = thread_s() - begin_s;
    if (!error) {
        bench->requests = workload.n;
        printf("%-10s  %7.2f s  %lld requests, %.4g output tokens, %lld steps, %s\n", mode_names[mode],
               bench->seconds[mode][number], (long long)workload.n, result.metrics.output_tokens,
               (long long)result.steps, saturation_name(result.metrics.saturation));
        fflush(stdout);
    }
    serve_close(&result);
    workload_close(&workload);
    return error;
}

static void report(struct bench *bench, int mode)
{
    char processor[128], quantity[64];
    double rates[MAX_TURNS];
    calibrated_host_name(processor, sizeof processor);
    snprintf(quantity, sizeof quantity, "sim_speed.%s", mode_names[mode]);
    for (int32_t t = 0; t < bench->turns; t++) {
        rates[t] = (double)bench->requests / bench->seconds[mode][t];
    }
    sort_doubles(rates, bench->turns);
    double median = rates[bench->turns / 2];
    printf("%-10s  %7.0f requests/s, %.2f s in the median\n", mode_names[mode], median,
           (double)bench->requests / median);
    char command[160];
    snprintf(command, sizeof command, "bench_sim_speed --workload %s --device-name %s", bench->workload,
             bench->device_name);
    results_add(&bench->results, &(struct result){.device = processor,
                                                  .command = command,
                                                  .model = bench->model,
                                                  .method = bench->method,
                                                  .quantity = quantity,
                                                  .median = median,
                                                  .spread = rates[bench->turns - 1] - rates[0],
                                                  .floor = NAN,
                                                  .unit = "requests/s"});
}

static int run(struct bench *bench)
{
    struct calibration *calibration = NULL;
    struct model_config config;
    struct device *table = NULL;
    int32_t n_table;
    struct plan_options knobs = plan_options_default();
    int error = choice_model(&config, "--model", bench->model);
    error = error ? error : choice_plan(&bench->plan, &config, bench->model, bench->method, &knobs);
    error = error ? error : device_table_load(&table, &n_table, NULL);
    error = error ? error : calibrated_open(&calibration, &bench->calibration_file, bench->device_name, NULL);
    error = error ? error
                  : choice_device(&bench->devices[CALIBRATED], table, n_table, calibration, bench->device_name, 0);
    bench->devices[ROOFLINE] = bench->devices[CALIBRATED];
    bench->devices[ROOFLINE].calibration = NULL;
    error = error ? error : results_open(&bench->results);
    for (int32_t t = 0; t < bench->turns && !error; t++) {
        error = turn(bench, CALIBRATED, t);
        error = error ? error : turn(bench, ROOFLINE, t);
    }
    for (int mode = 0; mode < MODES && !error; mode++) {
        report(bench, mode);
    }
    calibration_free(calibration);
    free(table);
    return results_close(&bench->results, error);
}

int main(int argc, char **argv)
{
    static struct bench bench = {.workload = "day",
                                 .model = "paper-4b",
                                 .method = "clsa",
                                 .device_name = "h100-sxm",
                                 .turns = 3,
                                 .results = RESULTS_DEFAULT};
    const struct option_spec options[] = {
        {"workload", OPTION_TEXT, &bench.workload, 0, 0, "FILE|NAME", "to be answered"},
        {"requests", OPTION_LONG, &bench.requests, 0, 1e9, "requests", "as many; 0: what the workload says"},
        {"model", OPTION_TEXT, &bench.model, 0, 0, "NAME", "a size"},
        {"method", OPTION_TEXT, &bench.method, 0, 0, "NAME", "attention method"},
        {"device-name", OPTION_TEXT, &bench.device_name, 0, 0, "NAME", "that is simulated (clsa devices)"},
        {"calibration", OPTION_TEXT, &bench.calibration_file, 0, 0, "FILE", "default: what comes with clsa"},
        {"turns", OPTION_INT, &bench.turns, 1, MAX_TURNS, "turns", "of each"},
        RESULTS_OPTIONS(bench.results),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"bench_sim_speed", "How fast a service is simulated.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    error = error ? error : run(&bench);
    return bench_end("bench_sim_speed", error);
}
