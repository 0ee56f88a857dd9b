// tests/bench/results.c - see results.h.
#include "tests/bench/results.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/command.h"
#include "engine/status.h"

int results_open(struct results *results)
{
    time_t now = time(NULL);
    struct tm utc;
    strftime(results->date, sizeof results->date, "%Y-%m-%d", gmtime_r(&now, &utc));
    if (!results->path || strcmp(results->path, "none") == 0) {
        return 0;
    }
    if (!results->commit) {
        first_line(results->checkout, sizeof results->checkout, "git rev-parse --short HEAD 2>/dev/null");
        results->commit = results->checkout;
    }
    results->out = fopen(results->path, "ae");
    return results->out
               ? 0
               : status_fail(-EINVAL, "%s: %s; run from the top of the checkout, or name another with --results",
                             results->path, strerror(errno));
}

static const char *text_or_dash(const char *text)
{
    return text ? text : "-";
}

static const char *count_or_dash(char *out, size_t bytes, const char *several, int32_t count)
{
    snprintf(out, bytes, count > 0 ? "%d" : "-", count);
    return several ? several : out;
}

static const char *number_or_dash(char *out, size_t bytes, int digits, double value)
{
    snprintf(out, bytes, isnan(value) ? "-" : "%.*g", digits, value);
    return out;
}

void results_add(const struct results *results, const struct result *row)
{
    char context[16], sequences[16], spread[32], floor[32];
    if (!results->out || !isfinite(row->median)) {
        return;
    }
    fprintf(results->out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.5g\t%s\t%s\t%s\n", results->date, results->commit,
            text_or_dash(row->device), text_or_dash(results->driver), row->command, text_or_dash(row->model),
            text_or_dash(row->method), count_or_dash(context, sizeof context, row->contexts, row->context),
            count_or_dash(sequences, sizeof sequences, row->batches, row->sequences), row->quantity, row->median,
            number_or_dash(spread, sizeof spread, 3, row->spread), number_or_dash(floor, sizeof floor, 5, row->floor),
            row->unit);
    fflush(results->out);
}

int results_close(struct results *results, int error)
{
    bool lost = results->out && ferror(results->out) != 0;
    lost = (results->out && fclose(results->out) != 0) || lost;
    results->out = NULL;
    return error || !lost ? error : status_fail(-EIO, "%s: cannot be written: %s", results->path, strerror(errno));
}

void first_line(char *out, int bytes, const char *command)
{
    FILE *pipe = popen(command, "r");
    if (!pipe || !fgets(out, bytes, pipe)) {
        snprintf(out, (size_t)bytes, "unknown");
    }
    out[strcspn(out, "\n\t")] = 0;
    if (pipe) {
        pclose(pipe);
    }
}

int bench_end(const char *name, int error)
{
    if (error == -ENODEV) {
        printf("skipped: %s\n", status_text());
        return 0;
    }
    return error >= 0 ? 0 : command_fail(name, error);
}
