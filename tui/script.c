// tui/script.c - names to keys.
#include "tui/script.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/status.h"
#include "tui/keys.h"

static const struct { const char *name; int32_t key; } names[] = {
    {"Enter", KEY_RETURN}, {"Esc", KEY_ESCAPE}, {"Tab", '\t'}, {"BackTab", KEY_BACK_TAB}, {"Space", ' '}, {"lt", '<'},
    {"Up", KEY_ARROW_UP}, {"Down", KEY_ARROW_DOWN}, {"Left", KEY_ARROW_LEFT}, {"Right", KEY_ARROW_RIGHT},
    {"PgUp", KEY_PAGE_BACK}, {"PgDn", KEY_PAGE_FORWARD}, {"Home", KEY_TO_BEGIN}, {"End", KEY_TO_END},
    {"Backspace", KEY_ERASE}, {"Delete", KEY_REMOVE}, {"F1", KEY_HELP_ME}, {"F10", KEY_QUIT},
};
enum { N_NAMES = sizeof names / sizeof names[0] };

int32_t script_next(const char **text)
{
    const char *at = *text, *end = *at == '<' ? strchr(at, '>') : NULL;
    if (!*at) {
        return KEY_NONE;
    }
    if (!end) {
        *text = at + 1;
        return *at == '<' ? KEY_NONE : (unsigned char)*at;
    }
    *text = end + 1;
    for (size_t i = 0; i < N_NAMES; i++) {
        size_t length = strlen(names[i].name);
        if ((size_t)(end - at - 1) == length && strncasecmp(at + 1, names[i].name, length) == 0) {
            return names[i].key;
        }
    }
    return KEY_NONE;
}

int script_check(const char *text)
{
    while (*text) {
        const char *begin = text;
        if (script_next(&text) == KEY_NONE) {
            char known[256] = "";
            for (size_t i = 0; i < N_NAMES; i++) {
                size_t length = strlen(known);
                snprintf(known + length, sizeof known - length, " <%s>", names[i].name);
            }
            return status_fail(-EINVAL, "\"%.*s\": no such key; there are characters, and%s", (int)(text - begin),
                               begin, known);
        }
    }
    return 0;
}
