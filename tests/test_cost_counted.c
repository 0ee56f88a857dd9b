// tests/test_cost_counted.c - the closed formulas against a slow counter that walks over every row, layer, key and
// unit, for random small plans and random work.
#include "engine/cost.h"
#include "engine/status.h"
#include "tests/check.h"

enum { MAX_TOKENS = 160, MAX_TEST_SEQS = 4 };

// The slow counter. It knows the shapes of matrices and which keys a row can see, and nothing of sums.
struct counter {
    const struct plan *plan;
    const struct work *work;
    int32_t n_seqs;
    double bytes, flops;    // whole numbers, small enough to be exact; only visited experts are fractions
};

static int32_t first_row(const struct counter *counter, int32_t layer, const struct work *work)
{
    const struct plan *plan = counter->plan;
    int32_t end = work->context_tokens + work->new_tokens;
    bool above = false;    // the shared memory: this layer or one below reads the memory of a window layer
    for (int32_t l = 0; l <= layer; l++) {
        bool global = plan->layers[l].attention != ATTENTION_WINDOW;
        above = above || (global && plan->layers[plan->layers[l].kv_from].attention == ATTENTION_WINDOW);
    }
    return above || layer < 0 ? end - work->logit_rows : work->context_tokens;
}

static int32_t end_row(const struct work *work)
{
    return work->context_tokens + work->new_tokens;
}

static int32_t rows_of(const struct counter *counter, int32_t layer, bool all)
{
    int32_t rows = 0;
    for (int32_t s = 0; s < counter->n_seqs; s++) {
        const struct work *work = &counter->work[s];
        rows += all ? work->new_tokens : end_row(work) - first_row(counter, layer, work);
    }
    return rows;
}

static void matrix(struct counter *counter, int32_t rows, int32_t outputs, int32_t inputs)
{
    if (rows) {
        counter->bytes += (double)outputs * inputs * dtype_bytes(counter->plan->weight_dtype);
        for (int32_t row = 0; row < rows; row++) {
            counter->flops += 2.0 * outputs * inputs;
        }
    }
}

static void count_query(struct counter *counter, int32_t rows)
{
    const struct model_shape *shape = &counter->plan->shape;
    const struct mla_shape *mla = &shape->mla;
    if (!mla->kv_lora_rank) {
        matrix(counter, rows, shape->n_heads * shape->head_dim, shape->hidden);
        return;
    }
    int32_t inputs = shape->hidden;
    if (mla->q_lora_rank) {
        matrix(counter, rows, mla->q_lora_rank, shape->hidden);
        inputs = mla->q_lora_rank;
    }
    for (int32_t head = 0; head < shape->n_heads; head++) {
        matrix(counter, rows, mla->nope_dim, inputs);
        matrix(counter, rows, mla->rope_dim, inputs);
        matrix(counter, rows, mla->kv_lora_rank, mla->nope_dim);    // the query seen from the latent
    }
}

static void count_keys_and_values(struct counter *counter, int32_t rows)
{
    const struct model_shape *shape = &counter->plan->shape;
    if (shape->mla.kv_lora_rank) {
        matrix(counter, rows, shape->mla.kv_lora_rank, shape->hidden);
        matrix(counter, rows, shape->mla.rope_dim, shape->hidden);
        return;
    }
    matrix(counter, rows, shape->n_kv_heads * shape->head_dim, shape->hidden);
    matrix(counter, rows, shape->n_kv_heads * shape->head_dim, shape->hidden);
}

static bool names_memory(const struct plan *plan, int32_t layer)
{
    for (int32_t l = layer + 1; l < plan->shape.n_layers; l++) {
        if (plan->layers[layer].attention == ATTENTION_WINDOW && plan->layers[l].attention != ATTENTION_WINDOW &&
            plan->layers[l].kv_from == layer) {
            return true;
        }
    }
    return false;
}

