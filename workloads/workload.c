// workloads/workload.c - what is common to lists from anywhere: loading, changing, sorting, statistics.
#include "workloads/workload.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/input_file.h"
#include "engine/status.h"
#include "workloads/internal.h"

static const int64_t max_file_bytes = (int64_t)4 << 30;

int workload_append(struct workload *workload, int64_t *capacity, const struct workload_request *request)
{
    if (workload->n == *capacity) {
        int64_t larger = *capacity ? 2 * *capacity : 1024;
        struct workload_request *grown = realloc(workload->requests, (size_t)larger * sizeof *grown);
        if (!grown) {
            return status_fail(-ENOMEM, "no memory for %lld requests", (long long)larger);
        }
        workload->requests = grown;
        *capacity = larger;
    }
    workload->requests[workload->n++] = *request;
    return 0;
}

void workload_close(struct workload *workload)
{
    if (workload) {
        free(workload->requests);
        free(workload->blocks);
        *workload = (struct workload){0};
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Changes

static int32_t scaled(int32_t tokens, double factor, int32_t max)
{
    double length = factor > 0 ? round(tokens * factor) : tokens;
    length = max > 0 && length > max ? max : length;
    return length < 1 ? 1 : length > WORKLOAD_MAX_TOKENS ? WORKLOAD_MAX_TOKENS : (int32_t)length;
}

static void change_blocks(struct workload *workload, double factor)
{
    if (factor > 0 && workload->block_tokens > 1) {
        workload->block_tokens = scaled(workload->block_tokens, factor, 0);
    }
}

static int32_t part_of(int32_t part, int32_t whole_before, int32_t whole)
{
    return (int32_t)((int64_t)part * whole / whole_before);
}

static void change(struct workload *workload, const struct workload_options *options)
{
    if (options->max_requests > 0 && workload->n > options->max_requests) {
        workload->n = options->max_requests;
    }
    change_blocks(workload, options->length_factor);
    for (int64_t i = 0; i < workload->n; i++) {
        struct workload_request *request = &workload->requests[i];
        if (options->rate_factor > 0) {
            request->arrival_ns = (int64_t)fmin((double)request->arrival_ns / options->rate_factor, 0x1p62);
        }
        int32_t prompt = options->prompt_tokens > 0 ? options->prompt_tokens : request->prompt_tokens;
        int32_t output = options->output_tokens > 0 ? options->output_tokens : request->output_tokens;
        prompt = scaled(prompt, options->length_factor, options->max_prompt_tokens);
        output = scaled(output, options->length_factor, options->max_output_tokens);
        // A prefix shrinks by the factor, not by the cut: it must stay the same for all that share it.
        if (options->length_factor > 0) {
            request->prefix_tokens = (int32_t)fmin(request->prefix_tokens * options->length_factor, prompt);
            request->reused_tokens = (int32_t)fmin(request->reused_tokens * options->length_factor, prompt);
        }
        request->prefix_tokens = request->prefix_tokens < prompt ? request->prefix_tokens : prompt;
        request->reused_tokens = request->reused_tokens < prompt ? request->reused_tokens : prompt;
        request->think_tokens = part_of(request->think_tokens, request->output_tokens, output);
        request->prompt_tokens = prompt;
        request->output_tokens = output;
    }
}

static int by_arrival(const void *left, const void *right)
{
    const struct workload_request *a = left, *b = right;
    return (a->arrival_ns > b->arrival_ns) - (a->arrival_ns < b->arrival_ns);
}

// Traces are sorted nearly always: then nothing moves. Equal arrivals keep their order only in that case.
static void order(struct workload *workload)
{
    bool sorted = true;
    for (int64_t i = 1; i < workload->n; i++) {
        sorted = sorted && workload->requests[i].arrival_ns >= workload->requests[i - 1].arrival_ns;
    }
    if (!sorted) {
        qsort(workload->requests, (size_t)workload->n, sizeof *workload->requests, by_arrival);
    }
    int64_t begin_ns = workload->n ? workload->requests[0].arrival_ns : 0;
    for (int64_t i = 0; i < workload->n; i++) {
        workload->requests[i].arrival_ns -= begin_ns;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Loading

// The first line of a trace is a whole object with a timestamp; a description's is not.
static bool is_mooncake(const char *text)
{
    size_t line = strcspn(text, "\n");
    for (size_t i = 0; i + 11 <= line; i++) {
        if (strncmp(text + i, "\"timestamp\"", 11) == 0) {
            return true;
        }
    }
    return false;
}

int workload_parse(struct workload *out, char *text, size_t length, const char *where,
                   const struct workload_options *options)
{
    static const struct workload_options nothing;
    options = options ? options : &nothing;
    *out = (struct workload){.block_tokens = 1, .n_classes = 1};
    const char *slash = strrchr(where, '/');
    snprintf(out->name, sizeof out->name, "%.*s", WORKLOAD_NAME_BYTES - 1, slash ? slash + 1 : where);
    int error;
    const char *first = text + strspn(text, " \t\r\n");
    if (memchr(text, 0, length)) {
        error = status_fail(-EINVAL, "%s: has a zero byte: expected text (a *.workload description, Mooncake JSONL, or "
                            "CSV)", where);
    } else if (*first == '{') {
        error = is_mooncake(first) ? workload_read_mooncake(out, text, where)
                                   : workload_describe(out, text, length, where, options);
    } else {
        error = workload_read_csv(out, text, where);
    }
    if (!error && out->n == 0) {
        error = status_fail(-EINVAL, "%s: holds no request", where);
    }
    if (error) {
        workload_close(out);
        return error;
    }
    order(out);
    change(out, options);
    return 0;
}

static int read_file(char **out, size_t *length, const char *path)
{
    struct stat info;
    *out = NULL;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) {
        char names[256] = "";
        for (int32_t i = 0; i < workload_preset_count(); i++) {
            strcat(strcat(names, i ? ", " : ""), workload_preset(i)->name);
        }
        return status_fail(-EINVAL, "%s: neither a file nor one of the shipped workloads (%s)", path, names);
    }
    return input_file_read(out, length, path, max_file_bytes);
}

int workload_load(struct workload *out, const char *name_or_path, const struct workload_options *options)
{
    *out = (struct workload){0};
    char *text = NULL;
    size_t length = 0;
    for (int32_t i = 0; i < workload_preset_count(); i++) {
        const struct workload_preset *preset = workload_preset(i);
        if (strcmp(preset->name, name_or_path) == 0) {
            length = *preset->length;
            text = calloc(1, length + 1);
            if (!text) {
                return status_fail(-ENOMEM, "no memory for the workload %s", name_or_path);
            }
            memcpy(text, preset->text, length);
        }
    }
    int error = text ? 0 : read_file(&text, &length, name_or_path);
    error = error ? error : workload_parse(out, text, length, name_or_path, options);
    free(text);
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// What prompts share

uint64_t workload_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t workload_stream(const struct workload *workload, int64_t request, int32_t position)
{
    const struct workload_request *r = &workload->requests[request];
    int32_t block = position / workload->block_tokens;
    if (block < r->n_blocks) {
        return workload->blocks[r->first_block + block];
    }
    bool shared = r->n_blocks == 0 && r->prefix_id >= 0 && position < r->prefix_tokens;
    return workload_mix(shared ? 2 * (uint64_t)r->prefix_id + 1 : 2 * (uint64_t)request);
}

uint64_t workload_key(const struct workload *workload, int64_t request, int32_t tokens)
{
    return workload_mix(workload_stream(workload, request, tokens - 1) + 0x9e3779b97f4a7c15u * (uint64_t)tokens);
}

int32_t workload_prefix_unit(const struct workload *workload, int32_t cache_unit)
{
    return ((workload->block_tokens - 1) / cache_unit + 1) * cache_unit;
}

bool workload_shares(const struct workload *workload)
{
    for (int64_t i = 0; i < workload->n; i++) {
        if (workload->requests[i].prefix_id >= 0 && workload->requests[i].prefix_tokens > 0) {
            return true;
        }
    }
    return false;
}

// ---------------------------------------------------------------------------------------------------------------------
// Statistics

static int by_value(const void *left, const void *right)
{
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

static int32_t at_percent(const int32_t *sorted, int64_t n, int64_t percent)
{
    int64_t rank = (n * percent + 99) / 100;
    return sorted[rank > 0 ? rank - 1 : 0];
}

static struct workload_lengths reduce(int32_t *lengths, int64_t n, double total)
{
    qsort(lengths, (size_t)n, sizeof *lengths, by_value);
    return (struct workload_lengths){.mean = total / (double)n,
                                     .p50 = at_percent(lengths, n, 50),
                                     .p95 = at_percent(lengths, n, 95),
                                     .p99 = at_percent(lengths, n, 99),
                                     .max = lengths[n - 1]};
}

static void measure_gaps(struct workload_statistics *out, const struct workload *workload)
{
    if (workload->users > 0 || workload->n < 2) {
        return;
    }
    double gaps = (double)(workload->n - 1), square = 0;
    out->span_s = 1e-9 * (double)(workload->requests[workload->n - 1].arrival_ns - workload->requests[0].arrival_ns);
    double mean = out->span_s / gaps;
    for (int64_t i = 1; i < workload->n; i++) {
        double gap = 1e-9 * (double)(workload->requests[i].arrival_ns - workload->requests[i - 1].arrival_ns);
        square += (gap - mean) * (gap - mean);
    }
    if (mean > 0) {
        out->rate_per_s = 1 / mean;
        out->gap_cv = sqrt(square / gaps) / mean;
    }
}

int workload_measure(struct workload_statistics *out, const struct workload *workload)
{
    *out = (struct workload_statistics){.n = workload->n};
    int32_t *lengths = malloc(2 * (size_t)workload->n * sizeof *lengths + 1);
    if (!lengths) {
        return status_fail(-ENOMEM, "no memory to sort %lld requests", (long long)workload->n);
    }
    double think = 0, reused = 0, blocks = 0, block = workload->block_tokens;
    for (int64_t i = 0; i < workload->n; i++) {
        const struct workload_request *request = &workload->requests[i];
        lengths[i] = request->prompt_tokens;
        lengths[workload->n + i] = request->output_tokens;
        out->prompt_tokens += request->prompt_tokens;
        out->output_tokens += request->output_tokens;
        think += request->think_tokens;
        reused += ceil(request->reused_tokens / block);
        blocks += ceil(request->prompt_tokens / block);
    }
    if (workload->n > 0) {
        out->prompt = reduce(lengths, workload->n, out->prompt_tokens);
        out->output = reduce(lengths + workload->n, workload->n, out->output_tokens);
        out->think_share = think / out->output_tokens;
        out->prefix_hit_share = reused / blocks;
    }
    measure_gaps(out, workload);
    free(lengths);
    return 0;
}
