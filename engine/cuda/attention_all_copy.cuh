// engine/cuda/attention_all_copy.cuh - how attention_all.cu cuts rows into tiles of tokens, and the warps that bring
// them.
//
// A ring of stages in shared memory; per stage two barriers, `full` and `empty`, counted as the kernel sets them up.
// Every copying warp walks the block's run by itself. Three ways, by what of a token lies in one run: all heads of a
// bf16 token, whole fp8 tokens with their scales, or the heads of an item 16 bytes at a time.
#pragma once

#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/runs.cuh"

enum {
    COMPUTE_WARPS = 8,
    COPY_WARPS = 4    // several, because looking a token up and issuing its copy takes as long as the copy
};

// How rows are cut into items, items into tiles, tiles into runs. An item is a row with a slice of its KV heads.
struct all_shape {
    int32_t parts;          // items per row
    int32_t kv_heads;       // KV heads of an item: 1, 2, 4 or 8
    int32_t q_heads;        // query heads of an item
    int32_t group;          // query heads of one KV head of an item
    int32_t tile_tokens;    // what one stage holds
    int32_t tile_subs;      // warps of one KV head that share a tile; the others take the tiles between
    int32_t groups;         // of such warps: tiles go round them
    int32_t copy_tokens;    // neighbouring tokens that surely lie side by side: as many are looked up at once by
                            // 16-byte copies
    int32_t page_shift;     // log2 of page_tokens, or -1 if it is no power of two
    int32_t row_bytes;      // of one token in shared memory, pad included
    int32_t stages;         // a multiple of `groups`: a stage always goes to the same warps
    int32_t copiers;        // warps that take turns at bulk copies; see shape_of
    int32_t items;
    int32_t runs;
    int64_t states_at;      // bytes of workspace before the states: first and last run of each item
    int32_t part_floats;    // of one saved state: q_heads * (head_dim + 2)
    bool bulk;              // a token's heads are one run
    bool whole;             // fp8: an item has all heads, tokens are copied with their scales
};

struct all_arguments {
    attention_params p;
    all_shape s;
};

static __device__ __forceinline__ int item_tokens(const all_arguments &a, int item)
{
    return a.p.rows.position[item / a.s.parts] + 1;
}

struct item_tiles {
    const all_arguments &a;

    __device__ __forceinline__ int operator()(int item) const
    {
        return (item_tokens(a, item) + a.s.tile_tokens - 1) / a.s.tile_tokens;
    }
};

// Where key and value of one token of an item lie.
static __device__ __forceinline__ void token_address(const all_arguments &a, int row, int head, int token,
                                                     const uint8_t *&key, const uint8_t *&value)
{
    const attention_params &p = a.p;
    int number = a.s.page_shift >= 0 ? token >> a.s.page_shift : token / p.view.page_tokens;
    int64_t page = p.rows.pages[(int64_t)p.rows.seq[row] * p.rows.max_pages + number];
    int at = a.s.page_shift >= 0 ? token & (p.view.page_tokens - 1) : token % p.view.page_tokens;
    key = p.view.data + page * p.view.page_stride + at * p.view.token_stride + head * p.view.head_stride;
    value = key + p.view.value_offset;
}