static void count_qkv(struct counter *counter, int32_t layer)
{
    const struct plan *plan = counter->plan;
    count_query(counter, rows_of(counter, layer, false));
    if (plan->layers[layer].kv_from == layer) {
        count_keys_and_values(counter, rows_of(counter, layer, false));
    }
    if (names_memory(plan, layer)) {
        count_keys_and_values(counter, rows_of(counter, layer, true));
    }
}

// ring: the window keeps what pages keep, but for fp8, which it keeps as bf16.
static double key_value_bytes(const struct plan *plan, bool ring)
{
    const struct model_shape *shape = &plan->shape;
    bool coded = plan->kv_dtype == DTYPE_FP8 && !ring;
    int32_t elements = shape->mla.kv_lora_rank + shape->mla.rope_dim, scales = 0;
    for (int32_t head = 0; !shape->mla.kv_lora_rank && head < shape->n_kv_heads; head++) {
        elements += shape->head_dim + shape->head_dim;
        scales += coded ? 2 : 0;
    }
    int32_t bytes = elements * (coded ? 1 : plan->kv_dtype == DTYPE_F32 ? 4 : 2) + scales;
    while (scales && bytes % 16) {    // to a whole number of vector loads
        bytes++;
    }
    return bytes;
}

static double flops_per_key(const struct plan *plan)
{
    const struct mla_shape *mla = &plan->shape.mla;
    int32_t score = mla->kv_lora_rank ? mla->kv_lora_rank + mla->rope_dim : plan->shape.head_dim;
    int32_t value = mla->kv_lora_rank ? mla->kv_lora_rank : plan->shape.head_dim;
    double flops = 0;
    for (int32_t head = 0; head < plan->shape.n_heads; head++) {
        flops += 2 * score + 2 * value;
    }
    return flops;
}

static void count_window_attention(struct counter *counter, int32_t layer)
{
    for (int32_t s = 0; s < counter->n_seqs; s++) {
        const struct work *work = &counter->work[s];
        bool seen[MAX_TOKENS] = {false};
        for (int32_t row = first_row(counter, layer, work); row < end_row(work); row++) {
            for (int32_t key = 0; key <= row; key++) {
                if (row - key < counter->plan->shape.window_tokens) {
                    counter->flops += flops_per_key(counter->plan);
                    counter->bytes += seen[key] ? 0 : key_value_bytes(counter->plan, true);
                    seen[key] = true;
                }
            }
        }
    }
}

static int32_t units_seen(const struct plan *plan, int32_t row)
{
    int32_t units = 0;
    while (units * plan->index.unit_tokens <= row) {
        units++;
    }
    return units;
}

static int32_t units_chosen(const struct plan *plan, int32_t row)
{
    int32_t units = 0;
    while (units < units_seen(plan, row) && (units + 1) * plan->index.unit_tokens <= plan->index.budget_tokens) {
        units++;
    }
    return units;
}

// Latent attention as prompts may run it: keys and values of every head, made of the latents. Those of this pass's own
// tokens take what the stages before and after attention pay for absorption.
static double spelled_out(const struct plan *plan, int32_t first, int32_t end)
{
    const struct mla_shape *mla = &plan->shape.mla;
    double flops = 0;
    for (int32_t head = 0; head < plan->shape.n_heads; head++) {
        for (int32_t key = 0; key < first; key++) {
            flops += 2.0 * mla->kv_lora_rank * mla->nope_dim + 2.0 * mla->kv_lora_rank * mla->v_dim;
        }
        for (int32_t row = first; row < end; row++) {
            flops += (row + 1) * (2.0 * (mla->nope_dim + mla->rope_dim) + 2.0 * mla->v_dim);
        }
    }
    return flops;
}

