// cli/shipped.h - the trained models that come with the program: folders in workloads/models.
//
// They are looked for beside the folder in which the program lies, so from any working directory, then in the working
// directory. "demo" is a pair, one model per backbone: which of the two is meant, the method says.
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "engine/plan.h"

// "demo": the name stands for a model of either backbone.
bool shipped_is_pair(const char *name);

// The folder of the shipped model `name`, the pair's half being that of `backbone`. False, with the path that was
// tried, if there is none.
bool shipped_folder(char path[PATH_MAX], const char *name, enum backbone backbone);
