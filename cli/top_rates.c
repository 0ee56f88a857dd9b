// cli/top_rates.c - where rates come from; a thread for those that take a while.
#include "cli/top_rates.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/gpu_rates.h"
#include "cli/measure.h"
#include "cli/trace_rates.h"
#include "engine/status.h"

struct top_rates {
    int32_t threads;
    struct device device, host;
    bool named;                    // by the user, for whatever runs
    bool host_known;               // measured before an engine ran
    atomic_bool known;
    pthread_t thread;
    bool measuring;
};

int top_rates_open(struct top_rates **out, const char *named, int32_t threads)
{
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return status_fail(-ENOMEM, "out of memory for a device's rates");
    }
    (*out)->threads = threads;
    if (!named) {
        return 0;
    }
    if (strcmp(named, "host") == 0) {
        fprintf(stderr, "clsa top: measuring this machine's rates\n");
    }
    int error = device_find(&(*out)->device, named, threads);
    atomic_store(&(*out)->known, error == 0);
    (*out)->named = true;
    if (error) {
        top_rates_close(*out);
        *out = NULL;
    }
    return error;
}

void top_rates_close(struct top_rates *rates)
{
    if (rates && rates->measuring) {
        pthread_join(rates->thread, NULL);
    }
    free(rates);
}

int top_rates_of_engine(struct top_rates *rates, const char *device)
{
    char backend[32];
    int32_t number;
    int error = measure_device(backend, sizeof backend, &number, device);
    if (error || atomic_load(&rates->known)) {
        return error;
    }
    fprintf(stderr, "clsa top: measuring this machine's rates\n");
    error = strcmp(backend, "cuda") == 0 ? gpu_rates(&rates->device, number)
                                         : device_find(&rates->device, "host", rates->threads);
    atomic_store(&rates->known, error == 0);
    rates->host = rates->device;
    rates->host_known = !error && strcmp(backend, "cuda") != 0;
    return error;
}

void top_rates_forget(struct top_rates *rates)
{
    atomic_store(&rates->known, rates->named);
}

// Whether a device's description ("AMD EPYC 9575F, 2 threads") names this machine's processor.
static bool is_this_machine(const char *device)
{
    char line[256], name[128];
    bool same = false;
    FILE *stream = fopen("/proc/cpuinfo", "re");
    while (stream && fgets(line, sizeof line, stream)) {
        if (sscanf(line, "model name : %127[^\n]", name) == 1) {
            same = strncmp(device, name, strlen(name)) == 0 && (device[strlen(name)] == ',' || !device[strlen(name)]);
            break;
        }
    }
    if (stream) {
        fclose(stream);
    }
    return same;
}

static void *measure_host(void *user)
{
    struct top_rates *rates = user;
    if (device_find(&rates->device, "host", rates->threads) == 0) {    // without them floors stay unknown
        atomic_store(&rates->known, true);
    }
    return NULL;
}

static void look_up(struct top_rates *rates, const struct sample_source *source)
{
    struct trace_rates *table;
    if (trace_rates_open(&table, &(struct trace_rates_options){0}) == 0) {
        const struct device *device = trace_rates_find(table, source);
        if (device) {
            rates->device = *device;
            atomic_store(&rates->known, true);
        }
        trace_rates_close(table);
    }
}

void top_rates_of_source(struct top_rates *rates, const struct sample_source *source, bool measure, bool wait)
{
    if (atomic_load(&rates->known) || rates->measuring) {
        return;
    }
    if (!is_this_machine(source->device)) {
        look_up(rates, source);
    } else if (rates->host_known) {
        rates->device = rates->host;
        atomic_store(&rates->known, true);
    } else if (measure) {
        rates->threads = source->threads;
        rates->measuring = !wait && pthread_create(&rates->thread, NULL, measure_host, rates) == 0;
        if (wait) {
            fprintf(stderr, "clsa top: measuring this machine's rates\n");
            measure_host(rates);
        }
    }
}

const struct device *top_rates_known(struct top_rates *rates)
{
    return atomic_load(&rates->known) ? &rates->device : NULL;
}
