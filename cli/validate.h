// cli/validate.h - published measurements of other people's kernels and systems, each predicted and laid beside.
//
// `clsa sim --validate FOLDER` reads its *.csv by their heads: dense decode attention kernels, DSA attention modules in
// prefill, and published points (speed-ups and slopes). Models are named in the rows; their config.json is
// CONFIGS/NAME.json. Nothing is fitted: roofline, and with a calibration what another device's kernels reached.
#pragma once

#include "cli/table.h"
#include "sim/calibration.h"

enum { VALIDATE_MAX_FIELDS = 16 };

struct validate_options {
    const char *folder, *configs, *devices_file;    // both folders may be the same one
    const struct calibration *calibration;    // NULL: bare roofline
};

// Prints to stdout: errors by group of rows, published points, and with per_row every measurement.
int validate_print(const struct validate_options *options, bool per_row, bool json);

// Reading. Lines that begin with '#' are left out; the first other one is the head.
struct csv {
    const char *path;                       // borrowed
    char *text;                             // owned; lines and fields end with 0
    char **lines;                           // [n_lines] owned; the head first
    int64_t *numbers;                       // [n_lines] in the file; owned
    int64_t n_lines;
};
int csv_open(struct csv *csv, const char *path);
void csv_close(struct csv *csv);            // harmless when zero
// Cuts a line at its commas; quotes keep commas in a field. -EINVAL with file and line if there are not n fields.
int csv_fields(const struct csv *csv, int64_t line, char **fields, int32_t n);
// A field as a number; -EINVAL names file, line and field.
int csv_number(double *out, const struct csv *csv, int64_t line, const char *what, const char *text);
// Every FOLDER/*.csv, in the order of their names. -EINVAL if there is none.
int csv_each(const char *folder, int (*each)(void *user, const char *path), void *user);
