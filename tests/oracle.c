// tests/oracle.c - the formulas, one after the other.
#include "tests/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct oracle {
    const struct plan *plan;
    const struct model_weights *weights;
    const struct oracle_options *options;
    struct oracle_report *report;
    int32_t n, hidden, n_heads, n_kv, dim;
    double *x;                // [n][hidden]
    double *memory;           // [n][hidden]
    double **k, **v;          // [n_layers + 1] of [n][n_kv*dim]; the last is the shared memory's
    unsigned char **chosen;   // [n_layers] of [n][sets][n]: whether the set of a row holds the unit
};

static double *new_values(int64_t count)
{
    double *values = calloc((size_t)count + 1, sizeof *values);
    if (!values) {
        fprintf(stderr, "the oracle is out of memory\n");
        exit(1);
    }
    return values;
}

double oracle_round_bf16(double value)
{
    if (!isfinite(value) || value == 0) {
        return value;
    }
    int exponent;
    double fraction = frexp(value, &exponent);    // 8 significant bits
    return ldexp(nearbyint(fraction * 256), exponent - 8);
}

double oracle_round_fp8(double value)
{
    double magnitude = fabs(value);
    if (!(magnitude > 0)) {
        return value;
    }
    int exponent;
    frexp(magnitude, &exponent);
    double step = ldexp(1, (exponent - 1 < -6 ? -6 : exponent - 1) - 3);    // 4 significant bits down to 2^-6
    double rounded = nearbyint(magnitude / step) * step;
    return copysign(rounded > 448 ? 448 : rounded, value);
}

