// engine/cuda/runs.cuh - cutting the work of many rows of unequal length into runs, one per block.
//
// Rows (items) consist of tiles; the tiles of all items form one list that is cut into runs of equal length, the
// first ones longer by one tile where it does not divide. A run may end one item and begin the next. Multiprocessors
// do not get equal shares of memory's rate, so equal runs end unequally: a kernel may leave the end of a long list to
// short runs, whose blocks start as multiprocessors become free. Where runs begin depends on the list's length alone,
// so results do not depend on who is done first. Lengths are read on the device, so the cut follows the real contexts.
// Every warp of a block walks its run by itself: nothing is shared, nothing is waited for. `Tiles` is a callable: item
// -> its number of tiles, at least 1. All items together may have up to 2^31 - 1 tiles.
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

enum {
    SHORT_SHARE = 32,         // of 256 parts of the list: what short runs have
    LEAST_SHORT_TILES = 4     // a shorter run is not worth a block's start
};

struct run_cut {
    int32_t longs, shorts;         // runs; none is empty
    int32_t long_tiles, tiles;     // of the long runs, of all
};

// `most` equal runs, or as many as there are tiles.
static __device__ __forceinline__ run_cut equal_runs(int32_t tiles, int32_t most)
{
    return {max(1, min(tiles, most)), 0, tiles, tiles};
}

// Whether a list is long enough for as many short runs as long ones.
static __host__ __device__ __forceinline__ bool has_short_runs(int64_t tiles, int32_t longs)
{
    return tiles * SHORT_SHARE / 256 >= (int64_t)longs * LEAST_SHORT_TILES;
}

// `longs` long runs and as many short ones, or equal ones where the list is too short.
static __device__ __forceinline__ run_cut long_and_short_runs(int32_t tiles, int32_t longs)
{
    if (!has_short_runs(tiles, longs)) {
        return equal_runs(tiles, longs);
    }
    return {longs, longs, tiles - (int32_t)((int64_t)tiles * SHORT_SHARE / 256), tiles};
}

static __device__ __forceinline__ int32_t runs_of(const run_cut &cut)
{
    return cut.longs + cut.shorts;
}

// The first tile of a run; of run number runs_of(cut): one past the last tile.
static __device__ __forceinline__ int32_t run_begin(const run_cut &cut, int32_t run)
{
    if (run < cut.longs) {
        return cut.long_tiles / cut.longs * run + min(run, cut.long_tiles % cut.longs);
    }
    const int32_t rest = cut.tiles - cut.long_tiles, n = run - cut.longs;
    return n == cut.shorts ? cut.tiles : cut.long_tiles + rest / cut.shorts * n + min(n, rest % cut.shorts);
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
