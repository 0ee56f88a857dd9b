// traces/import_json.c - cuts a stream of JSON into values, and lets jansson read each.
#include "traces/import_json.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "engine/status.h"

enum { BUFFER_BYTES = 1 << 16, END = -1, BROKEN = -2 };

struct scanner {
    const struct import_json *reader;
    gzFile stream;
    unsigned char buffer[BUFFER_BYTES];
    int at, n;
    int64_t offset;       // of buffer[at] in the unpacked stream
    char *text;           // [length] the value that is cut out, owned
    size_t length, capacity;
};

static int wrong(const struct scanner *scanner, const char *what)
{
    return status_fail(-EINVAL, "%s: byte %lld: %s", scanner->reader->name, (long long)scanner->offset, what);
}

// The next byte without taking it; END, or BROKEN where gzip's data are damaged.
static int peek(struct scanner *scanner)
{
    if (scanner->at == scanner->n) {
        int n = gzread(scanner->stream, scanner->buffer, BUFFER_BYTES), code = Z_OK;
        if (n <= 0) {
            gzerror(scanner->stream, &code);
            return n < 0 || code == Z_BUF_ERROR ? BROKEN : END;
        }
        scanner->at = 0;
        scanner->n = n;
    }
    return scanner->buffer[scanner->at];
}

static void take(struct scanner *scanner)
{
    scanner->at++;
    scanner->offset++;
}

static int peek_token(struct scanner *scanner)
{
    int byte = peek(scanner);
    while (byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r') {
        take(scanner);
        byte = peek(scanner);
    }
    return byte;
}

// Why a value or a separator is missing where the stream ends or is damaged.
static int ended(const struct scanner *scanner, int byte, const char *expected)
{
    return byte == BROKEN ? wrong(scanner, "the gzip data are damaged or cut")
           : byte == END ? wrong(scanner, "the file ends too early; it was cut, or is still written")
                         : wrong(scanner, expected);
}

static int keep(struct scanner *scanner, int byte)
{
    if (scanner->length == scanner->capacity) {
        size_t capacity = scanner->capacity ? 2 * scanner->capacity : 4096;
        char *grown = realloc(scanner->text, capacity);
        if (!grown) {
            return status_fail(-ENOMEM, "%s: no memory for an event of %zu bytes", scanner->reader->name, capacity);
        }
        scanner->text = grown;
        scanner->capacity = capacity;
    }
    scanner->text[scanner->length++] = (char)byte;
    return 0;
}

// Where in a value the next byte stands.
struct nesting {
    int64_t depth;
    bool in_string, escaped, any;
};

// Whether the value ends before `byte`, which belongs to what is around it.
static bool ends_before(const struct nesting *nesting, int byte)
{
    return nesting->depth == 0 && !nesting->in_string && (byte == ',' || byte == ']' || byte == '}' || byte == ' ' ||
                                                          byte == '\n' || byte == '\r' || byte == '\t');
}

static void step_into(struct nesting *nesting, int byte)
{
    nesting->any = true;
    if (nesting->in_string) {
        nesting->in_string = nesting->escaped || byte != '"';
        nesting->escaped = !nesting->escaped && byte == '\\';
    } else if (byte == '"') {
        nesting->in_string = true;
    } else {
        nesting->depth += (byte == '{' || byte == '[') - (byte == '}' || byte == ']');
    }
}

// Cuts out one value. *kept is false where it is longer than `limit` and was only skipped.
static int cut_value(struct scanner *scanner, size_t limit, bool *kept)
{
    struct nesting nesting = {0};
    bool closed = false;
    *kept = true;
    scanner->length = 0;
    for (int byte = peek_token(scanner); !closed; byte = peek(scanner)) {
        if (byte < 0) {
            if (byte == END && nesting.any && nesting.depth == 0 && !nesting.in_string) {
                return 0;    // a scalar that ends the file
            }
            return ended(scanner, byte, "");
        }
        if (ends_before(&nesting, byte)) {
            return nesting.any ? 0 : wrong(scanner, "expected a value");
        }
        int64_t before = nesting.depth;
        bool was_string = nesting.in_string;
        step_into(&nesting, byte);
        take(scanner);
        *kept = *kept && scanner->length < limit;
        int error = *kept ? keep(scanner, byte) : 0;
        if (error) {
            return error;
        }
        closed = nesting.depth == 0 && !nesting.in_string && (before > 0 || was_string);
    }
    return 0;
}

