// cli/command_run.c - generate from a prompt: text, tokens/s, and the stage table.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/measure.h"
#include "cli/stages.h"
#include "cli/workload.h"
#include "engine/status.h"
#include "engine/tokenizer.h"
#include "traces/summary.h"
#include "tui/listen.h"

struct run {
    const char *model, *method, *prompt, *text, *device, *listen;
    int32_t context, output, batch, chunk, threads;
    int64_t seed;
    double temperature, top_p;
    bool json, answering;    // answering: something of the answer was printed
    struct plan_flags flags;
    int32_t *tokens, n_tokens;
    struct trace_summary *summary;
    struct listener *listener;    // NULL: nobody looks on
    struct measurement measured;
};

// Bytes that are no printable ASCII are shown as escapes: a random model draws any byte, and a terminal obeys some.
static size_t printable(char *out, int32_t token)
{
    int byte = tokenizer_byte(token);
    if (byte < 0) {
        return (size_t)sprintf(out, "<%d>", token);
    }
    if (byte == '\n' || byte == '\t' || (byte >= ' ' && byte < 127)) {
        out[0] = (char)byte;
        out[1] = 0;
        return 1;
    }
    return (size_t)sprintf(out, "\\x%02x", (unsigned)byte);
}

static void print_token(void *user, int32_t token)
{
    char shown[16];
    *(bool *)user = true;
    fwrite(shown, 1, printable(shown, token), stdout);
    fflush(stdout);
}

static char *text_of(const struct measurement *measured)
{
    char *text = calloc((size_t)measured->n_tokens + 1, 16);
    size_t length = 0;
    for (int32_t i = 0; text && i < measured->n_tokens; i++) {
        length += printable(text + length, measured->tokens[i]);
    }
    return text;
}

static const struct table_column columns[] = {
    {"model", "model", -1},
    {"method", "method", -1},
    {"device", "device", -1},
    {"prompt_tokens", "prompt", 0},
    {"output_tokens", "output", 0},
    {"batch", "batch", 0},
    {"prefill_s", "prefill s", 3},
    {"prefill_tokens_per_s", "prefill tok/s", 1},
    {"decode_step_ms", "step ms", 3},
    {"decode_tokens_per_s", "decode tok/s", 1},
    {"kv_mib", "KV MiB", 2},
    {"text", "text", -1},    // last, and for JSON only: people have read it already
};

static int print_result(const struct run *run)
{
    const struct measurement *measured = &run->measured;
    int32_t n_columns = (int32_t)(sizeof columns / sizeof columns[0]) - !run->json;
    struct table *table = table_open("run", columns, n_columns);
    struct table *stages = stages_of_all("stages", run->summary, NULL, STAGES_BY_ORDER);
    char *text = text_of(measured);
    if (!table || !stages || !text) {
        return status_fail(-ENOMEM, "out of memory for the tables");
    }
    table_row(table);
    table_text(table, "model", measured->source.model);
    table_text(table, "method", measured->source.method);
    table_text(table, "device", measured->source.device);
    table_number(table, "prompt_tokens", run->context);
    table_number(table, "output_tokens", measured->n_tokens);
    table_number(table, "batch", run->batch);
    table_number(table, "prefill_s", measured->prefill_s);
    table_number(table, "prefill_tokens_per_s", (double)run->context * run->batch / measured->prefill_s);
    table_number(table, "decode_step_ms", measured->decode_steps ? measured->decode_step_s * 1e3 : NAN);
    table_number(table, "decode_tokens_per_s", (double)measured->decode_tokens / measured->decode_s);
    table_number(table, "kv_mib", (double)measured->kv_bytes / 1048576);
    if (run->json) {
        table_text(table, "text", text);
        const struct table *both[] = {table, stages};
        tables_print_json(both, 2, stdout);
    } else {
        printf("\n\n");
        table_print(table, stdout);
        putchar('\n');
        table_print(stages, stdout);
    }
    free(text);
    table_close(stages);
    table_close(table);
    return 0;
}

