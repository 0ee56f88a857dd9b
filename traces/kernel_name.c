// traces/kernel_name.c - finds the last name in a mangled one.
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
    }
    snprintf(out, bytes, "%.*s", (int)length, found);
}
