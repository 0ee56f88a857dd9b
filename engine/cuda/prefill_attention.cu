// engine/cuda/prefill_attention.cu - attention of prompt rows, thousands at a time: causal over all keys, or a window.
//
// Bound by the tensor cores. A tile is 128 neighbouring rows of one query head; two warp groups own 64 rows each and go
// through the keys in blocks of 128: S = Q K^T with both operands in shared memory, P = 2^(S - m) in registers, out += P V
// with P as register operand. The product for the next block is issued before the exponentials of the present one are
// used, and the two groups take turns at issuing, so that one group's exponentials run under the other's products. A third
// group has one warp that feeds them: the copy engine brings boxes of keys and values straight from the pages (from the
// right end of the context to the left) into a ring of stages, also across the border to the next tile. Running maximum m
// and sum l per row as in attention.cu; out is rescaled only in blocks where a row of the warp found a new maximum.
//
// One block per multiprocessor. Tiles are dealt out longest first, forth and back, the query heads of a KV head side by
// side, so that blocks which run together read the same keys from L2. Only the blocks at the edges of the causal triangle
// or of the window are masked.
//
// A window reads this step's keys from fresh_* by row, and older ones from the ring in the order in which the ring holds
// them: the sum does not mind, and the mask works each slot's position out.
#include "engine/cuda/prefill_attention.cuh"

static const float NO_SCORE = -1e30f;    // finite, so that differences of it are numbers

// ---- The computing groups ----------------------------------------------------------------------------------------------

enum mask { MASK_NONE, MASK_BAND, MASK_RING };

static __device__ __forceinline__ float exp2_fast(float x)
{
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// The larger of a value in the four lanes that share a row; likewise the sum.
static __device__ __forceinline__ float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 2));
}

static __device__ __forceinline__ float row_sum(float x)
{
    x += __shfl_xor_sync(FULL_MASK, x, 1);
    return x + __shfl_xor_sync(FULL_MASK, x, 2);
}

