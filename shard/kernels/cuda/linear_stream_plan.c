/* How a product of few tokens is cut into blocks. Nothing here changes an answer, only how fast it comes. */
#include "base/invariant.h"
#include "shard/kernels/cuda/linear.h"

static size_t group_bytes(weight_type type, uint32_t n) {
    size_t partials = (size_t)STREAM_WARPS * (n <= 8 ? 8 : 16) * STREAM_SUM_STRIDE * sizeof(float);
    return (size_t)STREAM_WARPS * STREAM_SLOTS * stream_slot_bytes(type) + partials;
}

/* A column of n tokens as halves is 4n bytes; rows are 64 bytes longer, for the banks. */
static size_t x_bytes(uint32_t columns, uint32_t n) { return (size_t)n * (4 * (size_t)columns + 64); }

/* All columns if they fit into `room`, else as many as do, at least what all warps take in one turn. */
static uint32_t columns_at_once(uint32_t cols, uint32_t turn, uint32_t n, size_t room) {
    uint32_t all = (cols + turn - 1) / turn * turn;
    if (all == 0 || x_bytes(all, n) <= room) return all ? all : turn;
    uint32_t fit = room <= 64 * (size_t)n ? 0 : (uint32_t)((room - 64 * (size_t)n) / (4 * (size_t)n));
    return fit < turn ? turn : fit / turn * turn;
}

size_t linear_stream_plan(stream_call *c, weight_type type, uint32_t multiprocessors, size_t shared_bytes_max) {
    enum { X_ROOM = 24 << 10, RESERVED = 1024 /* of a multiprocessor's shared memory, each block */,
           AHEAD_BYTES = 32 << 20 };
    uint32_t n = c->n < STREAM_TILE ? c->n : STREAM_TILE, turn = STREAM_WARPS * stream_step_columns(type);
    uint32_t least = c->gated ? 2 : 1;
    c->token_tiles = (c->n + STREAM_TILE - 1) / STREAM_TILE;

    /* Groups of a block share the activations: worth it where these are many, as long as every multiprocessor has a block. */
    c->groups = n <= 2 ? 1 : n <= 4 ? 2 : STREAM_GROUPS_MAX;
    if (c->groups < least) c->groups = least;
    uint64_t tiles = (uint64_t)c->units * c->token_tiles * least;
    while (c->groups > least && tiles / c->groups < multiprocessors) c->groups /= 2;

    size_t shared;
    for (;; c->groups /= 2) {
        size_t fixed = c->groups * group_bytes(type, n), room = (size_t)X_ROOM * c->groups;
        if (fixed + room > shared_bytes_max) room = fixed < shared_bytes_max ? shared_bytes_max - fixed : 0;
        c->chunk_columns = columns_at_once(c->cols, turn, n, room);
        shared = fixed + x_bytes(c->chunk_columns, n);
        if (shared <= shared_bytes_max || c->groups <= least) break;
    }
    INVARIANT(shared <= shared_bytes_max);

    /* Blocks that run at the same time; each then takes as many units as any other, give or take none. */
    uint32_t fit = (uint32_t)((shared_bytes_max + RESERVED) / (shared + RESERVED));
    uint32_t wanted = stream_groups_wanted(type, n) / c->groups;
    if (fit > wanted) fit = wanted ? wanted : 1;
    uint32_t at_once = multiprocessors * fit / c->token_tiles, work = (c->units * least + c->groups - 1) / c->groups;
    if (at_once == 0) at_once = 1;
    uint32_t rounds = (work + at_once - 1) / at_once;
    c->blocks = (work + rounds - 1) / rounds;

    /* All groups together fill most of the second cache. */
    c->ahead = AHEAD_BYTES / (c->blocks * c->groups * c->token_tiles) / 256 * 256;
    return shared;
}
