// traces/import.h - recordings of other engines: PyTorch's profiler (Kineto, as vLLM and SGLang write it) as our
// samples.
//
// Every kernel, copy and fill becomes a kernel sample, by the rules (traces/import_rules.h) of a stage; calls that
// enqueued them become launches. A step is an annotation that a step rule fits, and holds what was enqueued within it;
// where no annotation fits, what follows each other with gaps shorter than gap_ns. A step lasts from its first kernel's
// begin to its last one's end: what the host does between steps is not in it. A stage sample is a run of kernels of one
// stage and layer, as long as at least one of them ran. Kernels that no rule fits stay, attributed to no stage. Every
// device of the file is a source of its own. With a plan stages get bytes and operations, so that a calibration can be
// made of them: in steps whose layers are as many as the plan's and whose sizes are known.
#pragma once

#include "engine/plan.h"
#include "engine/sample.h"
#include "traces/import_rules.h"

enum { IMPORT_GAP_NS = 100000 };    // between steps: longer than between kernels, shorter than a scheduler's work

struct import_options {
    const struct import_rules *rules;
    const char *backend, *model, *method;    // what samples say of themselves; NULL: "kineto", "unknown", "unknown"
    const char *device;                      // NULL: what the file says
    int64_t gap_ns;                          // 0: IMPORT_GAP_NS
    enum phase phase;                        // of steps without annotations
    const struct plan *plan;                 // NULL: stages have no bytes
    int32_t context_tokens;                  // of each sequence at the first step that decodes, where names do not say
                                             // it; it grows by one each step. 0: unknown
};

struct import_report {
    int64_t n_events, n_other, n_invalid;    // all; of no use here; without usable times
    int64_t n_kernels, n_copies, n_launches, n_steps, n_priced_steps;
    int64_t n_outside, outside_ns;           // kernels in no step
    int64_t n_unmatched, unmatched_ns;       // kernels that no rule fits
    int64_t kernel_ns;                       // of all
    bool by_gaps;                            // no annotation was a step
    int32_t n_devices;
};

// -EINVAL: not such a file, with the place and what was expected, or no work of a GPU in it; -ENOMEM.
int import_read(struct import_report *report, const char *path, const struct import_options *options,
                const struct sample_sink *sink);
// The same from a descriptor, which is closed; `name` stands in messages.
int import_read_fd(struct import_report *report, int fd, const char *name, const struct import_options *options,
                   const struct sample_sink *sink);
