// engine/cuda/runs.cuh - cutting the work of many rows of unequal length into equal runs, one per block.
//
// Rows (items) consist of tiles; the tiles of all items form one list that is cut into runs of equal length, the
// first ones longer by one tile where it does not divide. A run may end one item and begin the next. Lengths are
// read on the device, so the cut follows the real contexts. Every warp of a block walks its run by itself: nothing
// is shared, nothing is waited for. `Tiles` is a callable: item -> its number of tiles, at least 1. All items
// together may have up to 2^31 - 1 tiles.
#pragma once

#include "engine/cuda/device.cuh"

static __device__ __forceinline__ int32_t warp_sum(int32_t value)
{
    for (int i = 16; i; i /= 2) {
        value += __shfl_xor_sync(FULL_MASK, value, i);
    }
    return value;
}

template <typename Tiles> static __device__ __forceinline__ int32_t all_tiles(const Tiles &tiles_of, int items)
{
    int32_t tiles = 0;
    for (int i = threadIdx.x % 32; i < items; i += 32) {
        tiles += tiles_of(i);
    }
    return warp_sum(tiles);
}

// How many of `runs` runs are used: none is empty.
static __device__ __forceinline__ int runs_of(int32_t tiles, int runs)
{
    return max(1, min(tiles, runs));
}

static __device__ __forceinline__ int32_t run_begin(int32_t tiles, int runs, int run)
{
    return tiles / runs * run + min(run, tiles % runs);
}

// The run that holds a tile.
static __device__ __forceinline__ int run_of(int32_t tile, int32_t tiles, int runs)
{
    int32_t least = tiles / runs, longer = tiles % runs;
    return tile < longer * (least + 1) ? tile / (least + 1) : longer + (tile - longer * (least + 1)) / least;
}

struct walk {
    int item, tile, item_end;    // current item, its current tile, one past its last tile in this run
    int32_t left;                // tiles of this run from the current item on; 0: done
    bool first, last;            // the current item begins / ends in this run
};

template <typename Tiles> static __device__ __forceinline__ void walk_enter(const Tiles &tiles_of, walk &w)
{
    int tiles = tiles_of(w.item);
    int32_t rest = tiles - w.tile;
    w.first = w.tile == 0;
    w.last = rest <= w.left;
    w.item_end = (int)(w.last ? tiles : w.tile + w.left);
}

// Finds the item that holds tile `begin` of the list; begin < end.
template <typename Tiles>
static __device__ void walk_begin(const Tiles &tiles_of, int items, walk &w, int32_t begin, int32_t end)
{
    int lane = threadIdx.x % 32;
    int32_t before = 0;
    w.left = end - begin;
    w.item = 0;
    w.tile = 0;
    for (int base = 0; base < items; base += 32) {
        int32_t tiles = base + lane < items ? tiles_of(base + lane) : 0, through = tiles;
        for (int i = 1; i < 32; i *= 2) {
            int32_t other = __shfl_up_sync(FULL_MASK, through, i);
            through += lane >= i ? other : 0;
        }
        unsigned beyond = __ballot_sync(FULL_MASK, before + through > begin);
        if (beyond) {
            int at = __ffs(beyond) - 1;
            w.item = base + at;
            w.tile = (int)(begin - before - __shfl_sync(FULL_MASK, through - tiles, at));
            break;
        }
        before += __shfl_sync(FULL_MASK, through, 31);
    }
    walk_enter(tiles_of, w);
}

template <typename Tiles> static __device__ __forceinline__ void walk_next_item(const Tiles &tiles_of, walk &w)
{
    w.left -= w.item_end - w.tile;
    w.item++;
    w.tile = 0;
    if (w.left > 0) {
        walk_enter(tiles_of, w);
    }
}
