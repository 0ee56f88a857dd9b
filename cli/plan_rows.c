// cli/plan_rows.c - rows and their file, see plan_rows.h.
#include "cli/plan_rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/plan_grid.h"
#include "engine/input_file.h"
#include "engine/output_file.h"
#include "engine/status.h"

enum { VERSION = 1 };
static const char version_key[] = "clsa_plan";

int plan_rows_open(struct plan_rows *rows, json_t *question, int64_t n)
{
    *rows = (struct plan_rows){.n = n, .rows = calloc((size_t)n, sizeof *rows->rows)};
    if (!rows->rows) {
        return status_fail(-ENOMEM, "no memory for %lld rows", (long long)n);
    }
    rows->question = json_incref(question);
    return 0;
}

void plan_rows_close(struct plan_rows *rows)
{
    for (int64_t i = 0; i < rows->n; i++) {
        json_decref(rows->rows[i]);
    }
    if (rows->stream) {
        fclose(rows->stream);
    }
    free(rows->rows);
    json_decref(rows->question);
    *rows = (struct plan_rows){0};
}

int64_t plan_rows_count(const struct plan_rows *rows)
{
    int64_t count = 0;
    for (int64_t i = 0; i < rows->n; i++) {
        count += rows->rows[i] != NULL;
    }
    return count;
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

// How many cases the question's axes span; -EINVAL if it is not a question of ours.
static int64_t cases_of(const json_t *question)
{
    const json_t *axes = json_object_get(question, "axes"), *axis;
    int64_t n = json_array_size(axes) > 0 ? 1 : -EINVAL;
    size_t i;
    json_array_foreach(axes, i, axis)
    {
        int64_t values = (int64_t)json_array_size(json_object_get(axis, "values"));
        bool named = json_is_string(json_object_get(axis, "name"));
        n = n < 0 || values < 1 || values > PLAN_MAX_VALUES || !named ? -EINVAL : n * values;
        n = n > PLAN_MAX_CASES ? -EINVAL : n;
    }
    return n;
}

static int take_question(struct plan_rows *rows, json_t *line, const char *path)
{
    json_t *question = json_object_get(line, "question");
    int64_t n = cases_of(question);
    if (json_integer_value(json_object_get(line, version_key)) != VERSION || n < 0) {
        return status_fail(-EINVAL, "%s: line 1: not a file of clsa plan --resume", path);
    }
    if (!rows->question) {
        return plan_rows_open(rows, question, n);
    }
    if (!json_equal(question, rows->question)) {
        const char *key;
        json_t *value;
        json_object_foreach(question, key, value)
        {
            if (!json_equal(value, json_object_get(rows->question, key))) {
                return status_fail(-EINVAL, "%s: rows of another question: its \"%s\" differs; name another file", path,
                                   key);
            }
        }
        return status_fail(-EINVAL, "%s: rows of another question; name another file", path);
    }
    return 0;
}

static int take_row(struct plan_rows *rows, json_t *line, const char *path, int64_t number)
{
    const json_t *index = json_object_get(line, "row");
    int64_t row = json_is_integer(index) ? (int64_t)json_integer_value(index) : -1;
    if (row < 0 || row >= rows->n || !json_is_string(json_object_get(line, "verdict"))) {
        return status_fail(-EINVAL, "%s: line %lld: expected a row from 0 to %lld with a verdict", path,
                           (long long)number, (long long)rows->n - 1);
    }
    json_decref(rows->rows[row]);
    rows->rows[row] = json_incref(line);
    return 0;
}

// *whole_bytes: of the lines that end. An empty file has none.
static int read_lines(struct plan_rows *rows, FILE *stream, const char *path, long *whole_bytes)
{
    char *text = NULL;
    size_t room = 0;
    int64_t number = 0;
    ssize_t length;
    int error = 0;
    *whole_bytes = 0;
    while (!error && (length = getline(&text, &room, stream)) > 0 && text[length - 1] == '\n') {
        json_error_t why;
        json_t *line = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &why);
        number++;
        if (!line) {
            error = status_fail(-EINVAL, "%s: line %lld: %s", path, (long long)number, why.text);
        } else {
            error = number == 1 ? take_question(rows, line, path) : take_row(rows, line, path, number);
        }
        json_decref(line);
        *whole_bytes += length;
    }
    free(text);
    return error;
}

// A device may hold one line that never ends.
static bool has_end(FILE *stream, bool pipe_too)
{
    struct stat info;
    return fstat(fileno(stream), &info) == 0 && (S_ISREG(info.st_mode) || (pipe_too && S_ISFIFO(info.st_mode)));
}

int plan_rows_read(struct plan_rows *rows, const char *path)
{
    long whole_bytes = 0;
    FILE *stream = fopen(path, "re");
    if (!stream) {
        return status_fail(input_file_error(errno), "%s: %s", path, strerror(errno));
    }
    int error = has_end(stream, true) ? read_lines(rows, stream, path, &whole_bytes)
                                      : status_fail(-EINVAL, "%s: expected a file or a pipe", path);
    fclose(stream);
    return error || whole_bytes > 0 ? error : status_fail(-EINVAL, "%s: empty", path);
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing

static int write_line(FILE *stream, const json_t *line, const char *path)
{
    if (json_dumpf(line, stream, JSON_COMPACT | JSON_REAL_PRECISION(10)) != 0 || fputc('\n', stream) == EOF ||
        fflush(stream) != 0) {
        return status_fail(errno ? -errno : -EIO, "%s: cannot write: %s", path, strerror(errno));
    }
    return 0;
}

static int write_question(FILE *stream, const struct plan_rows *rows, const char *path)
{
    json_t *head = json_pack("{s:i, s:O}", version_key, VERSION, "question", rows->question);
    int error = head ? write_line(stream, head, path) : status_fail(-ENOMEM, "no memory");
    json_decref(head);
    return error;
}

int plan_rows_resume(struct plan_rows *rows, const char *path)
{
    long whole_bytes;
    rows->stream = fopen(path, "a+e");
    rows->path = path;
    if (!rows->stream) {
        return status_fail(input_file_error(errno), "--resume %s: %s", path, strerror(errno));
    }
    if (!has_end(rows->stream, false)) {
        return status_fail(-EINVAL, "--resume %s: expected a file, or none yet", path);
    }
    rewind(rows->stream);
    int error = read_lines(rows, rows->stream, path, &whole_bytes);
    if (error) {
        return status_prefix(error, "--resume ");
    }
    if (ftruncate(fileno(rows->stream), whole_bytes) != 0 || fseek(rows->stream, 0, SEEK_END) != 0) {
        return status_fail(-errno, "--resume %s: %s", path, strerror(errno));
    }
    return whole_bytes > 0 ? 0 : write_question(rows->stream, rows, path);
}

int plan_rows_add(struct plan_rows *rows, int64_t index, json_t *row)
{
    json_decref(rows->rows[index]);
    rows->rows[index] = row;
    return rows->stream ? write_line(rows->stream, row, rows->path) : 0;
}

int plan_rows_write(const struct plan_rows *rows, const char *path)
{
    struct output_file file;
    int error = output_file_open(&file, path);
    if (error) {
        return error;
    }
    error = write_question(file.stream, rows, path);
    for (int64_t i = 0; !error && i < rows->n; i++) {
        error = rows->rows[i] ? write_line(file.stream, rows->rows[i], path) : 0;
    }
    if (error) {
        output_file_abandon(&file);
        return error;
    }
    return output_file_commit(&file);
}
