// engine/engine.c - an engine's life, and the requests that it takes. engine_step.c runs them.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cost.h"
#include "engine/engine_state.h"
#include "engine/status.h"

// Beyond any machine, and low enough that products of them with a checked plan's sizes stay within 64 bits.
enum { MAX_SEQS = 1 << 16, MAX_CONTEXT = 1 << 27, MAX_STEP_TOKENS = 1 << 20 };
enum { DEFAULT_CONTEXT = 8192, DEFAULT_STEP_TOKENS = 512, DEFAULT_STAGE_EVERY = 64 };

// ---------------------------------------------------------------------------------------------------------------------
// Life

static int check_option(const char *name, int64_t value, int64_t low, int64_t high)
{
    return value >= low && value <= high ? 0 : status_fail(-EINVAL, "%s is %lld: expected %lld to %lld", name,
                                                           (long long)value, (long long)low, (long long)high);
}

// Replaces zeros by defaults and checks the rest.
static int complete_options(struct engine_options *o, const struct plan *plan)
{
    o->backend = o->backend ? o->backend : "cpu";
    o->max_seqs = o->max_seqs ? o->max_seqs : 1;
    o->max_context = o->max_context ? o->max_context : DEFAULT_CONTEXT;
    o->max_step_tokens = o->max_step_tokens ? o->max_step_tokens : DEFAULT_STEP_TOKENS;
    o->stage_every = o->stage_every ? o->stage_every : DEFAULT_STAGE_EVERY;
    int error = check_option("threads", o->threads, 0, 1 << 16);
    error = error ? error : check_option("max_seqs", o->max_seqs, 1, MAX_SEQS);
    error = error ? error : check_option("max_context", o->max_context, 1, MAX_CONTEXT);
    error = error ? error : check_option("max_step_tokens", o->max_step_tokens, 1, MAX_STEP_TOKENS);
    if (!error && o->reuse_prefixes && o->every_position) {
        error = status_fail(-EINVAL, "every_position and reuse_prefixes: expected one of them; reused rows do not run");
    }
    error = error ? error : check_option("snapshots", o->snapshots, 0, MAX_SEQS);
    int64_t most_tokens = INT32_MAX - plan->page_tokens;
    error = error ? error : check_option("cache_tokens", o->cache_tokens, CACHE_ALL_FREE, most_tokens);
    if (error) {
        return error;
    }
    bool windows = o->reuse_prefixes && plan_kv_bytes_per_sequence(plan) > 0;
    o->snapshots = !windows ? 0 : o->snapshots ? o->snapshots : PREFIX_SNAPSHOTS;
    int32_t unit = plan_prefix_unit(plan);
    o->prefix_tokens = o->prefix_tokens ? o->prefix_tokens : unit;
    if (o->prefix_tokens < unit || o->prefix_tokens % unit != 0) {
        return status_fail(-EINVAL, "prefixes in multiples of %d tokens: expected a multiple of %d, of whole pages",
                           o->prefix_tokens, unit);
    }
    int64_t sequence_pages = (o->max_context - 1) / plan->page_tokens + 1;
    if (o->cache_tokens == 0 && sequence_pages * o->max_seqs * plan->page_tokens > INT32_MAX) {
        return status_fail(-EINVAL, "%d sequences of %d tokens: expected at most %d tokens in all; lower one of them "
                           "or give the cache its own size", o->max_seqs, o->max_context, INT32_MAX);
    }
    if (o->cache_tokens == 0) {
        o->cache_tokens = (int32_t)(sequence_pages * o->max_seqs * plan->page_tokens);
    }
    return 0;
}

static int load_matrix(struct engine *engine, struct matrix *out, const struct matrix *host)
{
    *out = *host;
    return host->data ? engine->backend->weight_load(engine->context, out, host) : 0;
}

