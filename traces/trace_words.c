// traces/trace_words.c - the words of a trace: annotations, categories, names of events.
#include "traces/trace_internal.h"

#include <assert.h>

static const char *const annotation_names[ANNOTATION_COUNT] = {
    [ANNOTATION_STEP] = "step",
    [ANNOTATION_LAYER] = "layer",
    [ANNOTATION_N_SEQS] = "n_seqs",
    [ANNOTATION_N_TOKENS] = "n_tokens",
    [ANNOTATION_CONTEXT_TOKENS] = "context_tokens",
    [ANNOTATION_BYTES] = "bytes",
    [ANNOTATION_FLOPS] = "flops",
    [ANNOTATION_MEASURED_BYTES] = "measured_bytes",
    [ANNOTATION_DEVICE_NS] = "device_ns",
    [ANNOTATION_FLOOR_NS] = "floor_ns",
    [ANNOTATION_FLOOR_PERCENT] = "floor_percent",
    [ANNOTATION_BOUND] = "bound",
    [ANNOTATION_REQUEST] = "request",
    [ANNOTATION_PROMPT_TOKENS] = "prompt_tokens",
    [ANNOTATION_OUTPUT_TOKENS] = "output_tokens",
    [ANNOTATION_SOURCE] = "source",
    [ANNOTATION_DEVICE] = "device",
    [ANNOTATION_BACKEND] = "backend",
    [ANNOTATION_MODEL] = "model",
    [ANNOTATION_METHOD] = "method",
    [ANNOTATION_N_LAYERS] = "n_layers",
    [ANNOTATION_TOP_K] = "top_k",
    [ANNOTATION_UNIT_TOKENS] = "unit_tokens",
    [ANNOTATION_INDEX_SETS] = "index_sets",
    [ANNOTATION_WINDOW_TOKENS] = "window_tokens",
    [ANNOTATION_PAGE_TOKENS] = "page_tokens",
    [ANNOTATION_WEIGHT_DTYPE] = "weight_dtype",
    [ANNOTATION_KV_DTYPE] = "kv_dtype",
    [ANNOTATION_INDEX_DTYPE] = "index_dtype",
    [ANNOTATION_THREADS] = "threads",
    [ANNOTATION_GRAPH] = "graph",
    [ANNOTATION_STREAM] = "stream",
    [ANNOTATION_REGISTERS] = "registers_per_thread",
    [ANNOTATION_STATIC_SHARED] = "shared_mem_static",
    [ANNOTATION_DYNAMIC_SHARED] = "shared_mem_dynamic",
    [ANNOTATION_DROPPED] = "dropped",
    [ANNOTATION_INVALID] = "invalid",
};

const char *trace_annotation_name(enum trace_annotation annotation)
{
    assert(annotation < ANNOTATION_COUNT);
    return annotation_names[annotation];
}

const char *trace_text_value(enum trace_text text)
{
    return text == TEXT_BANDWIDTH ? "bandwidth" : "compute";
}

const char *trace_category_name(int32_t category)
{
    assert(category >= 0 && category < CATEGORY_COUNT);
    return category == CATEGORY_STEP ? "step" : category == CATEGORY_REQUEST ? "request"
         : category == CATEGORY_SOURCE ? "source" : category == CATEGORY_LAUNCH ? "launch"
         : phase_name((enum phase)category);
}

const char *trace_name_text(int32_t name)
{
    assert(name >= 0 && name < NAME_COUNT);
    return name < NAME_PHASE ? stage_name((enum stage)name)
         : name < NAME_SOURCE ? phase_name((enum phase)(name - NAME_PHASE))
         : name == NAME_SOURCE ? "source" : name == NAME_QUEUE ? "queue" : "finished";
}

const char *trace_work_name(enum device_work work)
{
    return work == WORK_KERNEL ? "kernel" : work == WORK_COPY ? "copy" : "fill";
}
