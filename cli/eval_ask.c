// cli/eval_ask.c - documents and their questions through an engine.
//
// A batch of documents is prefilled whole, in one step where there are several, so that from then on all sequences
// decode together. When a document's first token is there (a newline, with which every question begins), it is forked
// for its other questions.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/eval.h"
#include "cli/interrupt.h"
#include "cli/measure.h"
#include "engine/status.h"
#include "engine/tokenizer.h"

// Rows of one prefill step that keep a GPU busy without filling its memory with activations and selections.
enum { DEVICE_BATCH_TOKENS = 32768, MAX_BATCH = 64 };

struct asked {    // one question: one sequence
    int64_t request;
    const struct task_question *question;
    struct eval_answer *answer;
    int32_t next;    // index of its next output
    bool probed;
};

struct asking {
    struct eval_run *run;
    const struct eval_options *options;
    struct engine *engine;
    int32_t batch, max_questions, engine_context;
    int32_t *prompt;                    // [context_tokens]
    struct task_document *documents;    // [batch]
    struct asked *asked;                // [batch * max_questions], of which n_asked are in use
    int32_t n_asked, n_probed;
    struct eval_probe *probe;
    struct progress *progress;
    int64_t *advanced;
};

static int32_t most_questions(const struct eval_options *options, int32_t context_tokens)
{
    int32_t most = 1;
    for (int32_t t = 0; t < options->n_tasks; t++) {
        int32_t n = task_questions(options->tasks[t], context_tokens, options->n_depths);
        most = n > most ? n : most;
    }
    return most;
}

static int32_t choose_batch(const struct eval_options *options, const char *device, int32_t context_tokens)
{
    int32_t fitting = DEVICE_BATCH_TOKENS / context_tokens, batch = options->batch;
    if (batch == 0) {
        batch = strncmp(device, "cuda", 4) == 0 && fitting > 1 ? fitting : 1;
    }
    return batch < MAX_BATCH ? batch : MAX_BATCH;
}

static int open_asking(struct asking *a, const char *device)
{
    const struct eval_options *options = a->options;
    int32_t context = a->run->context_tokens, number;
    char backend[32];
    a->batch = choose_batch(options, device, context);
    a->max_questions = most_questions(options, context);
    a->engine_context = context;
    a->prompt = malloc((size_t)context * sizeof *a->prompt);
    a->documents = calloc((size_t)a->batch, sizeof *a->documents);
    a->asked = calloc((size_t)(a->batch * a->max_questions), sizeof *a->asked);
    if (!a->prompt || !a->documents || !a->asked) {
        return status_fail(-ENOMEM, "no memory for %d documents of %d tokens", a->batch, context);
    }
    int error = measure_device(backend, sizeof backend, &number, device);
    struct engine_options engine_options = {
        .plan = a->run->plan,
        .model = a->run->model,
        .backend = backend,
        .device = number,
        .threads = options->threads,
        .max_seqs = a->batch * a->max_questions,
        .max_context = context,
        .max_step_tokens = a->batch > 1 ? a->batch * context : measure_chunk(device),
    };
    error = error ? error : engine_open(&a->engine, &engine_options);
    if (!error) {
        engine_source(a->engine, &a->run->source);
        engine_keep_logits(a->engine, options->leads);
    }
    return error;
}

static void close_asking(struct asking *a)
{
    engine_close(a->engine);
    eval_probe_free(a->probe);
    free(a->prompt);
    free(a->documents);
    free(a->asked);
}

// Forces what remains of a question from its byte `from` on.
static int force(struct asking *a, const struct asked *asked, int32_t from)
{
    int32_t tokens[TASK_TEXT_BYTES], n = 0;
    for (const char *c = asked->question->text + from; *c; c++) {
        tokens[n++] = (unsigned char)*c;
    }
    return engine_force(a->engine, asked->request, tokens, n);
}

static struct asked *add_asked(struct asking *a, int64_t request, const struct task_question *question,
                               struct eval_answer *answer, int32_t next)
{
    struct asked *asked = &a->asked[a->n_asked++];
    *asked = (struct asked){.request = request, .question = question, .answer = answer, .next = next};
    answer->depth = question->depth;
    answer->right = true;    // until a byte is wrong
    return asked;
}

// Gives the document to the engine, with its first question.
static int submit(struct asking *a, const struct task_document *document, struct eval_answer *answer, bool probed)
{
    const struct task_question *question = &document->questions[0];
    a->prompt[0] = TOKEN_BEGIN;
    for (int32_t i = 0; i < document->n_body; i++) {
        a->prompt[i + 1] = (unsigned char)document->body[i];
    }
    struct engine_request request = {
        .prompt = a->prompt,
        .n_prompt = document->n_body + 1,
        .max_output_tokens = (int32_t)(strlen(question->text) + strlen(question->answer)),
    };
    int64_t id;
    int error = engine_submit(a->engine, &request, &id);
    if (error) {
        return error;
    }
    struct asked *asked = add_asked(a, id, question, answer, 0);
    asked->probed = probed;
    return force(a, asked, 0);
}

// The document of `first` has its first token: its other questions begin from there. `n` questions in all.
static int fork_questions(struct asking *a, const struct asked *first, const struct task_document *document, int32_t n)
{
    int error = 0;
    for (int32_t q = 1; q < n && !error; q++) {
        int64_t id;
        error = engine_fork(a->engine, first->request, &id);
        error = error ? error : force(a, add_asked(a, id, &document->questions[q], first->answer + q, 1), 1);
    }
    return error;
}

