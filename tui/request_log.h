// tui/request_log.h - the recent requests of all methods: when each was submitted, began, answered and finished.
//
// A sink beside the windows of state. The last REQUEST_LOG_ROWS requests are kept in the order of their submission; a
// request is named by its place in that order, valid until it is dropped. A time that is not known is -1. No clock.
#pragma once

#include "engine/sample.h"

enum { REQUEST_LOG_ROWS = 4096 };

struct request_log;

enum request_phase { REQUEST_PHASE_QUEUED, REQUEST_PHASE_PREFILL, REQUEST_PHASE_DECODE, REQUEST_PHASE_DONE };
const char *request_phase_name(enum request_phase phase);    // "queued", "prefill", "decode", "done"

struct request_row {
    int64_t request;
    int32_t source;                      // index for request_log_source_name
    int32_t source_id;                   // as the stream calls it
    enum request_phase phase;
    int32_t prompt_tokens, output_tokens;    // output: 0 until it is done
    int64_t submitted_ns, running_ns, first_token_ns, finished_ns;
    int32_t restarts;                    // times that it ran anew after it had run
};

int request_log_open(struct request_log **out);    // -ENOMEM
void request_log_close(struct request_log *log);   // NULL-safe
struct sample_sink request_log_sink(struct request_log *log);

int64_t request_log_first(const struct request_log *log);
int64_t request_log_end(const struct request_log *log);
const struct request_row *request_log_row(const struct request_log *log, int64_t row);    // first <= row < end
const char *request_log_source_name(const struct request_log *log, int32_t source);

// Seconds; NaN where not known yet.
double request_queue_s(const struct request_row *row);
double request_ttft_s(const struct request_row *row);
double request_tpot_s(const struct request_row *row);
double request_total_s(const struct request_row *row);

// Percentiles (nearest rank) over the recent finished requests of a source (-1: of all), at most REQUEST_WINDOW.
enum { REQUEST_WINDOW = 256 };
struct request_percentiles {
    int32_t n;
    double ttft_s[3], tpot_s[3], queue_s[3];    // P50, P95, P99; NaN without any
};
void request_log_percentiles(const struct request_log *log, int32_t source, struct request_percentiles *out);
int32_t request_log_find_source(const struct request_log *log, const struct sample_source *source);    // -1: none