static int run_it(struct run *run)
{
    struct model_file *file = NULL;
    struct plan plan;
    int error = plan_flags_resolve(&run->flags);
    if (!error && !plan_find_method(run->method)) {
        char names[256];
        command_method_names(names, sizeof names);
        error = status_fail(-EINVAL, "--method %s: expected one of %s", run->method, names);
    }
    error = error ? error : command_prompt(&run->tokens, &run->n_tokens, &run->context, run->prompt, run->text);
    error = error ? error : command_model_open(&file, run->model, run->method, &run->flags, (uint64_t)run->seed);
    error = error ? error : command_plan_build(&plan, file, run->method, &run->flags);
    error = error ? error : trace_summary_open(&run->summary);
    error = error || !run->listen ? error : listener_open(&run->listener, run->listen);
    if (!error) {
        struct sample_sink sinks[2] = {trace_summary_sink(run->summary)};
        if (run->listener) {
            sinks[1] = listener_sink(run->listener);
        }
        struct measure_options options = {
            .plan = &plan, .model = file, .device = run->device, .threads = run->threads, .batch = run->batch,
            .chunk_tokens = run->chunk, .text = run->tokens, .n_text = run->n_tokens, .context_tokens = run->context,
            .output_tokens = run->output, .temperature = run->temperature, .top_p = run->top_p,
            .seed = (uint64_t)run->seed, .sinks = sinks, .n_sinks = run->listener ? 2 : 1,
            .token = run->json ? NULL : print_token,
            .token_user = &run->answering,
        };
        error = measure(&run->measured, &options);
        if (error && run->answering) {
            putchar('\n');    // the answer breaks off; what is said next begins a line
        }
    }
    error = error ? error : trace_summary_update(run->summary);
    error = error ? error : print_result(run);
    model_file_close(file);
    return error;
}

int command_run(int argc, char **argv)
{
    if (workload_given(argc, argv)) {
        return command_run_workload(argc, argv);
    }
    const char *workload = NULL;    // for --help only: with one, the line above has left
    struct run run = {
        .model = "demo-8m", .method = "clsa", .device = "cpu", .output = 64, .batch = 1, .seed = 1,
        .top_p = 1, .flags = plan_flags_default(),
    };
    const struct option_spec options[] = {
        {"model", OPTION_TEXT, &run.model, 0, 0, "NAME|FOLDER", "a size (random weights) or a model folder"},
        {"method", OPTION_TEXT, &run.method, 0, 0, "NAME", "attention method"},
        {"prompt", OPTION_TEXT, &run.prompt, 0, 0, "FILE", "text to continue; repeated up to --context"},
        {"text", OPTION_TEXT, &run.text, 0, 0, "TEXT", "the same, given here"},
        {"context", OPTION_INT, &run.context, 1, 1 << 27, "tokens", "prompt length (default: the whole text)"},
        {"output", OPTION_INT, &run.output, 1, 1 << 24, "tokens", "tokens to generate"},
        {"temperature", OPTION_REAL, &run.temperature, 0, 100, "T", "0: always the most likely token"},
        {"top-p", OPTION_REAL, &run.top_p, 1e-6, 1, "P", "draw from the most likely tokens with this mass"},
        {"seed", OPTION_LONG, &run.seed, 0, 9e18, "N", "of random weights and of draws"},
        {"batch", OPTION_INT, &run.batch, 1, 1024, "sequences",
         "sequences decoded together; the first one's text is shown"},
        {"chunk", OPTION_INT, &run.chunk, 0, 1 << 20, "tokens", "rows of one prefill step; 0: 512, on a GPU 8192"},
        {"device", OPTION_TEXT, &run.device, 0, 0, "cpu|reference|cuda[:N]", "backend"},
        {"threads", OPTION_INT, &run.threads, 1, 1024, "threads", "CPU threads (default: all)"},
        {"listen", OPTION_TEXT, &run.listen, 0, 0, "SOCKET", "let clsa top --attach SOCKET look on"},
        {"workload", OPTION_TEXT, &workload, 0, 0, "FILE|NAME", "answer a workload; then see --workload NAME --help"},
        {"json", OPTION_FLAG, &run.json, 0, 0, NULL, "print JSON"},
        PLAN_OPTIONS(run.flags),
        {NULL, OPTION_END, NULL, 0, 0, NULL, NULL},
    };
    const struct command_spec command = {"run", "Generate from a prompt.", NULL, 0, 0, options};
    int32_t n_positional;
    int error = options_parse(&command, argc, argv, &n_positional);
    if (error == 1) {
        return EXIT_DONE;
    }
    error = error ? error : run_it(&run);
    listener_close(run.listener);
    trace_summary_close(run.summary);
    measurement_free(&run.measured);
    free(run.tokens);
    return error ? command_fail("run", error) : EXIT_DONE;
}
