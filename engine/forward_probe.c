// engine/forward_probe.c - dense attention beside the selected one: what a selection misses.
//
// Only steps that decode are probed: one row of each sequence, the same rows in `all` and in `last`. Dense attention
// goes first, into the memory where the layer's own output will stand, so that the pass goes on as if it had not been
// there. A probed pass is neither recorded nor replayed. Its dense work counts to the stage `attention`.
#include <errno.h>
#include <stdlib.h>

#include "engine/forward_state.h"
#include "engine/status.h"

struct forward_probe {
    void *q;                            // [n_layers][max_logit_rows][n_heads*head_dim]
    float *lse_selected, *lse_dense;    // [n_layers][max_logit_rows][n_heads]
    bool *seen;                         // [n_layers] of the last pass
};

static int64_t layer_heads(const struct forward *f)
{
    return (int64_t)f->options.max_logit_rows * f->options.plan->shape.n_heads;
}

static int64_t query_bytes(const struct forward *f)
{
    return (int64_t)f->options.plan->shape.head_dim * f->options.backend->activation_bytes;
}

static int take(struct forward *f, void **out, int64_t head_bytes)
{
    int64_t bytes = f->options.plan->shape.n_layers * layer_heads(f) * head_bytes;
    int error = f->options.backend->alloc(f->options.context, out, bytes);
    return error ? status_prefix(error, "probe of %d rows: ", f->options.max_logit_rows) : 0;
}

static void release(struct forward *f)
{
    struct forward_probe *probe = f->probe;
    if (probe) {
        f->options.backend->free(f->options.context, probe->q);
        f->options.backend->free(f->options.context, probe->lse_selected);
        f->options.backend->free(f->options.context, probe->lse_dense);
        free(probe->seen);
        free(probe);
    }
    f->probe = NULL;
}

int forward_set_probe(struct forward *f, bool on)
{
    if (on == (f->probe != NULL)) {
        return 0;
    }
    if (!on) {
        release(f);
        return 0;
    }
    f->probe = calloc(1, sizeof *f->probe);
    if (f->probe) {
        f->probe->seen = calloc((size_t)f->options.plan->shape.n_layers, sizeof *f->probe->seen);
    }
    void *selected = NULL, *dense = NULL;
    int error = f->probe && f->probe->seen ? 0 : status_fail(-ENOMEM, "no memory for a probe");
    error = error ? error : take(f, &f->probe->q, query_bytes(f));
    error = error ? error : take(f, &selected, sizeof(float));
    error = error ? error : take(f, &dense, sizeof(float));
    if (f->probe) {
        f->probe->lse_selected = selected;
        f->probe->lse_dense = dense;
    }
    if (error) {
        release(f);
    }
    return error;
}

int forward_probe_layer(struct forward *f, int32_t layer, struct op_attention *op)
{
    const struct backend *backend = f->options.backend;
    struct forward_probe *probe = f->probe;
    int64_t first = layer * layer_heads(f), row_bytes = f->options.plan->shape.n_heads * query_bytes(f);
    struct op_attention dense = *op;
    dense.selection = NULL;
    dense.lse = probe->lse_dense + first;
    op->lse = probe->lse_selected + first;
    int error = backend->attention(f->options.context, f->batch, &dense);
    // Only now: a backend may finish its queries (norm, rotation) as late as in the operator that reads them.
    error = error ? error
                  : backend->take_rows(f->options.context, f->batch, (char *)probe->q + first * query_bytes(f), op->q,
                                       row_bytes);
    probe->seen[layer] = !error;
    return error;
}

bool forward_probed(const struct forward *f, int32_t layer, struct probed_layer *out)
{
    if (!f->probing || !f->probe || !f->probe->seen[layer]) {
        return false;
    }
    int64_t first = layer * layer_heads(f);
    *out = (struct probed_layer){(const char *)f->probe->q + first * query_bytes(f), f->probe->lse_selected + first,
                                 f->probe->lse_dense + first};
    return true;
}
