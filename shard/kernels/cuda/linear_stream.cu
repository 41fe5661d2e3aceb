/* Up to 16 tokens against weights that are read once.
 *
 * A block has groups of four warps; a group takes tiles of 16 rows, one after the other. The warps of a group take the
 * tile's steps in turn (step s belongs to warp s % 4) and their sums are added in warp order at the tile's end: the order of
 * every sum follows from the number of columns alone. Each warp has a ring of slots in shared memory and keeps three steps
 * on their way, across the ends of tiles: what is under way is what a GPU's bandwidth lives on (Little: 4.8 TB/s times
 * 0.8 µs are 29 KB on each of 132 multiprocessors; four groups keep 96 KB under way).
 *
 * Activations lie in shared memory as halves (bf16_split), all columns where they fit, else a chunk of columns at a time.
 * Weights are asked for before the kernel before this one has ended (grid_wait). */
#include "shard/kernels/cuda/linear_stream.cuh"
#include "shard/kernels/cpu/ref_math.h"

/* What a thread is in its block. */
typedef struct stream_self {
    uint32_t group, warp, lane; /* warp: of the group */
    uint32_t slot_of_block;     /* which of the block's units its group works at */
    uint32_t block, token;      /* among those of its tokens; first token */
} stream_self;

static __device__ __forceinline__ stream_self self_of(const stream_call *c) {
    stream_self s;
    s.group = threadIdx.x / STREAM_THREADS;
    s.warp = threadIdx.x / WARP % STREAM_WARPS;
    s.lane = threadIdx.x % WARP;
    s.slot_of_block = c->gated ? s.group / 2 : s.group;
    s.block = blockIdx.x / c->token_tiles; /* blocks that read the same weights run side by side */
    s.token = blockIdx.x % c->token_tiles * STREAM_TILE;
    return s;
}

/* Which product a unit is of, for this group; its first row. */
static __device__ __forceinline__ uint32_t product_of(const stream_call *c, const stream_self *s, uint32_t unit,
                                                      uint32_t *row) {
    uint32_t p = 0, begin = 0;
    if (c->gated) p = s->group % 2;
    else
        while (unit >= c->product[p].tiles_end) begin = c->product[p++].tiles_end;
    *row = (unit - begin) * STREAM_TILE;
    return p;
}

/* At the warp's first step of the place's unit; behind the last step if there is none. */
template <int type>
static __device__ __forceinline__ void place_unit(stream_place *place, const stream_call *c, const stream_self *s,
                                                  uint32_t steps) {
    place->step = steps;
    if (place->unit >= c->units || s->warp >= steps) return;
    uint32_t row, p = product_of(c, s, place->unit, &row);
    place->step = s->warp;
    stream_begin<type>(place, (const unsigned char *)c->product[p].w + (size_t)(row / STREAM_TILE) * c->tile_bytes,
                       c->product[p].rows - row, c->cols, s->lane);
}

/* Asks for the warp's next step, if there is one. */
template <int type>
static __device__ __forceinline__ void fetch_next(unsigned char *slot, uint32_t slot_place, stream_place *place,
                                                  const stream_call *c, const stream_self *s, uint32_t steps) {
    if (place->step < steps) {
        stream_fetch<type>(slot, slot_place, place, c->cols, s->lane);
        if (place->step >= steps) {
            place->unit += c->blocks * (c->gated ? c->groups / 2 : c->groups);
            place_unit<type>(place, c, s, steps);
        }
    }
    cp_async_commit();
}

/* Of a group's first tile, what its rings do not hold yet, up to `ahead` bytes, into the second cache: the memory would idle
 * while kernels before this one end. */
template <int type>
static __device__ __forceinline__ void prefetch_tile(const stream_call *c, const stream_self *s, uint32_t unit) {
    const uint32_t most = c->ahead, asked_steps = STREAM_WARPS * (STREAM_SLOTS - 1), thread = threadIdx.x % STREAM_THREADS;
    if (unit >= c->units || most == 0) return;
    uint32_t row, p = product_of(c, s, unit, &row);
    const unsigned char *data = (const unsigned char *)c->product[p].w + (size_t)(row / STREAM_TILE) * c->tile_bytes;
    if constexpr (stream_type<type>::in_rows) {
        uint32_t row_bytes = stream_row_bytes<type>(c->cols), from = asked_steps * 128, each = most / STREAM_TILE;
        if (thread >= STREAM_TILE || row + thread >= c->product[p].rows || from >= row_bytes) return;
        prefetch_l2_bytes(data + (size_t)thread * row_bytes + from, row_bytes - from < each ? row_bytes - from : each);
    } else {
        uint32_t from = asked_steps * stream_type<type>::quant_bytes;
        uint64_t bytes = (uint64_t)quant_groups(c->cols) * (stream_type<type>::group_bytes + QUANT_SCALE_BYTES);
        if (thread > 0 || from >= bytes) return;
        prefetch_l2_bytes(data + from, bytes - from < most ? (uint32_t)(bytes - from) : most);
    }
}

