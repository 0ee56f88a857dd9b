// tests/test_positions.c - costs by position against predict_step, crossings against every context.
#include "engine/status.h"
#include "sim/positions.h"
#include "tests/check.h"

#include <errno.h>

static struct device random_device(void)
{
    struct device device = {.name = "made up"};
    device.bytes_per_s.value = 1e11 * (1 + check_uniform());
    device.flops_per_s[DTYPE_F32].value = 1e13 * (1 + check_uniform());
    device.launch_s.value = check_range(0, 1) ? 0 : 1e-7 * check_uniform();
    return device;
}

static struct plan random_plan(void)
{
    struct plan_options options = plan_options_default();
    struct plan plan;
    const struct method_info *method = plan_method(check_range(0, plan_method_count() - 1));
    int error = plan_build(&plan, plan_find_model("tiny"), method->name, &options);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    return plan;
}

static void test_cost(void)
{
    struct plan plan = random_plan();
    struct device device = random_device();
    struct position_cost cost;
    int32_t context = check_range(1, 3000), chunk = check_range(1, 500), rows = chunk < context ? chunk : context;
    struct work work[2] = {{context, 1, 1}, {context, 1, 1}};
    struct step_prediction decode, prefill;
    CHECK(position_cost(&cost, &device, &plan, 2, context, chunk) == 0);
    CHECK(predict_step(&decode, &device, &plan, work, 2) == 0);
    CHECK(predict_step(&prefill, &device, &plan, &(struct work){context - rows, rows, 0}, 1) == 0);
    CHECK(fabs(cost.decode_s * 2 - decode.seconds) <= 1e-12 * decode.seconds);
    CHECK(fabs(cost.prefill_s * rows - prefill.seconds) <= 1e-12 * prefill.seconds);
    CHECK(cost.decode_attention_s == decode.stages[STAGE_ATTENTION].seconds);
    CHECK(position_cost(&cost, &device, &plan, 0, 1, 1) == -EINVAL);
}

// Every context by itself: the answer holds at each from the crossing up, and not just below it.
static void check_crossing(enum crossing crossing, int32_t from, int32_t max_context, const bool *won, const char *what)
{
    if (crossing == CROSSING_NEVER) {
        CHECK_MESSAGE(!won[max_context], "%s: never, but it holds at %d", what, max_context);
        return;
    }
    for (int32_t context = from; context <= max_context; context++) {
        CHECK_MESSAGE(won[context], "%s: from %d on, but not at %d", what, from, context);
    }
    CHECK_MESSAGE(crossing == CROSSING_ALWAYS ? from == 1 : from > 1 && !won[from - 1], "%s: also below %d", what,
                  from);
}

static void test_crossings(int32_t *found)
{
    enum { MOST = 400, CHUNK = 16 };
    // Without blocks: stairs of units may turn a result twice within one step of the grid.
    static const char *const methods[] = {"dense", "yoco", "token", "dsa", "indexcache", "clsa", "yoco-token"};
    struct plan a, b;
    struct device device = random_device();
    bool won[2][MOST + 1];
    enum crossing crossing;
    int32_t from;
    CHECK(plan_build(&a, plan_find_model("tiny"), methods[check_range(0, 6)], NULL) == 0);
    CHECK(plan_build(&b, plan_find_model("tiny"), methods[check_range(0, 6)], NULL) == 0);
    bool decode = check_range(0, 1);
    for (int32_t context = 1; context <= MOST; context++) {
        struct position_cost of_a, of_b;
        CHECK(position_cost(&of_a, &device, &a, 3, context, CHUNK) == 0 &&
              position_cost(&of_b, &device, &b, 3, context, CHUNK) == 0);
        won[0][context] = decode ? of_b.decode_s < of_a.decode_s : of_b.prefill_s < of_a.prefill_s;
        double attention_s = decode ? of_b.decode_attention_s : of_b.prefill_attention_s;
        won[1][context] = attention_s > 0 && (decode ? of_b.decode_index_s : of_b.prefill_index_s) > attention_s;
    }
    CHECK(position_beats(&crossing, &from, &device, &a, &b, 3, CHUNK, decode, MOST) == 0);
    check_crossing(crossing, from, MOST, won[0], b.method);
    *found += crossing == CROSSING_AT;
    CHECK(position_index_overtakes(&crossing, &from, &device, &b, 3, CHUNK, decode, MOST) == 0);
    check_crossing(crossing, from, MOST, won[1], "index");
    *found += crossing == CROSSING_AT;
}

int main(void)
{
    check_begin();
    int32_t found = 0;
    for (int i = 0; i < 100 && !check_failures; i++) {
        test_cost();
        test_crossings(&found);
    }
    CHECK_MESSAGE(check_failures || found > 0, "nothing crossed: shows too little");
    return check_end();
}
