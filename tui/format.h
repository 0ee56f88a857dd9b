// tui/format.h - figures as short text: three significant digits, a unit that fits, "-" for what is unknown.
#pragma once

#include <stdint.h>

enum { FORMAT_BYTES = 32 };    // of every buffer

void format_time_ns(char *text, double ns);         // "843 ns", "12.3 us", "4.56 ms", "1.20 s"
void format_bytes(char *text, double bytes);        // "12.6 MiB"
void format_number(char *text, double value);       // "412", "41.2", "4.12", "12.3k", "1.20M"
void format_ratio(char *text, double ratio);        // "2.94x"
void format_percent(char *text, double part);       // 0.123 -> "12.3%"
void format_whole(char *text, double value);        // "8192"
