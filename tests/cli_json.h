// tests/cli_json.h - what the program under test printed with --json; beside cli.h.
#pragma once

#include <jansson.h>

#include "tests/cli.h"

// The rows of one table of a --json run; the caller releases *root.
static inline json_t *json_rows(json_t **root, const char *arguments, const char *table)
{
    int status = clsa(arguments);
    CHECK_MESSAGE(status == 0, "clsa %s: exit %d: %s", arguments, status, errors);
    *root = json_loads(output, JSON_REJECT_DUPLICATES, NULL);
    json_t *rows = json_object_get(*root, table);
    CHECK_MESSAGE(json_is_array(rows), "clsa %s: no table \"%s\" in: %.200s", arguments, table, output);
    return rows;
}

static inline double number(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    CHECK_MESSAGE(json_is_number(value), "no number \"%s\"", key);
    return json_number_value(value);
}

static inline const char *string(const json_t *row, const char *key)
{
    const char *value = json_string_value(json_object_get(row, key));
    CHECK_MESSAGE(value != NULL, "no text \"%s\"", key);
    return value ? value : "";
}
