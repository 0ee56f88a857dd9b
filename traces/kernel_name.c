// traces/kernel_name.c - finds the last name in a mangled one, and in a printed one.
#include "traces/kernel_name.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

// Reads "6scores" at *at: the length and where the name begins. False: no name stands there.
static bool next_name(const char **at, const char **name, size_t *length)
{
    size_t n = 0;
    const char *digit = *at;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        n = 10 * n + (size_t)(*digit - '0');
        if (n > 4096) {    // no compiler writes such a name
            return false;
        }
    }
    if (n == 0 || strnlen(digit, n) < n) {
        return false;
    }
    *name = digit;
    *length = n;
    *at = digit + n;
    return true;
}

// The last name of a printed one: what does not stand in <>, before the parameters, behind types and namespaces. False:
// it is not printed so ("Memcpy HtoD (Pinned -> Device)" is a name as it is).
static bool last_name(char *out, size_t bytes, const char *name)
{
    static const char unnamed[] = "(anonymous namespace)";
    size_t used = 0;
    int depth = 0;
    if (!strchr(name, '<') && !strstr(name, "::") && strncmp(name, "void ", 5) != 0) {
        return false;
    }
    for (const char *at = name; *at; at++) {
        if (strncmp(at, unnamed, sizeof unnamed - 1) == 0) {
            at += sizeof unnamed - 2;
        } else if (*at == '<') {
            depth++;
        } else if (*at == '>') {
            depth -= depth > 0;
        } else if (depth == 0 && *at == '(') {
            break;
        } else if (depth == 0 && (*at == ' ' || *at == ':')) {
            used = 0;
        } else if (depth == 0 && used + 1 < bytes) {
            out[used++] = *at;
        }
    }
    out[used] = 0;
    return used > 0;
}

void kernel_short_name(char *out, size_t bytes, const char *name)
{
    const char *found = name;
    size_t length = strlen(name);
    if (strncmp(name, "_Z", 2) == 0) {
        const char *at = name + 2;
        bool nested = *at == 'N';
        at += nested;
        while (*at == 'K' || *at == 'L' || *at == 'V') {    // const, internal linkage, volatile
            at++;
        }
        while (next_name(&at, &found, &length) && nested) {
            at += *at == 'L';
        }
    } else if (last_name(out, bytes, name)) {
        return;
    }
    snprintf(out, bytes, "%.*s", (int)length, found);
}
