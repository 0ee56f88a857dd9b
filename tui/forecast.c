// tui/forecast.c - from a source's description back to a plan, and its price.
#include "tui/forecast.h"

#include <errno.h>
#include <math.h>

#include "engine/status.h"

int forecast_plan(struct plan *out, const struct sample_source *source)
{
    const struct model_shape *shape = plan_find_model(source->model);
    if (!shape) {
        return status_fail(-EINVAL, "%s: no known model size", source->model);
    }
    struct plan_options options = plan_options_default();
    options.top_k = source->top_k;
    options.block_tokens = source->unit_tokens > 1 ? source->unit_tokens : 0;
    options.window_tokens = source->window_tokens;
    options.page_tokens = source->page_tokens;
    options.weight_dtype = (int32_t)source->weight_dtype;
    options.kv_dtype = (int32_t)source->kv_dtype;
    if (source->top_k > 0) {
        options.index_dtype = (int32_t)source->index_dtype;
    }
    struct plan plan;
    int error = plan_build(&plan, shape, source->method, &options);
    if (error) {
        return error;
    }
    if (plan.shape.n_layers != source->n_layers || plan.index.budget_tokens != source->top_k ||
        (source->top_k > 0 &&
         (plan.index.unit_tokens != source->unit_tokens || plan.index.sets != source->index_sets))) {
        return status_fail(-EINVAL, "%s: not the %s that is known by this name", source->method, source->model);
    }
    *out = plan;
    return 0;
}

bool forecast(double *prefill_s, double *decode_tokens_per_s, const struct device *device,
              const struct sample_source *source, int32_t n_seqs, int32_t context_tokens, int32_t output_tokens)
{
    *prefill_s = *decode_tokens_per_s = NAN;
    struct plan plan;
    struct request_prediction prediction;
    if (!device || context_tokens < 1 || forecast_plan(&plan, source) != 0 ||
        predict_request(&prediction, device, &plan, n_seqs > 0 ? n_seqs : 1, context_tokens,
                        output_tokens > 1 ? output_tokens : 2, 0) != 0) {
        return false;
    }
    *prefill_s = prediction.prefill_s;
    *decode_tokens_per_s = prediction.decode_tokens_per_s;
    return true;
}