/* Rows and tokens of a lane's sums: partial[token][row]. */
template <int type, int octets>
static __device__ __forceinline__ void put_partial(float *partial, const stream_sums<octets> *sums, uint32_t g,
                                                   uint32_t t) {
    uint32_t row0 = stream_type<type>::in_rows ? g : 2 * g, row1 = stream_type<type>::in_rows ? g + 8 : 2 * g + 1;
    #pragma unroll
    for (uint32_t o = 0; o < octets; o++) {
        #pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            float *to = partial + (o * 8 + 2 * t + i) * STREAM_SUM_STRIDE;
            to[row0] = sums->high[o][i] + sums->low[o][i];
            to[row1] = sums->high[o][2 + i] + sums->low[o][2 + i];
        }
    }
}

static __device__ __forceinline__ float add_partials(const float *partial, uint32_t warp_floats, uint32_t at) {
    float sum = partial[at];
    #pragma unroll
    for (uint32_t w = 1; w < STREAM_WARPS; w++) sum += partial[w * warp_floats + at];
    return sum;
}

/* Scales of the row that a thread writes: asked for when a tile begins, they are there when it ends. */
typedef struct stream_scales { float of, of_up; } stream_scales;

static __device__ __forceinline__ float row_scale(const stream_call *c, uint32_t p, uint32_t row) {
    const unsigned char *strip = (const unsigned char *)c->product[p].w + (size_t)(row / STREAM_TILE) * c->tile_bytes;
    return ((const float *)(strip + (size_t)STREAM_TILE * fp8_row_bytes(c->cols)))[row % STREAM_TILE];
}
template <int type>
static __device__ __forceinline__ stream_scales scales_of(const stream_call *c, const stream_self *s, uint32_t unit) {
    stream_scales scales = {1.0f, 1.0f};
    if (type != WEIGHT_FP8 || unit >= c->units) return scales;
    uint32_t row, p = product_of(c, s, unit, &row);
    scales.of = row_scale(c, c->gated ? 0 : p, row + threadIdx.x % STREAM_TILE);
    if (c->gated) scales.of_up = row_scale(c, 1, row + threadIdx.x % STREAM_TILE);
    return scales;
}

/* The unit's outputs from its partial sums; gated: by the threads of both groups. */
template <int type, int octets>
static __device__ __forceinline__ void write_unit(const stream_call *c, const stream_self *s, uint32_t unit, uint32_t n,
                                                  const float *partials, stream_scales scales) {
    const uint32_t warp_floats = 8 * octets * STREAM_SUM_STRIDE, group_floats = STREAM_WARPS * warp_floats;
    uint32_t threads = c->gated ? 2 * STREAM_THREADS : STREAM_THREADS, thread = threadIdx.x % threads;
    uint32_t row, p = product_of(c, s, unit, &row);
    const float *partial = partials + (c->gated ? s->group & ~1u : s->group) * group_floats;
    if (c->gated) p = 0;
    row += thread % STREAM_TILE; /* the same for all of a thread's outputs */
    if (row >= c->product[p].rows) return;
    for (uint32_t token = thread / STREAM_TILE; token < n; token += threads / STREAM_TILE) {
        uint32_t at = token * STREAM_SUM_STRIDE + thread % STREAM_TILE;
        float y = add_partials(partial, warp_floats, at);
        if constexpr (type == WEIGHT_FP8) y *= scales.of;
        if (c->gated) {
            float up = add_partials(partial + group_floats, warp_floats, at);
            if constexpr (type == WEIGHT_FP8) up *= scales.of_up;
            y = ref_gelu(y) * up;
        }
        c->product[p].y[(s->token + token) * c->product[p].y_stride + row] = y;
    }
}

