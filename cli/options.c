// cli/options.c - long options from a table.
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/input_file.h"
#include "engine/output_file.h"
#include "engine/status.h"

enum { HELP_COLUMN = 32, HELP_MARGIN = 120 };

static const struct option_spec *find(const struct command_spec *command, const char *name, size_t length)
{
    for (const struct option_spec *option = command->options; option->kind != OPTION_END; option++) {
        if (option->name && strlen(option->name) == length && strncmp(option->name, name, length) == 0) {
            return option;
        }
    }
    return NULL;
}

bool options_whole(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || errno) {
        return false;
    }
    int shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (*end && (shift == 0 || end[1])) {
        return false;
    }
    return !__builtin_mul_overflow(value, 1LL << shift, out);
}

static const char *unit_of(const struct option_spec *option)
{
    return option->unit ? option->unit : "N";
}

static int set(const struct option_spec *option, const char *text)
{
    switch (option->kind) {
    case OPTION_TEXT:
    case OPTION_OUTPUT: *(const char **)option->value = text; return 0;
    case OPTION_LIST: {
        struct option_list *list = option->value;
        if (list->n == OPTION_LIST_MAX) {
            return status_fail(-EINVAL, "--%s: given more than %d times", option->name, OPTION_LIST_MAX);
        }
        list->items[list->n++] = text;
        return 0;
    }
    case OPTION_REAL: {
        char *end;
        double value = strtod(text, &end);
        if (end == text || *end || !(value >= option->min && value <= option->max)) {
            return status_fail(-EINVAL, "--%s %s: expected a number from %g to %g (%s)", option->name, text,
                               option->min, option->max, unit_of(option));
        }
        *(double *)option->value = value;
        return 0;
    }
    default: {
        int64_t value;
        if (!options_whole(text, &value) || (double)value < option->min || (double)value > option->max) {
            return status_fail(-EINVAL, "--%s %s: expected a whole number from %.0f to %.0f (%s)", option->name, text,
                               option->min, option->max, unit_of(option));
        }
        if (option->kind == OPTION_INT) {
            *(int32_t *)option->value = (int32_t)value;
        } else {
            *(int64_t *)option->value = value;
        }
        return 0;
    }
    }
}

// As the end of an option's line; empty: there is none.
static void format_default(char *out, size_t bytes, const struct option_spec *option)
{
    *out = 0;
    switch (option->kind) {
    case OPTION_INT: {
        int32_t value = *(const int32_t *)option->value;
        if ((double)value >= option->min) {    // below the range: a value that says "not given"
            snprintf(out, bytes, "[%d]", value);
        }
        break;
    }
    case OPTION_LONG: snprintf(out, bytes, "[%lld]", (long long)*(const int64_t *)option->value); break;
    case OPTION_REAL: snprintf(out, bytes, "[%g]", *(const double *)option->value); break;
    case OPTION_TEXT:
    case OPTION_OUTPUT:
        if (*(const char *const *)option->value) {
            snprintf(out, bytes, "[%s]", *(const char *const *)option->value);
        }
        break;
    default: break;
    }
}

// Words behind what stands in the line, up to the margin; the rest of them in lines of their own, below the first.
static int print_words(const char *text, int column)
{
    for (const char *word = text; *word;) {
        int n = (int)strcspn(word, " ");
        if (column + 1 + n > HELP_MARGIN) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        printf(" %.*s", n, word);
        column += 1 + n;
        word += n;
        word += strspn(word, " ");
    }
    return column;
}

static void print_help(const struct command_spec *command)
{
    printf("usage: clsa %s [options]%s%s\n\n%s\n\n", command->name, command->positional ? " " : "",
           command->positional ? command->positional : "", command->summary);
    for (const struct option_spec *option = command->options; option->kind != OPTION_END; option++) {
        if (option->kind == OPTION_GROUP) {
            printf("%s%s\n", option == command->options ? "" : "\n", option->help);
            continue;
        }
        char flag[64], value[512];
        if (option->kind == OPTION_FLAG) {
            snprintf(flag, sizeof flag, "--%s", option->name);
        } else {
            snprintf(flag, sizeof flag, "--%s <%s>", option->name, unit_of(option));
        }
        format_default(value, sizeof value, option);
        print_words(value, print_words(option->help, printf("  %-*s", HELP_COLUMN - 2, flag)));
        putchar('\n');
    }
    printf("  %-*s %s\n", HELP_COLUMN - 2, "--help", "this text");
}

static int unknown(const struct command_spec *command, const char *argument)
{
    char names[512] = "";
    for (const struct option_spec *option = command->options; option->kind != OPTION_END; option++) {
        if (option->name && strlen(names) + strlen(option->name) + 4 < sizeof names) {
            strcat(strcat(names, " --"), option->name);
        }
    }
    return status_fail(-EINVAL, "%s: no such option; there are%s --help", argument, names);
}

// One argument that begins with "--". Advances *index past the option's value.
static int parse_long(const struct command_spec *command, int argc, char **argv, int *index)
{
    const char *argument = argv[*index], *name = argument + 2;
    const char *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const struct option_spec *option = find(command, name, length);
    if (!option) {
        return unknown(command, argument);
    }
    if (option->kind == OPTION_FLAG) {
        if (equals) {
            return status_fail(-EINVAL, "--%s takes no value", option->name);
        }
        *(bool *)option->value = true;
        return 0;
    }
    if (equals) {
        return set(option, equals + 1);
    }
    if (*index + 1 >= argc) {
        return status_fail(-EINVAL, "--%s needs a value (%s)", option->name, unit_of(option));
    }
    *index += 1;
    return set(option, argv[*index]);
}

// A wrong place for its result would come to light when the work is done.
static int check_outputs(const struct command_spec *command)
{
    for (const struct option_spec *option = command->options; option->kind != OPTION_END; option++) {
        const char *path = option->kind == OPTION_OUTPUT ? *(const char **)option->value : NULL;
        int error = path ? output_file_check(path) : 0;
        if (error) {
            return status_prefix(input_file_error(-error), "--%s ", option->name);
        }
    }
    return 0;
}

int options_parse(const struct command_spec *command, int argc, char **argv, int32_t *n_positional)
{
    int32_t n = 0;
    bool only_positional = false;
    // Before anything is stored, so that --help shows the defaults wherever it stands.
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(command);
            return 1;
        }
    }
    for (int i = 1; i < argc; i++) {
        if (!only_positional && strcmp(argv[i], "--") == 0) {
            only_positional = true;
        } else if (!only_positional && strncmp(argv[i], "--", 2) == 0) {
            int error = parse_long(command, argc, argv, &i);
            if (error) {
                return error;
            }
        } else if (!only_positional && argv[i][0] == '-' && argv[i][1]) {
            return unknown(command, argv[i]);
        } else if (n == command->max_positional) {
            return status_fail(-EINVAL, "%s: unexpected; usage: clsa %s [options]%s%s", argv[i], command->name,
                               command->positional ? " " : "", command->positional ? command->positional : "");
        } else {
            argv[++n] = argv[i];
        }
    }
    if (n < command->min_positional) {
        return status_fail(-EINVAL, "missing argument; usage: clsa %s [options] %s", command->name,
                           command->positional);
    }
    *n_positional = n;
    return check_outputs(command);
}
