// cupti/counters_poll.c - the thread between hardware counters and the stream of samples.
#include "cupti/counters_poll.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cupti/collector.h"
#include "engine/status.h"

// A quarter of a minute of samples every 250 us, longer than any step; readings for more than a minute at ten a second.
enum { SAMPLE_CAPACITY = 1 << 16, READING_CAPACITY = 1024 };
// Often enough that the device's buffer does not fill, rarely enough to cost little more than the samples themselves.
static const int64_t poll_ns = 20000000;

struct poller {
    struct pm_sampler *sampler;    // owned; NULL: none
    struct nvml *nvml;             // owned; NULL: none
    int32_t n_metrics;
    int64_t reading_ns;    // between two readings of NVML
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;    // of all below
    pthread_cond_t wake;
    bool stop;
    struct polled_sample *samples;      // [SAMPLE_CAPACITY] a ring, owned
    struct polled_reading *readings;    // [READING_CAPACITY] a ring, owned
    int64_t first_sample, n_samples;    // ever taken out, ever put in
    int64_t first_reading, n_readings;
    int64_t lost;
    int failed;
    char failure[256];
};

static void put_sample(void *user, const struct pm_sample *sample)
{
    struct poller *poller = user;
    pthread_mutex_lock(&poller->lock);
    if (poller->n_samples - poller->first_sample == SAMPLE_CAPACITY) {
        poller->lost++;
    } else {
        struct polled_sample *slot = &poller->samples[poller->n_samples++ % SAMPLE_CAPACITY];
        slot->begin_ns = sample->begin_ns;
        slot->end_ns = sample->end_ns;
        for (int32_t i = 0; i < poller->n_metrics; i++) {
            slot->values[i] = sample->values[i];
        }
    }
    pthread_mutex_unlock(&poller->lock);
}

static void read_samples(struct poller *poller)
{
    bool lost = false;
    int n = pm_sampler_read(poller->sampler, put_sample, poller, &lost);
    pthread_mutex_lock(&poller->lock);
    poller->lost += lost;
    if (n < 0 && !poller->failed) {
        poller->failed = n;
        snprintf(poller->failure, sizeof poller->failure, "%s", status_text());
    }
    pthread_mutex_unlock(&poller->lock);
}

static void read_nvml(struct poller *poller)
{
    struct polled_reading reading = {.time_ns = collector_now_ns()};
    nvml_read(poller->nvml, &reading.reading);
    pthread_mutex_lock(&poller->lock);
    if (poller->n_readings - poller->first_reading == READING_CAPACITY) {
        poller->lost++;
    } else {
        poller->readings[poller->n_readings++ % READING_CAPACITY] = reading;
    }
    pthread_mutex_unlock(&poller->lock);
}

// Sleeps until the next poll, or until it is told to stop. Returns whether it was.
static bool wait_poll(struct poller *poller)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + poll_ns;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&poller->lock);
    while (!poller->stop && pthread_cond_timedwait(&poller->wake, &poller->lock, &until) == 0) {
    }
    bool stop = poller->stop;
    pthread_mutex_unlock(&poller->lock);
    return stop;
}

static void *run(void *user)
{
    struct poller *poller = user;
    int64_t next_reading_ns = 0;
    bool stop = false;
    while (!stop) {
        stop = wait_poll(poller);
        if (poller->sampler && !poller->failed) {    // only this thread sets `failed`
            read_samples(poller);
        }
        if (stop && poller->sampler && !poller->failed) {
            pm_sampler_stop(poller->sampler);
            read_samples(poller);    // what was recorded since the reading before
        }
        if (poller->nvml && (stop || collector_now_ns() >= next_reading_ns)) {
            read_nvml(poller);
            next_reading_ns = collector_now_ns() + poller->reading_ns;
        }
    }
    return NULL;
}

int poller_open(struct poller **out, struct pm_sampler *sampler, struct nvml *nvml, double readings_per_s)
{
    *out = NULL;
    struct poller *poller = calloc(1, sizeof *poller);
    if (!poller) {
        pm_sampler_close(sampler);
        nvml_close(nvml);
        return status_fail(-ENOMEM, "no memory to read counters");
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&poller->lock, NULL);
    pthread_cond_init(&poller->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    poller->sampler = sampler;
    poller->nvml = nvml;
    poller->reading_ns = (int64_t)(1e9 / readings_per_s);
    poller->samples = malloc(SAMPLE_CAPACITY * sizeof *poller->samples);
    poller->readings = malloc(READING_CAPACITY * sizeof *poller->readings);
    int error = poller->samples && poller->readings ? 0 : status_fail(-ENOMEM, "no memory to read counters");
    if (!error && sampler) {
        pm_sampler_metrics(sampler, &poller->n_metrics);
        error = pm_sampler_start(sampler);
    }
    if (!error && pthread_create(&poller->thread, NULL, run, poller) != 0) {
        error = status_fail(-EAGAIN, "no thread to read counters");
    }
    poller->running = !error;
    if (error) {
        poller_close(poller);
        return error;
    }
    *out = poller;
    return 0;
}

int poller_stop(struct poller *poller)
{
    if (poller->running) {
        pthread_mutex_lock(&poller->lock);
        poller->stop = true;
        pthread_cond_signal(&poller->wake);
        pthread_mutex_unlock(&poller->lock);
        pthread_join(poller->thread, NULL);
        poller->running = false;
    }
    return poller->failed ? status_fail(poller->failed, "%s", poller->failure) : 0;
}

void poller_close(struct poller *poller)
{
    if (!poller) {
        return;
    }
    poller_stop(poller);
    pm_sampler_close(poller->sampler);
    nvml_close(poller->nvml);
    pthread_cond_destroy(&poller->wake);
    pthread_mutex_destroy(&poller->lock);
    free(poller->samples);
    free(poller->readings);
    free(poller);
}

int32_t poller_samples(struct poller *poller, struct polled_sample *out, int32_t n, int64_t until_ns)
{
    int32_t taken = 0;
    pthread_mutex_lock(&poller->lock);
    while (taken < n && poller->first_sample < poller->n_samples) {
        const struct polled_sample *oldest = &poller->samples[poller->first_sample % SAMPLE_CAPACITY];
        if (oldest->end_ns > until_ns) {
            break;
        }
        out[taken++] = *oldest;
        poller->first_sample++;
    }
    pthread_mutex_unlock(&poller->lock);
    return taken;
}

int32_t poller_readings(struct poller *poller, struct polled_reading *out, int32_t n)
{
    int32_t taken = 0;
    pthread_mutex_lock(&poller->lock);
    while (taken < n && poller->first_reading < poller->n_readings) {
        out[taken++] = poller->readings[poller->first_reading++ % READING_CAPACITY];
    }
    pthread_mutex_unlock(&poller->lock);
    return taken;
}

int64_t poller_lost(struct poller *poller)
{
    pthread_mutex_lock(&poller->lock);
    int64_t lost = poller->lost;
    pthread_mutex_unlock(&poller->lock);
    return lost;
}