/* As many registers as leave room for the groups that the plan wants on a multiprocessor. */
template <int type, int octets>
static __global__ void __launch_bounds__(stream_groups_wanted((weight_type)type, 8 * octets) * STREAM_THREADS, 1)
    stream_kernel(const stream_call c) {
    using form = stream_type<type>;
    DYNAMIC_SHARED(shared);
    const stream_self s = self_of(&c);
    const uint32_t steps = (c.cols + form::columns - 1) / form::columns, n_left = c.n - s.token;
    const uint32_t n = n_left < STREAM_TILE ? n_left : (uint32_t)STREAM_TILE, g = s.lane / 4, t = s.lane % 4;
    const uint32_t units_at_once = c.gated ? c.groups / 2 : c.groups, x_stride = c.chunk_columns * 4 + 64;

    unsigned char *ring = shared + (s.group * STREAM_WARPS + s.warp) * (STREAM_SLOTS * form::slot_bytes);
    unsigned char *x = shared + c.groups * STREAM_WARPS * (STREAM_SLOTS * form::slot_bytes);
    float *partials = (float *)(x + (c.n < STREAM_TILE ? c.n : (uint32_t)STREAM_TILE) * x_stride);
    float *partial = partials + (s.group * STREAM_WARPS + s.warp) * (8 * octets * STREAM_SUM_STRIDE);

    const uint32_t slot_place = stream_slot_place<type>(s.lane), word_place = stream_word_place<type>(s.lane);
    stream_place next = {NULL, NULL, {0, 0, 0}, s.block * units_at_once + s.slot_of_block, 0};
    place_unit<type>(&next, &c, &s, steps);
    #pragma unroll 1
    for (uint32_t i = 0; i < STREAM_SLOTS - 1; i++)
        fetch_next<type>(ring + i * form::slot_bytes, slot_place, &next, &c, &s, steps);
    prefetch_tile<type>(&c, &s, s.block * units_at_once + s.slot_of_block);
    grid_release();
    grid_wait();

    uint32_t oldest = 0, free_slot = (STREAM_SLOTS - 1) * form::slot_bytes;
    for (uint32_t unit = s.block * units_at_once; unit < c.units; unit += c.blocks * units_at_once) {
        bool mine = unit + s.slot_of_block < c.units;
        const stream_scales scales = scales_of<type>(&c, &s, unit + s.slot_of_block);
        stream_sums<octets> sums = {};
        for (uint32_t column = 0; column < c.cols; column += c.chunk_columns) {
            if (unit == s.block * units_at_once || c.chunk_columns < c.cols) {
                const uint32_t left = steps * form::columns - column, most = c.chunk_columns;
                __syncthreads();
                stream_stage<type, 8 / octets>(x, x_stride, c.x + s.token * c.x_stride + column, (uint32_t)c.x_stride,
                                               (left < most ? left : most) / 4, c.cols - column, n, c.vector_x);
                __syncthreads();
            }
            if (!mine) continue;
            const unsigned char *quads[octets]; /* tokens that are not there read the last one's */
            #pragma unroll
            for (uint32_t o = 0; o < octets; o++)
                quads[o] = x + (o * 8 + g < n ? o * 8 + g : n - 1) * x_stride + t * 16 + s.warp * (form::columns * 4);
            uint32_t begin = column / form::columns, end = begin + c.chunk_columns / form::columns;
            if (end > steps) end = steps;
            #pragma unroll 1
            for (uint32_t step = begin + s.warp; step < end; step += STREAM_WARPS) {
                cp_async_wait<STREAM_SLOTS - 2>();
                __syncwarp(); /* all lanes' pieces are there, and the free slot is read */
                fetch_next<type>(ring + free_slot, slot_place, &next, &c, &s, steps);
                stream_step<type, octets>(&sums, ring + oldest, word_place, quads, g);
                free_slot = oldest;
                oldest = oldest + form::slot_bytes < STREAM_SLOTS * form::slot_bytes ? oldest + form::slot_bytes : 0;
                #pragma unroll
                for (uint32_t o = 0; o < octets; o++) quads[o] += STREAM_WARPS * form::columns * 4;
            }
        }
        __syncthreads(); /* the sums before are read */
        put_partial<type, octets>(partial, &sums, g, t);
        __syncthreads();
        if (mine) write_unit<type, octets>(&c, &s, unit + s.slot_of_block, n, partials, scales);
    }
}

void linear_stream_launch(cudaStream_t stream, weight_type type, const stream_call *c, size_t shared_bytes) {
    dim3 grid(c->blocks * c->token_tiles), block(c->groups * STREAM_THREADS);
#define STREAM(type)                                                                                                   \
    if (c->n <= 8) LAUNCH((stream_kernel<type, 1>), grid, block, shared_bytes, stream, *c);                            \
    else LAUNCH((stream_kernel<type, 2>), grid, block, shared_bytes, stream, *c)
    TENSOR_TYPE_SWITCH(type, STREAM);
#undef STREAM
}
