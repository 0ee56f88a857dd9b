// tui/settings.c - settings to lines and back.
#include "tui/settings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/output_file.h"
#include "engine/status.h"
#include "tui/theme.h"

struct settings settings_default(void)
{
    return (struct settings){.view = VIEW_OVERVIEW, .phase = PHASE_DECODE, .refresh = ui_default().refresh,
                             .mouse = true};
}

int settings_path(char *path, size_t bytes)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int length = config && *config ? snprintf(path, bytes, "%s/clsa/top.conf", config)
                 : home && *home   ? snprintf(path, bytes, "%s/.config/clsa/top.conf", home) : -1;
    return length > 0 && (size_t)length < bytes ? 0 : status_fail(-EINVAL, "neither XDG_CONFIG_HOME nor HOME is set");
}

static bool parse_bool(bool *out, const char *text)
{
    *out = strcmp(text, "yes") == 0;
    return *out || strcmp(text, "no") == 0;
}

static bool parse(struct settings *settings, const char *name, const char *value)
{
    if (strcmp(name, "view") == 0) {
        return view_from_name(&settings->view, value) == 0;
    }
    if (strcmp(name, "phase") == 0) {
        return phase_from_name(&settings->phase, value) == 0;
    }
    if (strcmp(name, "theme") == 0) {
        int32_t theme = theme_find(value);
        settings->theme = theme >= 0 ? theme : settings->theme;
        return theme >= 0;
    }
    if (strcmp(name, "rate") == 0) {
        for (int32_t i = 0; i < UI_REFRESHES; i++) {
            if (atoi(value) == ui_refresh_hz[i]) {
                settings->refresh = i;
                return true;
            }
        }
        return false;
    }
    if (strcmp(name, "braille") == 0) {
        bool braille = false, known = parse_bool(&braille, value);
        settings->no_braille = known && !braille;
        return known;
    }
    return strcmp(name, "ascii") == 0   ? parse_bool(&settings->ascii, value)
           : strcmp(name, "mouse") == 0 ? parse_bool(&settings->mouse, value) : false;
}

int settings_read(struct settings *settings, const char *path)
{
    char line[256], name[32], value[64];
    FILE *stream = fopen(path, "re");
    int error = 0;
    if (!stream) {
        return errno == ENOENT ? 0 : status_fail(-errno, "%s: %s", path, strerror(errno));
    }
    for (int32_t number = 1; !error && fgets(line, sizeof line, stream); number++) {
        char rest, *begin = line + strspn(line, " \t\n");
        if (!*begin || *begin == '#') {
            continue;
        }
        if (sscanf(begin, "%31[a-z] = %63s %c", name, value, &rest) != 2 || !parse(settings, name, value)) {
            begin[strcspn(begin, "\n")] = 0;
            error = status_fail(-EINVAL, "%s, line %d: \"%s\"; expected view, phase, theme, rate, ascii, braille or "
                                "mouse with a value that it knows", path, number, begin);
        }
    }
    fclose(stream);
    return error;
}

int settings_write(const struct settings *settings, const char *path)
{
    char folder[4096];
    struct output_file file = {0};
    snprintf(folder, sizeof folder, "%s", path);
    for (char *slash = folder + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        mkdir(folder, 0777);    // what cannot be made is told when the file is opened
        *slash = '/';
    }
    int error = output_file_open(&file, path);
    if (error) {
        return error;
    }
    fprintf(file.stream,
            "# clsa top\nview = %s\nphase = %s\ntheme = %s\nrate = %d\nascii = %s\nbraille = %s\nmouse = %s\n",
            view_name(settings->view), phase_name(settings->phase), theme_name(settings->theme),
            ui_refresh_hz[settings->refresh], settings->ascii ? "yes" : "no",
            settings->no_braille ? "no" : "yes", settings->mouse ? "yes" : "no");
    return output_file_commit(&file);
}
