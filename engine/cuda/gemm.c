// engine/cuda/gemm.c - products of many rows through cuBLASLt, found at run time.
//
// The library is looked for when a context opens; without it, linear.cu's kernels do all products, slower from about 64
// rows on. Algorithms are asked for once per product and eighth of an octave of rows, for the most rows in it, and
// kept: prompts differ in length, and each algorithm that is new costs the time to choose it and to load its kernel.
#include <cublasLt.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/context.h"
#include "engine/status.h"

enum { WORKSPACE_BYTES = 32 << 20 };
enum { MAX_LEVELS = 8 * 32, MAX_PRODUCTS = 16 };    // a plan has at most 11 products that differ

struct shape {
    int32_t n_in, n_out;
    bool f32, add;
    cublasLtMatmulAlgo_t algorithm;
};

// The products of one level of rows.
struct level {
    struct shape shapes[MAX_PRODUCTS];    // the latest, round robin
    int32_t n_shapes, next;
};

struct gemm {
    void *library;
    cublasLtHandle_t handle;
    void *workspace;
    struct level *levels[MAX_LEVELS];    // owned; NULL: no such rows yet
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t,
                             const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t,
                             void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,
                             cudaStream_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType_t, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*preference_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*preference_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *,
                                     size_t);
};

static bool find(struct gemm *gemm, void *function, const char *name)
{
    void *symbol = dlsym(gemm->library, name);
    memcpy(function, &symbol, sizeof symbol);    // ISO C has no cast from an object's address to a function's
    return symbol != NULL;
}

struct gemm *gemm_open(void)
{
    struct gemm *gemm = calloc(1, sizeof *gemm);
    if (!gemm) {
        return NULL;
    }
    gemm->library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!gemm->library ||
        !find(gemm, &gemm->create, "cublasLtCreate") || !find(gemm, &gemm->destroy, "cublasLtDestroy") ||
        !find(gemm, &gemm->matmul, "cublasLtMatmul") ||
        !find(gemm, &gemm->heuristic, "cublasLtMatmulAlgoGetHeuristic") ||
        !find(gemm, &gemm->desc_create, "cublasLtMatmulDescCreate") ||
        !find(gemm, &gemm->desc_destroy, "cublasLtMatmulDescDestroy") ||
        !find(gemm, &gemm->desc_set, "cublasLtMatmulDescSetAttribute") ||
        !find(gemm, &gemm->layout_create, "cublasLtMatrixLayoutCreate") ||
        !find(gemm, &gemm->layout_destroy, "cublasLtMatrixLayoutDestroy") ||
        !find(gemm, &gemm->preference_create, "cublasLtMatmulPreferenceCreate") ||
        !find(gemm, &gemm->preference_destroy, "cublasLtMatmulPreferenceDestroy") ||
        !find(gemm, &gemm->preference_set, "cublasLtMatmulPreferenceSetAttribute") ||
        gemm->create(&gemm->handle) != CUBLAS_STATUS_SUCCESS ||
        cudaMalloc(&gemm->workspace, WORKSPACE_BYTES) != cudaSuccess) {
        gemm_close(gemm);
        return NULL;
    }
    return gemm;
}

void gemm_close(struct gemm *gemm)
{
    if (!gemm) {
        return;
    }
    for (int32_t i = 0; i < MAX_LEVELS; i++) {
        free(gemm->levels[i]);
    }
    cudaFree(gemm->workspace);
    if (gemm->handle) {
        gemm->destroy(gemm->handle);
    }
    if (gemm->library) {
        dlclose(gemm->library);
    }
    free(gemm);
}

// The descriptions of one product. cuBLAS counts columns first: out^T [n_out][n] = weight [n_in][n_out]^T * x
// [n_in][n].
struct product {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t weight, x, out;
};

static bool describe(struct gemm *gemm, struct product *p, int32_t n, int32_t n_in, int32_t n_out, bool f32)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    uint64_t in = (uint64_t)n_in, out = (uint64_t)n_out;
    return gemm->desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           gemm->desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                          sizeof transposed) == CUBLAS_STATUS_SUCCESS &&
           gemm->layout_create(&p->weight, CUDA_R_16BF, in, out, n_in) == CUBLAS_STATUS_SUCCESS &&
           gemm->layout_create(&p->x, CUDA_R_16BF, in, (uint64_t)n, n_in) == CUBLAS_STATUS_SUCCESS &&
           gemm->layout_create(&p->out, f32 ? CUDA_R_32F : CUDA_R_16BF, (uint64_t)n_out, (uint64_t)n, n_out) ==
               CUBLAS_STATUS_SUCCESS;
}

