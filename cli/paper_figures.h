// cli/paper_figures.h - what arXiv 2606.06467v1 publishes of its speed, for tables that stand beside it.
#pragma once

#include <stdint.h>

enum { PAPER_FIGURES = 9, PAPER_BATCH = 32, PAPER_OUTPUT_TOKENS = 10000 };

// Tables 10 to 12, on a B200, in tokens per second. The batch is not stated: throughput times latency of its tables
// gives 32, and end-to-end throughput follows from prompts and answers of about 10000 tokens.
struct paper_figures {
    const char *method;
    int32_t context;
    double prefill, decode, end_to_end;
};
extern const struct paper_figures paper_figures[PAPER_FIGURES];

// Its selection, by Table 9: 0.08 ms a layer over 32 layers, for 32 sequences of 131072 tokens. Seconds of one
// indexer's selection over so many scores, in proportion.
double paper_select_s(double scores);
