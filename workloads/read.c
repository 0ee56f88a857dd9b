// workloads/read.c - recorded traces: Mooncake JSONL, Azure CSV, and CSV with ServeGen's columns.
//
// One pass, one line in memory at a time. A line that does not fit is an error with its number: a trace that lost its
// middle must not pass for a light load. Lines that are empty or begin with '#' are skipped.
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/status_list.h"
#include "workloads/internal.h"

static const int64_t max_arrival_ns = (int64_t)1 << 62;    // 146 years, from 1970 where dates are given

struct lines {
    char *rest;
    const char *where;
    int64_t number;
};

// The next line that says something, cut at its end; NULL after the last.
static char *next_line(struct lines *lines)
{
    while (*lines->rest) {
        char *line = lines->rest;
        size_t length = strcspn(line, "\n");
        lines->rest += length + (line[length] == '\n');
        lines->number++;
        length -= length > 0 && line[length - 1] == '\r' ? 1 : 0;
        line[length] = 0;
        if (line[0] && line[0] != '#') {
            return line;
        }
    }
    return NULL;
}

__attribute__((format(printf, 2, 3))) static int wrong(const struct lines *lines, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    status_fail_list(-EINVAL, format, arguments);
    va_end(arguments);
    return status_prefix(-EINVAL, "%s: line %lld: ", lines->where, (long long)lines->number);
}

static int check_request(const struct lines *lines, const struct workload_request *request)
{
    if (request->arrival_ns < 0 || request->arrival_ns > max_arrival_ns) {
        return wrong(lines, "arrives at %.9g s: expected 0 to %.3g", 1e-9 * (double)request->arrival_ns,
                     1e-9 * (double)max_arrival_ns);
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Mooncake: {"timestamp": ms, "input_length": ..., "output_length": ..., "hash_ids": [prefix blocks of 512 tokens]}

enum { MOONCAKE_BLOCK_TOKENS = 512 };

// Ids seen so far, in open addressing; -1 is an empty place.
struct id_set {
    int64_t *ids;
    size_t capacity, n;    // a power of two; at most half full
};

static size_t place_of(const struct id_set *set, int64_t id)
{
    size_t place = (size_t)((uint64_t)id * 0x9e3779b97f4a7c15u >> 20) & (set->capacity - 1);
    while (set->ids[place] != -1 && set->ids[place] != id) {
        place = (place + 1) & (set->capacity - 1);
    }
    return place;
}

static int grow_set(struct id_set *set)
{
    struct id_set larger = {.capacity = set->capacity ? 2 * set->capacity : 1024, .n = set->n};
    larger.ids = malloc(larger.capacity * sizeof *larger.ids);
    if (!larger.ids) {
        return status_fail(-ENOMEM, "no memory for %zu prefix blocks", larger.capacity);
    }
    memset(larger.ids, 0xff, larger.capacity * sizeof *larger.ids);
    for (size_t i = 0; i < set->capacity; i++) {
        if (set->ids[i] != -1) {
            larger.ids[place_of(&larger, set->ids[i])] = set->ids[i];
        }
    }
    free(set->ids);
    *set = larger;
    return 0;
}

// Adds an id; *known says whether it was there.
static int remember(struct id_set *set, int64_t id, bool *known)
{
    int error = 2 * set->n >= set->capacity ? grow_set(set) : 0;
    if (error) {
        return error;
    }
    size_t place = place_of(set, id);
    *known = set->ids[place] == id;
    if (!*known) {
        set->ids[place] = id;
        set->n++;
    }
    return 0;
}

struct mooncake {
    struct workload *workload;
    struct id_set seen;
    int64_t blocks_capacity;
};

static int take_whole(int64_t *out, const struct lines *lines, json_t *object, const char *key, int64_t low,
                      int64_t high)
{
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < low || json_integer_value(value) > high) {
        return wrong(lines, "\"%s\": expected a whole number from %lld to %lld", key, (long long)low, (long long)high);
    }
    *out = json_integer_value(value);
    return 0;
}

static int append_block(struct workload *workload, int64_t *capacity, uint64_t block)
{
    if (workload->n_blocks == *capacity) {
        int64_t larger = *capacity ? 2 * *capacity : 4096;
        uint64_t *grown = larger <= INT32_MAX ? realloc(workload->blocks, (size_t)larger * sizeof *grown) : NULL;
        if (!grown) {
            return status_fail(-ENOMEM, "no memory for %lld prefix blocks", (long long)larger);
        }
        workload->blocks = grown;
        *capacity = larger;
    }
    workload->blocks[workload->n_blocks++] = block;
    return 0;
}

// The blocks that the prompt begins with and earlier prompts had, one after the other from the first. Each is kept
// together with all before it, whether its id already stands for them or not.
static int take_blocks(struct mooncake *file, struct workload_request *request, const struct lines *lines,
                       json_t *blocks)
{
    int64_t leading = 0;
    bool unbroken = true;
    uint64_t chain = 0;
    if (!json_is_array(blocks)) {
        return blocks ? wrong(lines, "\"hash_ids\": expected a list of whole numbers") : 0;
    }
    for (size_t i = 0; i < json_array_size(blocks); i++) {
        json_t *value = json_array_get(blocks, i);
        int64_t id = json_integer_value(value);
        bool known;
        if (!json_is_integer(value) || id < 0) {
            return wrong(lines, "\"hash_ids\": expected whole numbers from 0");
        }
        chain = workload_mix(chain + 0x9e3779b97f4a7c15u * ((uint64_t)id + 1));
        int error = remember(&file->seen, id, &known);
        error = error ? error : append_block(file->workload, &file->blocks_capacity, chain);
        if (error) {
            return error;
        }
        request->n_blocks++;
        unbroken = unbroken && known;
        if (unbroken) {
            leading++;
            request->prefix_id = id;
        }
    }
    int64_t tokens = leading * MOONCAKE_BLOCK_TOKENS;
    request->reused_tokens = tokens < request->prompt_tokens ? (int32_t)tokens : request->prompt_tokens;
    request->prefix_tokens = request->reused_tokens;
    return 0;
}

static int read_mooncake_line(struct mooncake *file, struct workload_request *out, const struct lines *lines,
                              const char *line)
{
    json_error_t where;
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(object)) {
        json_decref(object);
        return wrong(lines, "expected one JSON object (%s)", where.text);
    }
    int64_t ms = 0, prompt = 1, output = 1;
    int error = take_whole(&ms, lines, object, "timestamp", 0, max_arrival_ns / 1000000);
    error = error ? error : take_whole(&prompt, lines, object, "input_length", 1, WORKLOAD_MAX_TOKENS);
    error = error ? error : take_whole(&output, lines, object, "output_length", 1, WORKLOAD_MAX_TOKENS);
    *out = (struct workload_request){.arrival_ns = ms * 1000000,
                                     .prefix_id = -1,
                                     .prompt_tokens = (int32_t)prompt,
                                     .output_tokens = (int32_t)output,
                                     .first_block = (int32_t)file->workload->n_blocks};
    error = error ? error : take_blocks(file, out, lines, json_object_get(object, "hash_ids"));
    json_decref(object);
    return error;
}