// Fills stages with bulk copies: the copying warps take turns, a lane per token of a tile. Addresses are looked up
// while the stage is still in use.
static __device__ void copy_bulk_tokens(const all_arguments &a, walk w, uint32_t stages, uint32_t full, uint32_t empty)
{
    const int lane = threadIdx.x % 32, half = a.s.kv_heads * a.p.head_dim * 2;
    int stage = 0, turns = threadIdx.x / 32 - COMPUTE_WARPS;    // tiles until this warp's next
    if (turns >= a.s.copiers) {
        return;
    }
    uint32_t parity = 1;    // a fresh barrier counts as having completed the phase before its first
    for (; w.left > 0; walk_next_item(item_tiles{a}, w)) {
        int row = w.item / a.s.parts, tokens = item_tokens(a, w.item);
        int head = (int)((int64_t)(w.item % a.s.parts) * a.p.n_kv_heads / a.s.parts);
        for (int tile = w.tile; tile < w.item_end; tile++) {
            if (turns == 0) {
                // Beyond the end, the last token once more: what is masked must still be numbers.
                const uint8_t *key, *value;
                int index = min(tile * a.s.tile_tokens + lane, tokens - 1);
                token_address(a, row, head, index, key, value);
                barrier_wait(empty + stage * 8, parity);
                if (lane == 0) {
                    barrier_arrive_expect(full + stage * 8, (uint32_t)(a.s.tile_tokens * half * 2));
                }
                __syncwarp();
                uint32_t to = stages + (stage * a.s.tile_tokens + lane) * a.s.row_bytes;
                if (lane < a.s.tile_tokens && value == key + half) {
                    copy_bulk(to, key, half * 2, full + stage * 8);
                } else if (lane < a.s.tile_tokens) {
                    copy_bulk(to, key, half, full + stage * 8);
                    copy_bulk(to + half, value, half, full + stage * 8);
                }
                turns = a.s.copiers;
            }
            turns--;
            if (++stage == a.s.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}

// Fills stages with fp8 tokens as they lie, scales and all; a lane per run of tokens that surely lie side by side.
static __device__ void copy_whole_tokens(const all_arguments &a, walk w, uint32_t stages, uint32_t full, uint32_t empty)
{
    const int lane = threadIdx.x % 32, run = a.s.copy_tokens;
    int stage = 0, turns = threadIdx.x / 32 - COMPUTE_WARPS;    // tiles until this warp's next
    if (turns >= a.s.copiers) {
        return;
    }
    uint32_t parity = 1;
    for (; w.left > 0; walk_next_item(item_tiles{a}, w)) {
        int tokens = item_tokens(a, w.item);
        for (int tile = w.tile; tile < w.item_end; tile++) {
            if (turns == 0) {
                // Runs that begin beyond the end are left out: whatever their place in shared memory holds is a number.
                const int first = tile * a.s.tile_tokens, n = min(a.s.tile_tokens, tokens - first);
                const int runs = (n + run - 1) / run;
                const uint8_t *key, *value;
                token_address(a, w.item, 0, first + min(lane, runs - 1) * run, key, value);
                barrier_wait(empty + stage * 8, parity);
                if (lane == 0) {
                    barrier_arrive_expect(full + stage * 8, (uint32_t)(runs * run * a.s.row_bytes));
                }
                __syncwarp();
                uint32_t to = stages + stage * a.s.tile_tokens * a.s.row_bytes;
                for (int i = lane; i < runs; i += 32) {
                    if (i >= 32) {
                        token_address(a, w.item, 0, first + i * run, key, value);
                    }
                    copy_bulk(to + i * run * a.s.row_bytes, key, run * a.s.row_bytes, full + stage * 8);
                }
                turns = a.s.copiers;
            }
            turns--;
            if (++stage == a.s.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}

// The same with 16-byte copies: each copying warp takes groups of tokens that lie side by side, the address of the
// first looked up once.
template <bool FP8>
static __device__ void copy_small_tokens(const all_arguments &a, walk w, uint32_t stages, uint32_t full, uint32_t empty)
{
    const int warp = threadIdx.x / 32 - COMPUTE_WARPS, lane = threadIdx.x % 32,
              half = a.s.kv_heads * a.p.head_dim * (FP8 ? 1 : 2);
    const int chunks = half / 16, group = a.s.copy_tokens;
    int stage = 0;
    uint32_t parity = 1;
    for (; w.left > 0; walk_next_item(item_tiles{a}, w)) {
        int row = w.item / a.s.parts, tokens = item_tokens(a, w.item);
        int head = (int)((int64_t)(w.item % a.s.parts) * a.p.n_kv_heads / a.s.parts);
        for (int tile = w.tile; tile < w.item_end; tile++) {
            barrier_wait(empty + stage * 8, parity);
            for (int first = warp * group; first < a.s.tile_tokens; first += COPY_WARPS * group) {
                // Beyond the end, the last token once more: what is masked must still be numbers.
                int index = min(tile * a.s.tile_tokens + first, (tokens - 1) / group * group);
                int last = tokens - 1 - index;
                const uint8_t *key, *value;
                token_address(a, row, head, index, key, value);
                uint32_t to = stages + (stage * a.s.tile_tokens + first) * a.s.row_bytes;
                for (int i = lane; i < group * chunks; i += 32) {
                    int token = i / chunks, at = i % chunks * 16;
                    int64_t from = min(token, last) * a.p.view.token_stride + at;
                    copy_16(to + token * a.s.row_bytes + at, key + from);
                    copy_16(to + token * a.s.row_bytes + half + at, value + from);
                }
            }
            barrier_arrive_after_copies(full + stage * 8);
            if (++stage == a.s.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}
