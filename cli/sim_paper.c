// cli/sim_paper.c - see sim_paper.h.
//
// "Slow" replaces the selection by the paper's own, whose time its Table 9 implies: what it publishes rests on that
// kernel.
#include "cli/sim_paper.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "cli/choice.h"
#include "cli/paper_figures.h"
#include "cli/table.h"
#include "engine/status.h"
#include "sim/predict.h"

static const struct table_column columns[] = {
    {"method", "method", -1},
    {"context", "context", 0},
    {"decode_step_ms", "step ms", 3},
    {"slow_step_ms", "slow", 3},
    {"published_step_ms", "paper's", 3},
    {"decode_tokens_per_s", "decode tok/s", 0},
    {"slow_decode_tokens_per_s", "slow", 0},
    {"published_decode_tokens_per_s", "paper's", 0},
    {"speedup", "vs dense", 2},
    {"slow_speedup", "slow", 2},
    {"published_speedup", "paper's", 2},
    {"prefill_tokens_per_s", "prefill tok/s", 0},
    {"published_prefill_tokens_per_s", "paper's", 0},
    {"end_to_end_tokens_per_s", "end to end tok/s", 0},
    {"slow_end_to_end_tokens_per_s", "slow", 0},
    {"published_end_to_end_tokens_per_s", "paper's", 0},
    {"total_gb", "needs GB", 1},
    {"verdict", "memory", -1},
};

static double select_s(const struct plan *plan, double batch, double context)
{
    double seconds = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        seconds += plan_runs_indexer(plan, layer) ? paper_select_s(batch * context) : 0;
    }
    return seconds;
}

// The decode step and the whole, with our selection and with the paper's.
struct outcome {
    double step_s[2], end_to_end[2];
};

static struct outcome outcome_of(const struct request_prediction *request, const struct plan *plan, double batch,
                                 double context, double output)
{
    struct outcome outcome;
    double ours_s = request->first_decode.stages[STAGE_INDEX_SELECT].seconds;
    double more_s = fmax(0, select_s(plan, batch, context) - ours_s);
    double more_later_s = fmax(0, select_s(plan, batch, context + output / 2) - ours_s);
    for (int slow = 0; slow < 2; slow++) {
        outcome.step_s[slow] = request->first_decode_step_s + slow * more_s;
        outcome.end_to_end[slow] = batch * output / (request->end_to_end_s + slow * (output - 1) * more_later_s);
    }
    return outcome;
}

static void add_row(struct table *table, const struct paper_figures *paper, const struct paper_figures *paper_dense,
                    const struct outcome *outcome, const struct outcome *dense,
                    const struct request_prediction *request, const struct device *device, double batch)
{
    bool fits = request->max_seqs < 0 || (double)request->max_seqs >= batch;
    table_row(table);
    table_text(table, "method", paper->method);
    table_number(table, "context", paper->context);
    table_number(table, "decode_step_ms", 1e3 * outcome->step_s[0]);
    table_number(table, "slow_step_ms", 1e3 * outcome->step_s[1]);
    table_number(table, "published_step_ms", 1e3 * PAPER_BATCH / paper->decode);
    table_number(table, "decode_tokens_per_s", batch / outcome->step_s[0]);
    table_number(table, "slow_decode_tokens_per_s", batch / outcome->step_s[1]);
    table_number(table, "published_decode_tokens_per_s", paper->decode);
    table_number(table, "speedup", dense->step_s[0] / outcome->step_s[0]);
    table_number(table, "slow_speedup", dense->step_s[1] / outcome->step_s[1]);
    table_number(table, "published_speedup", paper->decode / paper_dense->decode);
    table_number(table, "prefill_tokens_per_s", paper->context / request->prefill_s);
    table_number(table, "published_prefill_tokens_per_s", paper->prefill);
    table_number(table, "end_to_end_tokens_per_s", outcome->end_to_end[0]);
    table_number(table, "slow_end_to_end_tokens_per_s", outcome->end_to_end[1]);
    table_number(table, "published_end_to_end_tokens_per_s", paper->end_to_end);
    table_number(table, "total_gb", 1e-9 * (double)request->total_bytes);
    char verdict[96];
    snprintf(verdict, sizeof verdict, fits ? "fits" : "does not fit in %.4g GB: priced as if it did",
             1e-9 * device->memory_bytes.value);
    table_text(table, "verdict", verdict);
}

static int predict_all(struct table **out, const struct device *device, const struct sim_paper_options *options)
{
    static struct plan plan;    // large, as are all plans
    const struct paper_figures *paper_dense = paper_figures;
    struct outcome dense = {{NAN, NAN}, {NAN, NAN}};
    struct table *table = *out = table_open("paper", columns, sizeof columns / sizeof columns[0]);
    int error = table ? 0 : status_fail(-ENOMEM, "no memory for a table");
    for (int i = 0; !error && i < PAPER_FIGURES; i++) {
        const struct paper_figures *paper = &paper_figures[i];
        struct request_prediction request;
        error = choice_plan(&plan, options->config, options->model, paper->method, options->knobs);
        error = error ? error : predict_request(&request, device, &plan, options->batch, paper->context,
                                                options->output_tokens, options->chunk_tokens);
        if (error) {
            break;
        }
        struct outcome outcome = outcome_of(&request, &plan, options->batch, paper->context, options->output_tokens);
        if (strcmp(paper->method, "dense") == 0) {
            paper_dense = paper;
            dense = outcome;
        }
        add_row(table, paper, paper_dense, &outcome, &dense, &request, device, options->batch);
    }
    if (error) {
        table_close(table);
        *out = NULL;
    }
    return error;
}

int sim_paper_print(const struct device *device, const struct sim_paper_options *options, bool json)
{
    struct table *table;
    int error = predict_all(&table, device, options);
    if (error) {
        return status_prefix(error, "--paper: ");
    }
    if (json) {
        table_print_json(table, stdout);
    } else {
        printf("%s on %s, %d sequences, answers of %d tokens, %s\n\n", options->model, device->name, options->batch,
               options->output_tokens, device->calibration ? "calibrated" : "roofline");
        table_print(table, stdout);
        printf(
            "\nslow: with the selection that the paper's Table 9 implies, 2.56 ms for 32 sequences of 131072 tokens.\n"
            "paper's: arXiv 2606.06467, measured on a B200; its batch (32 is inferred), types and number of devices "
            "are\n"
            "not stated. What is not the paper's is predicted.\n");
    }
    table_close(table);
    return 0;
}
