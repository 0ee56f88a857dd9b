// cli/command_eval.c - what methods do to answers, at several budgets and contexts; and whether two backends answer
// alike.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/eval_print.h"
#include "cli/interrupt.h"
#include "cli/measure.h"
#include "cli/models.h"
#include "engine/status.h"

enum { MAX_METHODS = 32, MAX_BUDGETS = 16, MAX_CONTEXTS = 16, LEAST_CONTEXT = 64, MOST_CONTEXT = 1 << 24 };

struct eval {
    // From the command line.
    const char *models, *methods, *tasks, *contexts, *depths, *budgets, *text, *device, *agree, *results, *commit,
        *driver;
    int32_t samples, batch, probes, text_documents, threads;
    int64_t seed;
    bool json, map;
    struct plan_flags flags;
    // Of the run.
    struct eval_options options;
    struct model_file *files[BACKBONE_COUNT];
    char *raw_text, *filler;    // owned
    int32_t context[MAX_CONTEXTS], budget[MAX_BUDGETS], n_contexts, n_budgets;
    struct plan *plans;    // [n_plans] owned: method by method, budget by budget
    int32_t n_plans;
    struct eval_run *runs, *others;    // [n_plans * n_contexts] owned; `others` only with --agree
    int32_t n_runs;
    char devices[2][32];
};

// ---------------------------------------------------------------------------------------------------------------------
// Lists

// Whole numbers with commas between, each in [low, high].
static int parse_numbers(int32_t *out, int32_t *n, int32_t max, const char *flag, const char *text, int64_t low,
                         int64_t high)
{
    char list[512];
    *n = 0;
    if (snprintf(list, sizeof list, "%s", text) >= (int)sizeof list) {
        return status_fail(-EINVAL, "--%s: longer than %zu characters", flag, sizeof list);
    }
    for (char *item = strtok(list, ","); item; item = strtok(NULL, ",")) {
        int64_t value;
        if (!options_whole(item, &value) || value < low || value > high) {
            return status_fail(-EINVAL, "--%s: %s: expected whole numbers from %lld to %lld, with commas between", flag,
                               item, (long long)low, (long long)high);
        }
        if (*n == max) {
            return status_fail(-EINVAL, "--%s: more than %d", flag, max);
        }
        out[(*n)++] = (int32_t)value;
    }
    return *n ? 0 : status_fail(-EINVAL, "--%s: expected at least one number", flag);
}

static int parse_tasks(struct eval *eval)
{
    char list[256];
    snprintf(list, sizeof list, "%s", eval->tasks);
    for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        enum task task;
        int error = task_from_name(&task, name);
        for (int32_t i = 0; i < eval->options.n_tasks && !error; i++) {
            error = eval->options.tasks[i] == task ? status_fail(-EINVAL, "%s is named twice", name) : 0;
        }
        if (error) {
            return status_prefix(error, "--tasks: ");
        }
        eval->options.tasks[eval->options.n_tasks++] = task;
    }
    return eval->options.n_tasks ? 0 : status_fail(-EINVAL, "--tasks: none named");
}

// Two devices, "cpu,reference".
static int parse_devices(struct eval *eval)
{
    int second = -1;
    if (!eval->agree) {
        snprintf(eval->devices[0], sizeof eval->devices[0], "%s", eval->device);
        return 0;
    }
    const char *comma = strchr(eval->agree, ',');
    if (comma && !strchr(comma + 1, ',') && comma - eval->agree < (int)sizeof eval->devices[0]) {
        snprintf(eval->devices[0], sizeof eval->devices[0], "%.*s", (int)(comma - eval->agree), eval->agree);
        second = snprintf(eval->devices[1], sizeof eval->devices[1], "%s", comma + 1);
    }
    return eval->devices[0][0] && second > 0 && second < (int)sizeof eval->devices[1]
               ? 0
               : status_fail(-EINVAL, "--agree %s: expected two devices with a comma between, as cpu,reference",
                             eval->agree);
}

// ---------------------------------------------------------------------------------------------------------------------
// Preparations