static void forget(struct gemm *gemm, struct product *p)
{
    if (p->out) {
        gemm->layout_destroy(p->out);
    }
    if (p->x) {
        gemm->layout_destroy(p->x);
    }
    if (p->weight) {
        gemm->layout_destroy(p->weight);
    }
    if (p->desc) {
        gemm->desc_destroy(p->desc);
    }
}

// Rows that share algorithms: the number of their level, and the most of them, which algorithms are chosen for.
static int32_t level_of(int32_t n, int32_t *most)
{
    int32_t octave = 0, below = n > 1 ? n - 1 : 1;    // powers of two end a level: chunks are as long
    while (below >> (octave + 1) > 0) {
        octave++;
    }
    int32_t step = octave > 3 ? 1 << (octave - 3) : 1, eighth = (below - (1 << octave)) / step;
    *most = (1 << octave) + (eighth + 1) * step;
    return 8 * octave + eighth;
}

// Asks the library; false if it has none.
static bool choose(struct gemm *gemm, cublasLtMatmulAlgo_t *out, const struct product *p)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    size_t bytes = WORKSPACE_BYTES;
    int found = 0;
    if (gemm->preference_create(&preference) == CUBLAS_STATUS_SUCCESS) {
        gemm->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
        if (gemm->heuristic(gemm->handle, p->desc, p->weight, p->x, p->out, p->out, preference, 1, &result, &found) !=
            CUBLAS_STATUS_SUCCESS) {
            found = 0;
        }
        gemm->preference_destroy(preference);
    }
    if (found) {
        *out = result.algo;
    }
    return found;
}

// The algorithm for the level of `n` rows, kept or chosen; NULL if there is none.
static const cublasLtMatmulAlgo_t *algorithm(struct gemm *gemm, int32_t n, struct shape wanted)
{
    int32_t most, number = level_of(n, &most);
    struct product p = {0};
    struct level *level = gemm->levels[number];
    level = level ? level : calloc(1, sizeof *level);
    gemm->levels[number] = level;
    for (int32_t i = 0; level && i < level->n_shapes; i++) {
        const struct shape *s = &level->shapes[i];
        if (s->n_in == wanted.n_in && s->n_out == wanted.n_out && s->f32 == wanted.f32 && s->add == wanted.add) {
            return &s->algorithm;
        }
    }
    bool chosen = level && describe(gemm, &p, most, wanted.n_in, wanted.n_out, wanted.f32) &&
                  choose(gemm, &wanted.algorithm, &p);
    forget(gemm, &p);
    if (!chosen) {
        return NULL;
    }
    struct shape *to = &level->shapes[level->next];
    level->next = (level->next + 1) % MAX_PRODUCTS;
    level->n_shapes += level->n_shapes < MAX_PRODUCTS;
    *to = wanted;
    return &to->algorithm;
}

// What one product of a batch is given to the library as.
static cublasStatus_t launch(struct gemm *gemm, const struct product *p, const cublasLtMatmulAlgo_t *algo, void *out,
                             const void *x, const void *weight, bool add, cudaStream_t stream)
{
    const float one = 1, beta = add ? 1 : 0;
    return gemm->matmul(gemm->handle, p->desc, &one, weight, p->weight, x, p->x, &beta, out, p->out, out, p->out, algo,
                        gemm->workspace, WORKSPACE_BYTES, stream);
}

int gemm_run(struct gemm *gemm, void *out, const void *x, const void *weight, int32_t n, int32_t n_in, int32_t n_out,
             bool f32, bool add, cudaStream_t stream)
{
    struct product p = {0};
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (describe(gemm, &p, n, n_in, n_out, f32)) {
        const cublasLtMatmulAlgo_t *algo =
            algorithm(gemm, n, (struct shape){.n_in = n_in, .n_out = n_out, .f32 = f32, .add = add});
        cublasLtMatmulAlgo_t own;
        status = algo ? launch(gemm, &p, algo, out, x, weight, add, stream) : status;
        // What suits the most rows of a level may refuse fewer.
        if (status != CUBLAS_STATUS_SUCCESS && choose(gemm, &own, &p)) {
            status = launch(gemm, &p, &own, out, x, weight, add, stream);
        }
    }
    forget(gemm, &p);
    return status == CUBLAS_STATUS_SUCCESS
               ? 0
               : status_fail(-EIO, "cuBLASLt, %d x %d -> %d: status %d", n, n_in, n_out, (int)status);
}
