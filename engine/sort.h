// engine/sort.h - numbers in order.
#pragma once

#include <stdint.h>

void sort_doubles(double *values, int64_t n);    // ascending; none may be NaN
