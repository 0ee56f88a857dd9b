// tests/test_forward_async.c - what an observer is told of a device that works by itself: eager, recorded, replayed
// steps.
//
// The device is the reference backend under a table that says "asynchronous" and pretends to record: a replay runs
// nothing. What it must tell is what the reference tells of the same batches: the same stages with the same costs.
#include "engine/forward.h"
#include "engine/status.h"
#include "engine/step_batch.h"
#include "tests/check.h"
#include "tests/fixture.h"

enum { STEPS = 6, MAX_TOLD = 4096, MAX_CONTEXT = 64, STAGE_EVERY = 5 };

// Stages in the order in which they were told, of all steps.
struct told {
    struct observed_stage stages[MAX_TOLD];
    bool replayed[MAX_TOLD], open;
    int32_t n, n_ended, step_begin[STEPS + 1];
};

static void add(struct told *told, const struct observed_stage *stage, bool replayed)
{
    CHECK(!told->open && told->n < MAX_TOLD);
    told->open = true;
    told->replayed[told->n] = replayed;
    told->stages[told->n++] = *stage;
}

static bool same(const struct observed_stage *a, const struct observed_stage *b)
{
    return a->stage == b->stage && a->layer == b->layer && a->n_seqs == b->n_seqs && a->n_tokens == b->n_tokens &&
           a->context_tokens == b->context_tokens && a->bytes == b->bytes && a->flops == b->flops;
}

static void end(struct told *told, const struct observed_stage *stage)
{
    CHECK(told->open && same(&told->stages[told->n - 1], stage));
    told->open = false;
    told->n_ended++;
}

static void on_stage_begin(void *user, const struct observed_stage *stage)
{
    add(user, stage, false);
}

static void on_stage_end(void *user, const struct observed_stage *stage)
{
    end(user, stage);
}

static void on_enqueue_begin(void *user, const struct observed_stage *stage, bool replayed)
{
    add(user, stage, replayed);
}

static void on_enqueue_end(void *user, const struct observed_stage *stage, bool replayed)
{
    struct told *told = user;
    CHECK(replayed == told->replayed[told->n - 1]);
    end(told, stage);
}

static int32_t marked_stages;

static void on_device_stages(void *user, const struct device_stage *stages, int32_t n)
{
    (void)user;
    (void)stages;
    marked_stages += n;
}

// The device: a shape is recorded when it is seen the second time; with and without marks are two recordings.
static struct { int32_t seen, n_marks, n_replays, recorded, n_cuts; bool has[RECORD_KINDS], open; } device;

static int mark(struct backend_context *context, int32_t id)
{
    (void)context;
    device.n_marks++;
    return id < 0 ? -1 : 0;
}

static int marks(struct backend_context *context, int64_t *ns, int32_t n)
{
    (void)context;
    for (int32_t i = 0; i < n; i++) {
        ns[i] = i;
    }
    return 0;
}

static int replay(struct backend_context *context, const struct op_sample *sample, enum record kind)
{
    (void)context;
    if (!device.has[kind]) {
        return 0;
    }
    sample->token[0] = 0;
    device.n_replays++;
    return 1;
}

static int record_begin(struct backend_context *context, enum record kind)
{
    (void)context;
    device.open = device.has[kind] = device.seen > 0;
    return device.seen++ > 0;
}

static int record_cut(struct backend_context *context)
{
    (void)context;
    CHECK(device.open && device.has[RECORD_PIECES]);
    device.n_cuts++;
    return 0;
}

static int record_end(struct backend_context *context, int error)
{
    (void)context;
    device.recorded++;
    device.open = false;
    return error;
}

