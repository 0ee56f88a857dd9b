// cli/trace_verbs.h - verbs of clsa trace that have files of their own. Each takes argv from its name on and returns an
// exit status.
#pragma once

int trace_summarise(int argc, char **argv);
int trace_diff(int argc, char **argv);
int trace_import(int argc, char **argv);
