// tests/test_eval.c - the accounting of `clsa eval`: forks and forced questions against plain prompts, counts against
// models whose answers are known, bits per byte against logits taken one by one.
#include <errno.h>

#include "cli/eval.h"
#include "engine/status.h"
#include "engine/tokenizer.h"
#include "tests/check.h"
#include "tests/fixture.h"

static const struct model_shape shape = {.name = "small",
                                         .hidden = 32,
                                         .ffn = 48,
                                         .n_layers = 4,
                                         .n_heads = 4,
                                         .n_kv_heads = 2,
                                         .head_dim = 8,
                                         .vocab = 260,
                                         .window_tokens = 6,
                                         .top_k = 16,
                                         .index_dim = 8,
                                         .lightning_heads = 2,
                                         .rope_theta_window = 1e4f,
                                         .rope_theta_global = 5e5f,
                                         .norm_eps = 1e-5f};

enum { CONTEXT = 200, SAMPLES = 7, TEXT = 4000 };

static char text[TEXT], filler[TEXT];
static size_t n_filler;

static struct eval_options base_options(void)
{
    return (struct eval_options){.filler = filler,
                                 .text = text,
                                 .n_filler = n_filler,
                                 .n_text = TEXT,
                                 .tasks = {TASK_PASSKEY, TASK_MULTIKEY, TASK_VARIABLES, TASK_COPY, TASK_FREQUENT},
                                 .n_tasks = 5,
                                 .depths = {0, 0.5, 1},
                                 .n_depths = 3,
                                 .samples = SAMPLES,
                                 .batch = 1,
                                 .probes = 2,
                                 .text_documents = 2,
                                 .seed = check_random()};
}

static void ask(struct eval_run *run, const struct eval_options *options, const char *device)
{
    struct progress progress;
    int64_t advanced = 0;
    progress_begin(&progress, "test", 1);
    int error = eval_ask(run, device, options, &progress, &advanced);
    progress_end(&progress);
    CHECK_MESSAGE(!error, "%s", status_text());
    CHECK(advanced == (int64_t)options->n_tasks * options->samples);
}

// What the model says behind body and question, given as one prompt.
static void answer_plainly(const struct eval_run *run, const struct task_document *document,
                           const struct task_question *question, int32_t *tokens, int32_t n)
{
    struct engine_options options = {
        .plan = run->plan, .model = run->model, .backend = "reference", .max_context = CONTEXT};
    const struct engine_output *outputs;
    struct engine *engine;
    int32_t prompt[CONTEXT], n_prompt = 0;
    int64_t id;
    prompt[n_prompt++] = TOKEN_BEGIN;
    for (int32_t i = 0; i < document->n_body; i++) {
        prompt[n_prompt++] = (unsigned char)document->body[i];
    }
    for (const char *c = question->text; *c; c++) {
        prompt[n_prompt++] = (unsigned char)*c;
    }
    CHECK(engine_open(&engine, &options) == 0);
    struct engine_request request = {.prompt = prompt, .n_prompt = n_prompt, .max_output_tokens = n};
    CHECK(engine_submit(engine, &request, &id) == 0);
    for (int got = 0, count; (count = engine_step(engine, &outputs)) >= 0;) {
        got += count;
        if (count == 1) {
            tokens[got - 1] = outputs[0].token;
        }
    }
    engine_close(engine);
}

static struct task_options document_options(const struct eval_options *options, enum task task, int64_t index)
{
    return (struct task_options){.task = task,
                                 .context_tokens = CONTEXT,
                                 .filler = filler,
                                 .n_filler = n_filler,
                                 .depths = options->depths,
                                 .n_depths = options->n_depths,
                                 .seed = options->seed,
                                 .index = index};
}

