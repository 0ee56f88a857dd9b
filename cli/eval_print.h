// cli/eval_print.h - the results of `clsa eval`: tables, JSON, a map of depth and context as text, rows of results.tsv.
#pragma once

#include "cli/eval.h"

struct eval_results {
    const struct eval_options *options;
    struct eval_run *runs;            // [n_runs], those of one method and budget side by side
    const struct eval_run *others;    // [n_runs] the same on a second device; NULL: none
    int32_t n_runs;
    const char *devices[2];    // as named
    bool maps;                 // print them
};

int eval_print(const struct eval_results *results);         // for people
int eval_print_json(const struct eval_results *results);    // for machines

// Appends rows to the file `path`, whose head line is made if the file is new. commit and driver are for the rows.
// -EINVAL if it cannot be opened, -EIO if it cannot be written.
int eval_append(const struct eval_results *results, const char *path, const char *commit, const char *driver);
