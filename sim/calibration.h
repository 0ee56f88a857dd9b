// sim/calibration.h - what share of a device's peaks kernels reach: learned from recorded samples, used by predictions.
//
// time(stage of a layer) = floor + roofline time / efficiency. The roofline bends where the work does (at k, at the
// window), so that only its efficiency is interpolated: its logarithm linearly over that of the work (bytes + flops),
// between two numbers of rows over the logarithm of the rows, and held beyond what was measured. One curve per stage,
// shape of its rows, unit of selection and type of operand; one profile per device and backend. A step adds what it
// spends outside stages. Residuals are by leaving out one point at a time, beside those of the bare roofline.
//
// A calibration carries the rates that it was made with, so that a prediction needs no new measurement. Fitting is a
// pure function of the samples, the rates and the texts given: no clock, and the same inputs give the same bits.
#pragma once

#include "engine/sample.h"
#include "sim/device.h"

enum { CALIBRATION_TEXT_BYTES = 256, CALIBRATION_DATE_BYTES = 32 };

// Samples whose work differs by less than an eighth of an octave, and from 16 rows on their rows by less than a
// thirty-second, as their medians (or as calibration_fit_by says).
struct calibration_point {
    int32_t rows;         // or what they see: the fewest of its thirty-second of an octave
    double work;          // bytes + flops of one layer's stage
    double efficiency;    // roofline time / (measured time - floor); above 1 where caches do better than the rates say
    int64_t samples;
};

// Of |predicted / measured - 1| over points. n == 0: unknown.
struct calibration_error {
    int32_t n;
    double median, p95;
};

// What a layer's stages are beside. Of kv_write: in window layers attention may have written already; where indexers
// run their keys are written too, or, without keys, the bounds of pages. Above a shared memory (beside window layers)
// it writes index keys alone, for all rows, and index_project runs once for keys and once for queries.
//
// SELECTING: layers that have none of it, and products, in steps in which every row selects: attention that waits for
// memory leaves a GPU more of its power for the products of long prompts than attention that multiplies (a tenth on an
// H200), and short products of decode were measured to take up to a tenth longer. Prompts that multiply without end
// heat a GPU until it lowers its clocks: an H200 after some 40 ms, and then products take 6 to 13% longer, attention
// over all tokens up to 30%. Steps of prompts before that (cool) count as SELECTING, too, whose clocks were never seen
// to fall, and so does their attention, over all tokens or a window.
//
// TAKING: selections of rows that see no more than they may select. LIGHTNING: attention of prompts over what DSA's
// indexer selects, whose many heads agree less from row to row: neighbours share a fifth less of what is read.
enum calibration_layer {
    LAYER_ANY,
    LAYER_WINDOW,
    LAYER_INDEXED,
    LAYER_BOUNDED,
    LAYER_MEMORY,
    LAYER_SELECTING,
    LAYER_TAKING,
    LAYER_LIGHTNING,
    LAYER_KINDS
};
const char *calibration_layer_name(enum calibration_layer layer);    // "any", "window", ...

// What else runs in the layer of a stage, and in any layer of its step.
struct calibration_beside {
    bool window, keys, bounds;    // window attention; an indexer with keys, or one with bounds of pages
    bool taking;                  // no row of the step sees more than it may select
    bool whole, lightning;        // attention of prompts over all tokens, or by fp8 index keys
    bool cool;                    // a step of prompts before clocks fall
    bool windows, indexers;       // in any layer: window attention; an indexer of either kind
};
enum calibration_layer calibration_layer_of(enum stage stage, const struct calibration_beside *beside);

