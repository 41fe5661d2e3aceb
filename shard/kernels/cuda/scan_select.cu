/* Block sums, and the best k of a row: counted by digits of their keys, collected, sorted. */
#include "shard/kernels/cuda/scan_part.cuh"

/* Digit 0 is the highest. */
static __device__ __forceinline__ uint32_t digit_shift(uint32_t digit) { return digit == 0 ? 21u : digit == 1 ? 10u : 0u; }
static __device__ __forceinline__ uint32_t digit_bits(uint32_t digit) { return digit == 2 ? 10u : 11u; }

/* What is known after `digit` has been counted; by every block anew, since all it reads is 8 KiB. */
static __device__ scan_chosen choose(const scan_memory *m, uint32_t selection, uint32_t digit, uint32_t k,
                                     uint32_t *scratch, scan_chosen *shared) {
    enum { EACH = SCAN_BINS / SCAN_THREADS };
    const uint32_t *counts = m->counts + ((size_t)selection * SCAN_DIGITS + digit) * SCAN_BINS;
    scan_chosen before = {0, k};
    if (digit > 0) before = m->chosen[selection * SCAN_DIGITS + digit - 1];
    uint32_t own[EACH], sum = 0, total;
    const uint32_t top = SCAN_BINS - 1 - EACH * threadIdx.x; /* bins from the highest down */
    for (uint32_t i = 0; i < EACH; i++) sum += own[i] = counts[top - i];
    uint32_t above = scan_before(sum, scratch, &total);
    if (above < before.need && above + sum >= before.need) {
        uint32_t i = 0;
        for (; i + 1 < EACH && above + own[i] < before.need; i++) above += own[i];
        shared->prefix = before.prefix << digit_bits(digit) | (top - i);
        shared->need = before.need - above;
    }
    __syncthreads();
    return *shared;
}

/* Σ exp((l - max) · factor) of blocks of 1024 ids: four warps' ids each. */
static __device__ void block_sums(const scan_memory *m, const scan_item *it, uint32_t row, const float x[SCAN_HELD],
                                  float *scratch) {
    const uint32_t each = SCAN_BLOCK / SCAN_WARP_IDS, some = m->some[row];
    float max = m->max[row], sum = 0.0f;
    for (int j = 0; j < SCAN_HELD; j++)
        if (some && scan_index(j) < m->share) sum += scan_exp(x[j], max, it->factor);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = sum;
    __syncthreads();
    uint32_t block = blockIdx.x * (SCAN_PART / SCAN_BLOCK) + threadIdx.x;
    if (threadIdx.x < SCAN_PART / SCAN_BLOCK && block < it->blocks) {
        const float *s = scratch + each * threadIdx.x;
        m->records[it->record + SCAN_HEAD_WORDS + 2 * (it->tops + it->candidates) + block] =
            __float_as_uint((s[0] + s[1]) + (s[2] + s[3]));
    }
    __syncthreads();
}

/* One more in bin `bin` of each lane that is `in`. Lanes that agree with the first of them are counted together: in rows
 * that are mostly forbidden nearly all do. */
static __device__ __forceinline__ void count_bin(uint32_t *bins, uint32_t bin, bool in) {
    uint32_t lane = threadIdx.x % WARP, there = __ballot_sync(SCAN_LANES, in);
    if (there == 0) return;
    uint32_t leader = (uint32_t)__ffs((int)there) - 1;
    uint32_t first = __shfl_sync(SCAN_LANES, bin, (int)leader);
    bool same = in && bin == first;
    uint32_t agree = (uint32_t)__popc(__ballot_sync(SCAN_LANES, same));
    if (lane == leader) atomicAdd(&bins[bin], agree);
    else if (in && !same) atomicAdd(&bins[bin], 1u);
}