// Rows choose in turn, and as differently as they can: the lowest keys that nobody has yet.
static void count_attention(struct counter *counter, int32_t layer)
{
    const struct plan *plan = counter->plan;
    bool selected = plan->layers[layer].attention == ATTENTION_SELECTED;
    for (int32_t s = 0; s < counter->n_seqs; s++) {
        const struct work *work = &counter->work[s];
        bool seen[MAX_TOKENS] = {false};
        int32_t first = first_row(counter, layer, work), end = end_row(work);
        double before = counter->flops;
        for (int32_t row = first; row < end; row++) {
            int32_t fresh = 0, attended = 0;
            for (int32_t key = 0; key <= row; key++) {
                if (!seen[key] && (!selected || fresh < plan->index.budget_tokens)) {
                    seen[key] = true;
                    fresh++;
                    counter->bytes += key_value_bytes(plan, false);
                }
                if (!selected || attended < plan->index.budget_tokens) {
                    attended++;
                    counter->flops += flops_per_key(plan);
                }
            }
            counter->bytes += selected ? 4.0 * plan->index.sets * units_chosen(plan, row) : 0;
        }
        bool whole = !selected || end <= plan->index.budget_tokens;
        if (plan->shape.mla.kv_lora_rank && end - first > 1 && whole) {
            counter->flops = before + fmin(counter->flops - before, spelled_out(plan, first, end));
        }
    }
}

static double index_key_bytes(const struct plan *plan)
{
    double bytes = plan->index.dim * dtype_bytes(plan->index.key_dtype);
    return plan->index.key_dtype == DTYPE_FP8 ? bytes + 4 : bytes;
}

static double bounds_bytes(const struct plan *plan)
{
    return 2.0 * plan->shape.n_kv_heads * plan->shape.head_dim * (double)sizeof(float);
}

// Plays the writes: which ring places, pages and units end up touched.
static void count_kv_write(struct counter *counter, int32_t layer)
{
    const struct plan *plan = counter->plan;
    const struct layer_plan *l = &plan->layers[layer];
    bool indexes = l->attention == ATTENTION_SELECTED && l->index_from == layer;
    bool window = l->attention == ATTENTION_WINDOW;
    for (int32_t s = 0; s < counter->n_seqs; s++) {
        const struct work *work = &counter->work[s];
        bool place[MAX_TOKENS] = {false}, unit[MAX_TOKENS] = {false};
        for (int32_t row = work->context_tokens; row < end_row(work); row++) {
            int32_t at = window ? row % plan->shape.window_tokens : row;
            counter->bytes += l->kv_from == layer && !place[at] ? key_value_bytes(plan, window) : 0;
            place[at] = true;
            counter->bytes += names_memory(plan, layer) ? key_value_bytes(plan, false) : 0;
            if (indexes && plan->index.score != INDEX_PAGE_BOUND) {
                counter->bytes += index_key_bytes(plan);
            } else if (indexes && !unit[row / plan->index.unit_tokens]) {
                bool begun = row % plan->index.unit_tokens != 0;    // by older keys: read, extend, write
                counter->bytes += begun ? 2 * bounds_bytes(plan) : bounds_bytes(plan);
                unit[row / plan->index.unit_tokens] = true;
            }
        }
    }
}

static void count_index_project(struct counter *counter, int32_t layer)
{
    const struct plan *plan = counter->plan;
    const struct model_shape *shape = &plan->shape;
    if (plan->layers[layer].index_from != layer || plan->index.score == INDEX_PAGE_BOUND) {
        return;
    }
    int32_t rows = rows_of(counter, layer, false);
    bool gated = plan->index.score == INDEX_GATED_RELU;
    bool from_latent = gated && shape->mla.kv_lora_rank && shape->mla.q_lora_rank;
    for (int32_t head = 0; head < plan->index.heads; head++) {
        matrix(counter, rows, plan->index.dim, from_latent ? shape->mla.q_lora_rank : shape->hidden);
        matrix(counter, gated ? rows : 0, 1, shape->hidden);
    }
    matrix(counter, rows_of(counter, layer, true), plan->index.dim, shape->hidden);
}

