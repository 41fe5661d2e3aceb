/* What every back end must do, as a body for comm_fork_run and for the MPI test program: each rank works
 * out alone what all ranks hand in and compares bit for bit. A difference is ST_INTERNAL with a sentence
 * that names it. */
#ifndef TESTS_COMM_CHECKS_H
#define TESTS_COMM_CHECKS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "shard/comm/comm.h"

static inline uint64_t checks_random(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t z =
        a * 0x9E3779B97F4A7C15u + b * 0xD1B54A32D192ED03u + c * 0x8CB92BA72F3D8DD7u + 0x2545F4914F6CDD1Du;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Magnitudes spread over 2^±12, so that another order of additions shows; some elements are -0 on every
 * rank, whose sum is -0 only if it starts from rank 0's value and not from +0; some are denormal. */
static inline float checks_float(uint64_t seed, uint32_t rank, size_t i) {
    uint64_t z = checks_random(seed, rank, i);
    if (i % 97 == 5) return -0.0f;
    float x = (float)((int32_t)(z >> 32)) / 2147483648.0f;
    if (i % 89 == 3) return x * 1e-42f;
    return x * (float)(1u << (z & 12)) / (float)(1u << ((z >> 4) & 12));
}

static inline uint32_t checks_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline status check_all_reduce(comm *c, uint64_t seed, size_t count) {
    float *x = memory_alloc_array(count + 1, sizeof *x);
    status st = ST_OK;
    for (size_t i = 0; i < count; i++) x[i] = checks_float(seed, comm_rank(c), i);
    x[count] = 7;
    TRY_OR_FAIL(comm_all_reduce(c, x, count));
    for (size_t i = 0; i < count; i++) {
        float want = checks_float(seed, 0, i);
        for (uint32_t r = 1; r < comm_size(c); r++) want += checks_float(seed, r, i);
        if (checks_bits(want) == checks_bits(x[i])) continue;
        st = fail(ST_INTERNAL, "all-reduce of %zu: element %zu is %a, not %a", count, i, (double)x[i],
                  (double)want);
        goto fail;
    }
    if (x[count] != 7) st = fail(ST_INTERNAL, "all-reduce of %zu wrote past the end", count);
fail:
    free(x);
    return st;
}

static inline uint8_t checks_byte(uint64_t seed, uint32_t from, uint32_t to, size_t i) {
    return (uint8_t)checks_random(seed, from * 1000 + to, i / 8) + (uint8_t)i;
}

static inline status checks_compare(const char *what, const uint8_t *got, uint64_t seed, uint32_t from,
                                    uint32_t to, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (got[i] != checks_byte(seed, from, to, i))
            return fail(ST_INTERNAL, "%s: byte %zu of %zu from rank %u is wrong", what, i, n, from);
    return ST_OK;
}

/* Sizes of blocks: some empty, some longer than a slot. */
static inline size_t checks_size(uint64_t seed, uint32_t from, uint32_t to, size_t most) {
    uint64_t z = checks_random(seed, from, to + 77);
    if (z % 4 == 0) return 0;
    return (size_t)(z >> 8) % (most + 1);
}

static inline status check_all_gather(comm *c, uint64_t seed, size_t most, bool in_place, bool same) {
    uint32_t n = comm_size(c), me = comm_rank(c);
    size_t *bytes = memory_alloc_array(n, sizeof *bytes), sum = 0, mine_at = 0;
    for (uint32_t r = 0; r < n; r++) {
        bytes[r] = same ? most : checks_size(seed, r, 0, most);
        if (r == me) mine_at = sum;
        sum += bytes[r];
    }
    uint8_t *out = memory_alloc(sum + 1), *own = memory_alloc(bytes[me] + 1),
            *in = in_place ? out + mine_at : own;
    for (size_t i = 0; i < bytes[me]; i++) in[i] = checks_byte(seed, me, 0, i);
    out[sum] = 7;
    status st = ST_OK;
    TRY_OR_FAIL(same ? comm_all_gather(c, in, most, out) : comm_all_gather_v(c, in, bytes, out));
    const uint8_t *place = out;
    for (uint32_t r = 0; r < n; place += bytes[r++])
        TRY_OR_FAIL(checks_compare("all-gather", place, seed, r, 0, bytes[r]));
    if (out[sum] != 7) st = fail(ST_INTERNAL, "all-gather wrote past the end");
fail:
    free(own);
    free(out);
    free(bytes);
    return st;
}

/* What a rank has for every other, and has room for from them. */
typedef struct checks_blocks {
    size_t *send, *recv, sent, received; /* bytes for and from each rank, and of all */
    uint8_t *in, *out;                   /* [sent], [received + 1] */
} checks_blocks;

static inline checks_blocks checks_blocks_open(uint32_t n, uint32_t me, uint64_t seed, size_t most) {
    checks_blocks b = {.send = memory_alloc_array(n, sizeof *b.send), .recv = memory_alloc_array(n, sizeof *b.recv)};
    for (uint32_t r = 0; r < n; r++) {
        b.sent += b.send[r] = checks_size(seed, me, r, most);
        b.received += b.recv[r] = checks_size(seed, r, me, most);
    }
    b.in = memory_alloc(b.sent + 1);
    b.out = memory_alloc(b.received + 1);
    uint8_t *place = b.in;
    for (uint32_t r = 0; r < n; place += b.send[r++])
        for (size_t i = 0; i < b.send[r]; i++) place[i] = checks_byte(seed, me, r, i);
    return b;
}

static inline void checks_blocks_close(checks_blocks *b) {
    free(b->out);
    free(b->in);
    free(b->recv);
    free(b->send);
}

static inline status check_all_to_all(comm *c, uint64_t seed, size_t most) {
    uint32_t n = comm_size(c), me = comm_rank(c);
    checks_blocks b = checks_blocks_open(n, me, seed, most);
    const uint8_t *place = b.out;
    status st;
    b.out[b.received] = 7;
    TRY_OR_FAIL(comm_all_to_all_v(c, b.in, b.send, b.out, b.recv));
    for (uint32_t r = 0; r < n; place += b.recv[r++])
        TRY_OR_FAIL(checks_compare("all-to-all", place, seed, r, me, b.recv[r]));
    if (b.out[b.received] != 7) st = fail(ST_INTERNAL, "all-to-all wrote past the end");
fail:
    checks_blocks_close(&b);
    return st;
}

static inline status check_broadcast(comm *c, uint64_t seed, size_t n, uint32_t root) {
    uint8_t *data = memory_alloc(n + 1);
    if (comm_rank(c) == root)
        for (size_t i = 0; i < n; i++) data[i] = checks_byte(seed, root, 0, i);
    status st = comm_broadcast(c, data, n, root);
    if (st == ST_OK) st = checks_compare("broadcast", data, seed, root, 0, n);
    free(data);
    return st;
}

/* Wakes are counted, not merged: as many waits come through as wakes went out, and then none. */
static inline status check_wakes(comm *c, uint32_t times) {
    for (uint32_t i = 0; i < times; i++) {
        uint32_t plan = i * 3 + 1;
        if (comm_rank(c) == 0) TRY(comm_wake(c));
        else TRY(comm_wait(c, -1));
        TRY(comm_broadcast(c, &plan, sizeof plan, 0));
        if (plan != i * 3 + 1) return fail(ST_INTERNAL, "plan %u arrived as %u", i * 3 + 1, plan);
    }
    TRY(comm_barrier(c));
    if (comm_rank(c) != 0 && comm_wait(c, 5) != ST_TIMEOUT) return fail(ST_INTERNAL, "woken without a wake");
    TRY(comm_barrier(c));
    if (comm_rank(c) == 0)
        for (uint32_t i = 0; i < 3; i++) TRY(comm_wake(c));
    for (uint32_t i = 0; i < 3 && comm_rank(c) != 0; i++) TRY(comm_wait(c, 10000));
    if (comm_rank(c) != 0 && comm_wait(c, 0) != ST_TIMEOUT) return fail(ST_INTERNAL, "more waits than wakes");
    return comm_barrier(c);
}

/* `slot` is the back end's slot size: borders of pieces are tried from both sides. */
static inline status check_exchanges(comm *c, size_t slot, size_t rounds) {
    const size_t counts[] = {0,
                             1,
                             2,
                             15,
                             16,
                             17,
                             31,
                             100,
                             5376,
                             8191,
                             8192,
                             8193,
                             slot / 4 - 1,
                             slot / 4,
                             slot / 4 + 1,
                             slot / 2 + 5,
                             5 * (slot / 4) - 16};
    size_t most = slot * 3 < 300000 ? slot * 3 : 300000;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i] <= 100000) TRY(check_all_reduce(c, i, counts[i]));
    TRY(check_all_reduce(c, 99, 100000));
    for (size_t i = 0; i < rounds; i++) {
        uint64_t z = checks_random(i, 1, 2);
        TRY(check_all_reduce(c, i + 200, (size_t)(z % 6000)));
        TRY(check_all_gather(c, i, (size_t)(z >> 16) % most, i % 2, i % 3 == 0));
        TRY(check_all_to_all(c, i, (size_t)(z >> 24) % most));
        TRY(check_broadcast(c, i, (size_t)(z >> 32) % most, (uint32_t)(z % comm_size(c))));
        if (i % 4 == 0) TRY(comm_barrier(c));
    }
    TRY(check_all_gather(c, 1, 0, false, true));
    TRY(check_all_to_all(c, 1, 0));
    return check_wakes(c, 20);
}

#endif
