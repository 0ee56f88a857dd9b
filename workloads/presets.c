// workloads/presets.c - the shipped descriptions, compiled in from workloads/*.workload (see workloads.cmake).
#include "workloads/workload.h"

extern const unsigned char workload_reasoning[], workload_rag[], workload_agents[], workload_paper[], workload_day[];
extern const size_t workload_reasoning_bytes, workload_rag_bytes, workload_agents_bytes, workload_paper_bytes,
    workload_day_bytes;

static const struct workload_preset presets[] = {
    {"reasoning", workload_reasoning, &workload_reasoning_bytes},
    {"rag", workload_rag, &workload_rag_bytes},
    {"agents", workload_agents, &workload_agents_bytes},
    {"paper", workload_paper, &workload_paper_bytes},
    {"day", workload_day, &workload_day_bytes},
};

int32_t workload_preset_count(void)
{
    return (int32_t)(sizeof presets / sizeof presets[0]);
}

const struct workload_preset *workload_preset(int32_t index)
{
    return &presets[index];
}