template <int HD, bool WINDOW> struct computer {
    using L = layout<HD>;
    static const int COLUMNS = BLOCK_TOKENS / 8;
    const prefill_arguments &a;
    const barriers &b;
    uint32_t q, k, v;
    int group;    // 0 or 1
    int stage;
    uint32_t parity;
    uint32_t value_parity;    // values are one block behind keys
    int value_stage;
    float out[HD / 8][4];
    uint32_t p[BLOCK_TOKENS / 16][4];
    float m[2], l[2];    // of rows g and g + 8

    static __device__ __forceinline__ void advance(int &stage, uint32_t &parity)
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }

    static __device__ __forceinline__ void release(uint32_t barrier)
    {
        if (threadIdx.x % 32 == 0) {
            barrier_arrive(barrier);
        }
    }

    __device__ __forceinline__ void issue_scores(float (&s)[COLUMNS][4])
    {
        uint64_t rows = operand_by_columns<L::ROW_BYTES>(q + group * GROUP_ROWS * L::ROW_BYTES);
        uint64_t keys = operand_by_columns<L::ROW_BYTES>(k + stage * L::BLOCK_BYTES);
#pragma unroll
        for (int i = 0; i < HD / 16; i++) {
            int panel = i * 16 / L::PANEL, step = i % (L::PANEL / 16) * 2;
            group_mma_bf16(s, rows + (panel * TILE_ROWS * L::ROW_BYTES >> 4) + step,
                           keys + (panel * BLOCK_TOKENS * L::ROW_BYTES >> 4) + step, i > 0);
        }
        group_mma_commit();
    }

    __device__ __forceinline__ void issue_values()
    {
        uint64_t values = operand_by_rows<L::ROW_BYTES>(v + value_stage * L::BLOCK_BYTES, BLOCK_TOKENS * L::ROW_BYTES);
#pragma unroll
        for (int i = 0; i < BLOCK_TOKENS / 16; i++) {
            group_mma_bf16_by_rows(out, p[i], values + i * L::ROW_BYTES);
        }
        group_mma_commit();
    }

    // Takes scores that no row of this thread may see out. first: the group's first row, counted like the block's tokens.
    template <mask MASK> __device__ __forceinline__ void apply_mask(float (&s)[COLUMNS][4], const tile &t, int at)
    {
        const int lane = threadIdx.x % 32, row = first_row(t) + threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int column = at + lane % 4 * 2,
                last = row + half * 8 - column;    // the row's own position, from this column
            int newest = (t.s.context - 1) % max(1, WINDOW ? a.page_tokens : 1);
            int ages = min(t.s.context, a.window_tokens - 1 - row - half * 8);
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    bool seen;
                    if (MASK == MASK_RING) {
                        int age = newest - (column + j * 8 + i);    // steps back from the newest token of the ring
                        age = age < 0 ? age + a.page_tokens : age;
                        seen = column + j * 8 + i < a.page_tokens && age < ages;
                    } else {
                        seen = j * 8 + i <= last && (!WINDOW || j * 8 + i > last - a.window_tokens);
                    }
                    float &score = s[j][half * 2 + i];
                    score = seen ? score : -INFINITY;
                }
            }
        }
    }

    // Scores become 2^(score - maximum) in place; grow: what the sums so far have to be multiplied by.
    __device__ __forceinline__ void exponentials(float (&s)[COLUMNS][4], float scale, float (&grow)[2])
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = m[half];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                most = fmaxf(most, fmaxf(s[j][half * 2], s[j][half * 2 + 1]));
            }
            most = row_max(most);
            grow[half] = exp2_fast((m[half] - most) * scale);
            m[half] = most;
            float shift = most * scale, sum = 0;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                s[j][half * 2] = exp2_fast(fmaf(s[j][half * 2], scale, -shift));
                s[j][half * 2 + 1] = exp2_fast(fmaf(s[j][half * 2 + 1], scale, -shift));
                sum += s[j][half * 2] + s[j][half * 2 + 1];
            }
            l[half] = l[half] * grow[half] + sum;
        }
    }

    __device__ __forceinline__ void pack(const float (&s)[COLUMNS][4])
    {
#pragma unroll
        for (int i = 0; i < BLOCK_TOKENS / 16; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                p[i][j] = pack_bf16(s[2 * i + j / 2][j % 2 * 2], s[2 * i + j / 2][j % 2 * 2 + 1]);
            }
        }
    }

    // Values behind the sequence's last token meet probabilities of 0, but must be numbers for that.
    __device__ __forceinline__ void clear_values(const tile &t, const block_walk<WINDOW> &walk)
    {
        int end = WINDOW ? walk.ring ? t.s.context : t.s.n_rows : t.s.context + t.s.n_rows;
        if (walk.at + BLOCK_TOKENS <= end) {
            return;
        }
        barrier_wait(b.v_full + stage * 8, parity);
        const int first = max(0, end - walk.at), chunks = L::ROW_BYTES / 16, each = (BLOCK_TOKENS - first) * chunks;
        for (int i = threadIdx.x % GROUP_THREADS; i < each * L::PANELS; i += GROUP_THREADS) {
            int panel = i / each, row = first + i % each / chunks, chunk = i % chunks;
            uint32_t at = v + stage * L::BLOCK_BYTES + (panel * BLOCK_TOKENS + row) * L::ROW_BYTES + chunk * 16;
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
        }
        fence_for_group_mma();
        named_barrier_sync(GROUP_BARRIER + group, GROUP_THREADS);
    }

    __device__ __forceinline__ void first_block(const tile &t, const block_walk<WINDOW> &walk, float scale)
    {
        float s[COLUMNS][4], grow[2];
        barrier_wait(b.k_full + stage * 8, parity);
        settle(s);
        group_mma_begin();
        issue_scores(s);
        group_mma_wait<0>();
        settle(s);
        release(b.k_empty + stage * 8);
        clear_values(t, walk);
        apply_mask<MASK_BAND>(s, t, walk.at);
        exponentials(s, scale, grow);
        pack(s);
        advance(stage, parity);
    }

    // The assembler would move the exponentials behind the wait for the product beside which they are to run. It moves
    // nothing across a barrier that depends on their sum, also one that is never reached: the sum is not negative.
    __device__ __forceinline__ void run_before_wait()
    {
        asm volatile(
            "{\n .reg .pred never;\n setp.lt.f32 never, %0, 0f00000000;\n @never bar.sync 0;\n}" ::"f"(l[0] + l[1])
            : "memory");
    }

    // Scores of the next block beside the values of the last.
    template <mask MASK>
    __device__ __forceinline__ void next_block(const tile &t, const block_walk<WINDOW> &walk, float scale)
    {
        float s[COLUMNS][4], grow[2];
        barrier_wait(b.k_full + stage * 8, parity);
        named_barrier_sync(TURN_BARRIER + group, 2 * GROUP_THREADS);
        settle(s);
        settle(out);
        group_mma_begin();
        issue_scores(s);
        barrier_wait(b.v_full + value_stage * 8, value_parity);
        group_mma_begin();
        issue_values();
        named_barrier_arrive(TURN_BARRIER + 1 - group, 2 * GROUP_THREADS);
        group_mma_wait<1>();
        settle(s);
        release(b.k_empty + stage * 8);
        if (MASK != MASK_NONE) {
            apply_mask<MASK>(s, t, walk.at);
        }
        exponentials(s, scale, grow);
        run_before_wait();
        group_mma_wait<0>();
        settle(out);
        release(b.v_empty + value_stage * 8);
        advance(value_stage, value_parity);
        if (MASK == MASK_RING) {
            clear_values(t, walk);
        }
        pack(s);
        advance(stage, parity);
        if (__any_sync(FULL_MASK, grow[0] != 1 || grow[1] != 1)) {
#pragma unroll
            for (int j = 0; j < HD / 8; j++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    out[j][i] *= grow[i / 2];
                }
            }
        }
    }

    __device__ __forceinline__ void last_values()
    {
        barrier_wait(b.v_full + value_stage * 8, value_parity);
        settle(out);
        group_mma_begin();
        issue_values();
        group_mma_wait<0>();
        settle(out);
        release(b.v_empty + value_stage * 8);
        advance(value_stage, value_parity);
    }

    // The group's first row, counted like the tokens of its blocks.
    __device__ __forceinline__ int first_row(const tile &t) const
    {
        return (WINDOW ? 0 : t.s.context) + t.first + group * GROUP_ROWS;
    }

    __device__ __forceinline__ void store(const tile &t, float scale)
    {
        const int lane = threadIdx.x % 32, quarter = lane % 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = group * GROUP_ROWS + threadIdx.x / 32 % 4 * 16 + lane / 4 + half * 8;
            float sum = row_sum(l[half]), factor = 1 / sum;
            int64_t at = (int64_t)(t.s.first_row + t.first + row) * a.n_heads + t.head;
            if (row < t.rows && a.lse && quarter == 0) {
                a.lse[at] = (m[half] * scale + log2f(sum)) * 0.69314718f;
            }
            uint32_t *to = (uint32_t *)a.out + at * (HD / 2);
#pragma unroll
            for (int j = 0; j < HD / 8; j++) {
                uint32_t pair = pack_bf16(out[j][half * 2] * factor, out[j][half * 2 + 1] * factor);
                if (row < t.rows) {
                    to[j * 4 + quarter] = pair;
                }
            }
        }
    }

    __device__ __forceinline__ void attend(const tile &t, float scale)
    {
        block_walk<WINDOW> walk(a, t);
#pragma unroll
        for (int j = 0; j < HD / 8; j++) {
            out[j][0] = out[j][1] = out[j][2] = out[j][3] = 0;
        }
        m[0] = m[1] = NO_SCORE;
        l[0] = l[1] = 0;
        first_block(t, walk, scale);
        const int first = first_row(t), last = first + GROUP_ROWS - 1;
        while (walk.next(a)) {
            if (WINDOW && walk.ring) {
                next_block<MASK_RING>(t, walk, scale);
            } else if (walk.at + BLOCK_TOKENS - 1 > first || (WINDOW && walk.at <= last - a.window_tokens)) {
                next_block<MASK_BAND>(t, walk, scale);
            } else {
                next_block<MASK_NONE>(t, walk, scale);
            }
        }
        release(b.q_empty);
        last_values();
        store(t, scale);
    }

    __device__ __forceinline__ void run()
    {
        const float scale = 1.44269504f * rsqrtf((float)HD);    // exponentials are powers of 2
        uint32_t q_parity = 0;
        if (group == 1) {    // the other one begins
            named_barrier_arrive(TURN_BARRIER, 2 * GROUP_THREADS);
        }
        for (int turn = 0, index; (index = turn_index(turn)) < a.n_tiles; turn++) {
            tile t = find_tile(a, index);
            barrier_wait(b.q_full, q_parity);
            q_parity ^= 1;
            attend(t, scale);
        }
    }
};

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

// ---- Launch ------------------------------------------------------------------------------------------------------------

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
