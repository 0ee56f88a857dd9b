// traces/import_rules.h - which of our stages another engine's kernels are, and which of its annotations are steps.
//
// A text, one rule a line, '#' begins a comment. A pattern is a glob over the whole name (*attention*), or an extended
// regular expression anywhere in it between slashes (/^nvjet|gemm/); in double quotes it may hold blanks. The first
// rule that fits decides.
//
//     step PHASE PATTERN [fallback] [prompts=N] [prompt_tokens=N] [prompt_keys=N] [answers=N] [answer_tokens=N]
//                        [answer_keys=N]
//         An annotation that is one forward pass. PHASE: prefill, decode, mixed, or auto: by what is in it. N: the
//         group of the regular expression that holds the number of sequences, of their rows, or of the tokens that they
//         attend to, all together. fallback: only if no other step rule fits anything in the file.
//     kernel STAGE PATTERN [after=LABEL[,LABEL...]] [as=LABEL] [last]
//         A kernel, copy or fill of that stage; STAGE "next": of the stage of what follows it on its stream (a norm
//         belongs to the product that it feeds). One name may mean many stages (a matrix product does): after= asks
//         what came before on the stream, by the label of its rule (as=, else its stage; "start": nothing yet in this
//         step). as=same, and "next": what came before still counts as before. last: only where the pattern fits no
//         later kernel of the step and stream.
//     layer LABEL
//         With that label a layer begins.
#pragma once

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/stage.h"

enum import_field {
    IMPORT_PROMPTS, IMPORT_PROMPT_TOKENS, IMPORT_PROMPT_KEYS, IMPORT_ANSWERS, IMPORT_ANSWER_TOKENS, IMPORT_ANSWER_KEYS,
    IMPORT_FIELDS
};

struct import_pattern {
    char *glob;        // owned; NULL: a regular expression
    regex_t regex;
};

struct import_step_rule {
    struct import_pattern pattern;
    bool automatic, fallback;       // automatic: the phase follows from the fields
    enum phase phase;
    int group[IMPORT_FIELDS];       // 0: not in the name
};

struct import_kernel_rule {
    struct import_pattern pattern;
    bool next, last;
    enum stage stage;               // unless `next`
    uint64_t after;                 // bit per label; 0: whatever came before
    int32_t label;                  // -1: what came before still does
};

enum { IMPORT_MAX_RULES = 512, IMPORT_MAX_LABELS = 64, IMPORT_LABEL_START = 0 };

struct import_rules {
    struct import_step_rule *steps;        // [n_steps], owned
    struct import_kernel_rule *kernels;    // [n_kernels], owned
    int32_t n_steps, n_kernels;
    int32_t layer_label;                   // -1: layers are not told apart
    char labels[IMPORT_MAX_LABELS][32];
    int32_t n_labels;
};

// From a file, or from text [length] (`where` names it in errors); path NULL: the rules that come with the program, for
// vLLM and SGLang. -EINVAL with file, line and what was expected; *out is then NULL.
int import_rules_load(struct import_rules **out, const char *path);
int import_rules_parse(struct import_rules **out, const char *text, size_t length, const char *where);
void import_rules_free(struct import_rules *rules);    // NULL-safe

bool import_pattern_fits(const struct import_pattern *pattern, const char *name);
// The numbers in the name of a step that the rule fits; 0 where it says none. False: it does not fit.
bool import_step_fields(int64_t *fields, const struct import_step_rule *rule, const char *name);