static int read_text(struct eval *eval)
{
    int32_t *tokens = NULL, n = 0;
    if (!eval->text) {
        return status_fail(-EINVAL, "give the text that hides the answers as --text FILE");
    }
    int error = measure_read_prompt(&tokens, &n, eval->text);
    if (error) {
        return error;
    }
    size_t length = (size_t)n - 1;    // without the token that begins it
    eval->raw_text = malloc(length + 1);
    eval->filler = malloc(length + 1);
    if (!eval->raw_text || !eval->filler) {
        free(tokens);
        return status_fail(-ENOMEM, "%s: out of memory", eval->text);
    }
    for (size_t i = 0; i < length; i++) {
        eval->raw_text[i] = eval->filler[i] = (char)tokens[i + 1];
    }
    free(tokens);
    eval->options.text = eval->raw_text;
    eval->options.n_text = length;
    eval->options.filler = eval->filler;
    eval->options.n_filler = task_plain_text(eval->filler, length);
    return 0;
}

// Bits per byte need at least one whole document of text at each context.
static int check_text(const struct eval *eval)
{
    for (int32_t c = 0; c < eval->n_contexts && eval->options.text_documents > 0; c++) {
        if (eval->options.n_text < (size_t)eval->context[c] - 1) {
            return status_fail(-EINVAL,
                               "%s: %zu bytes of text: a context of %d needs %d for bits per byte; give a longer text, "
                               "a shorter context or --text-documents 0",
                               eval->text, eval->options.n_text, eval->context[c], eval->context[c] - 1);
        }
    }
    return 0;
}

// Every task must fit into every context.
static int check_tasks(const struct eval *eval)
{
    const struct eval_options *options = &eval->options;
    int error = 0;
    for (int32_t i = 0; i < eval->n_contexts * options->n_tasks && !error; i++) {
        struct task_options try = {
            .task = options->tasks[i % options->n_tasks],
            .context_tokens = eval->context[i / options->n_tasks],
            .filler = options->filler,
            .n_filler = options->n_filler,
            .depths = options->depths,
            .n_depths = options->n_depths,
        };
        struct task_document document;
        error = task_document_make(&document, &try);
        task_document_free(&document);
    }
    return error;
}

// One plan per method and budget; one per method that selects nothing. A budget that is no multiple of a method's unit
// is left out, and that is said.
static int build_plans(struct eval *eval)
{
    const struct method_info *methods[MAX_METHODS];
    int32_t n_methods;
    int error = methods_choose(methods, &n_methods, MAX_METHODS, eval->methods);
    error = error ? error : models_open(eval->files, eval->models, &eval->flags, (uint64_t)eval->seed);
    if (!error) {
        methods_keep_served(methods, &n_methods, eval->files, &eval->flags, eval->methods, eval->models);
    }
    eval->plans = calloc((size_t)MAX_METHODS * MAX_BUDGETS, sizeof *eval->plans);
    if (!error && !eval->plans) {
        error = status_fail(-ENOMEM, "out of memory for plans");
    }
    for (int32_t m = 0; m < n_methods && !error; m++) {
        struct plan native;
        struct plan_flags flags = eval->flags;
        flags.options.block_tokens = 0;    // is for methods that select blocks: tokens stay tokens
        error = models_plan(&native, eval->files, methods[m], &flags, eval->models);
        bool selects = !error && native.index.budget_tokens > 0, blocks = selects && native.index.unit_tokens > 1;
        flags.options.block_tokens = blocks ? eval->flags.options.block_tokens : 0;
        int32_t unit = flags.options.block_tokens ? flags.options.block_tokens : selects ? native.index.unit_tokens : 1;
        for (int32_t b = 0; b < (selects ? eval->n_budgets : 1) && !error; b++) {
            if (selects && eval->budget[b] % unit != 0) {
                fprintf(stderr, "clsa eval: %s selects %d tokens at a time: a budget of %d is left out\n",
                        methods[m]->name, unit, eval->budget[b]);
                continue;
            }
            flags.options.top_k = selects ? eval->budget[b] : 0;
            error = models_plan(&eval->plans[eval->n_plans], eval->files, methods[m], &flags, eval->models);
            eval->n_plans += !error;
        }
    }
    return error           ? error
           : eval->n_plans ? 0
                           : status_fail(-EINVAL, "--top-k: no method can run with any of these budgets");
}

