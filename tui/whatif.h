// tui/whatif.h - a question to the simulator: a model, a method and its knobs, devices, a load; and its answer.
//
// The answer follows each change at once (sim/predict.h), calibrated where a calibration comes with the program: its
// own device by what was measured, other ones by its curves. Scenarios are pinned to be compared with what comes next.
// A workload is simulated in the background (whatif_job.h), or the smallest fleet for it is looked for. A replica is a
// device, or `ranks` of them that share every layer (sim/parallel.h); all is priced for one of `count` equal replicas,
// each with the batch; rates are those of all, bytes those of one device.
#pragma once

#include <stdio.h>

#include "engine/sample.h"
#include "sim/calibration.h"
#include "sim/predict.h"
#include "tui/whatif_job.h"

enum knob {
    KNOB_MODEL, KNOB_METHOD, KNOB_DEVICE, KNOB_RANKS, KNOB_COUNT, KNOB_BATCH, KNOB_CONTEXT, KNOB_OUTPUT, KNOB_TOP_K,
    KNOB_WINDOW, KNOB_INDEX_EVERY, KNOB_WEIGHTS, KNOB_KV, KNOB_WORKLOAD, KNOB_ANSWER, KNOB_RATE, KNOB_TTFT_MS,
    KNOB_TPOT_MS, KNOB_N
};

enum { WHATIF_PINNED = 8, WHATIF_WHY_BYTES = 160 };

struct scenario {
    int32_t knobs[KNOB_N];     // a number, 0 where the model's own is meant; or the index of a choice
};

struct scenario_answer {
    bool valid;
    char why[WHATIF_WHY_BYTES];    // why not
    struct request_prediction request;
    struct plan plan;              // as built: what the knobs at 0 became
    struct plan part;              // of one device
    struct device group;           // the devices of a replica, priced as one
    double decode_tokens_per_s;    // of all replicas
    double price_per_million;      // dollars per million output tokens; NaN: unknown
    bool fits;                     // memory holds weights and the batch; true where its size is unknown
    int32_t fleet;                 // devices of the smallest fleet that was found; 0: not asked, or none
};

struct whatif {
    struct device *devices;        // [n_devices] the shipped table and, last, the dashboard's own; owned
    int32_t n_devices, n_table;    // n_table: of the shipped table
    struct calibration *calibration;    // the one that comes with the program; owned. NULL: none
    int32_t knob;                  // selected
    struct scenario now, pinned[WHATIF_PINNED];
    int32_t n_pinned;
    struct scenario_answer answer, pinned_answers[WHATIF_PINNED];
    struct whatif_job *job;        // owned
    struct scenario job_scenario;  // what it was started for
};

// `device` is offered beside those of the table; NULL: none. -ENOMEM, or an unreadable table.
int whatif_open(struct whatif **out, const struct device *device);
void whatif_close(struct whatif *whatif);    // NULL-safe
// Later, once: as if it had been there at open.
void whatif_offer(struct whatif *whatif, const struct device *device);

void whatif_select(struct whatif *whatif, int32_t by);            // the next (+1) or previous knob
void whatif_change(struct whatif *whatif, int32_t by);            // the next choice; numbers double or halve
void whatif_set(struct whatif *whatif, const struct scenario *scenario);
bool whatif_type(struct whatif *whatif, const char *text);        // "128K"; the beginning of a name. False: neither
// Takes model, method, k, batch and context from what the dashboard shows. False: no such model or method.
bool whatif_copy(struct whatif *whatif, const struct sample_source *source, int32_t n_seqs, int32_t context_tokens);
bool whatif_pin(struct whatif *whatif);                           // false: no room
void whatif_unpin(struct whatif *whatif);                         // the last one

int whatif_simulate(struct whatif *whatif);                       // starts it; the scenario must be valid
int whatif_plan(struct whatif *whatif);                           // the same for the search for a fleet
// Looks after what runs: a fleet that was found goes to the scenarios that it is the answer of.
void whatif_poll(struct whatif *whatif, struct job_report *report);

const char *knob_name(enum knob knob);
bool knob_is_number(enum knob knob);
void whatif_value(const struct whatif *whatif, const struct scenario *scenario, const struct scenario_answer *answer,
                  enum knob knob, char *text, size_t bytes);      // "2048", "model's 2048", "H100-SXM"
// "clsa k=512, 2 x H100-SXM, 128K, batch 8"
void whatif_label(const struct whatif *whatif, const struct scenario *scenario, char *text, size_t bytes);

// All scenarios and their answers, the current one first.
void whatif_write_json(const struct whatif *whatif, FILE *stream);
