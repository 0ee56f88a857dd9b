// cli/plan_grid.c - see plan_grid.h.
#include "cli/plan_grid.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "engine/status.h"
#include "sim/parallel.h"

enum kind { KIND_TEXT, KIND_WHOLE, KIND_REAL };

static const struct axis {
    const char *name;
    enum kind kind;
    size_t offset;    // in struct plan_case
    double min, max;
} axes[] = {
    {"device", KIND_TEXT, offsetof(struct plan_case, device), 0, 0},
    {"method", KIND_TEXT, offsetof(struct plan_case, method), 0, 0},
    {"router", KIND_TEXT, offsetof(struct plan_case, router), 0, 0},
    {"index-dtype", KIND_TEXT, offsetof(struct plan_case, index_dtype), 0, 0},
    {"kv-dtype", KIND_TEXT, offsetof(struct plan_case, kv_dtype), 0, 0},
    {"weight-dtype", KIND_TEXT, offsetof(struct plan_case, weight_dtype), 0, 0},
    {"top-k", KIND_WHOLE, offsetof(struct plan_case, knobs.top_k), 1, 1 << 24},
    {"block-tokens", KIND_WHOLE, offsetof(struct plan_case, knobs.block_tokens), 1, 1 << 16},
    {"index-every", KIND_WHOLE, offsetof(struct plan_case, knobs.index_every), 1, 256},
    {"index-heads", KIND_WHOLE, offsetof(struct plan_case, knobs.index_heads), 1, 1024},
    {"index-dim", KIND_WHOLE, offsetof(struct plan_case, knobs.index_dim), 1, 4096},
    {"window", KIND_WHOLE, offsetof(struct plan_case, knobs.window_tokens), 1, 1 << 24},
    {"page-tokens", KIND_WHOLE, offsetof(struct plan_case, knobs.page_tokens), 1, 1 << 16},
    {"max-seqs", KIND_WHOLE, offsetof(struct plan_case, max_seqs), 1, 1 << 16},
    {"chunk", KIND_WHOLE, offsetof(struct plan_case, chunk), 1, 1 << 24},
    {"tp", KIND_WHOLE, offsetof(struct plan_case, ranks), 1, PARALLEL_MAX_RANKS},
    {"rate", KIND_REAL, offsetof(struct plan_case, rate_per_s), 1e-6, 1e9},
    {"slo-ttft", KIND_REAL, offsetof(struct plan_case, slo_ttft_s), 1e-6, 1e6},
    {"slo-tpot", KIND_REAL, offsetof(struct plan_case, slo_tpot_ms), 1e-6, 1e9},
};

enum { N_AXES = sizeof axes / sizeof axes[0] };

// Underscores are as good as dashes: tables and JSON write them.
static const struct axis *find(const char *name)
{
    for (size_t i = 0; i < N_AXES; i++) {
        size_t c = 0;
        while (name[c] && (name[c] == axes[i].name[c] || (name[c] == '_' && axes[i].name[c] == '-'))) {
            c++;
        }
        if (!name[c] && !axes[i].name[c]) {
            return &axes[i];
        }
    }
    return NULL;
}

static int unknown(const char *name)
{
    char names[512] = "";
    for (size_t i = 0; i < N_AXES; i++) {
        strcat(strcat(names, i ? ", " : ""), axes[i].name);
    }
    return status_fail(-EINVAL, "%s: cannot be swept; expected one of %s", name, names);
}

static int append(struct plan_axis *axis, const char *value)
{
    if (axis->n == PLAN_MAX_VALUES || !*value || strlen(value) >= PLAN_VALUE_BYTES) {
        return status_fail(-EINVAL, "%s: expected 1 to %d values of at most %d characters", axis->name, PLAN_MAX_VALUES,
                           PLAN_VALUE_BYTES - 1);
    }
    if (!axis->values) {
        axis->values = malloc(PLAN_MAX_VALUES * sizeof *axis->values);
        if (!axis->values) {
            return status_fail(-ENOMEM, "no memory for the values of %s", axis->name);
        }
    }
    snprintf(axis->values[axis->n++], PLAN_VALUE_BYTES, "%s", value);
    return 0;
}

static int parse_number(double *out, const struct axis *known, const char *text)
{
    int64_t whole;
    char *end;
    bool is_whole = options_whole(text, &whole);
    *out = is_whole ? (double)whole : strtod(text, &end);
    if ((!is_whole && (known->kind == KIND_WHOLE || end == text || *end)) ||
        !(*out >= known->min && *out <= known->max)) {
        return status_fail(
            -EINVAL, "%s: %s: expected a%s from %g to %g, a range A..B that doubles or A..B+STEP that counts",
            known->name, text, known->kind == KIND_WHOLE ? " whole number" : " number", known->min, known->max);
    }
    return 0;
}