struct calibration_curve {
    enum stage stage;         // HOST, of DECODE: what a step that is replayed takes longer than its stages, for each
                              // layer that selects, by the work of its selection: kernels that are launched ahead wait
                              // on a GPU's multiprocessors for those before them, which still have blocks to start
    enum phase phase;         // PREFILL: several rows of a sequence; DECODE: one of each; MIXED: the same in a step
                              // that also has more
    int32_t unit_tokens;      // of what was selected; 0: the stage does not depend on a selection
    enum calibration_layer layer;    // of index_project MEMORY or ANY; of products SELECTING or ANY, of attention those
                              // or LIGHTNING; of index_select TAKING or ANY; of kv_write the first six; of others ANY
    enum dtype dtype;         // of the operands that are multiplied
    double floor_s;
    int32_t n_points;
    struct calibration_point *points;    // [n_points], owned; ascending by rows, then by work
    struct calibration_error roofline, calibrated;
};

struct calibration_profile {
    char device[SOURCE_NAME_BYTES], backend[SOURCE_NAME_BYTES];    // as the samples name them
    char models[CALIBRATION_TEXT_BYTES];                           // "bench-100m clsa, bench-100m dense"
    int32_t threads;
    struct device rates;                 // rates.name is the device's name in predictions
    int64_t n_steps[PHASE_COUNT];        // behind overhead_s; MIXED counts as PREFILL
    double overhead_s[PHASE_COUNT];      // of a step outside its stages: host work and gaps, less overlap
    double overhead_per_seq_s;           // more of it for each sequence of a step that decodes (a GPU's page tables)
    // A step that decodes, t after one with prompts, takes longer by settle_s_per_byte for each byte that it reads,
    // times exp(-t / settle_s); of n sequences times 1 - (n - 1) / (settle_seqs - 1), as long as that is above 0.
    double settle_s_per_byte, settle_s;  // 0: not seen
    int32_t settle_seqs;                 // 0: however many they are
    double warm_s;                       // heat at which clocks fall; 0: they were not seen to
    double mark_s[PHASE_COUNT];          // that marks added to each stage of a step on a GPU, and was taken off again
    int32_t n_curves;
    struct calibration_curve *curves;    // [n_curves], owned
};

struct calibration {
    char date[CALIBRATION_DATE_BYTES], command[CALIBRATION_TEXT_BYTES];
    int32_t n_traces, n_profiles;
    char (*traces)[CALIBRATION_TEXT_BYTES];    // [n_traces], owned
    struct calibration_profile *profiles;      // [n_profiles], owned
};
void calibration_free(struct calibration *calibration);    // NULL-safe

// The type whose multiply-adds a stage is made of.
enum dtype calibration_dtype(enum stage stage, enum dtype weight, enum dtype kv, enum dtype index);
// How much longer such a step of n_seqs sequences takes that reads `bytes`, since_s after the last with prompts;
// seconds.
double calibration_settling_s(const struct calibration_profile *profile, double bytes, int32_t n_seqs, double since_s);
// Heat grows by the time of steps of many rows and shrinks by all other; fewer rows wait for weights, not for products.
// All 0: none yet. A step does not change it before calibration_heat_step; one of few rows never.
struct calibration_heat {
    double heat_s, end_s;                // what the last step that heats left, when it ended
};
double calibration_heat_at(const struct calibration_heat *heat, double now_s);
void calibration_heat_step(struct calibration_heat *heat, double begin_s, double seconds, int64_t rows);
// Whether clocks have not fallen in a step of so many rows that begins with so much heat.
bool calibration_cool(const struct calibration_profile *profile, double heat_s, int64_t rows);
// Whether points go by the tokens that a row sees, in the mean, instead of by rows: of prompts attention over what was
// selected, where neighbours share the less the more there was to choose from and whose work does not tell, and the
// selecting itself.
bool calibration_by_context(enum stage stage, enum phase phase, int32_t unit_tokens);
// Whether a stage's speed depends on what is selected: index stages, gather, global attention.
bool calibration_depends_on_unit(enum stage stage);

// Whether it has curves of HOST.
bool calibration_waits(const struct calibration_profile *profile);

