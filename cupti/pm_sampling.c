// cupti/pm_sampling.c - CUPTI's sampler of performance monitors.
//
// Which clock the samples' times are on differs: CUPTI says "CPU time", which is the real-time clock unless somebody
// has registered a clock of its own with CUPTI. The first sample tells: it has just ended on one of the system's
// clocks.
#include "cupti/pm_sampling.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "engine/status.h"

// On an H100 a sample of the default metrics takes 80 us of one core to decode and evaluate, so that this interval
// costs a third of a core. Making an image costs 13 us for each sample that it could hold: it is no larger than a
// reading needs.
enum { DEFAULT_INTERVAL_NS = 250000, IMAGE_SAMPLES = 200, MAX_METRICS = 16, REQUIRED_METRICS = 2 };
// Raw records of all units of the chip. An H100 fills this with 1400 to 2100 samples: a third of a second, at the
// least.
enum { HARDWARE_BUFFER_BYTES = 64 << 20 };
// A reading that cannot keep pace with the chip ends nevertheless.
enum { IMAGES_AT_ONCE = 64 };

// Fits into one pass on Hopper (GH100). The hit rate is the one of the group that is made to be sampled together.
static const char *const default_metrics[] = {
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__cycles_active.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
    "LTS.TriageCompute.lts__average_t_sector_hit_rate_realtime.pct",
    "gpc__cycles_elapsed.avg.per_second",
};

struct pm_sampler {
    struct counters_api api;
    const char *metrics[MAX_METRICS];    // [n_metrics] borrowed from the options or static
    int32_t n_metrics;
    void *host, *object;    // CUPTI's
    uint8_t *config;        // owned
    uint8_t *image;         // [image_bytes] owned
    size_t config_bytes, image_bytes;
    size_t device;
    uint64_t interval_ns;
    bool started, clock_known;
    int64_t to_boottime_ns;    // added to a sample's times
};

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// What must be added to a time on `clock`: of several readings the one that was least interrupted.
static int64_t boottime_minus(clockid_t clock)
{
    int64_t narrowest = INT64_MAX, difference = 0;
    for (int i = 0; i < 8; i++) {
        int64_t before = now_ns(CLOCK_BOOTTIME), middle = now_ns(clock), width = now_ns(CLOCK_BOOTTIME) - before;
        if (width < narrowest) {
            narrowest = width;
            difference = before + width / 2 - middle;
        }
    }
    return difference;
}

// Chooses the clock on which `end` is closest to now. On none of them within a minute: a clock of the device's own,
// which is placed so that the sample ends now.
static void learn_clock(struct pm_sampler *sampler, int64_t end)
{
    static const clockid_t clocks[] = {CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_REALTIME};
    int64_t nearest = 60000000000;
    sampler->to_boottime_ns = now_ns(CLOCK_BOOTTIME) - end;
    for (size_t i = 0; i < sizeof clocks / sizeof clocks[0]; i++) {
        int64_t now = now_ns(clocks[i]), away = now > end ? now - end : end - now;
        if (away < nearest) {
            nearest = away;
            sampler->to_boottime_ns = boottime_minus(clocks[i]);
        }
    }
    sampler->clock_known = true;
}

static int choose_metrics(struct pm_sampler *sampler, const struct pm_options *options)
{
    const char *const *metrics = options->metrics ? options->metrics : default_metrics;
    int32_t n = options->metrics ? options->n_metrics : (int32_t)(sizeof default_metrics / sizeof default_metrics[0]);
    if (n < 1 || n > MAX_METRICS) {
        return status_fail(-EINVAL, "%d metrics; expected 1 to %d", n, MAX_METRICS);
    }
    for (int32_t i = 0; i < n; i++) {
        sampler->metrics[i] = metrics[i];
    }
    sampler->n_metrics = n;
    return 0;
}

