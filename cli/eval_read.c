// cli/eval_read.c - bits per byte of a text that is forced, every position through every layer.
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "cli/eval.h"
#include "cli/interrupt.h"
#include "cli/measure.h"
#include "engine/status.h"
#include "engine/tokenizer.h"

struct reading {
    struct eval_run *run;
    const struct eval_options *options;
    struct engine *engine;
    int32_t *tokens;    // [context_tokens] of one document
};

// The bits that logits [vocab] give to `token`.
static double bits_of(const float *logits, int32_t vocab, int32_t token)
{
    double sum = 0;
    float greatest = logits[0];
    for (int32_t i = 1; i < vocab; i++) {
        greatest = logits[i] > greatest ? logits[i] : greatest;
    }
    for (int32_t i = 0; i < vocab; i++) {
        sum += (double)expf(logits[i] - greatest);
    }
    return (log(sum) + (double)greatest - (double)logits[token]) / log(2);
}

// One document of context_tokens: TOKEN_BEGIN and text from `first` on. The bits count once it is read whole.
static int read_document(struct reading *r, size_t first)
{
    int32_t n = r->run->context_tokens, vocab = r->run->plan->shape.vocab, position = 0, n_rows;
    r->tokens[0] = TOKEN_BEGIN;
    for (int32_t i = 1; i < n; i++) {
        r->tokens[i] = (unsigned char)r->options->text[first + (size_t)i - 1];
    }
    struct engine_request request = {.prompt = r->tokens, .n_prompt = n, .max_output_tokens = 1};
    const struct engine_output *outputs;
    int64_t id;
    double bits = 0;
    int error = engine_submit(r->engine, &request, &id);
    while (!error && position < n) {
        error = interrupt_check();
        int n_outputs = error ? error : engine_step(r->engine, &outputs);
        error = n_outputs < 0 ? n_outputs : 0;
        const float *logits = engine_logits(r->engine, &n_rows);
        for (int32_t row = 0; row < n_rows && !error; row++, position++) {
            if (position + 1 < n) {
                bits += bits_of(logits + (int64_t)row * vocab, vocab, r->tokens[position + 1]);
            }
        }
    }
    if (!error) {
        r->run->text_bits += bits;
        r->run->text_bytes += n - 1;
    }
    return error;
}

int eval_read(struct eval_run *run, const char *device, const struct eval_options *options, struct progress *progress,
              int64_t *advanced)
{
    struct reading r = {.run = run, .options = options};
    int32_t context = run->context_tokens, number, chunk = measure_chunk(device);
    size_t bytes = (size_t)context - 1;
    char backend[32];
    int error = measure_device(backend, sizeof backend, &number, device);
    struct engine_options engine_options = {
        .plan = run->plan,
        .model = run->model,
        .backend = backend,
        .device = number,
        .threads = options->threads,
        .max_seqs = 1,
        .max_context = context + 1,
        .max_step_tokens = chunk < context ? chunk : context,
        .every_position = true,
    };
    error = error ? error : engine_open(&r.engine, &engine_options);
    r.tokens = malloc((size_t)context * sizeof *r.tokens);
    if (!error && !r.tokens) {
        error = status_fail(-ENOMEM, "no memory for a document of %d tokens", context);
    }
    if (!error) {
        engine_source(r.engine, &run->source);
        engine_keep_logits(r.engine, true);
    }
    for (int32_t d = 0; d < options->text_documents && !error; d++) {
        size_t first = (size_t)d * bytes;
        if (first + bytes <= options->n_text) {
            error = read_document(&r, first);
        }
        progress_update(progress, ++*advanced);
    }
    engine_close(r.engine);
    free(r.tokens);
    return error;
}