static void check_answer(const struct eval_run *run, const struct eval_options *options, enum task task, int32_t sample)
{
    const struct eval_answer *answer = &run->answers[task][sample];
    int32_t each = task_questions(task, CONTEXT, options->n_depths), tokens[TASK_TEXT_BYTES] = {0};
    struct task_options from = document_options(options, task, sample / each);
    struct task_document document;
    CHECK(task_document_make(&document, &from) == 0);
    const struct task_question *question = &document.questions[sample % each];
    int32_t n = (int32_t)strlen(question->answer);
    answer_plainly(run, &document, question, tokens, n);
    bool right = true;
    for (int32_t i = 0; i < n; i++) {
        right &= tokens[i] == (unsigned char)question->answer[i];
    }
    CHECK_MESSAGE(answer->done && answer->n == n && memcmp(answer->tokens, tokens, (size_t)n * sizeof *tokens) == 0,
                  "%s, %s %d: not what a plain prompt gives", run->plan->method, task_name(task), sample);
    CHECK(answer->right == right &&
          (answer->depth == question->depth || (isnan(answer->depth) && isnan(question->depth))));
    task_document_free(&document);
}

// Questions by force and fork, one document at a time and several together, against plain prompts.
static void check_forks(const char *method)
{
    struct plan plan = fixture_plan(&shape, method, NULL);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct eval_options options = base_options();
    struct eval_run single = {.plan = &plan, .model = model, .context_tokens = CONTEXT}, batched = single;
    ask(&single, &options, "reference");
    options.batch = 3;
    ask(&batched, &options, "reference");
    for (int32_t t = 0; t < options.n_tasks; t++) {
        for (int32_t sample = 0; sample < SAMPLES; sample += sample == 0 ? 1 : 3) {
            check_answer(&single, &options, options.tasks[t], sample);
            check_answer(&batched, &options, options.tasks[t], sample);
        }
    }
    bool selects = plan.index.budget_tokens > 0;
    CHECK(single.n_probes == (selects ? 2 * options.n_tasks : 0) && (batched.n_probes > 0) == selects);
    CHECK(isnan(eval_mean(&single.routing.coverage)) == !selects && isnan(eval_mean(&single.routing.iou)) == !selects);
    eval_run_free(&single);
    eval_run_free(&batched);
    model_file_close(model);
}

static void fill(const struct matrix *m, float value, int32_t first_row, int32_t end_row)
{
    union {
        const void *read;
        void *write;
    } data = {.read = m->data};    // random models live in memory of their own, which may be written
    for (int32_t i = first_row * m->n_cols; i < end_row * m->n_cols; i++) {
        dtype_store(data.write, i, m->dtype, value);
    }
}

// A model whose residual stream is one everywhere and that always says `token`.
static struct model_file *constant_model(const struct plan *plan, int32_t token)
{
    struct model_file *model;
    struct model_weights weights;
    CHECK(model_file_random(&model, &plan->shape, plan->weight_dtype, 1) == 0 &&
          model_file_weights(model, plan, &weights) == 0);
    fill(&weights.embedding, 1, 0, plan->shape.vocab);
    fill(&weights.head, 0, 0, plan->shape.vocab);
    fill(&weights.head, 1, token, token + 1);
    for (int32_t l = 0; l < plan->shape.n_layers; l++) {
        fill(&weights.layers[l].output, 0, 0, plan->shape.hidden);
        fill(&weights.layers[l].down, 0, 0, plan->shape.hidden);
    }
    return model;
}

// How many of the first SAMPLES passkeys and multikeys consist of `digit` alone: what the constant model gets right.
static int32_t count_constant(const struct eval_options *options, enum task task, char digit, int32_t samples)
{
    int32_t each = task_questions(task, CONTEXT, options->n_depths), n = 0;
    for (int32_t sample = 0; sample < samples; sample++) {
        struct task_options from = document_options(options, task, sample / each);
        struct task_document document;
        CHECK(task_document_make(&document, &from) == 0);
        const char *answer = document.questions[sample % each].answer;
        n += strspn(answer, (char[]){digit, 0}) == strlen(answer);
        task_document_free(&document);
    }
    return n;
}

