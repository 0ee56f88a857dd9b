// engine/cuda/prefill_selected.cuh - what the two kernels of selected prefill attention share: the cut of a row's
// heads, and the layout of keys and values in shared memory that a warp group's products read.
//
// A product has 64 rows: the query heads of one KV head of several prompt rows (12 rows of 5 heads). Keys and values
// lie as [head_dim / 64][tokens][128 bytes], the 16-byte chunks of each 128 bytes exchanged as the hardware's
// 128-byte swizzle wants them: chunk c of token t is found at c ^ (t % 8).
#pragma once

#include "engine/cuda/group_mma.cuh"
#include "engine/cuda/kernels.h"

// How the heads of a row are cut. A part is what one block attends for: one KV head, or fewer query heads of it where
// they have selections of their own.
struct selected_parts {
    int32_t parts;        // of a row
    int32_t group;        // query heads of a part
    int32_t tile_rows;    // prompt rows of one product
};

static inline selected_parts selected_parts_of(const prefill_selected_params *p)
{
    selected_parts s = {};
    s.parts = p->selection.sets > p->n_kv_heads ? p->selection.sets : p->n_kv_heads;
    s.group = p->n_heads / s.parts;
    s.tile_rows = 64 / s.group;
    return s;
}

static inline int64_t round_up(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

// Whole blocks of keys: prefill_blocks.cu.
int64_t prefill_blocks_workspace_bytes(const prefill_selected_params *p);
int prefill_blocks_launch(const prefill_selected_params *p, cudaStream_t stream);

// One instruction; 0 for minus infinity. What would be denormal is 0.
static __device__ __forceinline__ float power_of_2(float x)
{
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// Where the key of token `token` of sequence `seq` lies, for one KV head, in units of a key (of HD bf16 elements) from
// view.data: 32 bits reach 512 GiB of a layer's pages.
template <int HD>
static __device__ __forceinline__ uint32_t key_number(const prefill_selected_params &p, int seq, int token, int head)
{
    int64_t page = p.rows.pages[(int64_t)seq * p.rows.max_pages + token / p.view.page_tokens];
    int64_t at = token % p.view.page_tokens * p.view.token_stride + head * p.view.head_stride;
    return (uint32_t)((page * p.view.page_stride + at) / (HD * 2));
}

// Byte of 16-byte chunk `chunk` of token `token` in a tile of `tokens` tokens.
static __device__ __forceinline__ uint32_t swizzled(int token, int chunk, int tokens)
{
    return (uint32_t)(chunk / 8 * tokens * 128 + token * 128 + ((chunk % 8) ^ (token % 8)) * 16);
}

// Describes such a tile, from `address` on, to a product that sums along the dimensions (any `tokens`: the field is
// not read) or along the tokens (then `tokens` tells how far away the second 64 dimensions are).
static __device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, int tokens)
{
    const uint64_t swizzle_128 = 1ull << 62, eight_rows = (uint64_t)(1024 / 16) << 32;
    return swizzle_128 | eight_rows | (uint64_t)(tokens * 128 / 16) << 16 | (address >> 4 & 0x3fff);
}