static int append_number(struct plan_axis *axis, const struct axis *known, double value)
{
    char text[PLAN_VALUE_BYTES];
    snprintf(text, sizeof text, known->kind == KIND_WHOLE ? "%.0f" : "%.10g", value);
    return append(axis, text);
}

static int append_range(struct plan_axis *axis, const struct axis *known, const char *from, char *to)
{
    double low, high, step = 0;
    char *plus = strchr(to, '+');
    if (plus) {
        *plus = 0;
    }
    int error = parse_number(&low, known, from);
    error = error ? error : parse_number(&high, known, to);
    error = error || !plus ? error : parse_number(&step, known, plus + 1);
    if (!error && high < low) {
        error = status_fail(-EINVAL, "%s: %s..%s: the range ends before it begins", axis->name, from, to);
    }
    for (double value = low; !error && value <= high * (1 + 1e-12); value = plus ? value + step : 2 * value) {
        error = append_number(axis, known, value);
    }
    return error;
}

static int append_values(struct plan_axis *axis, const struct axis *known, char *list)
{
    int error = 0;
    for (char *rest = list, *item; !error && (item = strsep(&rest, ",")) != NULL;) {
        char *dots = known->kind == KIND_TEXT ? NULL : strstr(item, "..");
        double value;
        if (dots) {
            *dots = 0;
            error = append_range(axis, known, item, dots + 2);
        } else if (known->kind == KIND_TEXT) {
            error = append(axis, item);
        } else {
            error = parse_number(&value, known, item);
            error = error ? error : append_number(axis, known, value);
        }
    }
    return error;
}

int plan_grid_set(struct plan_grid *grid, const char *name, const char *values)
{
    const struct axis *known = find(name);
    struct plan_axis fresh = {0}, *axis = NULL;
    if (!known) {
        return unknown(name);
    }
    for (int32_t i = 0; i < grid->n_axes; i++) {
        axis = strcmp(grid->axes[i].name, known->name) == 0 ? &grid->axes[i] : axis;
    }
    if (!axis && grid->n_axes == PLAN_MAX_AXES) {
        return status_fail(-EINVAL, "%s: more than %d axes", name, PLAN_MAX_AXES);
    }
    snprintf(fresh.name, sizeof fresh.name, "%s", known->name);
    char *list = strdup(values);
    int error = list ? append_values(&fresh, known, list) : status_fail(-ENOMEM, "no memory");
    free(list);
    if (error) {
        free(fresh.values);
        return error;
    }
    if (axis) {
        free(axis->values);
    } else {
        axis = &grid->axes[grid->n_axes++];
    }
    *axis = fresh;
    return 0;
}

int plan_grid_sweep(struct plan_grid *grid, const char *text)
{
    char name[32];
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof name) {
        return status_fail(-EINVAL, "--sweep %s: expected NAME=VALUES, as in top-k=512..8192 or device=H100,B200",
                           text);
    }
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    int error = plan_grid_set(grid, name, equals + 1);
    return error ? status_prefix(error, "--sweep ") : 0;
}

void plan_grid_close(struct plan_grid *grid)
{
    for (int32_t i = 0; i < grid->n_axes; i++) {
        free(grid->axes[i].values);
    }
    *grid = (struct plan_grid){0};
}

int64_t plan_grid_cases(const struct plan_grid *grid)
{
    int64_t n = 1;
    for (int32_t i = 0; i < grid->n_axes; i++) {
        n *= grid->axes[i].n;
        if (n > PLAN_MAX_CASES) {
            return status_fail(-EINVAL, "the sweep has more than %d cases", PLAN_MAX_CASES);
        }
    }
    return n;
}

const char *plan_grid_value(const struct plan_grid *grid, int64_t index, int32_t axis)
{
    for (int32_t i = grid->n_axes - 1; i > axis; i--) {
        index /= grid->axes[i].n;
    }
    return grid->axes[axis].values[index % grid->axes[axis].n];
}

void plan_grid_case(struct plan_case *io, const struct plan_grid *grid, int64_t index)
{
    for (int32_t i = 0; i < grid->n_axes; i++) {
        const struct axis *known = find(grid->axes[i].name);
        const char *value = plan_grid_value(grid, index, i);
        char *field = (char *)io + known->offset;
        switch (known->kind) {
        case KIND_TEXT: *(const char **)(void *)field = value; break;
        case KIND_WHOLE: *(int32_t *)(void *)field = (int32_t)strtol(value, NULL, 10); break;
        case KIND_REAL: *(double *)(void *)field = strtod(value, NULL); break;
        }
    }
}