/* Grid: parts, rows, tops or candidates. The first of three also sums blocks, as it has the logits in its hands. */
template <uint32_t digit>
__global__ void __launch_bounds__(SCAN_THREADS) count_kernel(scan_memory m, scan_items items) {
    __shared__ uint32_t bins[SCAN_BINS];
    __shared__ uint32_t scratch[SCAN_WARPS];
    __shared__ float sums[SCAN_WARPS];
    __shared__ scan_chosen shared;
    const uint32_t row = blockIdx.y, candidates = blockIdx.z, selection = 2 * row + candidates;
    const uint32_t k = candidates ? items.row[row].candidates : items.row[row].tops;
    const bool summed = digit == 0 && candidates && items.row[row].blocks > 0;
    float x[SCAN_HELD];
    scan_chosen chosen = {0, k};
    grid_wait();
    grid_release();
    if (k == 0 && !summed) return;
    scan_load(x, scan_source(&m, &items.row[row], row, candidates), m.share);
    if (summed) block_sums(&m, &items.row[row], row, x, sums);
    if (k == 0) return;
    if (digit > 0) {
        chosen = choose(&m, selection, digit - 1, k, scratch, &shared);
        if (blockIdx.x == 0 && threadIdx.x == 0) m.chosen[selection * SCAN_DIGITS + digit - 1] = chosen;
    }
    for (uint32_t i = threadIdx.x; i < SCAN_BINS; i += SCAN_THREADS) bins[i] = 0;
    __syncthreads();
    for (int j = 0; j < SCAN_HELD; j++) {
        uint32_t key = scan_key(x[j]), high = key >> digit_shift(digit);
        bool in = scan_index(j) < m.share && (digit == 0 || high >> digit_bits(digit) == chosen.prefix);
        count_bin(bins, high & ((1u << digit_bits(digit)) - 1), in);
    }
    __syncthreads();
    uint32_t *counts = m.counts + ((size_t)selection * SCAN_DIGITS + digit) * SCAN_BINS;
    for (uint32_t i = threadIdx.x; i < SCAN_BINS; i += SCAN_THREADS)
        if (bins[i]) atomicAdd(&counts[i], bins[i]);
    if (digit < SCAN_DIGITS - 1) return;
    uint32_t *part = m.part_counts + ((size_t)selection * m.parts + blockIdx.x) * (SCAN_LAST_BINS / 2);
    for (uint32_t i = threadIdx.x; i < SCAN_LAST_BINS / 2; i += SCAN_THREADS)
        part[i] = bins[2 * i] | bins[2 * i + 1] << 16;
}

/* How many entries that equal the k-th lie in parts before this one. */
static __device__ __forceinline__ uint32_t equals_before(const scan_memory *m, uint32_t selection, uint32_t key,
                                                         uint32_t *scratch) {
    const uint32_t bin = key % SCAN_LAST_BINS;
    uint32_t mine = 0, total;
    for (uint32_t p = threadIdx.x; p < blockIdx.x; p += SCAN_THREADS) {
        uint32_t pair = m->part_counts[((size_t)selection * m->parts + p) * (SCAN_LAST_BINS / 2) + bin / 2];
        mine += bin % 2 ? pair >> 16 : pair & 0xFFFFu;
    }
    scan_before(mine, scratch, &total);
    return total;
}

