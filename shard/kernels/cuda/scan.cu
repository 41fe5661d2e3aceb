/* A row of logits becomes its adjusted copy and the head of its record. */
#include <float.h>

#include "shard/kernels/cuda/scan_part.cuh"

enum { EDIT_THREADS = 256, HEAD_THREADS = 256 };

__global__ void edit_kernel(scan_memory m, scan_items items, uint32_t count) {
    uint32_t i = blockIdx.x * EDIT_THREADS + threadIdx.x;
    grid_wait();
    grid_release();
    if (i >= count || !m.edits[i].first) return;
    uint32_t row = m.edits[i].row, at = m.edits[i].at, bit = 1u << at % 32;
    uint32_t *word = m.changed + (size_t)row * m.changed_words + at / 32;
    float *made = m.adjusted + (size_t)row * m.share + at;
    /* Others set bits of the same word meanwhile; this one was set by an earlier launch or is not set. */
    float x = *word & bit ? *made : m.logits[(size_t)items.row[row].row * m.share + at];
    for (; i != SCAN_NONE; i = m.edits[i].next) {
        float times = m.edits[i].times;
        if (times != 0.0f) x = x > 0.0f ? x / times : x * times;
        x = x + m.edits[i].add;
    }
    *made = x;
    atomicOr(word, bit);
}

/* What later kernels count in begins at zero. */
static __device__ void clear_counts(const scan_memory *m, uint32_t row) {
    const uint32_t words = 2 * SCAN_DIGITS * SCAN_BINS;
    uint32_t *counts = m->counts + (size_t)row * words;
    for (uint32_t i = blockIdx.x * SCAN_THREADS + threadIdx.x; i < words; i += gridDim.x * SCAN_THREADS) counts[i] = 0;
    if (blockIdx.x == 0 && threadIdx.x < 2) m->taken[2 * row + threadIdx.x] = 0;
}

typedef struct found {
    uint32_t key, at, first;
} found;

static __device__ __forceinline__ void find_better(found *f, uint32_t key, uint32_t at, uint32_t first) {
    if (key > f->key || (key == f->key && at < f->at)) {
        f->key = key;
        f->at = at;
    }
    f->first = first < f->first ? first : f->first;
}

/* The best over the block, in thread 0. */
static __device__ __forceinline__ found block_best(found f, found *scratch, uint32_t warps) {
    for (uint32_t d = WARP / 2; d > 0; d /= 2) {
        uint32_t key = __shfl_xor_sync(SCAN_LANES, f.key, d), at = __shfl_xor_sync(SCAN_LANES, f.at, d);
        find_better(&f, key, at, __shfl_xor_sync(SCAN_LANES, f.first, d));
    }
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = f;
    __syncthreads();
    if (threadIdx.x == 0)
        for (uint32_t w = 1; w < warps; w++) find_better(&f, scratch[w].key, scratch[w].at, scratch[w].first);
    __syncthreads();
    return f;
}

/* Puts what edits made in the place of logits, and leaves their bits at zero. A warp's 32 indices share one word. */
static __device__ __forceinline__ void take_edits(const scan_memory *m, uint32_t row, float x[SCAN_HELD]) {
    for (int j = 0; j < SCAN_HELD; j++) {
        uint32_t at = scan_index(j), lane = threadIdx.x % WARP;
        uint32_t *word = m->changed + (size_t)row * m->changed_words + at / 32;
        bool in = at - lane < m->share;
        uint32_t bits = in ? *word : 0;
        if (bits >> lane & 1) x[j] = scan_clean(m->adjusted[(size_t)row * m->share + at]);
        __syncwarp();
        if (in && lane == 0) *word = 0;
    }
}

/* Takes what is not allowed out; the lowest index that is allowed. */
static __device__ __forceinline__ uint32_t forbid(const scan_memory *m, uint32_t set, float x[SCAN_HELD]) {
    const uint32_t *words = m->sets + (size_t)set * m->set_words;
    uint32_t first = SCAN_NONE;
    for (int j = 0; j < SCAN_HELD; j++) {
        uint32_t at = scan_index(j), id = m->first_id + at;
        if (at >= m->share) continue;
        if (!(words[id / 32 - m->first_id / 32] >> id % 32 & 1)) x[j] = -INFINITY;
        else if (first == SCAN_NONE) first = at;
    }
    return first;
}

