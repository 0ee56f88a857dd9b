// traces/kernel_name.h - a kernel's name as people say it.
#pragma once

#include <stddef.h>

// The name of a function without namespaces, template arguments and parameters: "_ZN4clsa6scoresILi128EEvPKf" and
// "void clsa::scores<128>(float const*)" are "scores". Knows what a compiler makes of named functions (Itanium's
// mangling) and how profilers print it; any other text comes out as it is. Always terminated, cut to `bytes`.
void kernel_short_name(char *out, size_t bytes, const char *name);