// A question whose answer is four times the same digit comes once in ten thousand: seeds are tried until there is one.
static void check_known_answers(void)
{
    struct plan plan = fixture_plan(&shape, "clsa", NULL);
    struct eval_options options = base_options();
    int32_t expected = 0, samples = 30;
    char digit = '0';
    options.n_tasks = 1;
    options.tasks[0] = TASK_MULTIKEY;
    options.samples = samples;
    for (int tries = 0; tries < 2000 && expected == 0; tries++) {
        options.seed = check_random();
        for (digit = '0'; digit <= '9' && expected == 0; digit++) {
            expected = count_constant(&options, TASK_MULTIKEY, digit, samples);
        }
        digit--;
    }
    CHECK(expected > 0);
    struct model_file *model = constant_model(&plan, digit);
    struct eval_run run = {.plan = &plan, .model = model, .context_tokens = CONTEXT};
    ask(&run, &options, "cpu");
    int32_t right = 0;
    for (int32_t i = 0; i < samples; i++) {
        right += run.answers[TASK_MULTIKEY][i].right;
        CHECK(run.answers[TASK_MULTIKEY][i].done && run.answers[TASK_MULTIKEY][i].n == 4);
    }
    CHECK_MESSAGE(right == expected, "%d right, expected %d", right, expected);
    eval_run_free(&run);
    model_file_close(model);
}

static void read_text(struct eval_run *run, const struct eval_options *options)
{
    struct progress progress;
    int64_t advanced = 0;
    progress_begin(&progress, "test", 1);
    CHECK_MESSAGE(eval_read(run, "reference", options, &progress, &advanced) == 0, "%s", status_text());
    progress_end(&progress);
    CHECK(advanced == options->text_documents);
}

// Against logits that a decoding engine gave one by one, across the border of two prefill steps.
static void check_bits(const char *method)
{
    enum { LENGTH = 530 };    // a prefill step has 512
    struct plan plan = fixture_plan(&shape, method, NULL);
    struct model_weights weights;
    struct model_file *model = fixture_model(&plan, check_random(), &weights);
    struct eval_options options = base_options();
    struct eval_run run = {.plan = &plan, .model = model, .context_tokens = LENGTH};
    read_text(&run, &options);
    int32_t tokens[LENGTH] = {TOKEN_BEGIN};
    double bits = 0;
    for (int document = 0; document < 2; document++) {
        for (int32_t i = 1; i < LENGTH; i++) {
            tokens[i] = (unsigned char)text[document * (LENGTH - 1) + i - 1];
        }
        struct fixture_text one = {.tokens = tokens, .n_tokens = LENGTH, .n_prompt = 1};
        CHECK(fixture_generate(&plan, model, (struct engine_options){.backend = "reference"}, &one, 1) == 0);
        for (int32_t i = 1; i < LENGTH; i++) {
            const float *logits = one.logits + (int64_t)(i - 1) * shape.vocab;
            double sum = 0;
            for (int32_t v = 0; v < shape.vocab; v++) {
                sum += exp((double)logits[v] - (double)logits[tokens[i]]);
            }
            bits += log2(sum);
        }
        free(one.logits);
    }
    CHECK(run.text_bytes == 2 * (LENGTH - 1));
    CHECK_MESSAGE(fabs(run.text_bits - bits) <= 1e-4 * bits, "%s: %g bits, one by one %g", method, run.text_bits, bits);
    model_file_close(model);
}

// Published values: 95 of 100 and 10 of 10, and the ends.
static void check_interval(void)
{
    double low, high;
    eval_interval(&low, &high, 95, 100);
    CHECK_MESSAGE(fabs(low - 0.88825) < 1e-5 && fabs(high - 0.97846) < 1e-5, "[%.6f, %.6f]", low, high);
    eval_interval(&low, &high, 10, 10);
    CHECK_MESSAGE(fabs(low - 0.72247) < 1e-5 && fabs(high - 1) < 1e-12, "[%.6f, %.6f]", low, high);
    eval_interval(&low, &high, 0, 10);
    CHECK(fabs(low) < 1e-12 && fabs(high - 0.27753) < 1e-5);
    eval_interval(&low, &high, 0, 0);
    CHECK(isnan(low) && isnan(high));
}

int main(void)
{
    static const char *const methods[] = {"dense", "block", "clsa", "quest"};
    check_begin();
    for (int i = 0; i < TEXT; i++) {
        text[i] = filler[i] = (char)check_range(check_range(0, 5) ? 'a' : ' ', 'z');
    }
    n_filler = task_plain_text(filler, TEXT);
    check_interval();
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        check_forks(methods[i]);
    }
    check_known_answers();
    check_bits("clsa");
    check_bits("token");
    return check_end();
}