static int make_runs(struct eval *eval)
{
    eval->n_runs = eval->n_plans * eval->n_contexts;
    eval->runs = calloc((size_t)eval->n_runs, sizeof *eval->runs);
    eval->others = eval->agree ? calloc((size_t)eval->n_runs, sizeof *eval->others) : NULL;
    if (!eval->runs || (eval->agree && !eval->others)) {
        return status_fail(-ENOMEM, "out of memory for %d runs", eval->n_runs);
    }
    for (int32_t i = 0; i < eval->n_runs; i++) {
        const struct plan *plan = &eval->plans[i / eval->n_contexts];
        eval->runs[i] = (struct eval_run){.plan = plan,
                                          .model = eval->files[plan->shape.backbone],
                                          .context_tokens = eval->context[i % eval->n_contexts]};
        if (eval->others) {
            eval->others[i] = eval->runs[i];
        }
    }
    return 0;
}

static int prepare(struct eval *eval)
{
    struct eval_options *options = &eval->options;
    int32_t percent[EVAL_MAX_DEPTHS];
    options->samples = eval->samples;
    options->batch = eval->batch;
    options->probes = eval->probes;
    options->text_documents = eval->agree ? 0 : eval->text_documents;
    options->leads = eval->agree != NULL;
    options->threads = eval->threads;
    options->seed = (uint64_t)eval->seed;
    int error = plan_flags_resolve(&eval->flags);
    error = error ? error : parse_tasks(eval);
    error = error ? error : parse_devices(eval);
    error = error ? error
                  : parse_numbers(eval->context, &eval->n_contexts, MAX_CONTEXTS, "context", eval->contexts,
                                  LEAST_CONTEXT, MOST_CONTEXT);
    error =
        error ? error : parse_numbers(eval->budget, &eval->n_budgets, MAX_BUDGETS, "top-k", eval->budgets, 1, 1 << 24);
    error = error ? error : parse_numbers(percent, &options->n_depths, EVAL_MAX_DEPTHS, "depths", eval->depths, 0, 100);
    for (int32_t i = 0; i < options->n_depths && !error; i++) {
        options->depths[i] = percent[i] / 100.0;
    }
    error = error ? error : read_text(eval);
    error = error ? error : check_text(eval);
    error = error ? error : check_tasks(eval);
    error = error ? error : build_plans(eval);
    return error ? error : make_runs(eval);
}

// ---------------------------------------------------------------------------------------------------------------------
// The runs

static int run_one(struct eval *eval, int32_t i, struct progress *progress, int64_t *advanced)
{
    struct eval_run *run = &eval->runs[i];
    int error = eval_ask(run, eval->devices[0], &eval->options, progress, advanced);
    if (!error && eval->others) {
        error = eval_ask(&eval->others[i], eval->devices[1], &eval->options, progress, advanced);
    }
    if (!error && eval->options.text_documents > 0) {
        error = eval_read(run, eval->devices[0], &eval->options, progress, advanced);
    }
    return error ? status_prefix(error, "%s, context %d: ", run->plan->method, run->context_tokens) : 0;
}

static int run_all(struct eval *eval, int64_t *advanced)
{
    const struct eval_options *options = &eval->options;
    int64_t questions = (int64_t)options->n_tasks * options->samples;
    int64_t total = eval->n_runs * (questions * (eval->others ? 2 : 1) + options->text_documents);
    struct progress progress;
    int error = 0;
    interrupt_catch();
    progress_begin(&progress, "clsa eval", total);
    for (int32_t i = 0; i < eval->n_runs && !error; i++) {
        error = run_one(eval, i, &progress, advanced);
    }
    progress_end(&progress);
    return error;
}

// What was done until a failure or a signal is shown too.
static int show(const struct eval *eval, int error)
{
    const struct eval_results results = {.options = &eval->options,
                                         .runs = eval->runs,
                                         .others = eval->others,
                                         .n_runs = eval->n_runs,
                                         .devices = {eval->devices[0], eval->devices[1]},
                                         .maps = eval->map};
    char why[512];
    snprintf(why, sizeof why, "%s", status_text());    // the run's own text, if it has failed
    int show_error = (eval->json ? eval_print_json : eval_print)(&results);
    if (eval->results && !show_error) {
        show_error = eval_append(&results, eval->results, eval->commit, eval->driver);
    }
    return error ? status_fail(error, "%s", why) : show_error;
}

