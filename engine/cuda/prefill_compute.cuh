// engine/cuda/prefill_compute.cuh - the warp groups of prefill_attention.cu that compute.
//
// Accumulators stay in registers from the first block of a tile to its last. Where a wait stands matters more than what
// is computed: exponentials belong between the issue of the products that they run beside and the wait for those.
#pragma once

#include "engine/cuda/prefill_attention.cuh"

static const float NO_SCORE = -1e30f;    // finite, so that differences of it are numbers

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

    // Takes out the scores of keys that a row may not see. at: first token or slot of the block.
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
