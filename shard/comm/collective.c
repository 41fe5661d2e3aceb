/* The collectives of comm.h, written once over rounds of slots. A message longer than a slot goes in
 * pieces. */
#include <string.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "shard/comm/comm_internal.h"

/* With three ranks or more each rank can add its share of a piece and all gather the sums: a rank then
 * reads 2 pieces instead of `size`, for one round more. That is worth it once what it saves reading is
 * this much, about 6 us between cores that share a cache, 5 to 60 us between hosts. With two ranks nothing
 * is saved. */
enum { SHARED_SUM_SAVES_BYTES = 64 << 10, FLOATS_PER_LINE = 16 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static status begin(comm *c) { return window_begin(c->window); }

/* Everything that the round brings this rank is in the window afterwards. */
static status finish(comm *c, const comm_round *round) {
    if (c->back->move) TRY(c->back->move(c, round));
    window_publish(c->window);
    for (uint32_t r = 0; r < c->size; r++) {
        if (r == c->rank || round->span(round->context, r, c->rank).bytes == 0) continue;
        if (round->gather || c->is_local[r]) TRY(window_wait(c->window, c->carrier[r]));
    }
    return ST_OK;
}

static status enter(comm *c, size_t bytes) {
    c->stats.calls++;
    c->stats.bytes += bytes;
    if (!c->window && !c->back->all_reduce && atomic_load(&c->self_aborted)) return fail(ST_PEER, "rank 0 failed or gave up");
    return ST_OK;
}

/* ---- all-reduce ---- */

static comm_span span_of_all(const void *context, uint32_t from, uint32_t to) {
    (void)from, (void)to;
    return (comm_span){0, *(const size_t *)context};
}

/* Shares are whole cache lines, the last ones may be short or empty. */
typedef struct shares {
    size_t count, each;
} shares;

static comm_span share_of(const shares *s, uint32_t rank) {
    size_t from = least(s->count, rank * s->each), to = least(s->count, from + s->each);
    return (comm_span){from * sizeof(float), (to - from) * sizeof(float)};
}
static comm_span span_of_reader(const void *context, uint32_t from, uint32_t to) {
    (void)from;
    return share_of(context, to);
}
static comm_span span_of_owner(const void *context, uint32_t from, uint32_t to) {
    (void)to;
    return share_of(context, from);
}

static status reduce_by_all(comm *c, float *x, size_t count) {
    size_t bytes = count * sizeof *x;
    TRY(begin(c));
    memcpy(window_slot(c->window, c->rank), x, bytes);
    TRY(finish(c, &(comm_round){.gather = true, .span = span_of_all, .context = &bytes}));
    for (uint32_t r = 0; r < c->size; r++)
        c->parts[r] = (const float *)(const void *)window_slot(c->window, r);
    comm_sum_in_order(x, c->parts, c->size, count);
    return ST_OK;
}

static status reduce_by_owners(comm *c, float *x, size_t count) {
    size_t each = (count + c->size - 1) / c->size;
    shares s = {count, (each + FLOATS_PER_LINE - 1) / FLOATS_PER_LINE * FLOATS_PER_LINE};
    comm_span mine = share_of(&s, c->rank);
    TRY(begin(c));
    memcpy(window_slot(c->window, c->rank), x, count * sizeof *x);
    TRY(finish(c, &(comm_round){.gather = false, .span = span_of_reader, .context = &s}));
    for (uint32_t r = 0; r < c->size; r++)
        c->parts[r] = (const float *)(const void *)(window_slot(c->window, r) + mine.at);
    TRY(begin(c));
    comm_sum_in_order((float *)(void *)(window_slot(c->window, c->rank) + mine.at), c->parts, c->size,
                      mine.bytes / sizeof *x);
    TRY(finish(c, &(comm_round){.gather = true, .span = span_of_owner, .context = &s}));
    for (uint32_t r = 0; r < c->size; r++) {
        comm_span theirs = share_of(&s, r);
        memcpy((char *)x + theirs.at, window_slot(c->window, r) + theirs.at, theirs.bytes);
    }
    return ST_OK;
}

static status all_reduce(comm *c, float *x, size_t count) {
    TRY(enter(c, count * sizeof *x));
    if (c->back->all_reduce) return c->back->all_reduce(c, x, count);
    if (!c->window) return ST_OK;
    size_t piece = c->window->slot_bytes / sizeof *x;
    for (size_t at = 0; at < count; at += piece) {
        size_t some = least(piece, count - at);
        bool shared = (c->size - 2) * some * sizeof *x >= SHARED_SUM_SAVES_BYTES && c->size > 2;
        TRY(shared ? reduce_by_owners(c, x + at, some) : reduce_by_all(c, x + at, some));
    }
    return ST_OK;
}

/* ---- all-gather, broadcast, barrier ---- */

typedef struct gather_piece {
    const size_t *bytes; /* [size], or NULL: same for all */
    size_t same, done, slot_bytes;
} gather_piece;

static size_t gather_total(const gather_piece *g, uint32_t rank) {
    return g->bytes ? g->bytes[rank] : g->same;
}
static comm_span span_of_piece(const void *context, uint32_t from, uint32_t to) {
    (void)to;
    const gather_piece *g = context;
    size_t total = gather_total(g, from);
    return (comm_span){0, total > g->done ? least(total - g->done, g->slot_bytes) : 0};
}

static status gather(comm *c, const void *in, gather_piece *g, char *out) {
    size_t longest = 0;
    for (uint32_t r = 0; r < c->size; r++)
        if (gather_total(g, r) > longest) longest = gather_total(g, r);
    g->slot_bytes = c->window->slot_bytes;
    comm_round round = {.gather = true, .span = span_of_piece, .context = g};
    for (g->done = 0; g->done < longest; g->done += g->slot_bytes) {
        TRY(begin(c));
        size_t mine = span_of_piece(g, c->rank, 0).bytes;
        if (mine) memcpy(window_slot(c->window, c->rank), (const char *)in + g->done, mine);
        TRY(finish(c, &round));
        char *place = out;
        for (uint32_t r = 0; r < c->size; r++) {
            size_t n = span_of_piece(g, r, 0).bytes;
            /* From the slot for our own part too: `in` may be that very place. */
            if (n) memcpy(place + g->done, window_slot(c->window, r), n);
            place += gather_total(g, r);
        }
    }
    return ST_OK;
}

static status all_gather(comm *c, const void *in, size_t bytes, void *out) {
    TRY(enter(c, bytes * c->size));
    if (c->back->all_gather_v) {
        for (uint32_t r = 0; r < c->size; r++) c->same[r] = bytes;
        return c->back->all_gather_v(c, in, c->same, out);
    }
    if (c->window) return gather(c, in, &(gather_piece){.same = bytes}, out);
    if (bytes) memmove(out, in, bytes);
    return ST_OK;
}

static status all_gather_v(comm *c, const void *in, const size_t *bytes, void *out) {
    size_t sum = 0;
    for (uint32_t r = 0; r < c->size; r++) sum += bytes[r];
    TRY(enter(c, sum));
    if (c->back->all_gather_v) return c->back->all_gather_v(c, in, bytes, out);
    if (c->window) return gather(c, in, &(gather_piece){.bytes = bytes}, out);
    if (sum) memmove(out, in, sum);
    return ST_OK;
}

typedef struct cast {
    uint32_t root;
    size_t bytes;
} cast;
static comm_span span_of_root(const void *context, uint32_t from, uint32_t to) {
    (void)to;
    const cast *b = context;
    return (comm_span){0, from == b->root ? b->bytes : 0};
}

static status broadcast(comm *c, void *data, size_t bytes, uint32_t root) {
    INVARIANT(root < c->size);
    TRY(enter(c, bytes));
    if (c->back->broadcast) return c->back->broadcast(c, data, bytes, root);
    if (!c->window) return ST_OK;
    for (size_t at = 0; at < bytes; at += c->window->slot_bytes) {
        cast b = {root, least(bytes - at, c->window->slot_bytes)};
        TRY(begin(c));
        if (c->rank == root) memcpy(window_slot(c->window, root), (char *)data + at, b.bytes);
        TRY(finish(c, &(comm_round){.gather = true, .span = span_of_root, .context = &b}));
        if (c->rank != root) memcpy((char *)data + at, window_slot(c->window, root), b.bytes);
    }
    return ST_OK;
}

static status barrier(comm *c) {
    TRY(enter(c, 0));
    if (c->back->barrier) return c->back->barrier(c);
    if (!c->window) return ST_OK;
    /* A byte of every rank for every rank: nobody has them all before all have come. */
    size_t one = 1;
    TRY(begin(c));
    return finish(c, &(comm_round){.gather = true, .span = span_of_all, .context = &one});
}

/* ---- all-to-all ---- */

/* A slot is cut into one cell a reader. Counts are known to pairs only, so each cell tells its reader the
 * longest block that its writer has for anyone: the greatest of these is the same everywhere and is how
 * many pieces there are. */
typedef struct cell_head {
    uint64_t block_bytes, longest_bytes;
} cell_head;
typedef struct cells {
    const comm *c;
    const size_t *send_bytes, *recv_bytes;
    size_t cell, room, done;
} cells;

static size_t cell_data(const cells *a, size_t block) {
    return block > a->done ? least(block - a->done, a->room) : 0;
}
static comm_span span_of_cell(const void *context, uint32_t from, uint32_t to) {
    const cells *a = context;
    /* Only pairs that this rank belongs to are ever asked for. */
    size_t block = from == a->c->rank ? a->send_bytes[to] : a->recv_bytes[from];
    return (comm_span){to * a->cell, sizeof(cell_head) + cell_data(a, block)};
}

static status read_cells(comm *c, const cells *a, char *out, size_t *longest) {
    char *place = out;
    for (uint32_t r = 0; r < c->size; r++) {
        const char *cell = window_slot(c->window, r) + c->rank * a->cell;
        cell_head h;
        memcpy(&h, cell, sizeof h);
        if (h.block_bytes != a->recv_bytes[r])
            return fail(ST_MISMATCH, "rank %u sends rank %u %llu bytes, it expects %zu", r, c->rank,
                        (unsigned long long)h.block_bytes, a->recv_bytes[r]);
        if (h.longest_bytes > *longest) *longest = h.longest_bytes;
        size_t n = cell_data(a, a->recv_bytes[r]);
        if (n) memcpy(place + a->done, cell + sizeof h, n);
        place += a->recv_bytes[r];
    }
    return ST_OK;
}

static status all_to_all_v(comm *c, const void *in, const size_t *send_bytes, void *out,
                           const size_t *recv_bytes) {
    size_t sum = 0, longest = 0;
    for (uint32_t r = 0; r < c->size; r++) {
        sum += send_bytes[r];
        if (send_bytes[r] > longest) longest = send_bytes[r];
    }
    TRY(enter(c, sum));
    if (c->back->all_to_all_v) return c->back->all_to_all_v(c, in, send_bytes, out, recv_bytes);
    if (!c->window) {
        if (send_bytes[0] != recv_bytes[0])
            return fail(ST_MISMATCH, "rank 0 sends itself %zu bytes, it expects %zu", send_bytes[0],
                        recv_bytes[0]);
        if (sum) memmove(out, in, sum);
        return ST_OK;
    }
    cells a = {.c = c, .send_bytes = send_bytes, .recv_bytes = recv_bytes};
    a.cell = c->window->slot_bytes / c->size / sizeof(cell_head) * sizeof(cell_head);
    INVARIANT(a.cell >= COMM_CELL_BYTES_MIN);
    a.room = a.cell - sizeof(cell_head);
    const size_t mine_longest = longest;
    do {
        TRY(begin(c));
        const char *block = in;
        for (uint32_t r = 0; r < c->size; r++) {
            char *cell = window_slot(c->window, c->rank) + r * a.cell;
            cell_head h = {send_bytes[r], mine_longest};
            memcpy(cell, &h, sizeof h);
            size_t n = cell_data(&a, send_bytes[r]);
            if (n) memcpy(cell + sizeof h, block + a.done, n);
            block += send_bytes[r];
        }
        TRY(finish(c, &(comm_round){.gather = false, .span = span_of_cell, .context = &a}));
        TRY(read_cells(c, &a, out, &longest));
        a.done += a.room;
    } while (a.done < longest);
    return ST_OK;
}

/* ---- the calls of comm.h, each with its time ---- */

static status timed(comm *c, uint64_t since, status st) {
    /* What is put on a stream takes the device's time, which nobody here waits for. */
    if (!c->is_ordered) c->stats.ns += clock_now_ns() - since;
    return st;
}

status comm_all_reduce(comm *c, float *x, size_t count) {
    uint64_t since = clock_now_ns();
    return timed(c, since, all_reduce(c, x, count));
}
status comm_all_gather(comm *c, const void *in, size_t bytes, void *out) {
    uint64_t since = clock_now_ns();
    return timed(c, since, all_gather(c, in, bytes, out));
}
status comm_all_gather_v(comm *c, const void *in, const size_t *bytes, void *out) {
    uint64_t since = clock_now_ns();
    return timed(c, since, all_gather_v(c, in, bytes, out));
}
status comm_all_to_all_v(comm *c, const void *in, const size_t *send_bytes, void *out,
                         const size_t *recv_bytes) {
    uint64_t since = clock_now_ns();
    return timed(c, since, all_to_all_v(c, in, send_bytes, out, recv_bytes));
}
status comm_broadcast(comm *c, void *data, size_t bytes, uint32_t root) {
    uint64_t since = clock_now_ns();
    return timed(c, since, broadcast(c, data, bytes, root));
}
status comm_barrier(comm *c) {
    uint64_t since = clock_now_ns();
    return timed(c, since, barrier(c));
}
