// workloads/workload.h - a list of requests: when each arrives, how long its prompt is, how long its answer gets.
//
// Lists come from three places: our own descriptions (*.workload: arrival law, joint length distributions, classes; the
// shipped ones by name), and recorded traces (Mooncake JSONL, Azure CSV, ServeGen-style CSV). What a file is is seen
// from its contents. A list is sorted by arrival, starts at 0 and is a pure function of the file and the seed. 48
// bytes a request: a day of 1.4 million takes 66 MB. Texts are not kept, only lengths and what prompts share.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WORKLOAD_NAME_BYTES = 64, WORKLOAD_MAX_CLASSES = 16, WORKLOAD_MAX_TOKENS = 1 << 27 };

struct workload_request {
    int64_t arrival_ns;         // since the workload began; 0 in a closed loop, where answers decide
    int64_t prefix_id;          // requests with one id begin alike; -1: shares nothing
    int32_t prompt_tokens, output_tokens;    // at least one of each
    int32_t think_tokens;       // of the output, at its beginning; 0 where unknown
    int32_t prefix_tokens;      // of the prompt, at its beginning: the part named by prefix_id
    int32_t reused_tokens;      // of the prompt, at its beginning: what some earlier request brought
    int32_t class_index;
    int32_t first_block, n_blocks;    // of workload.blocks: what its prompt is made of. 0: prefix_id says it all
};

struct workload {
    char name[WORKLOAD_NAME_BYTES];
    struct workload_request *requests;    // [n] by arrival; owned
    int64_t n;
    int32_t block_tokens;       // granularity of prefix_tokens and reused_tokens in the source; 1 where exact
    uint64_t *blocks;           // [n_blocks] each names block_tokens of a prompt and all before; owned, or NULL
    int64_t n_blocks;
    int32_t users;              // > 0: a closed loop. The first `users` requests arrive at 0, each other one
    int64_t pause_ns;           // this long after an answer ended
    int32_t n_classes;
    char classes[WORKLOAD_MAX_CLASSES][WORKLOAD_NAME_BYTES];
};

// What to change in a list; zeros change nothing.
struct workload_options {
    uint64_t seed;              // of a description; 0: the one that it names
    int64_t max_requests;       // of a description: as many as this are made; of a trace: the first ones are kept
    double rate_factor;         // arrivals come this many times as fast
    double length_factor;       // prompts and outputs are this many times as long, at least one token
    int32_t prompt_tokens, output_tokens;            // all are so long
    int32_t max_prompt_tokens, max_output_tokens;    // longer ones are cut
};

// Loads a file, or a shipped description by its name ("reasoning"). -EINVAL names the file, the line or key, and what
// was expected. `options` may be NULL. workload_close frees what *out holds; *out is empty on failure.
int workload_load(struct workload *out, const char *name_or_path, const struct workload_options *options);
// The same from text [length], ended by a 0; `where` names it in errors. The text's newlines may be overwritten.
int workload_parse(struct workload *out, char *text, size_t length, const char *where,
                   const struct workload_options *options);
void workload_close(struct workload *workload);    // NULL-safe

// A description that draws such requests (JSON, ended by a 0; the caller frees it), of lengths, arrivals and thought;
// not of what prompts share. -ENOMEM; *text is then NULL.
int workload_fit(char **text, const struct workload *workload);

// Names what the prompt of a request consists of at `position`: prompts with equal streams there are equal up to there.
uint64_t workload_stream(const struct workload *workload, int64_t request, int32_t position);
// The same for the beginning of `tokens` tokens, at least 1: equal keys, equal beginnings.
uint64_t workload_key(const struct workload *workload, int64_t request, int32_t tokens);
// The fewest tokens in which its prompts are seen to share, in multiples of what a cache can tell apart.
int32_t workload_prefix_unit(const struct workload *workload, int32_t cache_unit);
bool workload_shares(const struct workload *workload);    // some prompt says that it begins like others

// The shipped descriptions.
struct workload_preset {
    const char *name;
    const unsigned char *text;
    const size_t *length;
};
int32_t workload_preset_count(void);
const struct workload_preset *workload_preset(int32_t index);

// Percentiles are by nearest rank: the smallest value that p percent of all reach or stay below.
struct workload_lengths {
    double mean;
    int32_t p50, p95, p99, max;
};
struct workload_statistics {
    int64_t n;
    double span_s;              // from first to last arrival
    double rate_per_s;          // (n - 1) / span; 0 in a closed loop
    double gap_cv;              // standard deviation of the gaps between arrivals over their mean: 1 for Poisson
    struct workload_lengths prompt, output;
    double prompt_tokens, output_tokens;    // in all
    double think_share;         // of the output tokens
    double prefix_hit_share;    // of the prompts' blocks, with a cache that never forgets
};
int workload_measure(struct workload_statistics *out, const struct workload *workload);    // -ENOMEM