// Runs a prompt of nine rows and STEPS - 1 steps of one.
static void run(struct told *told, const struct plan *plan, const struct backend *backend,
                const struct observer *observer, const int32_t *tokens)
{
    struct backend_options backend_options = {.plan = plan, .threads = 1, .max_rows = 16, .max_seqs = 1,
                                              .max_context = MAX_CONTEXT};
    struct model_weights weights;
    struct model_file *model = fixture_model(plan, 7, &weights);
    struct backend_context *context = NULL;
    struct forward *forward = NULL;
    struct kv_cache *cache = NULL;
    struct step_batch batch = {0};
    int32_t pages[MAX_CONTEXT], context_tokens = 0;
    int error = backend->open(&context, &backend_options);
    struct forward_options options = {.backend = backend, .context = context, .plan = plan, .weights = &weights,
                                      .observer = observer, .max_rows = 16, .max_logit_rows = 1,
                                      .max_context = MAX_CONTEXT, .stage_every = STAGE_EVERY};
    int32_t n_pages = (MAX_CONTEXT - 1) / plan->page_tokens + 1;
    error = error ? error : forward_open(&forward, &options);
    error = error ? error : kv_cache_open(&cache, backend, context, plan, n_pages, 1);
    error = error ? error : step_batch_open(&batch, 1, 16, n_pages);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    forward_use_cache(forward, cache);
    for (int32_t p = 0; p < n_pages; p++) {
        pages[p] = p;
    }
    for (int32_t s = 0; s < STEPS && !error; s++) {
        int32_t rows = s == 0 ? 9 : 1, token;
        struct sampling sampling = {0};
        told->step_begin[s] = told->n;
        step_batch_clear(&batch, s);
        step_batch_add(&batch, 0, context_tokens, tokens + context_tokens, rows, 1, pages, n_pages);
        error = forward_begin(forward, &batch.batch, batch.work);
        error = error ? error : forward_run(forward, &sampling, &token);
        error = error ? error : forward_end(forward);
        CHECK_MESSAGE(error == 0, "step %d: %s", s, status_text());
        CHECK(forward_device_ns(forward) == (observer->in_pieces ? 1 : 0));    // as our marks tell
        context_tokens += rows;
    }
    told->step_begin[STEPS] = told->n;
    step_batch_close(&batch);
    kv_cache_close(cache);
    forward_close(forward);
    backend->close(context);
    model_file_close(model);
}

static void test_method(const char *method)
{
    static struct told expected, got;
    struct plan plan = fixture_plan(plan_find_model("tiny"), method, NULL);
    int32_t *tokens = fixture_tokens(MAX_CONTEXT, plan.shape.vocab);
    struct observer watch = {.user = &expected, .stage_begin = on_stage_begin, .stage_end = on_stage_end};
    struct observer enqueue = {.user = &got, .enqueue_begin = on_enqueue_begin, .enqueue_end = on_enqueue_end};
    struct backend table = backend_reference;
    table.asynchronous = true;
    table.mark = mark;
    table.marks = marks;
    table.replay = replay;
    table.record_begin = record_begin;
    table.record_cut = record_cut;
    table.record_end = record_end;
    memset(&expected, 0, sizeof expected);
    run(&expected, &plan, &backend_reference, &watch, tokens);

    // Only what is enqueued: no marks. Step 0 is a prompt, 1 runs, 2 is recorded, the others are replayed.
    memset(&got, 0, sizeof got);
    memset(&device, 0, sizeof device);
    run(&got, &plan, &table, &enqueue, tokens);
    CHECK(device.n_marks == 0 && device.recorded == 1 && device.n_replays == STEPS - 3 && device.n_cuts == 0);
    CHECK_MESSAGE(got.n == expected.n && got.n_ended == got.n, "%s: %d stages, %d expected", method, got.n, expected.n);
    for (int32_t s = 0; s < STEPS; s++) {
        CHECK(got.step_begin[s] == expected.step_begin[s]);
        for (int32_t i = got.step_begin[s]; i < got.step_begin[s + 1]; i++) {
            const struct observed_stage *a = &got.stages[i], *b = &expected.stages[i];
            CHECK_MESSAGE(same(a, b), "%s: step %d: %s of layer %d moves %lld bytes, %lld expected", method, s,
                          stage_name(a->stage), a->layer, (long long)a->bytes, (long long)b->bytes);
            CHECK(got.replayed[i] == (s > 2));
        }
    }

    // In pieces: behind layers 0 and 3, in the step that is recorded. What is told stays. Around each pass, but those
    // that are replayed, two marks: these are in the recording.
    enqueue.in_pieces = true;
    memset(&got, 0, sizeof got);
    memset(&device, 0, sizeof device);
    run(&got, &plan, &table, &enqueue, tokens);
    CHECK(device.recorded == 1 && device.n_cuts == 1 + (plan.shape.n_layers >= 4) && device.n_replays == STEPS - 3);
    CHECK(got.n == expected.n && got.n_ended == got.n);
    CHECK(device.n_marks == 2 * 3);
    enqueue.in_pieces = false;

    // With marks beside: the prompt's and those of each STAGE_EVERY-th step, which is recorded by itself.
    enqueue.device_stages = on_device_stages;
    memset(&got, 0, sizeof got);
    memset(&device, 0, sizeof device);
    marked_stages = 0;
    run(&got, &plan, &table, &enqueue, tokens);
    CHECK(got.n == expected.n && device.recorded == 2);
    CHECK(marked_stages == expected.step_begin[1] + expected.step_begin[6] - expected.step_begin[5]);
    CHECK(device.n_marks == marked_stages + 2);    // one more before each pass
    free(tokens);
}

int main(void)
{
    check_begin();
    for (int32_t m = 0; m < plan_method_count(); m++) {
        test_method(plan_method(m)->name);
    }
    return check_end();
}
