// tests/fuzz/fuzz_config.c - any bytes as a config.json: refused with a text, or a plan that can be priced.
#include <errno.h>
#include <stdlib.h>

#include "engine/cost.h"
#include "engine/model_config.h"
#include "engine/status.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

// Prices a plan: no overflow, no index out of range, nothing negative.
static void price(const struct plan *plan)
{
    const struct work work[] = {{0, 1, 1}, {1 << 20, 1, 1}, {3, 5, 0}};
    struct stage_cost cost = step_cost(plan, work, 3);
    require(cost.bytes >= 0 && cost.flops >= 0);
    require(plan_parameters(plan) > 0 && plan_weight_bytes(plan) > 0);
    require(plan_kv_bytes_per_token(plan) >= 0 && plan_kv_bytes_per_sequence(plan) >= 0);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct model_config config;
    int error = model_config_parse(&config, (const char *)data, size, "config.json");
    if (error) {
        require((error == -EINVAL || error == -ENOMEM) && *status_text());
        return 0;
    }
    require(plan_check(&config.native) == 0);
    price(&config.native);
    for (int32_t i = 0; i < plan_method_count(); i++) {
        struct plan plan;
        if (plan_build(&plan, &config.native.shape, plan_method(i)->name, NULL) == 0) {
            price(&plan);
        }
    }
    if (config.runnable) {
        char *text;
        require(model_config_write(&text, &config.native.shape, config.native.weight_dtype) == 0);
        free(text);
    }
    return 0;
}
