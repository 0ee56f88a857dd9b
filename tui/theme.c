// tui/theme.c - palettes. Contrast keeps to hues that people with any kind of colour blindness tell apart.
#include "tui/theme.h"

#include <string.h>

enum few { OWN = -1, RED = 1, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE };    // the 8 colours, as terminals number them

struct shade {
    int16_t dark, light, contrast, few;
};

static const struct shade shades[ROLE_COUNT] = {
    [ROLE_TEXT] = {OWN, OWN, OWN, OWN}, [ROLE_DIM] = {246, 243, 250, OWN}, [ROLE_TITLE] = {OWN, OWN, OWN, OWN},
    [ROLE_BORDER] = {240, 250, 246, OWN}, [ROLE_GOOD] = {114, 28, 39, GREEN}, [ROLE_WARN] = {221, 130, 220, YELLOW},
    [ROLE_BAD] = {203, 160, 208, RED}, [ROLE_ACCENT] = {75, 25, 45, CYAN},
    [ROLE_STAGE + STAGE_EMBED] = {250, 240, 252, WHITE}, [ROLE_STAGE + STAGE_QKV] = {75, 25, 33, BLUE},
    [ROLE_STAGE + STAGE_WINDOW_ATTENTION] = {44, 30, 51, CYAN}, [ROLE_STAGE + STAGE_KV_WRITE] = {109, 66, 247, WHITE},
    [ROLE_STAGE + STAGE_INDEX_PROJECT] = {186, 100, 229, YELLOW},
    [ROLE_STAGE + STAGE_INDEX_SCORE] = {221, 136, 220, YELLOW},
    [ROLE_STAGE + STAGE_INDEX_SELECT] = {208, 166, 208, MAGENTA}, [ROLE_STAGE + STAGE_GATHER] = {137, 94, 243, WHITE},
    [ROLE_STAGE + STAGE_ATTENTION] = {204, 161, 202, RED}, [ROLE_STAGE + STAGE_OUTPUT] = {141, 91, 183, MAGENTA},
    [ROLE_STAGE + STAGE_FFN] = {78, 28, 39, GREEN}, [ROLE_STAGE + STAGE_HEAD] = {180, 95, 123, CYAN},
    [ROLE_STAGE + STAGE_SAMPLE] = {253, 238, 255, WHITE}, [ROLE_STAGE + STAGE_COMMUNICATE] = {167, 124, 214, RED},
    [ROLE_STAGE + STAGE_HOST] = {66, 60, 27, BLUE}, [ROLE_GAP] = {242, 248, 240, WHITE},
};

static const char *const names[THEME_COUNT] = {"dark", "light", "contrast"};

const char *theme_name(int32_t theme)
{
    return names[theme];
}

int32_t theme_find(const char *name)
{
    for (int32_t theme = 0; theme < THEME_COUNT; theme++) {
        if (strcmp(names[theme], name) == 0) {
            return theme;
        }
    }
    return -1;
}

int16_t theme_color(int32_t theme, enum role role, bool many)
{
    const struct shade *shade = &shades[role];
    return !many ? shade->few : theme == 1 ? shade->light : theme == 2 ? shade->contrast : shade->dark;
}
