// engine/stage.c - the names of phases and stages.
#include "engine/stage.h"

#include <errno.h>
#include <string.h>

#include "engine/status.h"

static const char *const phases[PHASE_COUNT] = {
    [PHASE_PREFILL] = "prefill",
    [PHASE_DECODE] = "decode",
    [PHASE_MIXED] = "mixed",
};

static const char *const stages[STAGE_COUNT] = {
    [STAGE_EMBED] = "embed",
    [STAGE_QKV] = "qkv",
    [STAGE_WINDOW_ATTENTION] = "window_attention",
    [STAGE_KV_WRITE] = "kv_write",
    [STAGE_INDEX_PROJECT] = "index_project",
    [STAGE_INDEX_SCORE] = "index_score",
    [STAGE_INDEX_SELECT] = "index_select",
    [STAGE_GATHER] = "gather",
    [STAGE_ATTENTION] = "attention",
    [STAGE_OUTPUT] = "output",
    [STAGE_FFN] = "ffn",
    [STAGE_HEAD] = "head",
    [STAGE_SAMPLE] = "sample",
    [STAGE_COMMUNICATE] = "communicate",
    [STAGE_HOST] = "host",
};

const char *phase_name(enum phase phase)
{
    return phases[phase];
}

const char *stage_name(enum stage stage)
{
    return stages[stage];
}

int phase_from_name(enum phase *out, const char *name)
{
    for (int i = 0; i < PHASE_COUNT; i++) {
        if (strcmp(phases[i], name) == 0) {
            *out = (enum phase)i;
            return 0;
        }
    }
    return status_fail(-EINVAL, "unknown phase '%s': expected prefill, decode or mixed", name);
}

int stage_from_name(enum stage *out, const char *name)
{
    for (int i = 0; i < STAGE_COUNT; i++) {
        if (strcmp(stages[i], name) == 0) {
            *out = (enum stage)i;
            return 0;
        }
    }
    return status_fail(-EINVAL,
                       "unknown stage '%s': expected embed, qkv, window_attention, kv_write, index_project, "
                       "index_score, index_select, gather, attention, output, ffn, head, sample, communicate or host",
                       name);
}
