// engine/cuda/prefill_attention.cuh - what the warps of prefill_attention.cu share (parameters, tiles, blocks of keys),
// and the warp that copies.
//
// Copying and computing warps walk the same tiles and blocks without a word to each other: both use what stands here.
#pragma once

#include "engine/cuda/group_mma.cuh"
#include "engine/cuda/kernels.h"

enum {
    GROUP_THREADS = 128,
    THREADS = 3 * GROUP_THREADS,    // one group copies, two compute
    GROUP_ROWS = 64,
    TILE_ROWS = 2 * GROUP_ROWS,
    BLOCK_TOKENS = 128,
    STAGES = 2,
    COPY_REGISTERS = 40,    // with COMPUTE_REGISTERS: what 384 threads were given (168 each) dealt out anew
    COMPUTE_REGISTERS = 232,
    COMPUTE_WARPS = 8,
    LEAST_BOX_TOKENS = 8,    // a swizzle covers 8 rows
    MAX_SEQS = 64,           // of one launch: their descriptions travel as kernel parameters
    SWIZZLE_BYTES = 1024,    // alignment of panels
    TURN_BARRIER = 1,        // named barriers: two for the turns of the groups, two inside a group
    GROUP_BARRIER = 3
};

struct prefill_seq {
    int32_t seq, first_row, n_rows, context, slot;
    int32_t first_tile;    // of this launch
};

struct prefill_arguments {
    CUtensorMap q, k, v;             // k, v: pages, or the ring
    CUtensorMap fresh_k, fresh_v;    // window
    prefill_seq seqs[MAX_SEQS];
    int32_t n_seqs, n_tiles;
    int32_t box_tokens;    // of k and v; divides pages and blocks
    int32_t page_tokens, max_pages, window_tokens;
    int32_t n_heads, group;
    const int32_t *pages;
    void *out;
    float *lse;
};

// ---- Tiles and the blocks of keys that each goes through ----------------------------------------------------------

struct tile {
    prefill_seq s;
    int32_t head, first;    // query head; first row within the sequence's rows
    int32_t rows;           // up to TILE_ROWS
};

// The tile of a block's nth turn: forth and back, so that the sums of a list in descending order come out level.
static __device__ __forceinline__ int turn_index(int turn)
{
    int column = turn & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    return turn * gridDim.x + column;
}

static __device__ __forceinline__ tile find_tile(const prefill_arguments &a, int index)
{
    int seq = 0;
    while (seq + 1 < a.n_seqs && a.seqs[seq + 1].first_tile <= index) {
        seq++;
    }
    tile t;
    t.s = a.seqs[seq];
    int rank = index - t.s.first_tile, last = (t.s.n_rows - 1) / TILE_ROWS;
    t.head = rank % a.n_heads;
    t.first = (last - rank / a.n_heads) * TILE_ROWS;
    t.rows = min(TILE_ROWS, t.s.n_rows - t.first);
    return t;
}

// Blocks from right to left. Tokens are counted from the sequence's beginning, with a window from the step's first row;
// after these come the blocks of the ring, counted by slot.
template <bool WINDOW> struct block_walk {
    int at;                      // first token or slot of the block
    int least;                   // the last block of tokens to visit
    int ring;                    // 0: tokens; 1: slots
    int old_begin, old_count;    // slots that the tile needs, from old_begin on around the ring

    __device__ __forceinline__ block_walk(const prefill_arguments &a, const tile &t)
    {
        int last = t.first + t.rows - 1 + (WINDOW ? 0 : t.s.context);
        at = last / BLOCK_TOKENS * BLOCK_TOKENS;
        least = 0;
        ring = 0;
        if (WINDOW) {
            int begin = t.first - a.window_tokens + 1;    // the first token in sight of the first row
            least = max(0, begin) / BLOCK_TOKENS * BLOCK_TOKENS;
            begin = max(begin, -t.s.context);
            old_count = max(0, -begin);
            old_begin = old_count ? (t.s.context + begin) % a.page_tokens : 0;
        }
    }

    // Moves on; false at the end.
    __device__ __forceinline__ bool next(const prefill_arguments &a)
    {
        if (!WINDOW || !ring) {
            if (at > least) {
                at -= BLOCK_TOKENS;
                return true;
            }
            if (!WINDOW || old_count == 0) {
                return false;
            }
            ring = 1;
            at = -BLOCK_TOKENS;
        }
        for (at += BLOCK_TOKENS; at < a.page_tokens; at += BLOCK_TOKENS) {
            int ahead = old_begin - at;    // slots from the block's first to the needed part, around the ring
            ahead = ahead < 0 ? ahead + a.page_tokens : ahead;
            if (ahead < BLOCK_TOKENS || ahead + old_count > a.page_tokens) {
                return true;
            }
        }
        return false;
    }
};

// ---- The copying warp ---------------------------------------------------------------------------------------------

template <int HD> struct layout {
    static const int PANEL = HD < 64 ? HD : 64;    // columns
    static const int PANELS = HD / PANEL;
    static const int ROW_BYTES = PANEL * 2;
    static const int Q_BYTES = TILE_ROWS * HD * 2;
    static const int BLOCK_BYTES = BLOCK_TOKENS * HD * 2;    // keys or values of one stage
    static const int SMEM_BYTES = Q_BYTES + 2 * STAGES * BLOCK_BYTES + SWIZZLE_BYTES;
};

struct barriers {
    uint32_t q_full, q_empty, k_full, k_empty, v_full, v_empty;    // k, v: STAGES each, 8 bytes apart
};

