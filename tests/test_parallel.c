// tests/test_parallel.c - one model on several devices: nothing lost or doubled in the split, collectives counted by
// hand.
#include "engine/cost.h"
#include "engine/status.h"
#include "sim/parallel.h"
#include "sim/predict.h"
#include "tests/check.h"

#include <errno.h>

static struct device linked_device(void)
{
    struct device device = {.name = "made up"};
    device.bytes_per_s.value = 1e12;
    device.flops_per_s[DTYPE_F32].value = 1e14;
    device.link_bytes_per_s.value = 1e11 * (1 + check_uniform());
    device.link_s.value = 1e-5 * check_uniform();
    device.price_per_hour.value = 3;
    device.serving_power_w.value = 500;
    return device;
}

static struct plan plan_of(const char *model, const char *method)
{
    struct plan plan;
    int error = plan_build(&plan, plan_find_model(model), method, NULL);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    return plan;
}

// What every device holds whole: index projections of one set, norms are not counted.
static int64_t replicated_index(const struct plan *plan)
{
    int64_t elements = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        if (plan_runs_indexer(plan, layer) && plan->index.score != INDEX_PAGE_BOUND) {
            int64_t queries = plan->index.sets == 1 ? (int64_t)plan->index.heads * plan->index.dim : 0;
            int64_t gates = plan->index.score == INDEX_GATED_RELU ? plan->index.heads : 0;
            elements += plan->shape.hidden * (queries + gates + plan->index.dim);
        }
    }
    return elements * dtype_bytes(plan->weight_dtype);
}

static void test_split(void)
{
    struct device device = linked_device(), group;
    for (int32_t m = 0; m < plan_method_count(); m++) {
        struct plan whole = plan_of("paper-4b", plan_method(m)->name), part;
        int64_t weights = plan_weight_bytes(&whole), shared = replicated_index(&whole);
        for (int32_t ranks = 1; ranks <= 4; ranks *= 2) {
            CHECK_MESSAGE(parallel_split(&part, &group, &whole, &device, ranks) == 0, "%s", status_text());
            CHECK_MESSAGE(plan_check(&part) == 0, "%s by %d: %s", whole.method, ranks, status_text());
            int64_t all = ranks * plan_weight_bytes(&part) - (ranks - 1) * shared;
            CHECK_MESSAGE(all == weights, "%s by %d: %lld bytes of weights, not %lld", whole.method, ranks,
                          (long long)all, (long long)weights);
            CHECK(group.ranks == ranks && group.price_per_hour.value == 3 * ranks &&
                  group.serving_power_w.value == 500 * ranks);
            const struct work work[] = {{5000, 1, 1}, {300, 1, 1}};
            for (int32_t layer = 0; layer < whole.shape.n_layers; layer++) {
                struct stage_cost of_whole, of_part;
                CHECK(stage_cost(&of_whole, &whole, STAGE_ATTENTION, layer, work, 2) == 0);
                CHECK(stage_cost(&of_part, &part, STAGE_ATTENTION, layer, work, 2) == 0);
                CHECK_MESSAGE(of_part.flops * ranks == of_whole.flops,
                              "%s by %d: layer %d attends with %lld flops of %lld", whole.method, ranks, layer,
                              (long long)of_part.flops, (long long)of_whole.flops);
            }
        }
    }
}

// More devices than KV heads: each has a whole one.
static void test_few_kv_heads(void)
{
    struct device device = linked_device(), group;
    struct plan whole = plan_of("paper-4b", "dense"), part;
    CHECK(parallel_split(&part, &group, &whole, &device, 20) == 0);
    CHECK(part.shape.n_heads == 1 && part.shape.n_kv_heads == 1);
    CHECK(plan_kv_bytes_per_token(&part) * 4 == plan_kv_bytes_per_token(&whole));
}

static void test_communication(void)
{
    struct device device = linked_device(), group;
    struct plan whole = plan_of("paper-4b", check_range(0, 1) ? "clsa" : "dense"), part;
    bool yoco = whole.shape.backbone == BACKBONE_YOCO;
    int32_t ranks = check_range(0, 1) ? 2 : 4;
    CHECK(parallel_split(&part, &group, &whole, &device, ranks) == 0);
    const struct work work[] = {{100, check_range(2, 500), check_range(0, 1)}, {check_range(0, 9999), 1, 1}};
    struct step_prediction step, alone;
    CHECK_MESSAGE(predict_step(&step, &group, &part, work, 2) == 0, "%s", status_text());
    double rows = work[0].new_tokens + 1, last = work[0].logit_rows + 1, n = ranks;
    double seconds = 0, row_bytes = 2.0 * 2560;
    for (int layer = 0; layer < 32; layer++) {    // partial sums behind the output projection and behind the FFN
        double of = yoco && layer >= 16 ? last : rows;
        seconds += 2 * (group.link_s.value + 2 * (n - 1) / n * of * row_bytes / group.link_bytes_per_s.value);
    }
    seconds += group.link_s.value + 2 * (n - 1) / n * rows * row_bytes / group.link_bytes_per_s.value;
    seconds += group.link_s.value + (n - 1) / n * last * 131072 * 4 / group.link_bytes_per_s.value;
    CHECK_MESSAGE(fabs(step.stages[STAGE_COMMUNICATE].seconds - seconds) <= 1e-9 * seconds,
                  "%s by %d: %.9g s, expected %.9g", whole.method, ranks, step.stages[STAGE_COMMUNICATE].seconds,
                  seconds);
    group.ranks = 1;
    CHECK(predict_step(&alone, &group, &part, work, 2) == 0 && alone.stages[STAGE_COMMUNICATE].seconds == 0);
    CHECK(fabs(step.seconds - alone.seconds - seconds) <= 1e-9 * step.seconds);
}

static void test_wrong_input(void)
{
    struct device device = linked_device(), group;
    struct plan whole = plan_of("paper-4b", "clsa"), part;
    CHECK(parallel_split(&part, &group, &whole, &device, 8) == -EINVAL && strstr(status_text(), "1, 2, 4, 20"));
    CHECK(parallel_split(&part, &group, &whole, &device, 0) == -EINVAL);
    device.link_bytes_per_s.value = 0;
    CHECK(parallel_split(&part, &group, &whole, &device, 2) == -EINVAL && strstr(status_text(), "link"));
    CHECK(parallel_split(&part, &group, &whole, &device, 1) == 0 && part.shape.vocab == whole.shape.vocab &&
          plan_weight_bytes(&part) == plan_weight_bytes(&whole));
}

int main(void)
{
    check_begin();
    test_split();
    test_few_kv_heads();
    for (int i = 0; i < 50; i++) {
        test_communication();
    }
    test_wrong_input();
    return check_end();
}
