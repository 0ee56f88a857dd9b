// engine/stage.h - the one vocabulary: the phases and stages of a step, in the order in which a step runs them.
//
// Kernels, NVTX ranges, trace slices, calibration points, predictions, bars on the screen and --json keys use these
// names and no others. Norms and RoPE belong to the stage that they feed; a residual addition to the stage it ends.
#pragma once

enum phase {
    PHASE_PREFILL,    // rows of prompts only
    PHASE_DECODE,     // one row per sequence, all generated
    PHASE_MIXED,      // rows of both
    PHASE_COUNT
};

enum stage {
    STAGE_EMBED,
    STAGE_QKV,                 // norm, projections, QK-norm, RoPE; in YOCO also the shared memory and its K and V
    STAGE_WINDOW_ATTENTION,
    STAGE_KV_WRITE,            // into pages or window rings, index keys and page bounds included
    STAGE_INDEX_PROJECT,
    STAGE_INDEX_SCORE,         // pooling to blocks included
    STAGE_INDEX_SELECT,
    STAGE_GATHER,              // only where selected keys are copied
    STAGE_ATTENTION,           // global attention of whatever kind
    STAGE_OUTPUT,              // attention output projection
    STAGE_FFN,
    STAGE_HEAD,                // final norm and language-model head
    STAGE_SAMPLE,
    STAGE_COMMUNICATE,
    STAGE_HOST,
    STAGE_COUNT
};

const char *phase_name(enum phase phase);
const char *stage_name(enum stage stage);

// The value with that name, or -EINVAL and a text that lists the names.
int phase_from_name(enum phase *out, const char *name);
int stage_from_name(enum stage *out, const char *name);