// Which page holds box `box` of a sequence and where in it; page -1, which copies as zeros, beyond its tokens.
static __device__ __forceinline__ int2 find_box(const prefill_arguments &a, const tile &t, int box)
{
    int token = box * a.box_tokens, number = token / a.page_tokens;
    bool exists = box >= 0 && token < t.s.context + t.s.n_rows;
    int page = exists ? a.pages[(int64_t)t.s.seq * a.max_pages + number] : -1;
    return make_int2(page, token - number * a.page_tokens);
}

template <int HD, bool WINDOW> struct feeder {
    using L = layout<HD>;
    const prefill_arguments &a;
    const barriers &b;
    uint32_t q, k, v;    // in shared memory
    int stage;
    uint32_t parity;    // what completes when a stage has been emptied

    // A block that lies in one piece: fresh rows, or slots of the ring.
    __device__ __forceinline__ void copy_whole(const CUtensorMap *map, uint32_t to, int at, int head, int outer,
                                               uint32_t full)
    {
        barrier_arrive_expect(full, L::BLOCK_BYTES);
        for (int panel = 0; panel < L::PANELS; panel++) {
            copy_box(to + panel * BLOCK_TOKENS * L::ROW_BYTES, map, panel * L::PANEL, at, head, outer, full);
        }
    }

    // Boxes of a paged block: lane first + i holds the place of the ith, counted from the right.
    __device__ __forceinline__ void copy_paged(const CUtensorMap *map, uint32_t to, int2 place, int first, int head,
                                               uint32_t full)
    {
        const int boxes = BLOCK_TOKENS / a.box_tokens, lane = threadIdx.x % 32;
        if (lane == 0) {
            barrier_arrive_expect(full, L::BLOCK_BYTES);
        }
        __syncwarp();
        int box = boxes - 1 - (lane - first);
        if (lane >= first && lane < first + boxes) {
            for (int panel = 0; panel < L::PANELS; panel++) {
                copy_box(to + (panel * BLOCK_TOKENS + box * a.box_tokens) * L::ROW_BYTES, map, panel * L::PANEL,
                         place.y, head, place.x, full);
            }
        }
    }

    __device__ __forceinline__ void advance()
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }

    __device__ __forceinline__ void copy_query(const tile &t, uint32_t q_parity)
    {
        barrier_wait(b.q_empty, q_parity);
        if (threadIdx.x % 32 == 0) {
            barrier_arrive_expect(b.q_full, L::Q_BYTES);
            for (int panel = 0; panel < L::PANELS; panel++) {
                copy_box(q + panel * TILE_ROWS * L::ROW_BYTES, &a.q, panel * L::PANEL, t.s.first_row + t.first, t.head,
                         0, b.q_full);
            }
        }
    }

    __device__ __forceinline__ void feed_window(const tile &t, uint32_t q_parity)
    {
        block_walk<true> walk(a, t);
        const int head = t.head / a.group;
        bool more = true;
        for (bool first = true; more; first = false) {
            const CUtensorMap *k_map = walk.ring ? &a.k : &a.fresh_k, *v_map = walk.ring ? &a.v : &a.fresh_v;
            int at = walk.ring ? walk.at : t.s.first_row + walk.at, outer = walk.ring ? t.s.slot : 0;
            uint32_t to = stage * L::BLOCK_BYTES;
            barrier_wait(b.k_empty + stage * 8, parity);
            if (threadIdx.x % 32 == 0) {
                copy_whole(k_map, k + to, at, head, outer, b.k_full + stage * 8);
            }
            if (first) {
                copy_query(t, q_parity);
            }
            barrier_wait(b.v_empty + stage * 8, parity);
            if (threadIdx.x % 32 == 0) {
                copy_whole(v_map, v + to, at, head, outer, b.v_full + stage * 8);
            }
            advance();
            more = walk.next(a);
        }
    }

    // Each lane looks up the place of one box, a warp's worth ahead of its use.
    __device__ __forceinline__ void feed_paged(const tile &t, uint32_t q_parity)
    {
        block_walk<false> walk(a, t);
        const int boxes = BLOCK_TOKENS / a.box_tokens, lookup = 32 / boxes * boxes, head = t.head / a.group;
        int box = (walk.at + BLOCK_TOKENS) / a.box_tokens - 1 - (int)(threadIdx.x % 32);
        int2 place, ahead = find_box(a, t, box);
        bool more = true;
        for (int first = lookup; more; first += boxes) {
            bool begin = walk.at + BLOCK_TOKENS > t.s.context + t.first + t.rows - 1;
            if (first == lookup) {
                place = ahead;
                box -= lookup;
                ahead = find_box(a, t, box);
                first = 0;
            }
            uint32_t to = stage * L::BLOCK_BYTES;
            barrier_wait(b.k_empty + stage * 8, parity);
            copy_paged(&a.k, k + to, place, first, head, b.k_full + stage * 8);
            if (begin) {
                copy_query(t, q_parity);
            }
            barrier_wait(b.v_empty + stage * 8, parity);
            copy_paged(&a.v, v + to, place, first, head, b.v_full + stage * 8);
            advance();
            more = walk.next(a);
        }
    }

    __device__ __forceinline__ void run()
    {
        uint32_t q_parity = 1;    // a fresh barrier counts as having completed the phase before its first
        for (int turn = 0, index; (index = turn_index(turn)) < a.n_tiles; turn++) {
            tile t = find_tile(a, index);
            if (WINDOW) {
                feed_window(t, q_parity);
            } else {
                feed_paged(t, q_parity);
            }
            q_parity ^= 1;
        }
    }
};
