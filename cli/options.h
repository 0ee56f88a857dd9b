// cli/options.h - long options from a table: parsing, ranges, --help.
//
// An option's variable holds its default before parsing, and --help prints it from there. Out of range, unknown or
// malformed is -EINVAL with the flag, what was given and what was expected; never a silent clamp. Whole numbers take
// the suffixes K, M, G (1024-based), so that `--context 128K` is 131072.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum option_kind {
    OPTION_FLAG,      // bool: --json
    OPTION_INT,       // int32_t
    OPTION_LONG,      // int64_t
    OPTION_REAL,      // double
    OPTION_TEXT,      // const char *, borrowed from argv; NULL default prints as "none"
    OPTION_OUTPUT,    // the same, a file that will be written: that it can be is checked when all options are parsed
    OPTION_LIST,      // struct option_list: a text that may be given several times
    OPTION_GROUP,     // no option: a heading in --help
    OPTION_END
};

enum { OPTION_LIST_MAX = 64 };
struct option_list {
    int32_t n;
    const char *items[OPTION_LIST_MAX];    // borrowed from argv
};

struct option_spec {
    const char *name;            // without dashes
    enum option_kind kind;
    void *value;
    double min, max;             // for numbers, inclusive
    const char *unit;            // "tokens", "NAME", "FILE": what stands behind the flag in --help
    const char *help;            // one line
};

struct command_spec {
    const char *name;            // "compare"
    const char *summary;         // one line
    const char *positional;      // "FILE [FILE]" or NULL if none is taken
    int32_t min_positional, max_positional;
    const struct option_spec *options;    // ends with OPTION_END
};

// Parses argv[1..]. Positional arguments are left in argv[1..*n_positional]. Returns 0; 1 if --help was printed;
// -EINVAL.
int options_parse(const struct command_spec *command, int argc, char **argv, int32_t *n_positional);

// A whole number as the options take it, with a suffix K, M or G. False if it is not one.
bool options_whole(const char *text, int64_t *out);