static int load_layer(struct engine *engine, struct layer_weights *out, const struct layer_weights *host)
{
    struct matrix *to[] = {&out->attention_norm, &out->q, &out->k, &out->v, &out->output, &out->q_norm, &out->k_norm,
                           &out->ffn_norm, &out->gate, &out->up, &out->down, &out->index.q, &out->index.k,
                           &out->index.gate, &out->index.k_norm, &out->index.k_norm_bias};
    const struct matrix *from[] = {&host->attention_norm, &host->q, &host->k, &host->v, &host->output, &host->q_norm,
                                   &host->k_norm, &host->ffn_norm, &host->gate, &host->up, &host->down, &host->index.q,
                                   &host->index.k, &host->index.gate, &host->index.k_norm, &host->index.k_norm_bias};
    int error = 0;
    for (size_t i = 0; i < sizeof to / sizeof *to && !error; i++) {
        error = load_matrix(engine, to[i], from[i]);
    }
    return error;
}

static int load_weights(struct engine *engine)
{
    struct model_weights host, *out = &engine->weights;
    int error = model_file_weights(engine->options.model, &engine->plan, &host);
    if (error) {
        return error;
    }
    out->layers = calloc((size_t)engine->plan.shape.n_layers, sizeof *out->layers);
    if (!out->layers) {
        return status_fail(-ENOMEM, "no memory to name the weights of %d layers", engine->plan.shape.n_layers);
    }
    for (int32_t l = 0; l < engine->plan.shape.n_layers && !error; l++) {
        error = load_layer(engine, &out->layers[l], &host.layers[l]);
    }
    error = error ? error : load_matrix(engine, &out->embedding, &host.embedding);
    error = error ? error : load_matrix(engine, &out->memory_norm, &host.memory_norm);
    error = error ? error : load_matrix(engine, &out->memory_k, &host.memory_k);
    error = error ? error : load_matrix(engine, &out->memory_v, &host.memory_v);
    error = error ? error : load_matrix(engine, &out->final_norm, &host.final_norm);
    error = error ? error : load_matrix(engine, &out->head, &host.head);
    return error ? status_prefix(error, "weights: ") : 0;
}

static int open_step(struct engine *engine)
{
    const struct engine_options *o = &engine->options;
    size_t seqs = (size_t)o->max_seqs, last = (size_t)engine->max_logit_rows;
    int32_t max_pages = (o->max_context - 1) / engine->plan.page_tokens + 1;
    engine->scheduled = calloc(seqs, sizeof *engine->scheduled);
    engine->last_row = calloc(seqs, sizeof *engine->last_row);
    engine->sampling = calloc(last, sizeof *engine->sampling);
    engine->drawn = calloc(last, sizeof *engine->drawn);
    engine->ended = calloc(seqs, sizeof *engine->ended);
    engine->preempted = calloc(seqs, sizeof *engine->preempted);
    engine->finished = calloc(seqs, sizeof *engine->finished);
    engine->outputs = calloc(seqs, sizeof *engine->outputs);
    engine->units = calloc((size_t)plan_budget_units(&engine->plan) + 1, sizeof *engine->units);
    if (!engine->scheduled || !engine->last_row || !engine->sampling || !engine->drawn || !engine->ended ||
        !engine->preempted || !engine->finished || !engine->outputs || !engine->units) {
        return status_fail(-ENOMEM, "no memory for steps of %d sequences", o->max_seqs);
    }
    return step_batch_open(&engine->batch, o->max_seqs, o->max_step_tokens, max_pages);
}

static uint64_t prompt_key(const void *user, int64_t request, int32_t tokens)
{
    const struct engine *engine = user;
    return engine->requests[request]->keys[tokens / engine->plan.page_tokens - 1];
}