/* Entries above the k-th in any order, then of those that equal it the first. */
__global__ void __launch_bounds__(SCAN_THREADS) collect_kernel(scan_memory m, scan_items items) {
    __shared__ uint32_t scratch[SCAN_WARPS];
    __shared__ scan_chosen shared;
    const uint32_t row = blockIdx.y, candidates = blockIdx.z, selection = 2 * row + candidates;
    const uint32_t k = candidates ? items.row[row].candidates : items.row[row].tops;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float x[SCAN_HELD];
    grid_wait();
    grid_release();
    if (k == 0) return;
    scan_load(x, scan_source(&m, &items.row[row], row, candidates), m.share);
    scan_chosen last = choose(&m, selection, SCAN_DIGITS - 1, k, scratch, &shared);
    uint64_t *best = m.best + (size_t)selection * SCAN_BEST;
    uint32_t equal[SCAN_HELD], equals = 0;
    for (int j = 0; j < SCAN_HELD; j++) {
        uint32_t key = scan_key(x[j]), at = scan_index(j);
        bool in = at < m.share;
        if (in && key > last.prefix) best[atomicAdd(&m.taken[selection], 1u)] = (uint64_t)key << 32 | (uint32_t)~at;
        equal[j] = __ballot_sync(SCAN_LANES, in && key == last.prefix);
        equals += (uint32_t)__popc(equal[j]);
    }
    uint32_t rank = equals_before(&m, selection, last.prefix, scratch);
    if (lane == 0) scratch[warp] = equals;
    __syncthreads();
    for (uint32_t w = 0; w < warp; w++) rank += scratch[w];
    for (int j = 0; j < SCAN_HELD; j++) {
        uint32_t own = rank + (uint32_t)__popc(equal[j] & ((1u << lane) - 1));
        if ((equal[j] >> lane & 1) && own < last.need)
            best[k - last.need + own] = (uint64_t)last.prefix << 32 | (uint32_t)~scan_index(j);
        rank += (uint32_t)__popc(equal[j]);
    }
}

/* Bitonic, falling; n is a power of two. */
static __device__ void sort_falling(uint64_t *list, uint32_t n) {
    for (uint32_t size = 2; size <= n; size *= 2)
        for (uint32_t apart = size / 2; apart > 0; apart /= 2) {
            for (uint32_t t = threadIdx.x; t < n / 2; t += SCAN_THREADS) {
                uint32_t low = t / apart * 2 * apart + t % apart;
                uint64_t a = list[low], b = list[low + apart];
                bool falls = (low & size) == 0;
                if (falls ? a < b : a > b) {
                    list[low] = b;
                    list[low + apart] = a;
                }
            }
            __syncthreads();
        }
}

__global__ void __launch_bounds__(SCAN_THREADS) sort_kernel(scan_memory m, scan_items items) {
    __shared__ uint64_t list[SCAN_BEST];
    const uint32_t row = blockIdx.x, candidates = blockIdx.y, tops = items.row[row].tops;
    const uint32_t k = candidates ? items.row[row].candidates : tops;
    grid_wait();
    grid_release();
    if (k == 0) return;
    const uint64_t *best = m.best + (size_t)(2 * row + candidates) * SCAN_BEST;
    uint32_t n = 1;
    while (n < k) n *= 2;
    for (uint32_t i = threadIdx.x; i < n; i += SCAN_THREADS) list[i] = i < k ? best[i] : 0;
    __syncthreads();
    sort_falling(list, n);
    const float *source = scan_source(&m, &items.row[row], row, candidates);
    uint32_t *out = m.records + items.row[row].record + SCAN_HEAD_WORDS + (candidates ? 2 * tops : 0);
    for (uint32_t i = threadIdx.x; i < k; i += SCAN_THREADS) {
        uint32_t at = ~(uint32_t)list[i];
        out[2 * i] = __float_as_uint(scan_clean(source[at]));
        out[2 * i + 1] = m.first_id + at;
    }
}

extern "C" void scan_launch_lists(cudaStream_t stream, const scan_memory *m, const scan_items *items, uint32_t n,
                                  bool select) {
    dim3 grid(m->parts, n, 2), block(SCAN_THREADS);
    LAUNCH(count_kernel<0>, grid, block, 0, stream, *m, *items);
    if (!select) return;
    LAUNCH(count_kernel<1>, grid, block, 0, stream, *m, *items);
    LAUNCH(count_kernel<2>, grid, block, 0, stream, *m, *items);
    LAUNCH(collect_kernel, grid, block, 0, stream, *m, *items);
    LAUNCH(sort_kernel, dim3(n, 2), block, 0, stream, *m, *items);
}
