/* How a product of few tokens is cut into blocks. Nothing here changes an answer, only how fast it comes. */
#include "base/invariant.h"
#include "shard/kernels/cuda/linear.h"

static size_t group_bytes(weight_type type, uint32_t n) {
    size_t partials = (size_t)STREAM_WARPS * (n <= 8 ? 8 : 16) * STREAM_SUM_STRIDE * sizeof(float);
    return (size_t)STREAM_WARPS * STREAM_SLOTS * stream_slot_bytes(type) + partials;
}

/* A column of n tokens as halves is 4n bytes; rows are 64 bytes longer, for the banks. */
static size_t x_bytes(uint32_t columns, uint32_t n) { return (size_t)n * (4 * (size_t)columns + 64); }

enum { RESERVED = 1024 /* of a multiprocessor's shared memory, each block */, X_LEAST = 12 << 10 /* a group's part */ };

/* Groups that are to be on a multiprocessor. */
static uint32_t groups_wanted(weight_type type, uint32_t n, size_t shared_bytes_max) {
    uint32_t most = stream_groups_wanted(type, n), fit = (uint32_t)(shared_bytes_max / (group_bytes(type, n) + X_LEAST));
    return fit == 0 ? 1 : fit < most ? fit : most;
}

static uint32_t blocks_fit(size_t shared, size_t shared_bytes_max) {
    return (uint32_t)((shared_bytes_max + RESERVED) / (shared + RESERVED));
}

/* All columns, if that leaves most of the groups that are wanted; else as many as leave all of them, at least what all warps
 * take in one turn. */
static uint32_t columns_at_once(const stream_call *c, uint32_t turn, uint32_t n, size_t fixed, uint32_t wanted,
                                size_t shared_bytes_max) {
    uint32_t all = (c->cols + turn - 1) / turn * turn, blocks = wanted > c->groups ? wanted / c->groups : 1;
    if (all == 0) return turn;
    if (4 * blocks_fit(fixed + x_bytes(all, n), shared_bytes_max) >= 3 * blocks) return all;
    size_t most = (shared_bytes_max + RESERVED) / blocks - RESERVED, room = most > fixed ? most - fixed : 0;
    uint32_t columns = room <= 64 * (size_t)n ? 0 : (uint32_t)((room - 64 * (size_t)n) / (4 * (size_t)n));
    return columns < turn ? turn : columns / turn * turn;
}

size_t linear_stream_plan(stream_call *c, weight_type type, uint32_t multiprocessors, size_t shared_bytes_max) {
    enum { AHEAD_BYTES = 32 << 20 };
    uint32_t n = c->n < STREAM_TILE ? c->n : STREAM_TILE, turn = STREAM_WARPS * stream_step_columns(type);
    uint32_t least = c->gated ? 2 : 1, wanted = groups_wanted(type, n, shared_bytes_max);
    c->token_tiles = (c->n + STREAM_TILE - 1) / STREAM_TILE;

    /* Groups of a block share the activations: worth it where these are many, as long as every multiprocessor has a block. */
    c->groups = n <= 2 ? 1 : n <= 4 ? 2 : STREAM_GROUPS_MAX;
    if (c->groups < least) c->groups = least;
    uint64_t tiles = (uint64_t)c->units * c->token_tiles * least;
    while (c->groups > least && tiles / c->groups < multiprocessors) c->groups /= 2;

    size_t shared;
    for (;; c->groups /= 2) {
        size_t fixed = c->groups * group_bytes(type, n);
        c->chunk_columns = columns_at_once(c, turn, n, fixed, wanted, shared_bytes_max);
        shared = fixed + x_bytes(c->chunk_columns, n);
        if (shared <= shared_bytes_max || c->groups <= least) break;
    }
    INVARIANT(shared <= shared_bytes_max);

    /* Blocks that run at the same time; each then takes as many units as any other, give or take none. */
    uint32_t fit = blocks_fit(shared, shared_bytes_max), blocks = wanted > c->groups ? wanted / c->groups : 1;
    if (fit > blocks) fit = blocks;
    uint32_t at_once = multiprocessors * fit / c->token_tiles, work = (c->units * least + c->groups - 1) / c->groups;
    if (at_once == 0) at_once = 1;
    uint32_t rounds = (work + at_once - 1) / at_once;
    c->blocks = (work + rounds - 1) / rounds;

    /* All groups together fill most of the second cache. */
    c->ahead = AHEAD_BYTES / (c->blocks * c->groups * c->token_tiles) / 256 * 256;
    return shared;
}