static int open_parts(struct engine *engine)
{
    struct engine_options *o = &engine->options;
    int error = backend_find(&engine->backend, o->backend);
    struct backend_options backend_options = {.plan = &engine->plan,
                                              .threads = o->threads,
                                              .device = o->device,
                                              .max_rows = o->max_step_tokens,
                                              .max_seqs = o->max_seqs,
                                              .max_context = o->max_context};
    int32_t n_pages = (o->cache_tokens - 1) / engine->plan.page_tokens + 1;
    error = error ? error : engine->backend->open(&engine->context, &backend_options);
    error = error ? error : engine_check_room(engine, o->cache_tokens == CACHE_ALL_FREE ? 1 : n_pages);
    error = error ? error : load_weights(engine);
    if (error) {
        return error;
    }
    struct forward_options forward_options = {.backend = engine->backend,
                                              .context = engine->context,
                                              .plan = &engine->plan,
                                              .weights = &engine->weights,
                                              .observer = o->observer,
                                              .max_rows = o->max_step_tokens,
                                              .max_logit_rows = engine->max_logit_rows,
                                              .max_context = o->max_context,
                                              .stage_every = o->stage_every > 0 ? o->stage_every : 0,
                                              .eager = o->eager};
    error = forward_open(&engine->forward, &forward_options);
    error = error ? error : open_step(engine);
    if (!error && o->cache_tokens == CACHE_ALL_FREE) {
        error = engine_pages_that_fit(&n_pages, engine);
    }
    struct scheduler_options scheduler_options = {.max_seqs = o->max_seqs, .max_step_tokens = o->max_step_tokens};
    if (o->reuse_prefixes) {
        scheduler_options.prefix = (struct prefix_options){.key = prompt_key,
                                                           .user = engine,
                                                           .unit_tokens = o->prefix_tokens,
                                                           .has_windows = o->snapshots > 0,
                                                           .n_snapshots = o->snapshots};
    }
    error = error ? error : kv_pages_open(&engine->pages, n_pages, engine->plan.page_tokens, o->max_seqs);
    error = error ? error : scheduler_open(&engine->scheduler, &scheduler_options, engine->pages);
    error = error ? error : engine_open_cache(engine, n_pages);
    if (!error) {
        forward_use_cache(engine->forward, engine->cache);
    }
    return error;
}

int engine_open(struct engine **out, const struct engine_options *options)
{
    *out = NULL;
    int error = plan_check_runnable(options->plan);
    if (error) {
        return error;
    }
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) {
        return status_fail(-ENOMEM, "no memory for an engine");
    }
    engine->plan = *options->plan;
    engine->options = *options;
    engine->options.plan = &engine->plan;
    error = complete_options(&engine->options, &engine->plan);
    if (!error) {
        int32_t rows = engine->options.max_step_tokens, seqs = engine->options.max_seqs;
        engine->max_logit_rows = options->every_position || rows < seqs ? rows : seqs;
        error = open_parts(engine);
    }
    if (error) {
        engine_close(engine);
        return error;
    }
    *out = engine;
    return 0;
}

void engine_free_request(struct request *request)
{
    if (request) {
        free(request->tokens);
        free(request->forced);
        free(request->keys);
        free(request);
    }
}

void engine_close(struct engine *engine)
{
    if (!engine) {
        return;
    }
    forward_close(engine->forward);
    kv_cache_close(engine->cache);
    scheduler_close(engine->scheduler);
    kv_pages_close(engine->pages);
    if (engine->backend) {
        engine->backend->close(engine->context);
    }
    for (int64_t id = 0; id < engine->n_requests; id++) {
        engine_free_request(engine->requests[id]);
    }
    step_batch_close(&engine->batch);
    free(engine->requests);
    free(engine->weights.layers);
    free(engine->scheduled);
    free(engine->last_row);
    free(engine->sampling);
    free(engine->drawn);
    free(engine->ended);
    free(engine->preempted);
    free(engine->finished);
    free(engine->outputs);
    free(engine->units);
    free(engine->logits);
    free(engine);
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests

static int check_tokens(const char *what, const int32_t *tokens, int32_t n, int32_t vocab)
{
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= vocab) {
            return status_fail(-EINVAL, "%s token %d is %d: expected 0 to %d, the model's vocabulary", what, i,
                               tokens[i], vocab - 1);
        }
    }
    return 0;
}