static struct asked *find_asked(struct asking *a, int64_t request)
{
    for (int32_t i = 0; i < a->n_asked; i++) {
        if (a->asked[i].request == request) {
            return &a->asked[i];
        }
    }
    return NULL;
}

// Which byte of an answer the question's next output is; negative before the answer.
static int32_t answer_byte(const struct asked *asked)
{
    return asked->next - (int32_t)strlen(asked->question->text);
}

// How far the drawn token's logit is above the next best one's.
static float lead_of(const float *logits, int32_t vocab, int32_t drawn)
{
    float second = -INFINITY;
    for (int32_t i = 0; i < vocab; i++) {
        second = i != drawn && logits[i] > second ? logits[i] : second;
    }
    return logits[drawn] - second;
}

static void take_output(struct asking *a, struct asked *asked, const struct engine_output *output)
{
    int32_t byte = answer_byte(asked);
    asked->next++;
    if (byte >= 0) {
        struct eval_answer *answer = asked->answer;
        if (output->logits) {
            answer->lead[answer->n] = lead_of(output->logits, a->run->plan->shape.vocab, output->token);
        }
        answer->tokens[answer->n++] = output->token;
        answer->right &= output->token == (unsigned char)asked->question->answer[byte];
        answer->done = output->finished;
    }
    if (output->finished) {
        progress_update(a->progress, ++*a->advanced);
    }
}

// The selections are looked at where the first and the second byte of an answer are drawn.
static bool wants_probe(const struct asking *a)
{
    for (int32_t i = 0; i < a->n_asked; i++) {
        int32_t byte = answer_byte(&a->asked[i]);
        if (a->asked[i].probed && (byte == 0 || byte == 1)) {
            return true;
        }
    }
    return false;
}

static int step(struct asking *a, const int32_t *questions)
{
    const struct engine_output *outputs;
    bool probe = a->run->plan->index.budget_tokens > 0 && wants_probe(a);
    int error = engine_probe(a->engine, probe);
    error = error ? error : interrupt_check();
    int n = error ? error : engine_step(a->engine, &outputs);
    for (int i = 0; i < n && !error; i++) {    // the i-th output of a step that decodes is its i-th row
        struct asked *asked = find_asked(a, outputs[i].request);
        int32_t byte = answer_byte(asked);
        if (probe && asked->probed && (byte == 0 || byte == 1)) {
            error = eval_probe_row(&a->run->routing, &a->probe, a->engine, i, a->engine_context, byte == 0);
            a->run->n_probes += byte == 0;
        }
        take_output(a, asked, &outputs[i]);
        if (!error && outputs[i].index == 0) {
            int64_t document = asked - a->asked;    // documents were asked first, in their order
            error = fork_questions(a, asked, &a->documents[document], questions[document]);
        }
    }
    return error ? error : n;
}

// Documents [first, first + n) of one task.
static int ask_batch(struct asking *a, enum task task, int32_t first, int32_t n)
{
    const struct eval_options *options = a->options;
    int32_t each = task_questions(task, a->run->context_tokens, options->n_depths), questions[MAX_BATCH];
    int error = 0, n_outputs = 0;
    a->n_asked = 0;
    for (int32_t d = 0; d < n && !error; d++) {
        struct task_options document = {
            .task = task,
            .context_tokens = a->run->context_tokens,
            .filler = options->filler,
            .n_filler = options->n_filler,
            .depths = options->depths,
            .n_depths = options->n_depths,
            .seed = options->seed,
            .index = first + d,
        };
        int32_t sample = (first + d) * each, left = options->samples - sample;
        questions[d] = left < each ? left : each;
        error = task_document_make(&a->documents[d], &document);
        bool probed = d == 0 && a->n_probed < options->probes;    // one of a batch, whose documents decode together
        a->n_probed += probed;
        error = error ? error : submit(a, &a->documents[d], &a->run->answers[task][sample], probed);
    }
    while (!error && (n_outputs = step(a, questions)) >= 0) {
    }
    for (int32_t d = 0; d < n; d++) {
        task_document_free(&a->documents[d]);
    }
    return error ? error : n_outputs == -ENODATA ? 0 : n_outputs;
}

static int ask_task(struct asking *a, enum task task)
{
    int32_t each = task_questions(task, a->run->context_tokens, a->options->n_depths);
    int32_t n_documents = (a->options->samples - 1) / each + 1;
    int error = 0;
    a->n_probed = 0;
    a->run->answers[task] = calloc((size_t)a->options->samples, sizeof *a->run->answers[task]);
    if (!a->run->answers[task]) {
        return status_fail(-ENOMEM, "no memory for %d answers", a->options->samples);
    }
    for (int32_t first = 0; first < n_documents && !error; first += a->batch) {
        int32_t n = n_documents - first < a->batch ? n_documents - first : a->batch;
        error = ask_batch(a, task, first, n);
    }
    return error ? status_prefix(error, "%s: ", task_name(task)) : 0;
}

int eval_ask(struct eval_run *run, const char *device, const struct eval_options *options, struct progress *progress,
             int64_t *advanced)
{
    struct asking a = {.run = run, .options = options, .progress = progress, .advanced = advanced};
    int error = open_asking(&a, device);
    for (int32_t t = 0; t < options->n_tasks && !error; t++) {
        error = ask_task(&a, options->tasks[t]);
    }
    close_asking(&a);
    return error;
}

void eval_run_free(struct eval_run *run)
{
    for (int task = 0; run && task < TASK_COUNT; task++) {
        free(run->answers[task]);
        run->answers[task] = NULL;
    }
}
