// engine/cpu/linear.c - matrix products: one pass over the weights for few rows, the library for many; rotation tables.
//
// Few rows (decode): bound by reading the weights. They are cut into runs of rows of about 128 KB, long enough to
// stream, short enough that threads end together; every input row is multiplied while the weights are in registers.
//
// Many rows (prefill): tiles of the library's product. bf16 weights meet inputs rounded to bf16 where the processor
// multiplies bf16: twice the speed of f32 (figures in gemm.c), and an error of at most 2^-9 per input that averages out
// over the sum, no more than the weights' own rounding costs. Elsewhere a tile's weights are widened to f32 first, in
// the thread that uses them.
#include <errno.h>
#include <math.h>
#include <stdatomic.h>

#include "engine/cpu/context.h"
#include "engine/status.h"

enum {
    PASS_BYTES = 128 << 10,    // weights per item of a pass
    TILE_ROWS = 256,    // inputs per tile: enough that reading the weights into the library's layout costs little
    MAX_PRODUCTS = 3,
    ROUND_ROWS = 16    // rows per item where inputs are rounded
};

int32_t cpu_widest_input(const struct plan *plan)
{
    const struct model_shape *shape = &plan->shape;
    int32_t widest = shape->hidden > shape->ffn ? shape->hidden : shape->ffn;
    int32_t heads = shape->n_heads * shape->head_dim;
    return widest > heads ? widest : heads;
}

// The work of one call, numbered product by product.
struct products {
    struct backend_context *context;
    const float *x;
    int32_t n, depth, n_products;
    struct cpu_product product[MAX_PRODUCTS];
    int32_t first_item[MAX_PRODUCTS + 1];
    int32_t outputs_per_item[MAX_PRODUCTS];
    // Of the library's way.
    int32_t tile_rows, n_row_tiles;
    bool rounded;                                                 // x is taken from context->rounded
    const struct cpu_gemm_kernel *kernels[MAX_PRODUCTS][2][2];    // [last row tile][last output tile]
    atomic_int error;                                             // of any tile that failed
};