int workload_read_mooncake(struct workload *out, char *text, const char *where)
{
    struct lines lines = {text, where, 0};
    struct mooncake file = {.workload = out};
    int64_t capacity = 0;
    int error = 0;
    out->block_tokens = MOONCAKE_BLOCK_TOKENS;
    snprintf(out->classes[0], sizeof out->classes[0], "mooncake");
    for (char *line; !error && (line = next_line(&lines)) != NULL;) {
        struct workload_request request;
        error = read_mooncake_line(&file, &request, &lines, line);
        error = error ? error : workload_append(out, &capacity, &request);
    }
    free(file.seen.ids);
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// CSV, by the names in its first line

enum column { ARRIVAL_S, TIMESTAMP, PROMPT, OUTPUT, THINK, COLUMN_KINDS, OTHER = COLUMN_KINDS };
enum { MAX_COLUMNS = 64 };

static const struct {
    const char *name;
    enum column column;
} column_names[] = {
    {"arrival_s", ARRIVAL_S},      {"TIMESTAMP", TIMESTAMP},      {"input_tokens", PROMPT}, {"ContextTokens", PROMPT},
    {"output_tokens", OUTPUT},     {"GeneratedTokens", OUTPUT},   {"reason_tokens", THINK},
};

struct header {
    enum column columns[MAX_COLUMNS];
    int32_t n;
};

static int read_header(struct header *header, const struct lines *lines, char *line)
{
    bool found[COLUMN_KINDS + 1] = {false};
    for (char *rest = line, *name; (name = strsep(&rest, ",")) != NULL;) {
        if (header->n == MAX_COLUMNS) {
            return wrong(lines, "more than %d columns", MAX_COLUMNS);
        }
        enum column column = OTHER;
        for (size_t i = 0; i < sizeof column_names / sizeof column_names[0]; i++) {
            column = strcmp(name, column_names[i].name) == 0 ? column_names[i].column : column;
        }
        if (column != OTHER && found[column]) {
            return wrong(lines, "column %.40s says what another one says already", name);
        }
        found[column] = true;
        header->columns[header->n++] = column;
    }
    if (found[ARRIVAL_S] == found[TIMESTAMP] || !found[PROMPT] || !found[OUTPUT]) {
        return wrong(lines, "expected the columns TIMESTAMP,ContextTokens,GeneratedTokens (Azure) or "
                     "arrival_s,input_tokens,output_tokens[,reason_tokens] (ServeGen)");
    }
    return 0;
}

// Digits only, so that neither signs nor spaces nor exponents slip in. *end stands behind the last.
static bool parse_digits(int64_t *out, const char *text, const char **end, int32_t max_digits)
{
    int32_t n = 0;
    *out = 0;
    while (isdigit((unsigned char)text[n]) && n < max_digits) {
        *out = *out * 10 + (text[n++] - '0');
    }
    *end = text + n;
    return n > 0;
}

// ".9799600" as nanoseconds; further digits are below our resolution. An absent fraction is 0.
static bool parse_fraction_ns(int64_t *out, const char *text)
{
    int64_t unit = 100000000;
    *out = 0;
    if (!*text) {
        return true;
    }
    if (*text++ != '.' || !*text) {
        return false;
    }
    for (; isdigit((unsigned char)*text); text++, unit /= 10) {
        *out += (*text - '0') * unit;
    }
    return !*text;
}

static bool parse_seconds(int64_t *out_ns, const char *text)
{
    int64_t whole, fraction_ns;
    const char *end;
    if (!parse_digits(&whole, text, &end, 9) || !parse_fraction_ns(&fraction_ns, end)) {
        return false;
    }
    *out_ns = whole * 1000000000 + fraction_ns;
    return true;
}

// "2023-11-16 18:17:03.9799600"
static bool parse_timestamp(int64_t *out_ns, const char *text)
{
    static const struct {
        int32_t digits;
        char after;
        int32_t low, high;
    } fields[] = {{4, '-', 1970, 2100}, {2, '-', 1, 12}, {2, ' ', 1, 31},
                  {2, ':', 0, 23},      {2, ':', 0, 59}, {2, 0, 0, 60}};
    int64_t values[6], fraction_ns;
    for (int i = 0; i < 6; i++) {
        const char *end;
        if (!parse_digits(&values[i], text, &end, fields[i].digits) || end - text != fields[i].digits ||
            values[i] < fields[i].low || values[i] > fields[i].high || (fields[i].after && *end != fields[i].after)) {
            return false;
        }
        text = end + (fields[i].after != 0);
    }
    struct tm date = {.tm_year = (int)values[0] - 1900,
                      .tm_mon = (int)values[1] - 1,
                      .tm_mday = (int)values[2],
                      .tm_hour = (int)values[3],
                      .tm_min = (int)values[4],
                      .tm_sec = (int)values[5]};
    if (!parse_fraction_ns(&fraction_ns, text)) {
        return false;
    }
    *out_ns = (int64_t)timegm(&date) * 1000000000 + fraction_ns;
    return true;
}

static bool parse_tokens(int32_t *out, const char *text, int32_t low)
{
    int64_t value;
    const char *end;
    if (!parse_digits(&value, text, &end, 10) || *end || value < low || value > WORKLOAD_MAX_TOKENS) {
        return false;
    }
    *out = (int32_t)value;
    return true;
}

static bool parse_cell(struct workload_request *request, enum column column, const char *cell)
{
    switch (column) {
    case ARRIVAL_S: return parse_seconds(&request->arrival_ns, cell);
    case TIMESTAMP: return parse_timestamp(&request->arrival_ns, cell);
    case PROMPT: return parse_tokens(&request->prompt_tokens, cell, 1);
    case OUTPUT: return parse_tokens(&request->output_tokens, cell, 1);
    case THINK: return parse_tokens(&request->think_tokens, cell, 0);
    default: return true;
    }
}

static int read_row(struct workload_request *out, const struct header *header, const struct lines *lines, char *line)
{
    _Static_assert(WORKLOAD_MAX_TOKENS == 134217728, "as the texts say");
    static const char *const expected[] = {"seconds", "a time such as 2023-11-16 18:17:03.97",
                                           "tokens from 1 to 134217728", "tokens from 1 to 134217728",
                                           "tokens from 0 to 134217728"};
    int32_t n = 0;
    *out = (struct workload_request){.prefix_id = -1};
    for (char *rest = line, *cell; (cell = strsep(&rest, ",")) != NULL; n++) {
        if (n < header->n && !parse_cell(out, header->columns[n], cell)) {
            return wrong(lines, "column %d is \"%.40s\": expected %s", n + 1, cell, expected[header->columns[n]]);
        }
    }
    if (n != header->n) {
        return wrong(lines, "%d columns: expected %d, as in the first line", n, header->n);
    }
    if (out->think_tokens > out->output_tokens) {
        return wrong(lines, "%d tokens of thought in an answer of %d", out->think_tokens, out->output_tokens);
    }
    return check_request(lines, out);
}

int workload_read_csv(struct workload *out, char *text, const char *where)
{
    struct lines lines = {text, where, 0};
    struct header header = {.n = 0};
    int64_t capacity = 0;
    char *line = next_line(&lines);
    if (!line) {
        return status_fail(-EINVAL, "%s: is empty: expected a *.workload description, Mooncake JSONL, or CSV", where);
    }
    int error = read_header(&header, &lines, line);
    snprintf(out->classes[0], sizeof out->classes[0], "trace");
    while (!error && (line = next_line(&lines)) != NULL) {
        struct workload_request request;
        error = read_row(&request, &header, &lines, line);
        error = error ? error : workload_append(out, &capacity, &request);
    }
    return error;
}
