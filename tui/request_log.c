// tui/request_log.c - a ring of requests, and a table that finds one by its source and number.
#include "tui/request_log.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sort.h"
#include "engine/status.h"
#include "tui/source_names.h"

enum { SLOTS = 4 * REQUEST_LOG_ROWS };    // sparse: probes stay short

static const int64_t LATEST_NS = INT64_C(1) << 61;    // differences of two such times do not overflow

struct request_log {
    struct request_row rows[REQUEST_LOG_ROWS];    // row n at n modulo REQUEST_LOG_ROWS
    int64_t end;
    int64_t slots[SLOTS];                         // row + 1 of the latest request that hashes here; 0: none
    struct source_names sources;
};

const char *request_phase_name(enum request_phase phase)
{
    static const char *const names[] = {"queued", "prefill", "decode", "done"};
    return names[phase];
}

int request_log_open(struct request_log **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : status_fail(-ENOMEM, "out of memory for a log of requests");
}

void request_log_close(struct request_log *log)
{
    free(log);
}

static int64_t *slot_of(struct request_log *log, int32_t source_id, int64_t request)
{
    uint64_t hash = ((uint64_t)request * 31 + (uint32_t)source_id) * UINT64_C(0x9e3779b97f4a7c15);
    return &log->slots[hash >> 32 & (SLOTS - 1)];
}

static struct request_row *row_at(struct request_log *log, int64_t row)
{
    return &log->rows[row & (REQUEST_LOG_ROWS - 1)];
}

// The request's row; NULL if it was never submitted, was dropped, or another took its slot.
static struct request_row *find(struct request_log *log, const struct request_sample *sample)
{
    int64_t row = *slot_of(log, sample->source, sample->request) - 1;
    if (row < 0 || row < log->end - REQUEST_LOG_ROWS) {
        return NULL;
    }
    struct request_row *found = row_at(log, row);
    return found->source_id == sample->source && found->request == sample->request ? found : NULL;
}

static struct request_row *add(struct request_log *log, const struct request_sample *sample, int32_t source)
{
    int64_t row = log->end++;
    struct request_row *added = row_at(log, row);
    *added = (struct request_row){
        .request = sample->request, .source = source, .source_id = sample->source,
        .prompt_tokens = sample->prompt_tokens, .submitted_ns = sample->time_ns, .running_ns = -1,
        .first_token_ns = -1, .finished_ns = -1,
    };
    *slot_of(log, sample->source, sample->request) = row + 1;
    return added;
}

static void on_source(void *user, const struct sample_source *source)
{
    source_names_add(&((struct request_log *)user)->sources, source);
}

static void on_request(void *user, const struct request_sample *sample)
{
    struct request_log *log = user;
    int32_t source = source_names_find(&log->sources, sample->source);
    if (source < 0 || sample->time_ns < 0 || sample->time_ns > LATEST_NS) {
        return;
    }
    struct request_row *row = sample->state == REQUEST_SUBMITTED ? NULL : find(log, sample);
    row = row ? row : add(log, sample, source);    // also one whose beginning was not seen
    switch (sample->state) {
    case REQUEST_SUBMITTED: row->phase = REQUEST_PHASE_QUEUED; break;
    case REQUEST_RUNNING:
        row->restarts += row->running_ns >= 0;
        row->running_ns = row->running_ns >= 0 ? row->running_ns : sample->time_ns;
        row->phase = row->first_token_ns >= 0 ? REQUEST_PHASE_DECODE : REQUEST_PHASE_PREFILL;
        break;
    case REQUEST_FIRST_TOKEN:
        row->first_token_ns = sample->time_ns;
        row->phase = REQUEST_PHASE_DECODE;
        break;
    case REQUEST_FINISHED:
        row->finished_ns = sample->time_ns;
        row->output_tokens = sample->output_tokens;
        row->phase = REQUEST_PHASE_DONE;
        break;
    }
    row->prompt_tokens = sample->prompt_tokens;
}

struct sample_sink request_log_sink(struct request_log *log)
{
    return (struct sample_sink){.user = log, .source = on_source, .request = on_request};
}

int64_t request_log_first(const struct request_log *log)
{
    return log->end > REQUEST_LOG_ROWS ? log->end - REQUEST_LOG_ROWS : 0;
}

int64_t request_log_end(const struct request_log *log)
{
    return log->end;
}

const struct request_row *request_log_row(const struct request_log *log, int64_t row)
{
    return &log->rows[row & (REQUEST_LOG_ROWS - 1)];
}

const char *request_log_source_name(const struct request_log *log, int32_t source)
{
    return log->sources.names[source];
}

static double between_s(int64_t from_ns, int64_t to_ns)
{
    return from_ns >= 0 && to_ns >= 0 ? (double)(to_ns - from_ns) * 1e-9 : NAN;
}

double request_queue_s(const struct request_row *row)
{
    return between_s(row->submitted_ns, row->running_ns);
}

double request_ttft_s(const struct request_row *row)
{
    return between_s(row->submitted_ns, row->first_token_ns);
}

double request_tpot_s(const struct request_row *row)
{
    return row->output_tokens > 1 ? between_s(row->first_token_ns, row->finished_ns) / (row->output_tokens - 1) : NAN;
}

double request_total_s(const struct request_row *row)
{
    return between_s(row->submitted_ns, row->finished_ns);
}

// Nearest rank over values [n] without NaN.
static void percentiles(double *out, double *values, int32_t n)
{
    static const double parts[] = {0.5, 0.95, 0.99};
    sort_doubles(values, n);
    for (int i = 0; i < 3; i++) {
        int32_t rank = (int32_t)ceil(parts[i] * n);
        out[i] = n > 0 ? values[rank < 1 ? 0 : rank - 1] : NAN;
    }
}

void request_log_percentiles(const struct request_log *log, int32_t source, struct request_percentiles *out)
{
    double ttft[REQUEST_WINDOW], tpot[REQUEST_WINDOW], queue[REQUEST_WINDOW];
    int32_t n = 0, n_ttft = 0, n_tpot = 0, n_queue = 0;
    for (int64_t i = log->end - 1; i >= request_log_first(log) && n < REQUEST_WINDOW; i--) {
        const struct request_row *row = request_log_row(log, i);
        if (row->phase != REQUEST_PHASE_DONE || (source >= 0 && row->source != source)) {
            continue;
        }
        double values[] = {request_ttft_s(row), request_tpot_s(row), request_queue_s(row)};
        n++;
        if (!isnan(values[0])) {
            ttft[n_ttft++] = values[0];
        }
        if (!isnan(values[1])) {
            tpot[n_tpot++] = values[1];
        }
        if (!isnan(values[2])) {
            queue[n_queue++] = values[2];
        }
    }
    out->n = n;
    percentiles(out->ttft_s, ttft, n_ttft);
    percentiles(out->tpot_s, tpot, n_tpot);
    percentiles(out->queue_s, queue, n_queue);
}

int32_t request_log_find_source(const struct request_log *log, const struct sample_source *source)
{
    return source_names_find_name(&log->sources, source);
}