__global__ void __launch_bounds__(SCAN_THREADS) look_kernel(scan_memory m, scan_items items) {
    __shared__ float scratch[33];
    __shared__ found warp_found[SCAN_WARPS];
    const uint32_t row = blockIdx.y;
    const uint32_t raw = items.row[row].raw, draw = items.row[row].draw, set = items.row[row].set;
    scan_part *part = m.part + (size_t)row * m.parts + blockIdx.x;
    float x[SCAN_HELD];
    grid_wait();
    grid_release();
    clear_counts(&m, row);
    if (!raw && !draw) return;
    scan_load(x, scan_source(&m, &items.row[row], row, 0), m.share);
    if (raw) {
        float max = x[0], sum = 0.0f;
        for (int j = 1; j < SCAN_HELD; j++) max = fmaxf(max, x[j]);
        max = block_max(max, scratch) + 0.0f; /* of two zeros the one that the CPU says */
        for (int j = 0; j < SCAN_HELD; j++)
            if (scan_index(j) < m.share) sum += scan_exp(x[j], max, 1.0f);
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0) {
            part->raw_max = max;
            part->raw_sum = sum;
        }
    }
    if (!draw) return;
    if (items.row[row].changed) take_edits(&m, row, x);
    found f = {0, SCAN_NONE, SCAN_NONE};
    if (set != SCAN_ALL) f.first = forbid(&m, set, x);
    float *adjusted = m.adjusted + (size_t)row * m.share;
    for (int j = 0; j < SCAN_HELD; j++) {
        uint32_t at = scan_index(j);
        if (at >= m.share) continue;
        adjusted[at] = x[j];
        find_better(&f, scan_key(x[j]), at, SCAN_NONE);
    }
    f = block_best(f, warp_found, SCAN_WARPS);
    if (threadIdx.x == 0) {
        part->best_key = f.key;
        part->best = f.at;
        part->first_allowed = f.first;
    }
}

/* Σ exp(raw - max) over the parts, in their order. */
static __device__ void raw_head(const scan_memory *m, const scan_part *part, float *scratch, scan_head *head) {
    float max = -INFINITY, sum = 0.0f;
    for (uint32_t p = threadIdx.x; p < m->parts; p += HEAD_THREADS) max = fmaxf(max, part[p].raw_max);
    max = block_max(max, scratch);
    for (uint32_t p = threadIdx.x; p < m->parts; p += HEAD_THREADS) {
        float down = part[p].raw_max == max ? 1.0f : ref_exp(part[p].raw_max - max);
        sum += part[p].raw_sum * down;
    }
    sum = block_sum(sum, scratch);
    head->raw_max = max;
    head->raw_sum = sum;
}

/* Where biases and penalties have sent all that is allowed here out of reach, the first of it remains, with less than any
 * other rank's. A share whose tokens are all forbidden takes part as if it were empty. */
static __device__ void adjusted_head(const scan_memory *m, const scan_item *it, uint32_t row, found f, scan_head *head) {
    float *adjusted = m->adjusted + (size_t)row * m->share;
    uint32_t some = it->set == SCAN_ALL || f.first != SCAN_NONE;
    if (some && it->set != SCAN_ALL && f.key == SCAN_KEY_LOWEST) {
        f.at = f.first;
        adjusted[f.at] = -FLT_MAX;
    }
    if (some) {
        head->max = adjusted[f.at];
        head->argmax = m->first_id + f.at;
        head->argmax_raw = m->logits[(size_t)it->row * m->share + f.at];
    }
    m->max[row] = head->max;
    m->some[row] = some;
}

__global__ void __launch_bounds__(HEAD_THREADS) head_kernel(scan_memory m, scan_items items) {
    __shared__ float scratch[33];
    __shared__ found warp_found[HEAD_THREADS / WARP];
    const uint32_t row = blockIdx.x, draw = items.row[row].draw, known = items.row[row].known;
    const scan_part *part = m.part + (size_t)row * m.parts;
    scan_head head = {-INFINITY, 0.0f, -INFINITY, SCAN_NONE, 0.0f, 0.0f};
    grid_wait();
    grid_release();
    if (items.row[row].raw) raw_head(&m, part, scratch, &head);
    found f = {0, SCAN_NONE, SCAN_NONE};
    if (draw) {
        for (uint32_t p = threadIdx.x; p < m.parts; p += HEAD_THREADS)
            find_better(&f, part[p].best_key, part[p].best, part[p].first_allowed);
        f = block_best(f, warp_found, HEAD_THREADS / WARP);
    }
    if (threadIdx.x > 0) return;
    if (draw) adjusted_head(&m, &items.row[row], row, f, &head);
    if (known != SCAN_NONE) head.known_raw = m.logits[(size_t)items.row[row].row * m.share + known];
    uint32_t *out = m.records + items.row[row].record;
    out[0] = __float_as_uint(head.raw_max);
    out[1] = __float_as_uint(head.raw_sum);
    out[2] = __float_as_uint(head.max);
    out[3] = head.argmax;
    out[4] = __float_as_uint(head.argmax_raw);
    out[5] = __float_as_uint(head.known_raw);
}

extern "C" void scan_launch_edits(cudaStream_t stream, const scan_memory *m, const scan_items *items, uint32_t count) {
    LAUNCH(edit_kernel, dim3((count + EDIT_THREADS - 1) / EDIT_THREADS), dim3(EDIT_THREADS), 0, stream, *m, *items, count);
}

extern "C" void scan_launch_heads(cudaStream_t stream, const scan_memory *m, const scan_items *items, uint32_t n) {
    LAUNCH(look_kernel, dim3(m->parts, n), dim3(SCAN_THREADS), 0, stream, *m, *items);
    LAUNCH(head_kernel, dim3(n), dim3(HEAD_THREADS), 0, stream, *m, *items);
}
