// cli/csv.c - tables of published measurements, see validate.h.
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/validate.h"
#include "engine/input_file.h"
#include "engine/status.h"

enum { MAX_BYTES = 1 << 26 };

static int cut_lines(struct csv *csv)
{
    int64_t room = 1, number = 0;
    for (const char *at = csv->text; *at; at++) {
        room += *at == '\n';
    }
    csv->lines = malloc((size_t)room * sizeof *csv->lines);
    csv->numbers = malloc((size_t)room * sizeof *csv->numbers);
    if (!csv->lines || !csv->numbers) {
        return status_fail(-ENOMEM, "%s: no memory for %lld lines", csv->path, (long long)room);
    }
    for (char *rest = csv->text, *line; (line = strsep(&rest, "\n")) != NULL;) {
        number++;
        line[strcspn(line, "\r")] = 0;
        if (*line && *line != '#') {
            csv->lines[csv->n_lines] = line;
            csv->numbers[csv->n_lines++] = number;
        }
    }
    return csv->n_lines > 0 ? 0 : status_fail(-EINVAL, "%s: holds no table", csv->path);
}

int csv_open(struct csv *csv, const char *path)
{
    *csv = (struct csv){.path = path};
    size_t length;
    int error = input_file_read(&csv->text, &length, path, MAX_BYTES);
    error = error ? error : cut_lines(csv);
    if (error) {
        csv_close(csv);
    }
    return error;
}

void csv_close(struct csv *csv)
{
    free(csv->text);
    free(csv->lines);
    free(csv->numbers);
    *csv = (struct csv){0};
}

int csv_fields(const struct csv *csv, int64_t line, char **fields, int32_t n)
{
    int32_t found = 0;
    char *at = csv->lines[line], *to;
    for (bool more = true; more; found++) {
        bool quoted = *at == '"';
        char *begin = to = at += quoted;
        while (*at && (quoted ? *at != '"' : *at != ',')) {
            *to++ = *at++;
        }
        at += quoted && *at == '"';
        more = *at == ',';
        at += more;
        *to = 0;
        if (found < n) {
            fields[found] = begin;
        }
    }
    return found == n ? 0 : status_fail(-EINVAL, "%s: line %lld: expected %d fields, found %d", csv->path,
                                        (long long)csv->numbers[line], n, found);
}

int csv_number(double *out, const struct csv *csv, int64_t line, const char *what, const char *text)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !isfinite(*out)) {
        return status_fail(-EINVAL, "%s: line %lld: %s is \"%.40s\": expected a number", csv->path,
                           (long long)csv->numbers[line], what, text);
    }
    return 0;
}

static int is_csv(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 4 && strcmp(entry->d_name + length - 4, ".csv") == 0;
}

int csv_each(const char *folder, int (*each)(void *user, const char *path), void *user)
{
    struct dirent **names = NULL;
    int n = scandir(folder, &names, is_csv, alphasort), error = 0;
    if (n < 0) {
        return status_fail(input_file_error(errno), "%s: %s", folder, strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        error = error ? error : each(user, path);
        free(names[i]);
    }
    free(names);
    return n > 0 ? error : status_fail(-EINVAL, "%s: holds no *.csv of published measurements", folder);
}