// Asks the device what it is and what of its counters is free, and configures the metrics for it.
static int configure_host(struct pm_sampler *sampler)
{
    const struct counters_api *api = &sampler->api;
    int32_t required = sampler->n_metrics < REQUIRED_METRICS ? sampler->n_metrics : REQUIRED_METRICS;
    struct cupti_chip_name chip = COUNTERS_PARAMS(cupti_chip_name, name, .device = sampler->device);
    int error = counters_api_status(api, api->device_chip(&chip), "sampling counters");
    struct cupti_pm_availability ask = COUNTERS_PARAMS(cupti_pm_availability, image, .device = sampler->device);
    error = error ? error : counters_api_status(api, api->pm_availability(&ask), "sampling counters");
    if (error) {
        return error;
    }
    ask.image = calloc(1, ask.bytes);
    error = ask.image ? counters_api_status(api, api->pm_availability(&ask), "sampling counters")
                      : status_fail(-ENOMEM, "no memory for counters");
    error = error ? error
                  : counters_configure(api, COUNTERS_PM_SAMPLING, chip.name, ask.image, sampler->metrics,
                                       &sampler->n_metrics, required, &sampler->host, &sampler->config,
                                       &sampler->config_bytes);
    free(ask.image);
    return error;
}

static int reset_image(struct pm_sampler *sampler)
{
    struct cupti_image_init init = COUNTERS_PARAMS(cupti_image_init, image, .object = sampler->object,
                                                   .bytes = sampler->image_bytes, .image = sampler->image);
    return counters_api_status(&sampler->api, sampler->api.pm_image_init(&init), "sampling counters");
}

static void release_device(struct pm_sampler *sampler)
{
    if (sampler->object) {
        struct cupti_pm_object object = COUNTERS_PARAMS(cupti_pm_object, object, .object = sampler->object);
        if (sampler->started) {
            sampler->api.pm_stop(&object);
        }
        sampler->api.pm_disable(&object);
    }
    free(sampler->image);
    sampler->object = NULL;
    sampler->image = NULL;
    sampler->started = false;
}

static int configure_device(struct pm_sampler *sampler)
{
    const struct counters_api *api = &sampler->api;
    struct cupti_pm_enable enable = COUNTERS_PARAMS(cupti_pm_enable, object, .device = sampler->device);
    int error = counters_api_status(api, api->pm_enable(&enable), "sampling counters");
    if (error) {
        return error;
    }
    sampler->object = enable.object;
    struct cupti_pm_config config = COUNTERS_PARAMS(
        cupti_pm_config, append, .object = sampler->object, .config_bytes = sampler->config_bytes,
        .config = sampler->config, .buffer_bytes = HARDWARE_BUFFER_BYTES, .interval = sampler->interval_ns,
        .trigger = COUNTERS_TIME_INTERVAL, .append = COUNTERS_KEEP_OLDEST);
    error = counters_api_status(api, api->pm_configure(&config), "sampling counters");
    struct cupti_pm_image_size size =
        COUNTERS_PARAMS(cupti_pm_image_size, bytes, .object = sampler->object, .names = sampler->metrics,
                        .n = (size_t)sampler->n_metrics, .max_samples = IMAGE_SAMPLES);
    error = error ? error : counters_api_status(api, api->pm_image_size(&size), "sampling counters");
    if (error) {
        return error;
    }
    sampler->image = calloc(1, size.bytes);
    sampler->image_bytes = size.bytes;
    return sampler->image ? reset_image(sampler)
                          : status_fail(-ENOMEM, "no memory for %zu bytes of counters", size.bytes);
}

int pm_sampler_open(struct pm_sampler **out, const struct pm_options *options)
{
    *out = NULL;
    struct pm_sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler) {
        return status_fail(-ENOMEM, "no memory for a sampler");
    }
    sampler->device = (size_t)options->device;
    sampler->interval_ns = (uint64_t)(options->interval_ns > 0 ? options->interval_ns : DEFAULT_INTERVAL_NS);
    struct cupti_nothing initialize = COUNTERS_PARAMS(cupti_nothing, priv, .priv = NULL);
    int error = counters_api_load(&sampler->api, &options->libraries);
    error = error ? error : choose_metrics(sampler, options);
    if (!error && sampler->api.init(0) != 0) {
        error = status_fail(-ENOTSUP, "the NVIDIA driver does not start");
    }
    error =
        error ? error
              : counters_api_status(&sampler->api, sampler->api.profiler_initialize(&initialize), "sampling counters");
    error = error ? error : configure_host(sampler);
    error = error ? error : configure_device(sampler);
    if (error) {
        pm_sampler_close(sampler);
        return error;
    }
    *out = sampler;
    return 0;
}

void pm_sampler_close(struct pm_sampler *sampler)
{
    if (!sampler) {
        return;
    }
    release_device(sampler);
    if (sampler->host) {
        struct cupti_host_close close = COUNTERS_PARAMS(cupti_host_close, host, .host = sampler->host);
        sampler->api.host_close(&close);
    }
    free(sampler->config);
    free(sampler);
}