static void eval_free(struct eval *eval)
{
    for (int32_t i = 0; i < eval->n_runs && eval->runs; i++) {
        eval_run_free(&eval->runs[i]);
        eval_run_free(eval->others ? &eval->others[i] : NULL);
    }
    for (int32_t b = 0; b < BACKBONE_COUNT; b++) {
        model_file_close(eval->files[b]);
    }
    free(eval->runs);
    free(eval->others);
    free(eval->plans);
    free(eval->raw_text);
    free(eval->filler);
}

int command_eval(int argc, char **argv)
{
    struct eval eval = {
        .models = "demo",
        .methods = "dense,token,indexcache,block,quest,yoco,clsa,clsa-block,yoco-token",
        .tasks = "passkey,multikey",
        .contexts = "1024,8192",
        .depths = "0,25,50,75,100",
        .budgets = "64,256",
        .device = "cpu",
        .commit = "-",
        .driver = "-",
        .samples = 40,
        .probes = 4,
        .text_documents = 2,
        .seed = 1,
        .flags = plan_flags_default(),
    };
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &eval.models, 0, 0, "NAME|FOLDER[,FOLDER]",
         "a size (random weights), demo (trained) or one folder per backbone"},
        {"methods", OPTION_TEXT, &eval.methods, 0, 0, "M,M,...|all", "methods to evaluate"},
        {"tasks", OPTION_TEXT, &eval.tasks, 0, 0, "T,T,...", "passkey, multikey, variables, copy, frequent"},
        {"text", OPTION_TEXT, &eval.text, 0, 0, "FILE",
         "text that hides the answers, and that is read for bits per byte"},
        {"context", OPTION_TEXT, &eval.contexts, 0, 0, "tokens,...",
         "lengths of documents, question and answer included"},
        {"depths", OPTION_TEXT, &eval.depths, 0, 0, "percent,...", "where in a document the answer lies, in turn"},
        {"top-k", OPTION_TEXT, &eval.budgets, 0, 0, "tokens,...",
         "budgets of the methods that select; blocks of as many tokens"},
        {"samples", OPTION_INT, &eval.samples, 1, 1 << 20, "questions", "of each task, method, budget and context"},
        {"probes", OPTION_INT, &eval.probes, 0, 1 << 20, "questions",
         "of those, at most so many whose selections are measured"},
        {"text-documents", OPTION_INT, &eval.text_documents, 0, 1 << 20, "documents",
         "of text for bits per byte, while the text lasts"},
        {"device", OPTION_TEXT, &eval.device, 0, 0, "cpu|reference|cuda[:N]", "backend"},
        {"agree", OPTION_TEXT, &eval.agree, 0, 0, "DEVICE,DEVICE", "ask both, and show how many answers are the same"},
        {"batch", OPTION_INT, &eval.batch, 1, 64, "documents",
         "prefilled together (default: 1, on a GPU as many as fill it)"},
        {"threads", OPTION_INT, &eval.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        {"seed", OPTION_LONG, &eval.seed, 0, 9e18, "N", "of the documents, and of random weights"},
        {"map", OPTION_FLAG, &eval.map, 0, 0, NULL,
         "also print accuracy by depth and context, a map per task and method"},
        {"json", OPTION_FLAG, &eval.json, 0, 0, NULL, "print JSON"},
        {"results", OPTION_OUTPUT, &eval.results, 0, 0, "FILE", "append rows of results to this file"},
        {"commit", OPTION_TEXT, &eval.commit, 0, 0, "ID", "for those rows"},
        {"driver", OPTION_TEXT, &eval.driver, 0, 0, "VERSION", "for those rows"},
        PLAN_OTHER_OPTIONS(eval.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"eval", "What methods do to answers.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    error = error ? error : prepare(&eval);
    if (!error) {
        int64_t advanced = 0;
        error = run_all(&eval, &advanced);
        error = advanced > 0 ? show(&eval, error) : error;
    }
    eval_free(&eval);
    return error ? command_fail("eval", error) : EXIT_DONE;
}