// The efficiency at one place. False: no curve of that stage and phase; without MIXED ones DECODE's count. Without a
// curve of that unit and type the nearest is taken, and its answer is EXTRAPOLATED.
struct calibration_query {
    enum stage stage;
    enum phase phase;
    int32_t unit_tokens, rows;
    enum dtype dtype;
    double work;
    enum calibration_layer layer;
};
struct calibration_answer {
    double floor_s, efficiency;
    double off_share;              // 95% of the curve's points left out are predicted within, at most 1; beyond them
                                   // twice that. NaN: too few to tell
    enum provenance provenance;    // MEASURED | INTERPOLATED | EXTRAPOLATED
};
bool calibration_ask(struct calibration_answer *out, const struct calibration_profile *profile,
                     const struct calibration_query *query);
// The same for a caller that asks on and on: around one place the logarithm of the efficiency is a straight line of the
// work's, as long as the rest of the query stays.
struct calibration_stretch {
    enum phase phase;
    int32_t rows;                      // of the query; 0: nothing is kept
    double from_work, to_work;         // [from, to)
    double floor_s, log_efficiency, slope;    // log(efficiency) = log_efficiency + slope * log(work)
};
bool calibration_stretch(struct calibration_stretch *out, const struct calibration_profile *profile,
                         const struct calibration_query *query);

// The profile of a device by the name of its rates, or by what its samples call it or its processor; case-insensitive.
// `backend` is a prefix of the profile's ("cpu"), NULL: the first. NULL if there is none.
const struct calibration_profile *calibration_find(const struct calibration *calibration, const char *device,
                                                   const char *backend);
// The profile whose bandwidth and multiply-add rate are nearest to the device's, by their ratios.
const struct calibration_profile *calibration_nearest(const struct calibration *calibration,
                                                      const struct device *device);

// Fitting: a sink of samples, trace after trace. Samples that cannot be used (no duration, no rows, a step that never
// ended) are counted.
struct calibration_fit;
int calibration_fit_open(struct calibration_fit **out);
void calibration_fit_close(struct calibration_fit *fit);    // NULL-safe
int calibration_fit_trace(struct calibration_fit *fit, const char *name);    // what follows comes from that trace
struct sample_sink calibration_fit_sink(struct calibration_fit *fit);
int32_t calibration_fit_profiles(const struct calibration_fit *fit);
const struct sample_source *calibration_fit_source(const struct calibration_fit *fit, int32_t profile);
int64_t calibration_fit_dropped(const struct calibration_fit *fit);
// What points and overheads are of their samples: medians if nothing is said; means, what a service is to expect where
// a machine is disturbed now and then, whose waiting is made of all of a step's time; lower quartiles, what stages
// take where a machine's neighbours leave it alone. Before calibration_fit_finish.
enum calibration_by { CALIBRATION_BY_MEDIAN, CALIBRATION_BY_MEAN, CALIBRATION_BY_LOWER_QUARTILE };
void calibration_fit_by(struct calibration_fit *fit, enum calibration_by by);
// What follows is of newer kernels: of its stages only those count for which `renews` is true, and where they are near
// older samples of the same curve (an octave of rows, half an octave of work each), those are left out.
typedef bool calibration_renews(enum stage stage, enum phase phase, int32_t unit_tokens);
void calibration_fit_newer(struct calibration_fit *fit, calibration_renews *renews);
// `rates` [profiles]. *out is owned by the caller. -EINVAL without a usable sample, or without a rate that is needed.
int calibration_fit_finish(struct calibration **out, struct calibration_fit *fit, const struct device *rates,
                           const char *date, const char *command);

// One JSON file, written whole. Reading is strict: -EINVAL names the file, the place and what was expected.
int calibration_save(const struct calibration *calibration, const char *path);
int calibration_load(struct calibration **out, const char *path);
int calibration_parse(struct calibration **out, const char *text, size_t length, const char *where);

// What comes with the program (sim/calibrations), as one calibration with a profile for each device; its date and
// command are the first's. *out is NULL, and no error, where nothing does; *paths (may be NULL) names the files, for
// ever valid. Call it from one thread.
int calibration_load_shipped(struct calibration **out, const char **paths);
