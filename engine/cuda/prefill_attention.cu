// engine/cuda/prefill_attention.cu - attention of prompt rows, thousands at a time: causal over all keys, or a window.
//
// Bound by the tensor cores. A tile is 128 neighbouring rows of one query head; two warp groups own 64 rows each and go
// through the keys in blocks of 128: S = Q K^T with both operands in shared memory, P = 2^(S - m) in registers, out +=
// P V with P as register operand. The product for the next block is issued before the exponentials of the present one
// are used, and the two groups take turns at issuing, so that one group's exponentials run under the other's products.
// A third group has one warp that feeds them: the copy engine brings boxes of keys and values straight from the pages
// (from the right end of the context to the left) into a ring of stages, also across the border to the next tile.
// Running maximum m and sum l per row as in attention.cu; out is rescaled only in blocks where a row of the warp found
// a new maximum.
//
// One block per multiprocessor. Tiles are dealt out longest first, forth and back, the query heads of a KV head side by
// side, so that blocks which run together read the same keys from L2. Only the blocks at the edges of the causal
// triangle or of the window are masked.
//
// A window reads this step's keys from fresh_* by row, and older ones from the ring in the order in which the ring
// holds them: the sum does not mind, and the mask works each slot's position out.
//
// Measured on an H100 (700 W), 20 query over 4 KV heads of 128, pages of 64: one layer of a 131072-token prompt in
// chunks of 2048 / 4096 / 8192 / 16384 rows 159 / 144 / 143 / 144 ms, 552 to 614 TFLOP/s of the causal half (PyTorch's
// cuDNN, the whole prompt in one call, in the same run: 148 ms); a window of 512, 2048 / 8192 rows: 47 / 137 us.
#include "engine/cuda/prefill_compute.cuh"

template <int REGISTERS, bool MORE> static __device__ __forceinline__ void deal_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    if (MORE) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    }
#endif
}