static int32_t divide_up(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static int32_t find_product(const struct products *work, int32_t item)
{
    int32_t p = 0;
    while (item >= work->first_item[p + 1]) {
        p++;
    }
    return p;
}

static void pass_item(void *user, int32_t item, int32_t thread)
{
    const struct products *work = user;
    struct backend_context *context = work->context;
    (void)thread;
    int32_t p = find_product(work, item), depth = work->depth;
    const struct cpu_product *product = &work->product[p];
    const struct matrix *weight = product->weight;
    int32_t first = (item - work->first_item[p]) * work->outputs_per_item[p];
    int32_t n = weight->n_rows - first < work->outputs_per_item[p] ? weight->n_rows - first : work->outputs_per_item[p];
    int64_t row_bytes = (int64_t)depth * dtype_bytes(weight->dtype);
    const unsigned char *rows = (const unsigned char *)weight->data + first * row_bytes;
    float *out = product->out + first;
    if (!product->add) {
        context->kernels->dots(out, weight->n_rows, context->packed, cpu_padded(depth), work->n, rows, row_bytes, n,
                               depth, weight->dtype);
        return;
    }
    enum { STEP = 64 };
    float sums[CPU_PASS_ROWS * STEP];
    for (int32_t i = 0; i < n; i += STEP) {
        int32_t step = n - i < STEP ? n - i : STEP;
        context->kernels->dots(sums, STEP, context->packed, cpu_padded(depth), work->n, rows + i * row_bytes, row_bytes,
                               step, depth, weight->dtype);
        for (int32_t r = 0; r < work->n; r++) {
            for (int32_t j = 0; j < step; j++) {
                out[(int64_t)r * weight->n_rows + i + j] += sums[r * STEP + j];
            }
        }
    }
}

static void one_pass(struct products *work)
{
    struct backend_context *context = work->context;
    enum dtype dtype = work->product[0].weight->dtype;
    for (int32_t r = 0; r < work->n; r++) {
        context->kernels->pack(context->packed + (int64_t)r * cpu_padded(work->depth),
                               work->x + (int64_t)r * work->depth, work->depth, dtype);
    }
    for (int32_t p = 0; p < work->n_products; p++) {
        // Items of one size; the kernel takes four weight rows at a time.
        int32_t n_rows = work->product[p].weight->n_rows;
        int64_t bytes = (int64_t)n_rows * work->depth * dtype_bytes(dtype);
        int32_t n_items = (int32_t)((bytes + PASS_BYTES - 1) / PASS_BYTES);
        work->outputs_per_item[p] = divide_up(divide_up(n_rows, n_items), 4) * 4;
        work->first_item[p + 1] = work->first_item[p] + divide_up(n_rows, work->outputs_per_item[p]);
    }
    thread_pool_run(context->pool, pass_item, work, work->first_item[work->n_products]);
}

static void round_item(void *user, int32_t item, int32_t thread)
{
    const struct products *work = user;
    (void)thread;
    int32_t first = item * ROUND_ROWS, n = work->n - first < ROUND_ROWS ? work->n - first : ROUND_ROWS;
    int64_t at = (int64_t)first * work->depth;
    work->context->kernels->to_bf16(work->context->rounded + at, work->x + at, (int64_t)n * work->depth);
}

static void tile_item(void *user, int32_t item, int32_t thread)
{
    struct products *work = user;
    struct backend_context *context = work->context;
    int32_t p = find_product(work, item);
    int32_t place = item - work->first_item[p], row_tile = place % work->n_row_tiles, tile = place / work->n_row_tiles;
    const struct cpu_product *product = &work->product[p];
    const struct matrix *weight = product->weight;
    int32_t first = tile * CPU_TILE_OUTPUTS,
            n = weight->n_rows - first < CPU_TILE_OUTPUTS ? weight->n_rows - first : CPU_TILE_OUTPUTS;
    int64_t first_row = (int64_t)row_tile * work->tile_rows;
    const unsigned char *b =
        (const unsigned char *)weight->data + (int64_t)first * work->depth * dtype_bytes(weight->dtype);
    const void *a = work->x + first_row * work->depth;
    if (work->rounded) {
        a = context->rounded + first_row * work->depth;
    } else if (weight->dtype == DTYPE_BF16) {
        struct cpu_scratch scratch = cpu_scratch_of(context, thread);
        float *wide = cpu_scratch_take(&scratch, (int64_t)CPU_TILE_OUTPUTS * work->depth * (int64_t)sizeof(float));
        for (int32_t i = 0; i < n; i++) {
            context->kernels->widen(wide + (int64_t)i * work->depth,
                                    (const uint16_t *)(const void *)b + (int64_t)i * work->depth, work->depth,
                                    DTYPE_BF16);
        }
        b = (const unsigned char *)wide;
    }
    bool last_rows = row_tile == work->n_row_tiles - 1, last_outputs = first + CPU_TILE_OUTPUTS >= weight->n_rows;
    int error = cpu_gemm_run(context->gemm, work->kernels[p][last_rows][last_outputs], thread, a, b,
                             product->out + first_row * weight->n_rows + first);
    if (error) {
        atomic_store(&work->error, error);
    }
}

// Finds the kernels of product p: tiles within, and those at the lower and right edges, which may be smaller.
static int find_kernels(struct products *work, int32_t p)
{
    const struct matrix *weight = work->product[p].weight;
    int32_t last_rows = work->n - (work->n_row_tiles - 1) * work->tile_rows;
    int32_t last_outputs = weight->n_rows - (divide_up(weight->n_rows, CPU_TILE_OUTPUTS) - 1) * CPU_TILE_OUTPUTS;
    int error = 0;
    for (int32_t kind = 0; kind < 4 && !error; kind++) {
        bool at_bottom = kind / 2, at_right = kind % 2;
        if ((!at_bottom && work->n_row_tiles == 1) || (!at_right && weight->n_rows <= CPU_TILE_OUTPUTS)) {
            continue;
        }
        struct cpu_gemm_shape shape = {
            .n_rows = at_bottom ? last_rows : work->tile_rows,
            .n_columns = at_right ? last_outputs : CPU_TILE_OUTPUTS,
            .depth = work->depth,
            .c_stride = weight->n_rows,
            .dtype = work->rounded ? DTYPE_BF16 : DTYPE_F32,
            .add = work->product[p].add,
        };
        error = cpu_gemm_kernel(work->context->gemm, &shape, &work->kernels[p][at_bottom][at_right]);
    }
    return error;
}

static int many_tiles(struct products *work)
{
    struct backend_context *context = work->context;
    int32_t tiles = divide_up(work->n, TILE_ROWS);
    work->tile_rows = divide_up(divide_up(work->n, tiles), 16) * 16;    // tiles of nearly one size
    work->n_row_tiles = divide_up(work->n, work->tile_rows);
    work->rounded = work->product[0].weight->dtype == DTYPE_BF16 && context->kernels->bf16_matmul;
    cpu_gemm_begin(context->gemm);
    for (int32_t p = 0; p < work->n_products; p++) {
        int error = find_kernels(work, p);
        if (error) {
            return error;
        }
        work->first_item[p + 1] =
            work->first_item[p] + divide_up(work->product[p].weight->n_rows, CPU_TILE_OUTPUTS) * work->n_row_tiles;
    }
    if (work->rounded) {
        thread_pool_run(context->pool, round_item, work, divide_up(work->n, ROUND_ROWS));
    }
    thread_pool_run(context->pool, tile_item, work, work->first_item[work->n_products]);
    int error = atomic_load(&work->error);
    return error ? status_fail(error, "oneDNN failed in a product of %d rows", work->n) : 0;
}

int cpu_products(struct backend_context *context, const float *x, int32_t n, const struct cpu_product *products,
                 int32_t n_products)
{
    struct products work = {.context = context, .x = x, .n = n};
    for (int32_t p = 0; p < n_products; p++) {
        if (products[p].weight && products[p].weight->data) {
            work.product[work.n_products++] = products[p];
            work.depth = products[p].weight->n_cols;
        }
    }
    if (n == 0 || work.n_products == 0) {
        return 0;
    }
    // Weights of one layer may differ in type; each type is packed for itself.
    for (int32_t p = 1; p < work.n_products; p++) {
        if (work.product[p].weight->dtype != work.product[0].weight->dtype) {
            int error = cpu_products(context, x, n, work.product, p);
            return error ? error : cpu_products(context, x, n, work.product + p, work.n_products - p);
        }
    }
    if (n > CPU_PASS_ROWS) {
        return many_tiles(&work);
    }
    one_pass(&work);
    return 0;
}

static void rotation_item(void *user, int32_t row, int32_t thread)
{
    struct cpu_rotation *rotation = user;
    (void)thread;
    int32_t half = rotation->dims / 2;
    for (int32_t i = 0; i < half; i++) {
        double angle = rotation->position[row] * pow((double)rotation->theta, -2.0 * i / rotation->dims);
        rotation->cosine[(int64_t)row * half + i] = (float)cos(angle);
        rotation->sine[(int64_t)row * half + i] = (float)sin(angle);
    }
}

const struct cpu_rotation *cpu_rotation_for(struct backend_context *context, const int32_t *position, int32_t n,
                                            float theta, int32_t dims)
{
    struct cpu_rotation *rotation = NULL;
    for (int32_t i = 0; i < CPU_ROTATIONS; i++) {
        rotation = &context->rotations[i];
        if (rotation->position == position && rotation->n == n && rotation->dims == dims &&
            !(rotation->theta < theta) && !(rotation->theta > theta)) {
            return rotation;
        }
        if (!rotation->position) {
            break;
        }
    }
    rotation->position = position;
    rotation->n = n;
    rotation->theta = theta;
    rotation->dims = dims;
    thread_pool_run(context->pool, rotation_item, rotation, n);
    return rotation;
}