static int parse(json_t **out, const struct scanner *scanner, int64_t offset)
{
    json_error_t why;
    *out = json_loadb(scanner->text, scanner->length, JSON_DECODE_ANY, &why);
    return *out ? 0 : status_fail(-EINVAL, "%s: byte %lld: %s", scanner->reader->name,
                                  (long long)(offset + (why.position > 0 ? why.position - 1 : 0)), why.text);
}

// The array of events, from its '[' on. A bare array may lack its end: so Chrome's form allows.
static int read_events(struct scanner *scanner, bool bare)
{
    take(scanner);
    for (bool first = true;; first = false) {
        int byte = peek_token(scanner);
        if (byte == ']') {
            take(scanner);
            return 0;
        }
        if (byte == END && bare) {
            return 0;
        }
        if (!first) {
            if (byte != ',') {
                return ended(scanner, byte, "expected ',' or ']' behind an event");
            }
            take(scanner);
            byte = peek_token(scanner);
            if (bare && byte == END) {
                return 0;
            }
            if (byte == ']') {    // some writers leave a comma behind the last
                continue;
            }
        }
        if (byte != '{') {
            return ended(scanner, byte, "expected an event: an object");
        }
        bool kept;
        int64_t offset = scanner->offset;
        json_t *event = NULL;
        int error = cut_value(scanner, IMPORT_MAX_EVENT_BYTES, &kept);
        error = error || kept ? error : wrong(scanner, "an event longer than 4 MiB");
        error = error ? error : parse(&event, scanner, offset);
        error = error ? error : scanner->reader->event(scanner->reader->user, event);
        json_decref(event);
        if (error) {
            return error;
        }
    }
}

static int read_member(struct scanner *scanner)
{
    bool kept;
    int64_t offset = scanner->offset;
    json_t *key = NULL, *value = NULL;
    int byte = peek_token(scanner);
    if (byte != '"') {
        return ended(scanner, byte, "expected a key");
    }
    int error = cut_value(scanner, IMPORT_MAX_MEMBER_BYTES, &kept);
    error = error || kept ? error : wrong(scanner, "a key longer than 1 MiB");
    error = error ? error : parse(&key, scanner, offset);
    if (error) {
        return error;
    }
    byte = peek_token(scanner);
    if (byte != ':') {
        json_decref(key);
        return ended(scanner, byte, "expected ':' behind a key");
    }
    take(scanner);
    byte = peek_token(scanner);
    offset = scanner->offset;
    if (strcmp(json_string_value(key), "traceEvents") == 0) {
        error = byte == '[' ? read_events(scanner, false) : ended(scanner, byte, "traceEvents must be an array");
    } else {
        error = cut_value(scanner, IMPORT_MAX_MEMBER_BYTES, &kept);
        if (!error && kept) {
            error = parse(&value, scanner, offset);
            error = error ? error : scanner->reader->member(scanner->reader->user, json_string_value(key), value);
        }
    }
    json_decref(key);
    json_decref(value);
    return error;
}

static int read_object(struct scanner *scanner)
{
    take(scanner);
    for (bool first = true;; first = false) {
        int byte = peek_token(scanner);
        if (byte == '}') {
            take(scanner);
            return 0;
        }
        if (!first) {
            if (byte != ',') {
                return ended(scanner, byte, "expected ',' or '}' behind a member");
            }
            take(scanner);
            peek_token(scanner);
        }
        int error = read_member(scanner);
        if (error) {
            return error;
        }
    }
}

static int read_all(struct scanner *scanner)
{
    int byte = peek_token(scanner);
    if (byte != '{' && byte != '[') {
        return byte == BROKEN ? ended(scanner, byte, "")
                              : wrong(scanner, "expected a Chrome trace: an object with \"traceEvents\", or an array");
    }
    int error = byte == '[' ? read_events(scanner, true) : read_object(scanner);
    byte = error ? END : peek_token(scanner);
    return error ? error : byte == END ? 0 : ended(scanner, byte, "expected nothing more");
}

int import_json_read(const struct import_json *reader, int fd)
{
    struct scanner *scanner = calloc(1, sizeof *scanner);
    gzFile stream = scanner ? gzdopen(fd, "rb") : NULL;
    if (!stream) {
        close(fd);
        free(scanner);
        return status_fail(-ENOMEM, "%s: no memory to read it", reader->name);
    }
    scanner->reader = reader;
    scanner->stream = stream;
    int error = read_all(scanner);
    gzclose(stream);
    free(scanner->text);
    free(scanner);
    return error;
}
