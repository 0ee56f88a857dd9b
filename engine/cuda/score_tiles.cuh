// engine/cuda/score_tiles.cuh - what the scoring kernels for many rows share: operands of group multiplications in
// swizzled shared memory, the stream of keys into it, and tiles of rows cut at the ends of sequences.
//
// An operand is a matrix whose rows (keys or queries) are 128 or 256 bytes: one or two panels of 128 bytes a row, in
// each the 16-byte chunk c of row r lies at place c ^ (r % 8): the 128-byte swizzle that the tensor core reads
// without bank conflicts. Eight rows are 1024 bytes; operands begin at multiples of that.
#pragma once

#include "engine/cuda/device.cuh"
#include "engine/cuda/kernels.h"

enum {
    PANEL = 128,         // bytes of a row in one panel
    SCORE_GROUP = 16,    // consecutive tokens that share an entry of `maxima`
    COPY_LAG = 2         // tiles whose copies are under way before the oldest is waited for
};

// Where the chunk lies within a panel.
static __device__ __forceinline__ uint32_t swizzled(int row, int chunk)
{
    return (uint32_t)(row * PANEL + ((chunk ^ (row & 7)) << 4));
}

// Describes an operand whose panel begins at `address`; adding 32 >> 4 moves on by 32 bytes of every row.
static __device__ __forceinline__ uint64_t swizzled_operand(uint32_t address)
{
    const uint64_t eight_rows = 8 * PANEL >> 4, swizzle_128 = (uint64_t)1 << 62;
    return swizzle_128 | eight_rows << 32 | (uint64_t)1 << 16 | (address & 0x3ffff) >> 4;
}

// Four warps: c[64][128] (+)= 64 rows of a times 128 rows of b, over 32 bytes of each. c begins from zero if `first`.
template <bool FP8>
static __device__ __forceinline__ void group_mma_128(float (&c)[16][4], uint64_t a, uint64_t b, bool first)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define QUAD(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define OPERANDS                                                                                                       \
    QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7), QUAD(8), QUAD(9), QUAD(10), QUAD(11),      \
        QUAD(12), QUAD(13), QUAD(14), QUAD(15)
#define REGISTERS                                                                                                      \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
    "30,%31,"                                                                                                          \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
    "%60,%61,"                                                                                                         \
    "%62,%63}, %64, %65, add, 1, 1"
    if constexpr (FP8) {
        asm volatile("{\n .reg .pred add;\n setp.eq.b32 add, %66, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " REGISTERS ";\n}"
                     : OPERANDS
                     : "l"(a), "l"(b), "r"((int)first));
    } else {
        asm volatile("{\n .reg .pred add;\n setp.eq.b32 add, %66, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " REGISTERS ", 0, 0;\n}"
                     : OPERANDS
                     : "l"(a), "l"(b), "r"((int)first));
    }
#undef REGISTERS
#undef OPERANDS
#undef QUAD
#else
    __trap();    // launchers refuse such a device
#endif
}

static __device__ __forceinline__ void copies_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most N of this thread's committed groups of copies are under way.
template <int N> static __device__ __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Where the key of place `i` among 16 goes. Spread: the four lanes that hold a row's scores then own four consecutive
// keys each (columns 2t, 2t + 1 of two neighbouring blocks of eight), which is one 16-byte store.
template <bool SPREAD> static __device__ __forceinline__ int key_place(int i)
{
    return SPREAD ? (i >> 1 & 1) * 8 + (i >> 2) * 2 + (i & 1) : i;
}

// A piece of a row tile that belongs to one sequence.
struct row_segment {
    int32_t end_row, end_tile;    // within the row tile; tiles of keys of all segments up to this one
    int32_t seq, last;            // the highest position
};

// The segments of up to `capacity` rows. Called by all threads of a block, at least as many as there are rows; ends
// with a barrier. Rows of a sequence are contiguous and ascend.
template <int TILE_KEYS>
static __device__ void find_segments(const gpu_rows &rows, int row0, int n, row_segment *segments, int &count,
                                     int (&warp_count)[8])
{
    const int i = threadIdx.x, lane = i % 32, warp = i / 32;
    const bool end = i < n && (i == n - 1 || rows.seq[row0 + i + 1] != rows.seq[row0 + i]);
    const unsigned ends = __ballot_sync(FULL_MASK, end);
    if (lane == 0 && warp < 8) {
        warp_count[warp] = __popc(ends);
    }
    __syncthreads();
    if (end) {
        int at = __popc(ends & ((1u << lane) - 1));
        for (int w = 0; w < warp; w++) {
            at += warp_count[w];
        }
        segments[at] = {i + 1, rows.position[row0 + i] / TILE_KEYS + 1, rows.seq[row0 + i], rows.position[row0 + i]};
        if (i == n - 1) {
            count = at + 1;
        }
    }
    __syncthreads();
    if (i == 0) {
        for (int s = 1; s < count; s++) {
            segments[s].end_tile += segments[s - 1].end_tile;
        }
    }
    __syncthreads();
}

