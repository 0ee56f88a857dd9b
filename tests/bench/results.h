// tests/bench/results.h - what benchmarks share: rows of results.tsv, how main() ends.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/options.h"

// Where rows go. Put RESULTS_OPTIONS(variable) into the table of options; RESULTS_DEFAULT is results.tsv (run from the
// top of the checkout).
struct results {
    const char *path;      // NULL, "none": nowhere
    const char *commit;    // NULL: the checkout's
    const char *driver;    // NULL: "-"
    FILE *out;             // owned; NULL: rows are dropped
    char date[16], checkout[64];
};
#define RESULTS_DEFAULT {.path = "tests/bench/results.tsv"}
#define RESULTS_OPTIONS(results)                                                                                       \
    {"results", OPTION_OUTPUT, &(results).path, 0, 0, "FILE", "rows are appended here; none: nowhere"},                \
    {"commit", OPTION_TEXT, &(results).commit, 0, 0, "ID", "for the rows"},                                            \
    {"driver", OPTION_TEXT, &(results).driver, 0, 0, "VERSION", "for the rows"}

struct result {
    const char *device, *command, *model, *method, *quantity, *unit;    // NULL: "-"
    int32_t context, sequences;                                         // 0: "-"
    const char *contexts, *batches;                                     // several, instead of those; NULL: none
    double median, spread, floor;                                       // the latter two NAN: "-"
};

// -EINVAL where the file cannot be opened.
int results_open(struct results *results);
// Writes it at once. Nothing where its median is not finite.
void results_add(const struct results *results, const struct result *row);
// Returns `error`; if that is 0, -EIO where rows were lost.
int results_close(struct results *results, int error);

// The first line that a shell's command prints, "unknown" without one.
void first_line(char *out, int bytes, const char *command);

// The exit status of a benchmark. What a machine cannot run, -ENODEV, is told and counts as done, as --help does (1).
int bench_end(const char *name, int error);