static int check_request(const struct engine *engine, const struct engine_request *request)
{
    int32_t vocab = engine->plan.shape.vocab, max_context = engine->options.max_context;
    int error = check_option("prompt tokens", request->n_prompt, 1, max_context);
    error = error ? error : check_option("output tokens", request->max_output_tokens, 1, INT32_MAX);
    if (!error && (int64_t)request->n_prompt + request->max_output_tokens > max_context) {
        error = status_fail(-EINVAL, "a prompt of %d tokens and %d of output: expected at most %d together, the "
                            "engine's context", request->n_prompt, request->max_output_tokens, max_context);
    }
    if (!error && !(request->temperature >= 0 && request->temperature <= 1e6f)) {
        error = status_fail(-EINVAL, "temperature is %g: expected 0 to 1e6", (double)request->temperature);
    }
    if (!error && !(request->top_p >= 0 && request->top_p <= 1)) {
        error = status_fail(-EINVAL, "top-p is %g: expected more than 0, up to 1", (double)request->top_p);
    }
    error = error ? error : check_tokens("prompt", request->prompt, request->n_prompt, vocab);
    if (!error && request->forced) {
        error = check_tokens("forced", request->forced, request->max_output_tokens, vocab);
    }
    return error;
}

// A key for every whole page of the prompt. Each goes on from the one before, and so stands for all tokens up to there;
// 64 bits keep chance from mixing up prompts, not somebody who wants to.
static uint64_t *make_keys(const struct engine *engine, const int32_t *prompt, int32_t n_prompt)
{
    int32_t page_tokens = engine->plan.page_tokens;
    uint64_t *keys = malloc((size_t)(n_prompt / page_tokens) * sizeof *keys + 1), key = 14695981039346656037u;
    for (int32_t i = 0; keys && i < n_prompt / page_tokens * page_tokens; i++) {
        key = (key ^ (uint64_t)prompt[i]) * 1099511628211u;
        key ^= key >> 32;
        keys[i / page_tokens] = key;
    }
    return keys;
}

static struct request *copy_request(const struct engine *engine, const struct engine_request *from, int64_t id)
{
    struct request *request = calloc(1, sizeof *request);
    if (!request) {
        return NULL;
    }
    size_t n_prompt = (size_t)from->n_prompt, n_output = (size_t)from->max_output_tokens;
    request->id = id;
    request->n_prompt = from->n_prompt;
    request->max_output = from->max_output_tokens;
    request->stop_at_end = from->stop_at_end;
    request->sampling = (struct sampling){.temperature = from->temperature,
                                          .top_p = from->top_p > 0 ? from->top_p : 1.0f,
                                          .seed = from->seed,
                                          .request = id};
    request->tokens = calloc(n_prompt + n_output, sizeof *request->tokens);
    request->forced = from->forced ? calloc(n_output, sizeof *request->forced) : NULL;
    request->keys = engine->options.reuse_prefixes ? make_keys(engine, from->prompt, from->n_prompt) : NULL;
    if (!request->tokens || (from->forced && !request->forced) || (engine->options.reuse_prefixes && !request->keys)) {
        engine_free_request(request);
        return NULL;
    }
    memcpy(request->tokens, from->prompt, n_prompt * sizeof *request->tokens);
    if (from->forced) {
        memcpy(request->forced, from->forced, n_output * sizeof *request->forced);
        request->forced_end = from->max_output_tokens;
    }
    return request;
}

// A place for one request more in the list.
static int grow_requests(struct engine *engine)
{
    if (engine->n_requests < engine->requests_capacity) {
        return 0;
    }
    int64_t capacity = engine->requests_capacity ? 2 * engine->requests_capacity : 16;
    struct request **grown = realloc(engine->requests, (size_t)capacity * sizeof(struct request *));
    if (!grown) {
        return status_fail(-ENOMEM, "no memory for %lld requests", (long long)capacity);
    }
    engine->requests = grown;
    engine->requests_capacity = capacity;
    return 0;
}

