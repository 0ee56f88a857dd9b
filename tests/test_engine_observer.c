// tests/test_engine_observer.c - what the engine tells its observer: calls that pair, costs that add up, also in a
// failure.
#include <errno.h>

#include "engine/cost.h"
#include "engine/status.h"
#include "tests/check.h"
#include "tests/fixture.h"

static struct plan tiny_plan(const char *method)
{
    struct plan_options options = plan_options_default();
    return fixture_plan(plan_find_model("tiny"), method, &options);
}

struct witness {
    const struct plan *plan;
    int32_t n_prompt;
    bool in_step, in_stage;
    int32_t layer, steps, counters;
    struct observed_stage stage;
    struct stage_cost sum;
    int32_t host_stages;
    enum request_state states[8];
    int32_t n_states;
};

static void step_begin(void *user, const struct observed_step *step)
{
    struct witness *w = user;
    CHECK(!w->in_step && step->step == w->steps && step->n_seqs == 1 && step->n_tokens > 0);
    CHECK(step->phase == (step->context_tokens <= w->n_prompt ? PHASE_PREFILL : PHASE_DECODE));
    w->in_step = true;
    w->host_stages = 0;
    w->sum = (struct stage_cost){0, 0};
}

static void step_end(void *user, const struct observed_step *step)
{
    struct witness *w = user;
    struct work work = {.context_tokens = step->context_tokens - step->n_tokens, .new_tokens = step->n_tokens,
                        .logit_rows = step->context_tokens >= w->n_prompt};
    struct stage_cost expected = step_cost(w->plan, &work, 1);
    CHECK(w->in_step && !w->in_stage && w->layer == -1 && w->host_stages == 2);
    CHECK_MESSAGE(w->sum.bytes == expected.bytes && w->sum.flops == expected.flops,
                  "%s, step %lld: stages add up to %lld bytes and %lld flops, the step costs %lld and %lld",
                  w->plan->method, (long long)step->step, (long long)w->sum.bytes, (long long)w->sum.flops,
                  (long long)expected.bytes, (long long)expected.flops);
    w->in_step = false;
    w->steps++;
}

static void layer_begin(void *user, int32_t layer)
{
    struct witness *w = user;
    CHECK(w->in_step && !w->in_stage && w->layer == -1 && layer >= 0);
    w->layer = layer;
}

static void layer_end(void *user, int32_t layer)
{
    struct witness *w = user;
    CHECK(w->in_step && !w->in_stage && w->layer == layer);
    w->layer = -1;
}

static void stage_begin(void *user, const struct observed_stage *stage)
{
    struct witness *w = user;
    CHECK(w->in_step && !w->in_stage && stage->layer == w->layer);
    CHECK(stage->bytes >= 0 && stage->flops >= 0);
    w->in_stage = true;
    w->stage = *stage;
    w->sum.bytes += stage->bytes;
    w->sum.flops += stage->flops;
    w->host_stages += stage->stage == STAGE_HOST;
}

static void stage_end(void *user, const struct observed_stage *stage)
{
    struct witness *w = user;
    CHECK(w->in_stage && w->stage.stage == stage->stage && w->stage.layer == stage->layer);
    CHECK(w->stage.bytes == stage->bytes && w->stage.flops == stage->flops && w->stage.n_tokens == stage->n_tokens);
    w->in_stage = false;
}

static void request(void *user, const struct request_sample *sample)
{
    struct witness *w = user;
    CHECK(!w->in_step && w->n_states < 8);
    w->states[w->n_states++] = sample->state;
}

static void counter(void *user, enum counter kind, double value)
{
    struct witness *w = user;
    CHECK(!w->in_step && value >= 0 && kind != COUNTER_TOKENS_PER_S);
    w->counters++;
}

// Calls are nested and paired; the stages of every step cost what cost.h says of the step, to the byte.
static void check_observer(const char *method)
{
    struct plan plan = tiny_plan(method);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct witness w = {.plan = &plan, .n_prompt = 23, .layer = -1};
    struct observer observer = {.user = &w, .step_begin = step_begin, .step_end = step_end, .layer_begin = layer_begin,
                                .layer_end = layer_end, .stage_begin = stage_begin, .stage_end = stage_end,
                                .request = request, .counter = counter};
    struct engine_options options = {.plan = &plan, .model = model, .backend = "reference", .max_context = 64,
                                     .max_step_tokens = 9, .observer = &observer};
    int32_t *prompt = fixture_tokens(w.n_prompt, plan.shape.vocab);
    const struct engine_request wanted = {.prompt = prompt, .n_prompt = w.n_prompt, .max_output_tokens = 5};
    const struct engine_output *outputs;
    struct engine *engine;
    int64_t id;
    CHECK_MESSAGE(engine_open(&engine, &options) == 0 && engine_submit(engine, &wanted, &id) == 0, "%s", status_text());
    while (engine_step(engine, &outputs) >= 0) {
    }
    struct engine_stats stats = engine_stats(engine);
    CHECK(w.steps == 3 + 4 && stats.steps == w.steps && w.counters == 3 * w.steps);
    CHECK(stats.prompt_tokens == 23 && stats.output_tokens == 5);
    CHECK(w.n_states == 4);
    for (int32_t i = 0; i < w.n_states; i++) {
        CHECK((int32_t)w.states[i] == i);
    }
    engine_close(engine);
    free(prompt);
    model_file_close(model);
}

// A failing step still closes what it opened.
static void check_observer_on_failure(void)
{
    struct plan plan = tiny_plan("clsa");
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct witness w = {.plan = &plan, .n_prompt = 1, .layer = -1};
    struct observer observer = {.user = &w, .layer_begin = layer_begin, .layer_end = layer_end,
                                .stage_begin = stage_begin, .stage_end = stage_end};
    struct engine_options options = {.plan = &plan, .model = model, .backend = "reference", .max_context = 64,
                                     .observer = &observer};
    union {
        const void *read;
        void *write;
    } embedding = {.read = weights.embedding.data};
    dtype_store(embedding.write, 3 * (int64_t)plan.shape.hidden, weights.embedding.dtype, NAN);    // of token 3
    struct engine_request bad = {.prompt = (const int32_t[]){1, 3}, .n_prompt = 2, .max_output_tokens = 1};
    struct engine *engine;
    const struct engine_output *outputs;
    int64_t id;
    w.in_step = true;    // steps are not observed here
    CHECK(engine_open(&engine, &options) == 0 && engine_submit(engine, &bad, &id) == 0);
    CHECK(engine_step(engine, &outputs) == -EDOM);
    CHECK_MESSAGE(strstr(status_text(), "position 1"), "no position in '%s'", status_text());
    CHECK(!w.in_stage && w.layer == -1);
    engine_close(engine);
    model_file_close(model);
}

int main(void)
{
    check_begin();
    for (int32_t m = 0; m < plan_method_count(); m++) {
        check_observer(plan_method(m)->name);
    }
    check_observer_on_failure();
    return check_end();
}
