// cli/gpu_rates.h - a GPU of this machine as a device of the simulator: what it was just measured to do.
#pragma once

#include "sim/device.h"

// -ENODEV with the reason where there is no GPU or no plug-in; -EINVAL for a number that is none. Forks: before this
// process itself uses a GPU, since CUDA does not work in a child of one that does.
int gpu_rates(struct device *out, int32_t number);