static void count_index_score(struct counter *counter, int32_t layer, bool select)
{
    const struct plan *plan = counter->plan;
    bool bounds = plan->index.score == INDEX_PAGE_BOUND;
    if (plan->layers[layer].index_from != layer) {
        return;
    }
    for (int32_t s = 0; s < counter->n_seqs; s++) {
        const struct work *work = &counter->work[s];
        int32_t keys = 0, units = 0;    // that some row sees
        for (int32_t row = first_row(counter, layer, work); row < end_row(work); row++) {
            keys = row + 1;
            units = units_seen(plan, row);
            counter->bytes += 4.0 * plan->index.sets * units;    // scores: written, or read by the selection
            if (select) {
                counter->bytes += 4.0 * plan->index.sets * units_chosen(plan, row);
                counter->flops += plan->index.sets * units;
                continue;
            }
            for (int32_t key = 0; key < (bounds ? units : keys); key++) {
                for (int32_t head = 0; head < plan->index.heads; head++) {
                    counter->flops += (bounds ? 4.0 : 2.0) * plan->index.dim;
                    counter->flops += plan->index.score == INDEX_GATED_RELU ? 3 : 0;
                }
            }
        }
        if (!select) {
            counter->bytes += bounds ? units * bounds_bytes(plan) : keys * index_key_bytes(plan);
        }
    }
}

static void count_output(struct counter *counter, int32_t layer)
{
    const struct model_shape *shape = &counter->plan->shape;
    int32_t rows = rows_of(counter, layer, false);
    for (int32_t head = 0; head < shape->n_heads; head++) {
        if (shape->mla.kv_lora_rank) {
            matrix(counter, rows, shape->mla.v_dim, shape->mla.kv_lora_rank);
        }
        matrix(counter, rows, shape->hidden, shape->mla.kv_lora_rank ? shape->mla.v_dim : shape->head_dim);
    }
}

static void count_ffn(struct counter *counter, int32_t layer)
{
    const struct model_shape *shape = &counter->plan->shape;
    int32_t rows = rows_of(counter, layer, false);
    if (!shape->moe.n_experts || layer < shape->moe.n_dense_layers) {
        for (int32_t i = 0; i < 3; i++) {
            matrix(counter, rows, shape->ffn, shape->hidden);
        }
        return;
    }
    matrix(counter, rows, shape->moe.n_experts, shape->hidden);
    for (int32_t i = 0; i < 3 * shape->moe.n_shared; i++) {
        matrix(counter, rows, shape->moe.ffn, shape->hidden);
    }
    double expert = 3.0 * shape->moe.ffn * shape->hidden;
    double missed = pow(1 - (double)shape->moe.n_active / shape->moe.n_experts, rows);
    counter->bytes += shape->moe.n_experts * (1 - missed) * expert * dtype_bytes(counter->plan->weight_dtype);
    counter->flops += 2.0 * rows * shape->moe.n_active * expert;
}

static void count(struct counter *counter, enum stage stage, int32_t layer)
{
    const struct plan *plan = counter->plan;
    bool window = layer >= 0 && plan->layers[layer].attention == ATTENTION_WINDOW;
    counter->bytes = counter->flops = 0;
    if (layer < 0) {
        int32_t rows = rows_of(counter, -1, false);
        switch (stage) {
        case STAGE_EMBED:
            counter->bytes = (double)rows_of(counter, -1, true) * plan->shape.hidden * dtype_bytes(plan->weight_dtype);
            break;
        case STAGE_HEAD: matrix(counter, rows, plan->shape.vocab, plan->shape.hidden); break;
        case STAGE_SAMPLE:
            counter->bytes = 4.0 * plan->shape.vocab * rows;
            counter->flops = (double)plan->shape.vocab * rows;
            break;
        default: break;
        }
        return;
    }
    switch (stage) {
    case STAGE_QKV: count_qkv(counter, layer); break;
    case STAGE_WINDOW_ATTENTION: window ? count_window_attention(counter, layer) : (void)0; break;
    case STAGE_KV_WRITE: count_kv_write(counter, layer); break;
    case STAGE_INDEX_PROJECT: count_index_project(counter, layer); break;
    case STAGE_INDEX_SCORE: count_index_score(counter, layer, false); break;
    case STAGE_INDEX_SELECT: count_index_score(counter, layer, true); break;
    case STAGE_ATTENTION: window ? (void)0 : count_attention(counter, layer); break;
    case STAGE_OUTPUT: count_output(counter, layer); break;
    case STAGE_FFN: count_ffn(counter, layer); break;
    default: break;
    }
}

