// engine/cuda/gemm.c - products of many rows through cuBLASLt, found at run time.
//
// The library is looked for when a context opens; without it, linear.cu's kernels do all products, slower from about 64
// rows on. The algorithm of a shape is asked for once and kept.
#include <cublasLt.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/context.h"
#include "engine/status.h"

enum { WORKSPACE_BYTES = 32 << 20, MAX_SHAPES = 64 };

struct shape {
    int32_t n, n_in, n_out;
    bool f32, add;
    cublasLtMatmulAlgo_t algorithm;
};

struct gemm {
    void *library;
    cublasLtHandle_t handle;
    void *workspace;
    struct shape shapes[MAX_SHAPES];    // the latest, round robin
    int32_t n_shapes, next;
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t,
                             const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t, void *,
                             cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t);
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
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t);
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
        !find(gemm, &gemm->matmul, "cublasLtMatmul") || !find(gemm, &gemm->heuristic, "cublasLtMatmulAlgoGetHeuristic") ||
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
    cudaFree(gemm->workspace);
    if (gemm->handle) {
        gemm->destroy(gemm->handle);
    }
    if (gemm->library) {
        dlclose(gemm->library);
    }
    free(gemm);
}

// The descriptions of one product. cuBLAS counts columns first: out^T [n_out][n] = weight [n_in][n_out]^T * x [n_in][n].
struct product {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t weight, x, out;
};

static bool describe(struct gemm *gemm, struct product *p, int32_t n, int32_t n_in, int32_t n_out, bool f32)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    return gemm->desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           gemm->desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) == CUBLAS_STATUS_SUCCESS &&
           gemm->layout_create(&p->weight, CUDA_R_16BF, (uint64_t)n_in, (uint64_t)n_out, n_in) == CUBLAS_STATUS_SUCCESS &&
           gemm->layout_create(&p->x, CUDA_R_16BF, (uint64_t)n_in, (uint64_t)n, n_in) == CUBLAS_STATUS_SUCCESS &&
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

// The algorithm for a shape, from those kept or from the library; NULL if it has none.
static const cublasLtMatmulAlgo_t *algorithm(struct gemm *gemm, const struct product *p, struct shape wanted)
{
    for (int32_t i = 0; i < gemm->n_shapes; i++) {
        const struct shape *s = &gemm->shapes[i];
        if (s->n == wanted.n && s->n_in == wanted.n_in && s->n_out == wanted.n_out && s->f32 == wanted.f32 && s->add == wanted.add) {
            return &s->algorithm;
        }
    }
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
    if (!found) {
        return NULL;
    }
    struct shape *to = &gemm->shapes[gemm->next];
    gemm->next = (gemm->next + 1) % MAX_SHAPES;
    gemm->n_shapes += gemm->n_shapes < MAX_SHAPES;
    *to = wanted;
    to->algorithm = result.algo;
    return &to->algorithm;
}

int gemm_run(struct gemm *gemm, void *out, const void *x, const void *weight, int32_t n, int32_t n_in, int32_t n_out,
             bool f32, bool add, cudaStream_t stream)
{
    struct product p = {0};
    const float one = 1, beta = add ? 1 : 0;
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (describe(gemm, &p, n, n_in, n_out, f32)) {
        const cublasLtMatmulAlgo_t *algo =
            algorithm(gemm, &p, (struct shape){.n = n, .n_in = n_in, .n_out = n_out, .f32 = f32, .add = add});
        if (algo) {
            status = gemm->matmul(gemm->handle, p.desc, &one, weight, p.weight, x, p.x, &beta, out, p.out, out, p.out, algo,
                                  gemm->workspace, WORKSPACE_BYTES, stream);
        }
    }
    forget(gemm, &p);
    return status == CUBLAS_STATUS_SUCCESS
               ? 0
               : status_fail(-EIO, "cuBLASLt, %d x %d -> %d: status %d", n, n_in, n_out, (int)status);
}