const char *const *pm_sampler_metrics(const struct pm_sampler *sampler, int32_t *n)
{
    *n = sampler->n_metrics;
    return sampler->metrics;
}

int pm_sampler_start(struct pm_sampler *sampler)
{
    struct cupti_pm_object object = COUNTERS_PARAMS(cupti_pm_object, object, .object = sampler->object);
    int error = counters_api_status(&sampler->api, sampler->api.pm_start(&object), "sampling counters");
    sampler->started = !error;
    return error;
}

int pm_sampler_stop(struct pm_sampler *sampler)
{
    struct cupti_pm_object object = COUNTERS_PARAMS(cupti_pm_object, object, .object = sampler->object);
    if (!sampler->started) {
        return 0;
    }
    sampler->started = false;
    return counters_api_status(&sampler->api, sampler->api.pm_stop(&object), "sampling counters");
}

static int tell_sample(struct pm_sampler *sampler, size_t index, void (*tell)(void *, const struct pm_sample *),
                       void *user)
{
    double values[MAX_METRICS];
    struct cupti_pm_sample times =
        COUNTERS_PARAMS(cupti_pm_sample, end, .object = sampler->object, .image = sampler->image,
                        .image_bytes = sampler->image_bytes, .index = index);
    int result = sampler->api.pm_sample(&times);
    struct cupti_host_evaluate evaluate =
        COUNTERS_PARAMS(cupti_host_evaluate, values, .host = sampler->host, .image = sampler->image,
                        .image_bytes = sampler->image_bytes, .index = index, .names = sampler->metrics,
                        .n = (size_t)sampler->n_metrics, .values = values);
    result = result ? result : sampler->api.host_evaluate(&evaluate);
    if (result) {
        return counters_api_status(&sampler->api, result, "sampling counters");
    }
    if (!sampler->clock_known) {
        learn_clock(sampler, (int64_t)times.end);
    }
    // The first one claims to have begun when sampling was enabled.
    uint64_t interval =
        times.end - times.begin < 2 * sampler->interval_ns ? times.end - times.begin : sampler->interval_ns;
    struct pm_sample sample = {
        .begin_ns = (int64_t)(times.end - interval) + sampler->to_boottime_ns,
        .end_ns = (int64_t)times.end + sampler->to_boottime_ns,
        .values = values,
    };
    tell(user, &sample);
    return 0;
}

// A buffer that was full once stays useless, also to a new start: the device is taken anew, in a fifth of a second.
static int retake(struct pm_sampler *sampler)
{
    bool started = sampler->started;
    release_device(sampler);
    int error = configure_device(sampler);
    return error || !started ? error : pm_sampler_start(sampler);
}

// One image full. *done: nothing is left in the hardware's buffer.
static int read_image(struct pm_sampler *sampler, void (*tell)(void *, const struct pm_sample *), void *user,
                      bool *lost, bool *done)
{
    const struct counters_api *api = &sampler->api;
    struct cupti_pm_decode decode = COUNTERS_PARAMS(cupti_pm_decode, overflow, .object = sampler->object,
                                                    .image = sampler->image, .image_bytes = sampler->image_bytes);
    int result = api->pm_decode(&decode);
    if (result == COUNTERS_BUFFER_FULL) {
        *lost = *done = true;
        return retake(sampler);
    }
    int error = counters_api_status(api, result, "reading counters");
    struct cupti_pm_info info =
        COUNTERS_PARAMS(cupti_pm_info, completed, .image = sampler->image, .image_bytes = sampler->image_bytes);
    error = error ? error : counters_api_status(api, api->pm_info(&info), "reading counters");
    if (error) {
        return error;
    }
    *lost = *lost || decode.overflow;
    *done = decode.stop_reason != COUNTERS_IMAGE_FULL;
    for (size_t i = 0; i < info.completed && !error; i++) {
        error = tell_sample(sampler, i, tell, user);
    }
    error = error ? error : reset_image(sampler);
    return error ? error : (int)info.completed;
}

int pm_sampler_read(struct pm_sampler *sampler, void (*sample)(void *user, const struct pm_sample *), void *user,
                    bool *lost)
{
    bool done = false;
    int total = 0;
    *lost = false;
    for (int image = 0; image < IMAGES_AT_ONCE && !done; image++) {
        int n = read_image(sampler, sample, user, lost, &done);
        if (n < 0) {
            return n;
        }
        total += n;
    }
    return total;
}
