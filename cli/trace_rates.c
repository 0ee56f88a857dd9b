// cli/trace_rates.c - rates of the devices that a recording names.
#include "cli/trace_rates.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/status.h"

// What was found for the sources with one device and backend.
struct entry {
    char device[SOURCE_NAME_BYTES], backend[SOURCE_NAME_BYTES];
    bool known;
    struct device rates;
};

struct trace_rates {
    struct device *table;               // owned
    int32_t n_table;
    struct calibration *calibration;    // owned; NULL: none
    bool named;                         // one device for all sources
    struct device device;
    struct entry **entries;             // [n], owned: what was handed out stays where it is
    int32_t n;
};

int trace_rates_open(struct trace_rates **out, const struct trace_rates_options *options)
{
    struct trace_rates *rates = calloc(1, sizeof *rates);
    *out = NULL;
    int error = rates ? device_table_load(&rates->table, &rates->n_table, options->devices_file)
                      : status_fail(-ENOMEM, "out of memory for a table of devices");
    if (!error && options->calibration_file) {
        error = calibration_load(&rates->calibration, options->calibration_file);
    }
    if (!error && options->device) {
        rates->named = true;
        error = strcasecmp(options->device, "host") == 0
                    ? device_measure_host(&rates->device, 0)
                    : device_table_find(&rates->device, rates->table, rates->n_table, options->device);
        error = error ? status_prefix(error, "--device ") : 0;
    }
    if (error) {
        trace_rates_close(rates);
        return error;
    }
    *out = rates;
    return 0;
}

void trace_rates_close(struct trace_rates *rates)
{
    if (rates) {
        for (int32_t i = 0; i < rates->n; i++) {
            free(rates->entries[i]);
        }
        free(rates->entries);
        free(rates->table);
        calibration_free(rates->calibration);
        free(rates);
    }
}

static bool look_up(struct device *out, const struct trace_rates *rates, const struct sample_source *source)
{
    const struct calibration *calibration = rates->calibration;
    for (int32_t p = 0; calibration && p < calibration->n_profiles; p++) {
        const struct calibration_profile *profile = &calibration->profiles[p];
        if (strcmp(profile->device, source->device) == 0 && strcmp(profile->backend, source->backend) == 0) {
            *out = profile->rates;
            return true;
        }
    }
    // Simulated recordings name a device as the table does.
    return device_table_find_driver(out, rates->table, rates->n_table, source->device) ||
           device_table_find(out, rates->table, rates->n_table, source->device) == 0;
}

const struct device *trace_rates_find(struct trace_rates *rates, const struct sample_source *source)
{
    if (rates->named) {
        return &rates->device;
    }
    for (int32_t i = 0; i < rates->n; i++) {
        struct entry *entry = rates->entries[i];
        if (strcmp(entry->device, source->device) == 0 && strcmp(entry->backend, source->backend) == 0) {
            return entry->known ? &entry->rates : NULL;
        }
    }
    struct entry *entry = calloc(1, sizeof *entry);
    struct entry **grown = entry ? realloc(rates->entries, ((size_t)rates->n + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(entry);
        return NULL;
    }
    rates->entries = grown;
    grown[rates->n++] = entry;
    memcpy(entry->device, source->device, sizeof entry->device);
    memcpy(entry->backend, source->backend, sizeof entry->backend);
    entry->known = look_up(&entry->rates, rates, source);
    return entry->known ? &entry->rates : NULL;
}

static bool price(void *user, struct summary_floor *out, const struct sample_source *source,
                  const struct stage_sample *sample, int64_t step_bytes)
{
    const struct device *device = trace_rates_find(user, source);
    enum dtype dtype = calibration_dtype(sample->stage, source->weight_dtype, source->kv_dtype, source->index_dtype);
    const struct device_figure *rate = device ? device_rate(device, dtype) : NULL;
    if (!device || (!rate && sample->flops > 0)) {
        return false;
    }
    *out = (struct summary_floor){
        .bytes_ns = 1e9 * (double)sample->bytes / device_bandwidth(device, (double)step_bytes),
        .flops_ns = rate ? 1e9 * (double)sample->flops / rate->value : 0,
        .launch_ns = 1e9 * device->launch_s.value,
    };
    return true;
}

struct summary_pricer trace_rates_pricer(struct trace_rates *rates)
{
    return (struct summary_pricer){.user = rates, .price = price};
}