static void random_options(struct plan_options *options)
{
    *options = plan_options_default();
    options->index_every = check_range(0, 3);
    options->block_tokens = check_range(0, 2) ? 0 : check_range(1, 12);
    options->top_k = options->block_tokens * check_range(1, 9);
    options->index_heads = check_range(0, 2);
    options->page_tokens = options->block_tokens;
    options->keep_local = 0;
    options->index_dtype = check_range(-1, DTYPE_COUNT - 1);
    options->weight_dtype = check_range(-1, DTYPE_COUNT - 1);
    options->kv_dtype = check_range(-1, DTYPE_COUNT - 1);
}

static struct model_shape random_shape(bool latent, bool experts)
{
    int32_t n_kv_heads = check_range(1, 3);
    struct model_shape shape = {
        .name = "random",
        .hidden = check_range(1, 24),
        .ffn = check_range(1, 40),
        .n_layers = check_range(2, 6),
        .n_heads = n_kv_heads * check_range(1, 3),
        .n_kv_heads = n_kv_heads,
        .head_dim = 2 * check_range(1, 4),
        .vocab = check_range(1, 50),
        .window_tokens = check_range(1, 40),
        .top_k = check_range(1, 50),
        .index_dim = 4 * check_range(1, 4),
        .lightning_heads = check_range(1, 4),
        .tied_embeddings = check_range(0, 1),
    };
    if (latent) {
        shape.mla = (struct mla_shape){.q_lora_rank = check_range(0, 12), .kv_lora_rank = check_range(1, 12),
                                       .rope_dim = 2 * check_range(0, 4), .nope_dim = check_range(1, 8),
                                       .v_dim = check_range(1, 8)};
    }
    if (experts) {
        int32_t n = check_range(1, 9);
        shape.moe = (struct moe_shape){.n_experts = n, .n_active = check_range(1, n), .n_shared = check_range(0, 2),
                                       .ffn = check_range(1, 20), .n_dense_layers = check_range(0, shape.n_layers)};
    }
    return shape;
}

// A method of ours over a random shape; a full layer may become a window layer, with keys of its own or shared ones.
static bool random_plan(struct plan *plan)
{
    struct model_shape shape = random_shape(check_range(0, 3) == 0, check_range(0, 2) == 0);
    struct plan_options options;
    random_options(&options);
    if (plan_build(plan, &shape, plan_method(check_range(0, plan_method_count() - 1))->name, &options) != 0) {
        return false;
    }
    int32_t window = -1;
    for (int32_t l = 0; plan->shape.backbone == BACKBONE_TRANSFORMER && l < shape.n_layers; l++) {
        if (plan->layers[l].attention == ATTENTION_FULL && check_range(0, 3) == 0) {
            plan->layers[l].attention = ATTENTION_WINDOW;
            plan->layers[l].kv_from = window >= 0 && check_range(0, 1) ? window : l;
            window = plan->layers[l].kv_from;
        }
    }
    CHECK_MESSAGE(plan_check(plan) == 0, "%s", status_text());
    return true;
}

static int32_t random_work(struct work *work)
{
    int32_t n_seqs = check_range(1, MAX_TEST_SEQS);
    for (int32_t s = 0; s < n_seqs; s++) {
        int32_t rows = check_range(0, 2) ? check_range(0, MAX_TOKENS / 2) : 1;
        int32_t logit_rows[] = {0, 1, rows, check_range(0, rows)};
        int32_t logits = logit_rows[check_range(0, 3)];
        work[s] = (struct work){check_range(0, MAX_TOKENS / 2), rows, logits < rows ? logits : rows};
    }
    return n_seqs;
}

static bool same(int64_t got, double expected, double slack)
{
    return fabs((double)got - expected) <= slack;
}