int engine_submit(struct engine *engine, const struct engine_request *request, int64_t *id)
{
    int error = check_request(engine, request);
    error = error ? error : grow_requests(engine);
    if (error) {
        return error;
    }
    struct request *copy = copy_request(engine, request, engine->n_requests);
    if (!copy) {
        return status_fail(-ENOMEM, "no memory for a request of %d tokens", request->n_prompt);
    }
    error = scheduler_submit(engine->scheduler, copy->id, copy->n_prompt, copy->max_output);
    if (error) {
        engine_free_request(copy);
        return error;
    }
    *id = copy->id;
    engine->requests[engine->n_requests++] = copy;
    engine_tell_request(engine, copy, REQUEST_SUBMITTED, -1);
    return 0;
}

// The same request once more, with what it has drawn.
static struct request *copy_running(const struct engine *engine, const struct request *from, int64_t id)
{
    struct engine_request again = {.prompt = from->tokens, .n_prompt = from->n_prompt,
                                   .max_output_tokens = from->max_output,
                                   .stop_at_end = from->stop_at_end, .temperature = from->sampling.temperature,
                                   .top_p = from->sampling.top_p, .seed = from->sampling.seed, .forced = from->forced};
    struct request *copy = copy_request(engine, &again, id);
    if (copy) {
        memcpy(copy->tokens + copy->n_prompt, from->tokens + from->n_prompt,
               (size_t)from->n_output * sizeof *copy->tokens);
        copy->n_output = from->n_output;
        copy->forced_end = from->forced_end;
        copy->started = true;
    }
    return copy;
}

int engine_fork(struct engine *engine, int64_t of, int64_t *id)
{
    const struct request *original = of >= 0 && of < engine->n_requests ? engine->requests[of] : NULL;
    if (!original) {
        return status_fail(-EINVAL, "request %lld does not run: it cannot be forked", (long long)of);
    }
    int error = grow_requests(engine);
    struct request *copy = error ? NULL : copy_running(engine, original, engine->n_requests);
    if (!copy) {
        return error ? error : status_fail(-ENOMEM, "no memory for a request of %d tokens", original->n_prompt);
    }
    int32_t from, to, n_from, n_to;
    error = scheduler_fork(engine->scheduler, of, copy->id, &from, &to);
    if (error) {
        engine_free_request(copy);
        return error;
    }
    *id = copy->id;
    engine->requests[engine->n_requests++] = copy;
    const int32_t *from_pages = kv_pages_table(engine->pages, from, &n_from);
    const int32_t *to_pages = kv_pages_table(engine->pages, to, &n_to);
    error = kv_cache_copy(engine->cache, from_pages, to_pages, n_to, from, to);
    engine->failed = error;    // its pages hold nothing that could be attended to
    for (int state = REQUEST_SUBMITTED; state <= REQUEST_FIRST_TOKEN && !error; state++) {
        engine_tell_request(engine, copy, (enum request_state)state, state == REQUEST_SUBMITTED ? -1 : engine->steps);
    }
    return error;
}

int engine_force(struct engine *engine, int64_t id, const int32_t *tokens, int32_t n)
{
    struct request *request = id >= 0 && id < engine->n_requests ? engine->requests[id] : NULL;
    if (!request) {
        return status_fail(-EINVAL, "request %lld neither waits nor runs: nothing can be forced on it", (long long)id);
    }
    int error = check_option("forced tokens", n, 0, request->max_output - request->n_output);
    error = error ? error : check_tokens("forced", tokens, n, engine->plan.shape.vocab);
    if (!error && !request->forced) {
        request->forced = calloc((size_t)request->max_output, sizeof *request->forced);
        error = request->forced ? 0 : status_fail(-ENOMEM, "no memory for %d forced tokens", request->max_output);
    }
    if (!error) {
        memcpy(request->forced + request->n_output, tokens, (size_t)n * sizeof *tokens);
        request->forced_end = request->n_output + n;
    }
    return error;
}