static double entry(const struct matrix *m, int32_t row, int32_t col)
{
    int64_t at = (int64_t)row * m->n_cols + col;
    if (m->dtype == DTYPE_F32) {
        return (double)((const float *)m->data)[at];
    }
    uint32_t bits = (uint32_t)((const uint16_t *)m->data)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static void multiply(double *out, const struct matrix *m, const double *x)
{
    for (int32_t row = 0; row < m->n_rows; row++) {
        out[row] = 0;
        for (int32_t col = 0; col < m->n_cols; col++) {
            out[row] += entry(m, row, col) * x[col];
        }
    }
}

static void rms_norm(double *out, const double *x, const struct matrix *weight, int32_t n, double eps)
{
    double mean_square = 0;
    for (int32_t i = 0; i < n; i++) {
        mean_square += x[i] * x[i] / n;
    }
    for (int32_t i = 0; i < n; i++) {
        out[i] = x[i] / sqrt(mean_square + eps) * entry(weight, 0, i);
    }
}

// Pairs (i, i + n/2) turn by position * theta^(-2i/n).
static void rotate(double *x, int32_t n, int32_t position, double theta)
{
    for (int32_t i = 0; i < n / 2; i++) {
        double angle = position / pow(theta, 2.0 * i / n);
        double a = x[i], b = x[i + n / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + n / 2] = a * sin(angle) + b * cos(angle);
    }
}

static void project_heads(const struct oracle *o, double *out, const struct matrix *m, const struct matrix *norm,
                          const double *x, int32_t n_heads, int32_t position, double theta)
{
    multiply(out, m, x);
    for (int32_t h = 0; h < n_heads; h++) {
        if (norm && norm->data) {
            rms_norm(out + h * o->dim, out + h * o->dim, norm, o->dim, (double)o->plan->shape.norm_eps);
        }
        if (theta > 0) {
            rotate(out + h * o->dim, o->dim, position, theta);
        }
    }
}

// Rounds keys or values of one token as they are cached: in a window ring or in pages. fp8 pages hold them rounded to
// bf16 first, and each head in units of a power of two of which the greatest has 128 to 256.
static void round_cached(const struct oracle *o, double *x, bool ring)
{
    for (int32_t i = 0; i < o->n_kv * o->dim && o->plan->kv_dtype != DTYPE_F32; i++) {
        x[i] = oracle_round_bf16(x[i]);
    }
    for (int32_t h = 0; h < o->n_kv && o->plan->kv_dtype == DTYPE_FP8 && !ring; h++) {
        double greatest = 0, *head = x + h * o->dim;
        for (int32_t i = 0; i < o->dim; i++) {
            greatest = fmax(greatest, fabs(head[i]));
        }
        double unit = greatest > 0 ? exp2(floor(log2(greatest)) - 7) : 1;
        for (int32_t i = 0; i < o->dim; i++) {
            head[i] = oracle_round_fp8(head[i] / unit) * unit;
        }
    }
}

// Rounds one index vector as it is stored or met: fp8 codes with one scale, dequantised.
static void round_index(double *x, int32_t n, enum dtype dtype, bool is_key)
{
    double greatest = 0;
    for (int32_t i = 0; i < n; i++) {
        greatest = fmax(greatest, fabs(x[i]));
    }
    double scale = greatest > 0 ? (double)(float)(greatest / 448) : 1;
    for (int32_t i = 0; i < n; i++) {
        if (dtype == DTYPE_FP8) {
            x[i] = oracle_round_fp8(x[i] / scale) * scale;
        } else if (dtype == DTYPE_BF16 && is_key) {
            x[i] = oracle_round_bf16(x[i]);
        }
    }
}

// The index key of one token.
static void index_key(const struct oracle *o, double *key, const struct index_weights *w, const double *x,
                      int32_t position)
{
    const struct index_spec *index = &o->plan->index;
    multiply(key, &w->k, x);
    if (index->score == INDEX_GATED_RELU) {
        double mean = 0, variance = 0;
        for (int32_t i = 0; i < index->dim; i++) {
            mean += key[i] / index->dim;
        }
        for (int32_t i = 0; i < index->dim; i++) {
            variance += (key[i] - mean) * (key[i] - mean) / index->dim;
        }
        for (int32_t i = 0; i < index->dim; i++) {
            key[i] = (key[i] - mean) / sqrt(variance + 1e-5) * entry(&w->k_norm, 0, i) + entry(&w->k_norm_bias, 0, i);
        }
        rotate(key, index->dim / 2, position, (double)o->plan->shape.rope_theta_global);
    }
    round_index(key, index->dim, index->key_dtype, true);
}

// The index queries [heads][dim] and gates [heads] of one token.
static void index_query(const struct oracle *o, double *query, double *gate, const struct index_weights *w,
                        const double *x, int32_t position)
{
    const struct index_spec *index = &o->plan->index;
    multiply(query, &w->q, x);
    if (index->score == INDEX_GATED_RELU) {
        multiply(gate, &w->gate, x);
    }
    for (int32_t h = 0; h < index->heads; h++) {
        if (index->score == INDEX_GATED_RELU) {
            rotate(query + h * index->dim, index->dim / 2, position, (double)o->plan->shape.rope_theta_global);
            gate[h] = gate[h] / sqrt(index->heads) / sqrt(index->dim);
        }
        round_index(query + h * index->dim, index->dim, index->key_dtype, false);
    }
}

// The score of one token for the index heads of one set.
static double token_score(const struct index_spec *index, const double *query, const double *gate, const double *key,
                          int32_t set)
{
    double score = 0;
    int32_t per_set = index->heads / index->sets;
    for (int32_t h = set * per_set; h < (set + 1) * per_set; h++) {
        double product = 0;
        for (int32_t i = 0; i < index->dim; i++) {
            product += query[h * index->dim + i] * key[i];
        }
        score += index->score == INDEX_GATED_RELU ? gate[h] * (product > 0 ? product : 0) : product;
    }
    return score;
}

static void pool_scores(const struct oracle *o, double *scores, const double *query, const double *gate,
                        const double *keys, int32_t row, int32_t set)
{
    const struct index_spec *index = &o->plan->index;
    for (int32_t unit = 0; unit * index->unit_tokens <= row; unit++) {
        double greatest = -INFINITY, sum = 0;
        int32_t count = 0;
        for (int32_t t = unit * index->unit_tokens; t < (unit + 1) * index->unit_tokens && t <= row; t++, count++) {
            double score = token_score(index, query, gate, keys + (int64_t)t * index->dim, set);
            greatest = score > greatest ? score : greatest;
            sum += score;
        }
        scores[unit] = index->pooling == POOLING_MAX ? greatest : sum / count;
    }
}

// Quest: an upper bound of q . k over a unit's keys, for one query head. The row's own unit always comes first.
static void bound_scores(const struct oracle *o, double *scores, const double *q, const double *k, int32_t row,
                         int32_t head)
{
    int32_t unit_tokens = o->plan->index.unit_tokens, kv_head = head / (o->n_heads / o->n_kv);
    for (int32_t unit = 0; unit < row / unit_tokens; unit++) {
        scores[unit] = 0;
        for (int32_t d = 0; d < o->dim; d++) {
            double best = -INFINITY;
            for (int32_t t = unit * unit_tokens; t < (unit + 1) * unit_tokens; t++) {
                best = fmax(best, q[head * o->dim + d] * k[((int64_t)t * o->n_kv + kv_head) * o->dim + d]);
            }
            scores[unit] += best;
        }
    }
    scores[row / unit_tokens] = INFINITY;
}

static bool is_forced(const struct index_spec *index, int32_t unit, int32_t n_units)
{
    return unit < index->keep_sink_units || unit >= n_units - index->keep_local_units;
}

// The oracle's own choice: the forced units, then the best of the rest one by one.
static void choose(const struct index_spec *index, unsigned char *chosen, const double *scores, int32_t n_units)
{
    int32_t left = index->budget_tokens / index->unit_tokens;
    for (int32_t unit = n_units - 1; unit >= 0; unit--) {
        chosen[unit] = is_forced(index, unit, n_units);
        left -= chosen[unit];
    }
    for (; left > 0; left--) {
        int32_t best = -1;
        for (int32_t unit = 0; unit < n_units; unit++) {
            if (!chosen[unit] && (best < 0 || scores[unit] > scores[best])) {
                best = unit;
            }
        }
        if (best < 0) {
            return;
        }
        chosen[best] = 1;
    }
}

// Takes the followed choice over and judges it by the oracle's scores. False where there is none to follow.
static bool follow(struct oracle *o, unsigned char *chosen, const double *scores, int32_t n_units, int32_t layer,
                   int32_t row, int32_t set)
{
    const struct index_spec *index = &o->plan->index;
    const int32_t *units = NULL;
    int32_t count = o->options->follow(o->options->user, layer, row, set, &units);
    if (count < 0) {
        return false;
    }
    o->report->followed++;
    int32_t budget = index->budget_tokens / index->unit_tokens;
    bool good = count == (budget < n_units ? budget : n_units);
    for (int32_t i = 0; i < count; i++) {
        if (units[i] < 0 || units[i] >= n_units || (i > 0 && units[i] <= units[i - 1])) {
            good = false;
        } else {
            chosen[units[i]] = 1;
        }
    }
    double worst_taken = INFINITY, best_left = -INFINITY, low = INFINITY, high = -INFINITY;
    for (int32_t unit = 0; unit < n_units; unit++) {
        bool forced = is_forced(index, unit, n_units);
        good = good && (!forced || chosen[unit]);
        low = isfinite(scores[unit]) ? fmin(low, scores[unit]) : low;
        high = isfinite(scores[unit]) ? fmax(high, scores[unit]) : high;
        worst_taken = chosen[unit] && !forced ? fmin(worst_taken, scores[unit]) : worst_taken;
        best_left = chosen[unit] ? best_left : fmax(best_left, scores[unit]);
    }
    o->report->malformed += !good;
    if (best_left > worst_taken) {
        double scale = fmax(high - low, fmax(fabs(high), fabs(low)));
        o->report->worst_regret = fmax(o->report->worst_regret, (best_left - worst_taken) / scale);
    }
    return true;
}

// Runs layer's indexer for every row. x [n][hidden] is the layer's normed input, q [n][n_heads*dim] its queries.
static void select_units(struct oracle *o, int32_t layer, const double *x, const double *q)
{
    const struct index_spec *index = &o->plan->index;
    const struct index_weights *w = &o->weights->layers[layer].index;
    const double *key_input = index->key_from == HIDDEN_SHARED_MEMORY ? o->memory : x;
    const double *query_input = index->query_from == HIDDEN_SHARED_MEMORY ? o->memory : x;
    bool bounds = index->score == INDEX_PAGE_BOUND;
    double *keys = new_values((int64_t)o->n * index->dim), *query = new_values((int64_t)index->heads * index->dim);
    double *gate = new_values(index->heads), *scores = new_values(o->n);
    for (int32_t t = 0; t < o->n && !bounds; t++) {
        index_key(o, keys + (int64_t)t * index->dim, w, key_input + (int64_t)t * o->hidden, t);
    }
    for (int32_t row = 0; row < o->n; row++) {
        int32_t n_units = row / index->unit_tokens + 1;
        if (!bounds) {
            index_query(o, query, gate, w, query_input + (int64_t)row * o->hidden, row);
        }
        for (int32_t set = 0; set < index->sets; set++) {
            if (bounds) {
                bound_scores(o, scores, q + (int64_t)row * o->n_heads * o->dim, o->k[layer], row, set);
            } else {
                pool_scores(o, scores, query, gate, keys, row, set);
            }
            unsigned char *chosen = o->chosen[layer] + ((int64_t)row * index->sets + set) * o->n;
            o->report->selections++;
            bool followed = o->options && o->options->follow && follow(o, chosen, scores, n_units, layer, row, set);
            if (!followed) {
                choose(index, chosen, scores, n_units);
            }
        }
    }
    free(keys);
    free(query);
    free(gate);
    free(scores);
}

static bool sees(const struct oracle *o, int32_t layer, int32_t row, int32_t head, int32_t token)
{
    const struct layer_plan *self = &o->plan->layers[layer];
    if (self->attention == ATTENTION_WINDOW) {
        return token > row - o->plan->shape.window_tokens;
    }
    if (self->attention == ATTENTION_FULL) {
        return true;
    }
    const struct index_spec *index = &o->plan->index;
    int32_t set = head / (o->n_heads / index->sets);
    return o->chosen[self->index_from][((int64_t)row * index->sets + set) * o->n + token / index->unit_tokens];
}

static void attend(const struct oracle *o, double *out, const double *q, int32_t layer, int32_t row)
{
    const struct layer_plan *self = &o->plan->layers[layer];
    bool shared = self->attention != ATTENTION_WINDOW && o->plan->layers[self->kv_from].attention == ATTENTION_WINDOW;
    int32_t from = shared ? o->plan->shape.n_layers : self->kv_from;
    for (int32_t h = 0; h < o->n_heads; h++) {
        int64_t kv_head = h / (o->n_heads / o->n_kv);
        double greatest = -INFINITY, total = 0, *to = out + h * o->dim, *scores = new_values(row + 1);
        for (int32_t t = 0; t <= row; t++) {
            for (int32_t d = 0; d < o->dim; d++) {
                scores[t] += q[h * o->dim + d] * o->k[from][(t * o->n_kv + kv_head) * o->dim + d] / sqrt(o->dim);
            }
            greatest = sees(o, layer, row, h, t) ? fmax(greatest, scores[t]) : greatest;
        }
        memset(to, 0, (size_t)o->dim * sizeof *to);
        for (int32_t t = 0; t <= row; t++) {
            double weight = sees(o, layer, row, h, t) ? exp(scores[t] - greatest) : 0;
            total += weight;
            for (int32_t d = 0; d < o->dim; d++) {
                to[d] += weight * o->v[from][(t * o->n_kv + kv_head) * o->dim + d];
            }
        }
        for (int32_t d = 0; d < o->dim; d++) {
            to[d] /= total;
        }
        free(scores);
    }
}

static void feed_forward(const struct oracle *o, double *x, const struct layer_weights *w)
{
    int32_t inner = o->plan->shape.ffn;
    double *normed = new_values(o->hidden), *gate = new_values(inner), *up = new_values(inner);
    double *down = new_values(o->hidden);
    rms_norm(normed, x, &w->ffn_norm, o->hidden, (double)o->plan->shape.norm_eps);
    multiply(gate, &w->gate, normed);
    multiply(up, &w->up, normed);
    for (int32_t i = 0; i < inner; i++) {
        up[i] *= gate[i] / (1 + exp(-gate[i]));
    }
    multiply(down, &w->down, up);
    for (int32_t i = 0; i < o->hidden; i++) {
        x[i] += down[i];
    }
    free(normed);
    free(gate);
    free(up);
    free(down);
}

static void run_layer(struct oracle *o, int32_t layer)
{
    const struct model_shape *shape = &o->plan->shape;
    const struct layer_weights *w = &o->weights->layers[layer];
    bool window = o->plan->layers[layer].attention == ATTENTION_WINDOW, own = o->plan->layers[layer].kv_from == layer;
    double theta = window                                   ? (double)shape->rope_theta_window
                   : shape->backbone == BACKBONE_TRANSFORMER ? (double)shape->rope_theta_global
                                                            : 0;
    int32_t width = o->n_heads * o->dim, kv_width = o->n_kv * o->dim;
    double *normed = new_values((int64_t)o->n * o->hidden), *q = new_values((int64_t)o->n * width);
    double *attended = new_values(width), *mixed = new_values(o->hidden);
    for (int32_t r = 0; r < o->n; r++) {
        double *h = normed + (int64_t)r * o->hidden;
        rms_norm(h, o->x + (int64_t)r * o->hidden, &w->attention_norm, o->hidden, (double)shape->norm_eps);
        project_heads(o, q + (int64_t)r * width, &w->q, &w->q_norm, h, o->n_heads, r, theta);
        if (own) {
            project_heads(o, o->k[layer] + (int64_t)r * kv_width, &w->k, &w->k_norm, h, o->n_kv, r, theta);
            multiply(o->v[layer] + (int64_t)r * kv_width, &w->v, h);
            round_cached(o, o->k[layer] + (int64_t)r * kv_width, window);
            round_cached(o, o->v[layer] + (int64_t)r * kv_width, window);
        }
    }
    if (o->plan->layers[layer].index_from == layer) {
        select_units(o, layer, normed, q);
    }
    for (int32_t r = 0; r < o->n; r++) {
        double *x = o->x + (int64_t)r * o->hidden;
        attend(o, attended, q + (int64_t)r * width, layer, r);
        multiply(mixed, &w->output, attended);
        for (int32_t i = 0; i < o->hidden; i++) {
            x[i] += mixed[i];
        }
        feed_forward(o, x, w);
    }
    free(normed);
    free(q);
    free(attended);
    free(mixed);
}

// YOCO: what the self-decoder leaves, through a norm of its own, is the memory of all layers above.
static void make_memory(struct oracle *o)
{
    int32_t kv_width = o->n_kv * o->dim, slot = o->plan->shape.n_layers;
    for (int32_t r = 0; r < o->n; r++) {
        double *h = o->memory + (int64_t)r * o->hidden;
        rms_norm(h, o->x + (int64_t)r * o->hidden, &o->weights->memory_norm, o->hidden,
                 (double)o->plan->shape.norm_eps);
        multiply(o->k[slot] + (int64_t)r * kv_width, &o->weights->memory_k, h);
        multiply(o->v[slot] + (int64_t)r * kv_width, &o->weights->memory_v, h);
        round_cached(o, o->k[slot] + (int64_t)r * kv_width, false);
        round_cached(o, o->v[slot] + (int64_t)r * kv_width, false);
    }
}

static void open_oracle(struct oracle *o)
{
    int32_t n_layers = o->plan->shape.n_layers, sets = o->plan->index.sets > 0 ? o->plan->index.sets : 1;
    o->x = new_values((int64_t)o->n * o->hidden);
    o->memory = new_values((int64_t)o->n * o->hidden);
    o->k = calloc((size_t)n_layers + 1, sizeof *o->k);
    o->v = calloc((size_t)n_layers + 1, sizeof *o->v);
    o->chosen = calloc((size_t)n_layers, sizeof *o->chosen);
    if (!o->k || !o->v || !o->chosen) {
        exit(1);
    }
    for (int32_t l = 0; l <= n_layers; l++) {
        o->k[l] = new_values((int64_t)o->n * o->n_kv * o->dim);
        o->v[l] = new_values((int64_t)o->n * o->n_kv * o->dim);
        if (l < n_layers) {
            o->chosen[l] = (unsigned char *)new_values((int64_t)o->n * sets * o->n / 8 + 1);
        }
    }
}

static void close_oracle(struct oracle *o)
{
    for (int32_t l = 0; l <= o->plan->shape.n_layers; l++) {
        free(o->k[l]);
        free(o->v[l]);
        if (l < o->plan->shape.n_layers) {
            free(o->chosen[l]);
        }
    }
    free(o->k);
    free(o->v);
    free(o->chosen);
    free(o->x);
    free(o->memory);
}

void oracle_run(const struct plan *plan, const struct model_weights *weights, const int32_t *tokens, int32_t n,
                const struct oracle_options *options, double *logits, struct oracle_report *report)
{
    const struct model_shape *shape = &plan->shape;
    struct oracle o = {.plan = plan, .weights = weights, .options = options, .report = report, .n = n,
                       .hidden = shape->hidden, .n_heads = shape->n_heads, .n_kv = shape->n_kv_heads,
                       .dim = shape->head_dim};
    bool yoco = shape->backbone == BACKBONE_YOCO;
    *report = (struct oracle_report){0};
    open_oracle(&o);
    for (int32_t r = 0; r < n; r++) {
        for (int32_t i = 0; i < shape->hidden; i++) {
            double value = entry(&weights->embedding, tokens[r], i);
            o.x[(int64_t)r * shape->hidden + i] = yoco ? value * sqrt(shape->hidden) : value;
        }
    }
    for (int32_t l = 0; l < shape->n_layers; l++) {
        run_layer(&o, l);
        bool last_window = plan->layers[l].attention == ATTENTION_WINDOW && l + 1 < shape->n_layers &&
                           plan->layers[l + 1].attention != ATTENTION_WINDOW;
        if (yoco && last_window) {
            make_memory(&o);
        }
    }
    double *normed = new_values(shape->hidden);
    for (int32_t r = 0; r < n; r++) {
        rms_norm(normed, o.x + (int64_t)r * shape->hidden, &weights->final_norm, shape->hidden,
                 (double)shape->norm_eps);
        multiply(logits + (int64_t)r * shape->vocab, &weights->head, normed);
    }
    free(normed);
    close_oracle(&o);
}