static void test_plan_and_work(const struct plan *plan, const struct work *work, int32_t n_seqs)
{
    struct counter counter = {.plan = plan, .work = work, .n_seqs = n_seqs};
    struct stage_cost total = {0, 0};
    for (int32_t layer = -1; layer < plan->shape.n_layers; layer++) {
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            struct stage_cost cost = {-1, -1};
            CHECK(stage_cost(&cost, plan, (enum stage)stage, layer, work, n_seqs) == 0);
            count(&counter, (enum stage)stage, layer);
            double slack = stage == STAGE_FFN && plan->shape.moe.n_experts ? 1 : 0;    // expected bytes, rounded
            CHECK_MESSAGE(same(cost.bytes, counter.bytes, slack) && same(cost.flops, counter.flops, 0),
                          "%s, %s of layer %d: %lld bytes and %lld flops, counted %.9g and %.9g", plan->method,
                          stage_name((enum stage)stage), layer, (long long)cost.bytes, (long long)cost.flops,
                          counter.bytes, counter.flops);
            total.bytes += cost.bytes;
            total.flops += cost.flops;
        }
    }
    struct stage_cost step = step_cost(plan, work, n_seqs);
    CHECK(step.bytes == total.bytes && step.flops == total.flops);
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        struct stage_cost own, memory, both;
        qkv_cost_parts(&own, &memory, plan, layer, work, n_seqs);
        CHECK(stage_cost(&both, plan, STAGE_QKV, layer, work, n_seqs) == 0);
        CHECK(own.bytes + memory.bytes == both.bytes && own.flops + memory.flops == both.flops);
        CHECK(layer == plan_memory_layer(plan) || (memory.bytes == 0 && memory.flops == 0));
    }
}

// What memory holds follows from the same work: the cache grows by what a prompt writes, and a pass that visits
// everything reads every weight.
static void test_memory(const struct plan *plan)
{
    const struct model_shape *shape = &plan->shape;
    int32_t unit = plan->index.unit_tokens > 0 ? plan->index.unit_tokens : 1;
    struct work work = {0, shape->window_tokens * unit, 1};    // whole windows and whole units
    int64_t written = 0, read = (int64_t)shape->vocab * shape->hidden * (shape->tied_embeddings ? 1 : 2);
    const enum stage weights[] = {STAGE_QKV, STAGE_INDEX_PROJECT, STAGE_OUTPUT, STAGE_FFN};
    read *= dtype_bytes(plan->weight_dtype);
    for (int32_t layer = 0; layer < shape->n_layers; layer++) {
        struct stage_cost cost;
        CHECK(stage_cost(&cost, plan, STAGE_KV_WRITE, layer, &work, 1) == 0);
        written += cost.bytes;
        for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
            CHECK(stage_cost(&cost, plan, weights[i], layer, &(struct work){0, 1, 1}, 1) == 0);
            read += cost.bytes;
        }
    }
    int64_t held = plan_kv_bytes_per_sequence(plan) + plan_kv_bytes_per_token(plan) * work.new_tokens;
    bool whole_bounds = plan->index.score != INDEX_PAGE_BOUND || 8 * shape->n_kv_heads * shape->head_dim % unit == 0;
    CHECK_MESSAGE(!whole_bounds || held == written, "%s: %lld bytes held, %lld written", plan->method, (long long)held,
                  (long long)written);
    CHECK(shape->moe.n_experts || plan_weight_bytes(plan) == read);
    CHECK(plan_weight_bytes(plan) == plan_parameters(plan) * dtype_bytes(plan->weight_dtype));
}

int main(void)
{
    check_begin();
    int32_t built = 0;
    for (int i = 0; i < 1500 && check_failures == 0; i++) {
        struct plan plan;
        if (random_plan(&plan)) {
            struct work work[MAX_TEST_SEQS];
            int32_t n_seqs = random_work(work);
            test_plan_and_work(&plan, work, n_seqs);
            test_memory(&plan);
            built++;
        }
    }
    CHECK_MESSAGE(check_failures || built > 500, "only %d of 1500 random plans were valid", built);
    return check_end();
}