static __device__ __forceinline__ void init_barriers(const barriers &b)
{
    barrier_init(b.q_full, 1);
    barrier_init(b.q_empty, COMPUTE_WARPS);
    for (int i = 0; i < STAGES * 8; i += 8) {
        barrier_init(b.k_full + i, 1);
        barrier_init(b.k_empty + i, COMPUTE_WARPS);
        barrier_init(b.v_full + i, 1);
        barrier_init(b.v_empty + i, COMPUTE_WARPS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

template <int HD, bool WINDOW>
__global__ void __launch_bounds__(THREADS, 1) prefill_kernel(const __grid_constant__ prefill_arguments a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using L = layout<HD>;
    extern __shared__ uint8_t shared[];
    __shared__ __align__(8) uint64_t words[2 + 4 * STAGES];
    const uint32_t q = (smem_address(shared) + SWIZZLE_BYTES - 1) / SWIZZLE_BYTES * SWIZZLE_BYTES,
                   word = smem_address(words);
    const uint32_t k = q + L::Q_BYTES, v = k + STAGES * L::BLOCK_BYTES;
    const barriers b = {
        word, word + 8, word + 16, word + 16 + STAGES * 8, word + 16 + STAGES * 16, word + 16 + STAGES * 24};
    if (threadIdx.x == 0) {
        init_barriers(b);
    }
    __syncthreads();
    dependents_may_launch();
    wait_for_predecessor();
    if (threadIdx.x < GROUP_THREADS) {
        deal_registers<COPY_REGISTERS, false>();
        if (threadIdx.x < 32) {
            feeder<HD, WINDOW>{a, b, q, k, v, 0, 1}.run();
        }
    } else {
        deal_registers<COMPUTE_REGISTERS, true>();
        computer<HD, WINDOW>{a, b, q, k, v, (int)threadIdx.x / GROUP_THREADS - 1}.run();
    }
#endif
}

// ---- Launch -------------------------------------------------------------------------------------------------------

template <int HD, bool WINDOW> static int launch_tiles(const prefill_arguments &a, cudaStream_t stream)
{
    launch_shape shape = {};
    shape.grid = dim3((unsigned)(a.n_tiles < multiprocessors() ? a.n_tiles : multiprocessors()));
    shape.threads = THREADS;
    shape.smem_bytes = layout<HD>::SMEM_BYTES;
    int error = allow_smem("prefill attention", prefill_kernel<HD, WINDOW>, shape.smem_bytes);
    return error ? error : launch("prefill attention", prefill_kernel<HD, WINDOW>, shape, stream, a);
}

template <int HD> static int launch_dim(const prefill_arguments &a, bool window, cudaStream_t stream)
{
    return window ? launch_tiles<HD, true>(a, stream) : launch_tiles<HD, false>(a, stream);
}

static int launch_any(const prefill_arguments &a, int32_t head_dim, bool window, cudaStream_t stream)
{
    switch (head_dim) {
    case 16: return launch_dim<16>(a, window, stream);
    case 32: return launch_dim<32>(a, window, stream);
    case 64: return launch_dim<64>(a, window, stream);
    default: return launch_dim<128>(a, window, stream);
    }
}

static int32_t box_tokens(const prefill_attention_params *p)
{
    int32_t tokens = BLOCK_TOKENS;
    while (p->over != ATTEND_WINDOW && p->view.page_tokens % tokens != 0) {
        tokens /= 2;
    }
    return tokens;
}

static int check_params(const prefill_attention_params *p)
{
    static int major = 0;
    if (!major) {
        int device = 0;
        cudaError_t error = cudaGetDevice(&device);
        error = error ? error : cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        if (error) {
            return gpu_status(error, "device");
        }
    }
    int32_t hd = p->head_dim;
    if (major != 9 || (hd != 16 && hd != 32 && hd != 64 && hd != 128)) {
        return status_fail(-ENOTSUP, "prefill attention: heads of %d on compute capability %d; 16, 32, 64 or 128 on 9",
                           hd, major);
    }
    if (p->over == ATTEND_SELECTED || p->view.dtype != DTYPE_BF16 || p->n_kv_heads < 1 ||
        p->n_heads % p->n_kv_heads != 0 || box_tokens(p) < LEAST_BOX_TOKENS ||
        (p->over == ATTEND_WINDOW && p->view.page_tokens < p->window_tokens)) {
        return status_fail(-ENOTSUP, "prefill attention: %d query heads over %d KV heads, pages of %d tokens",
                           p->n_heads, p->n_kv_heads, p->view.page_tokens);
    }
    return 0;
}

// Rows of [n][heads*head_dim].
static int map_rows(CUtensorMap *map, const prefill_attention_params *p, const void *data, int32_t heads)
{
    uint64_t head_bytes = (uint64_t)p->head_dim * 2;
    return tensor_map(map, {data,
                            (uint64_t)p->head_dim,
                            {(uint64_t)p->rows.n, (uint64_t)heads, 1},
                            {head_bytes * heads, head_bytes, head_bytes},
                            p->head_dim < 64 ? (uint32_t)p->head_dim : 64,
                            BLOCK_TOKENS});
}

static int map_cache(CUtensorMap *map, const prefill_attention_params *p, const void *data)
{
    const uint64_t pages = 1 << 30;    // more than there can be: the view does not say how many there are
    return tensor_map(map,
                      {data,
                       (uint64_t)p->head_dim,
                       {(uint64_t)p->view.page_tokens, (uint64_t)p->n_kv_heads, pages},
                       {(uint64_t)p->view.token_stride, (uint64_t)p->view.head_stride, (uint64_t)p->view.page_stride},
                       p->head_dim < 64 ? (uint32_t)p->head_dim : 64,
                       (uint32_t)box_tokens(p)});
}

static int map_tensors(prefill_arguments *a, const prefill_attention_params *p)
{
    static_assert(TILE_ROWS == BLOCK_TOKENS, "queries and fresh keys come in boxes of one size");
    int error = map_rows(&a->q, p, p->q, p->n_heads);
    error = error ? error : map_cache(&a->k, p, p->view.data);
    error = error ? error : map_cache(&a->v, p, p->view.data + p->view.value_offset);
    if (!error && p->over == ATTEND_WINDOW) {
        error = map_rows(&a->fresh_k, p, p->fresh_k, p->n_kv_heads);
        error = error ? error : map_rows(&a->fresh_v, p, p->fresh_v, p->n_kv_heads);
    }
    return error;
}

// Sequences [first, end) into the arguments, those with the longest context first, and their tiles counted.
static void list_tiles(prefill_arguments *a, const batch_seq *seqs, int32_t first, int32_t end)
{
    a->n_seqs = a->n_tiles = 0;
    for (int32_t i = first; i < end; i++) {
        if (seqs[i].n_rows == 0) {
            continue;
        }
        prefill_seq s = {i, seqs[i].first_row, seqs[i].n_rows, seqs[i].context_tokens, seqs[i].slot, 0};
        int32_t at = a->n_seqs++;
        for (; at > 0 && a->seqs[at - 1].context + a->seqs[at - 1].n_rows < s.context + s.n_rows; at--) {
            a->seqs[at] = a->seqs[at - 1];
        }
        a->seqs[at] = s;
    }
    for (int32_t i = 0; i < a->n_seqs; i++) {
        a->seqs[i].first_tile = a->n_tiles;
        a->n_tiles += (a->seqs[i].n_rows + TILE_ROWS - 1) / TILE_ROWS * a->n_heads;
    }
}

extern "C" int prefill_attention_launch(const prefill_attention_params *p, cudaStream_t stream)
{
    if (p->rows.n == 0) {
        return 0;
    }
    prefill_arguments a = {};
    int error = check_params(p);
    error = error ? error : map_tensors(&a, p);
    a.box_tokens = box_tokens(p);
    a.page_tokens = p->view.page_tokens;
    a.max_pages = p->rows.max_pages;
    a.window_tokens = p->window_tokens;
    a.n_heads = p->n_heads;
    a.group = error ? 1 : p->n_heads / p->n_kv_heads;
    a.pages = p->rows.pages;
    a.out = p->out;
    a.lse = p->lse;
    for (int32_t first = 0; !error && first < p->n_seqs; first += MAX_SEQS) {
        int32_t end = first + MAX_SEQS < p->n_seqs ? first + MAX_SEQS : p->n_seqs;
        list_tiles(&a, p->seqs, first, end);
        error = launch_any(a, p->head_dim, p->over == ATTEND_WINDOW, stream);
    }
    return error;
}