// Calls visit(segment, its first row, tile) for the tiles [begin, end) of a row tile.
template <typename Visit>
static __device__ __forceinline__ void for_tiles(const row_segment *segments, int count, int begin, int end,
                                                 const Visit &visit)
{
    int first_tile = 0, first_row = 0;
    for (int s = 0; s < count && first_tile < end; s++) {
        const row_segment segment = segments[s];
        for (int tile = max(begin, first_tile); tile < min(end, segment.end_tile); tile++) {
            visit(segment, first_row, tile - first_tile);
        }
        first_tile = segment.end_tile;
        first_row = segment.end_row;
    }
}

// A ring of stages of keys. full[i] counts the copying warp's lanes, empty[i] one arrival per computing warp.
struct key_ring {
    uint32_t keys, stage_bytes;    // shared memory; the keys of a stage, panel after panel, then fp8 scales
    uint32_t full, empty;          // barriers
    int stages;
};

struct ring_place {
    int stage;
    uint32_t parity;

    __device__ __forceinline__ void advance(int stages)
    {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// One warp copies one tile of TILE_KEYS keys as far as position `last` (up to the end of its 16); `offset` is what
// key_offsets gave. Pages hold a multiple of 16 tokens, so that 16 keys lie in one run.
template <int PANELS, int TILE_KEYS, bool SPREAD>
static __device__ __forceinline__ void copy_tile(const index_view &view, const int32_t *pages, int tile, int last,
                                                 uint32_t stage, const uint32_t (&offset)[PANELS * 4])
{
    constexpr int RUNS = TILE_KEYS / 16;
    const int lane = threadIdx.x % 32, token = tile * TILE_KEYS + lane * 16;
    const bool mine = lane < RUNS && token <= last;
    const unsigned present = __ballot_sync(FULL_MASK, mine);
    const uint8_t *page = view.data + (mine ? pages[token / view.page_tokens] * view.page_stride : 0);
    const int slot = token % view.page_tokens;
    const unsigned long long run = (unsigned long long)(page + (int64_t)slot * (PANELS * PANEL));
#pragma unroll
    for (int r = 0; r < RUNS; r++) {
        const uint8_t *from = (const uint8_t *)__shfl_sync(FULL_MASK, run, r) + lane * 16;
        if (present >> r & 1) {
#pragma unroll
            for (int i = 0; i < PANELS * 4; i++) {
                copy_16(stage + offset[i] + r * 16 * PANEL, from + i * 512);
            }
        }
    }
    if (view.dtype == DTYPE_FP8) {
        const unsigned long long scales = (unsigned long long)(page + view.scale_offset + (int64_t)slot * 4);
#pragma unroll
        for (int r = 0; r < RUNS; r += 8) {    // 16 scales are 64 bytes: four lanes a run
            int which = r + lane / 4;
            const uint8_t *from = (const uint8_t *)__shfl_sync(FULL_MASK, scales, which) + lane % 4 * 16;
            if (present >> which & 1) {
                copy_16(stage + PANELS * TILE_KEYS * PANEL + which * 64 + lane % 4 * 16, from);
            }
        }
    }
}

// Where this lane's chunks of a run of 16 keys go, relative to the run's first row.
template <int PANELS, int TILE_KEYS, bool SPREAD>
static __device__ __forceinline__ void key_offsets(uint32_t (&offset)[PANELS * 4])
{
#pragma unroll
    for (int i = 0; i < PANELS * 4; i++) {
        int chunk = i * 32 + threadIdx.x % 32, key = chunk / (PANELS * 8), c = chunk % (PANELS * 8);
        offset[i] = c / 8 * TILE_KEYS * PANEL + swizzled(key_place<SPREAD>(key), c % 8);
    }
}

// The copying warp: the keys of tiles [begin, end) of a row tile. A stage is announced when its copies have landed and
// this lane has made them visible to the tensor core, COPY_LAG tiles later.
template <int PANELS, int TILE_KEYS, bool SPREAD>
static __device__ void copy_keys(const index_view &view, const gpu_rows &rows, const row_segment *segments, int count,
                                 int begin, int end, const key_ring &ring)
{
    uint32_t offset[PANELS * 4];
    key_offsets<PANELS, TILE_KEYS, SPREAD>(offset);
    ring_place to = {0, 1},
               announced = {0, 0};    // a fresh barrier counts as having completed the phase before its first
    int under_way = 0;
    auto announce = [&] {
        fence_for_group_mma();
        barrier_arrive(ring.full + announced.stage * 8);
        announced.advance(ring.stages);
        under_way--;
    };
    for_tiles(segments, count, begin, end, [&](const row_segment &segment, int, int tile) {
        barrier_wait(ring.empty + to.stage * 8, to.parity);
        copy_tile<PANELS, TILE_KEYS, SPREAD>(view, rows.pages + (int64_t)segment.seq * rows.max_pages, tile,
                                             segment.last, ring.keys + to.stage * ring.stage_bytes, offset);
        copies_commit();
        to.advance(ring.stages);
        if (++under_way > COPY_LAG) {
            copies_wait<COPY_LAG>();
            announce();
        }
    });
    copies_wait<0>();
    while (under_way > 0) {
        announce();
    }
}

// Every lane that read a stage gives it back. One lane after __syncwarp would do, but that is no instruction where a
// warp is known to be together, so that racecheck cannot follow it; all lanes cost the same within 0.3%.
static __device__ __forceinline__ void ring_init(const key_ring &ring, int computing_warps)
{
    for (int i = 0; i < ring.stages; i++) {
        barrier_init(ring.full + i * 8, 32);
        barrier_init(ring.empty + i * 8, computing_warps * 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Four values in each of four neighbouring lanes -> lane t gets the combination of value t over the four.
template <typename Combine>
static __device__ __forceinline__ float combine_quad(float a, float b, float c, float d, const Combine &combine)
{
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    float ab = combine(odd ? b : a, __shfl_xor_sync(FULL_MASK, odd ? a : b, 1));
    float cd = combine(odd ? d : c, __shfl_xor_sync(FULL_MASK, odd ? c : d, 1));
    return combine(high ? cd : ab, __shfl_xor_sync(FULL_MASK, high ? ab : cd, 2));
}

static constexpr float FP8_LARGEST = 448.0f;

static __device__ __forceinline__ uint32_t pack_fp8(float a, float b, float c, float d)
{
#if __CUDA_ARCH__ >= 890
    uint16_t low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
    return (uint32_t)high << 16 | low;
#else
    return 0;
#endif
}

// Eight lanes hold a query of 128 values, 16 each: to fp8 with one scale, which is returned.
static __device__ __forceinline__ float quantise_query(const uint4 (&from)[2], uint4 &to)
{
    const uint32_t pair[8] = {from[0].x, from[0].y, from[0].z, from[0].w, from[1].x, from[1].y, from[1].z, from[1].w};
    float most = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        most = fmaxf(most, fmaxf(fabsf(bf16_low(pair[i])), fabsf(bf16_high(pair[i]))));
    }
    for (int shift = 1; shift <= 4; shift *= 2) {
        most = fmaxf(most, __shfl_xor_sync(FULL_MASK, most, shift));
    }
    const float scale = most > 0 ? most / FP8_LARGEST : 1.0f;
    uint32_t code[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        code[i] = pack_fp8(bf16_low(pair[2 * i]) / scale, bf16_high(pair[2 * i]) / scale,
                           bf16_low(pair[2 * i + 1]) / scale, bf16_high(pair[2 * i + 1]) / scale);
    }
    to = make_uint4(code[0], code[1], code[2], code[3]);
    return scale;
}

// Blocks per row tile: as many as make the last wave of blocks a full one.
static inline unsigned score_shares(int64_t row_tiles, int64_t key_tiles)
{
    int64_t chip = multiprocessors(), best = 1;
    double least = 1e30;
    for (int64_t shares = 1; shares <= chip && 2 * shares <= key_tiles + 1; shares++) {
        // One more tile's worth for what a block does before its first keys.
        double time =
            (double)((row_tiles * shares + chip - 1) / chip) * ((double)((key_tiles + shares - 1) / shares) + 1);
        if (time < least) {
            least = time;
            best = shares;
        }
    }
    return (unsigned)best;
}

// The multiplications of warp groups exist on chips of compute capability 9.0 alone.
static inline bool group_mma_here()
{
    static int major = 0;
    if (!major) {
        int device = 0;
        if (cudaGetDevice(&device) != cudaSuccess ||
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
            major = -1;
        }
    }
    return major == 9;
}

// prefill_dot.cu, prefill_gated.cu: shapes as index_score_launch sorted them out.
int prefill_dot_launch(const index_score_params &params, cudaStream_t stream);
int prefill_gated_launch(const index_score_params &params, cudaStream_t stream);
