// tui/format.c - figures as short text.
#include "tui/format.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// Digits behind the point that leave three significant ones.
static int decimals(double value)
{
    double size = fabs(value);
    return size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
}

static void scaled(char *text, double value, const char *const *units, int n, double step)
{
    int unit = 0;
    if (!isfinite(value)) {
        strcpy(text, "-");
        return;
    }
    while (unit + 1 < n && fabs(value) >= step * 0.9995) {
        value /= step;
        unit++;
    }
    snprintf(text, FORMAT_BYTES, "%.*f%s", unit == 0 && value == floor(value) ? 0 : decimals(value), value,
             units[unit]);
}

void format_time_ns(char *text, double ns)
{
    static const char *const units[] = {" ns", " us", " ms", " s"};
    scaled(text, ns, units, 4, 1000);
}

void format_bytes(char *text, double bytes)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
    scaled(text, bytes, units, 5, 1024);
}

void format_number(char *text, double value)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    if (fabs(value) < 9999.5) {    // four digits read easier than a suffix
        scaled(text, value, units, 1, 1);
        return;
    }
    scaled(text, value, units, 5, 1000);
}

void format_ratio(char *text, double ratio)
{
    if (!isfinite(ratio)) {
        strcpy(text, "-");
        return;
    }
    snprintf(text, FORMAT_BYTES, "%.*fx", ratio < 99.5 ? decimals(ratio) : 0, ratio);
}

void format_percent(char *text, double part)
{
    if (!isfinite(part)) {
        strcpy(text, "-");
        return;
    }
    snprintf(text, FORMAT_BYTES, "%.*f%%", fabs(part) < 0.9995 ? 1 : 0, 100 * part);
}

void format_whole(char *text, double value)
{
    if (!isfinite(value)) {
        strcpy(text, "-");
        return;
    }
    snprintf(text, FORMAT_BYTES, "%.0f", value);
}
