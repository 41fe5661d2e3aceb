/* How the sums of a mixture layer reach every rank. Two ways, the same bits:
 *
 * - Replicated: the dense MLP's and the experts' partial sums travel side by side in one all-reduce, and every
 *   rank norms every row. One exchange: what decode and small batches want.
 *
 * - All-to-all: rows are shared out over ranks. Each rank sends a row's owner its dense sum and, only where it
 *   holds one of the row's experts, its expert sum; owners add in rank order, norm, and hand the finished rows
 *   to all. Fewer bytes, one exchange more. Rows need no dispatch to the experts' ranks: the tensor-parallel
 *   MLP beside the experts needs every row on every rank anyway.
 *
 * A rank that holds none of a row's experts counts as +0 in its place of the sum, as in the all-reduce. */
#include <string.h>

#include "base/invariant.h"
#include "shard/model/runner_internal.h"

static range rows_of(const runner *r, uint32_t n, uint32_t rank) {
    return layout_share(n, 1, r->o.split->ranks, rank);
}

/* Whether a rank holds one of the row's experts: rank q has the experts of its EP index, whatever its width
 * index. */
static bool holds(const runner *r, const uint32_t *ids, uint32_t rank, uint32_t row) {
    const model_config *c = r->config;
    const layout *l = r->o.split;
    range own = layout_share(c->experts, 1, l->expert_degree, rank / l->width_degree);
    for (uint32_t k = 0; k < c->experts_active; k++) {
        uint32_t id = ids[(size_t)row * c->experts_active + k];
        if (id >= own.begin && id < own.end) return true;
    }
    return false;
}

/* Half of what was counted is forgotten at so many rows, so that the figure follows the load. */
enum { RECENT_EXPERT_ROWS = 1 << 20 };

static void count_groups(runner *r, const uint32_t *ids, uint32_t count) {
    const layout *l = r->o.split;
    if (l->expert_degree == 1) return;
    uint64_t most = 0;
    for (uint32_t group = 0; group < l->expert_degree; group++) {
        range own = layout_share(r->config->experts, 1, l->expert_degree, group);
        uint64_t rows = 0;
        for (uint32_t i = 0; i < count; i++) rows += ids[i] - own.begin < own.end - own.begin;
        if (rows > most) most = rows;
    }
    r->busiest_rows += most;
    r->expert_rows += count;
    if (r->expert_rows > RECENT_EXPERT_ROWS) r->busiest_rows /= 2, r->expert_rows /= 2;
}

static void count_hits(runner *r, const uint32_t *ids, uint32_t count) {
    memset(r->expert_hit, 0, r->config->experts);
    for (uint32_t i = 0; i < count; i++) {
        r->reads.experts += !r->expert_hit[ids[i]];
        r->expert_hit[ids[i]] = 1;
    }
}

void fetch_experts(runner *r) {
    uint32_t layers = r->live.n ? r->config->layers : r->tail_begin;
    if (r->config->experts == 0 || r->b->is_host) return;
    r->ops->get_later(r->b, r->host_ids, r->expert_ids, (size_t)layers * r->ids_stride * sizeof *r->host_ids);
}

void count_experts(runner *r, uint32_t n) {
    const model_config *c = r->config;
    if (c->experts == 0) return;
    uint32_t layers = r->live.n ? c->layers : r->tail_begin;
    for (uint32_t layer = 0; layer < layers; layer++) {
        const uint32_t *ids = r->host_ids + (size_t)layer * r->ids_stride;
        uint32_t rows = layer < r->tail_begin ? n : r->live.n;
        count_groups(r, ids, rows * c->experts_active);
        count_hits(r, ids, rows * c->experts_active);
    }
}

double runner_imbalance(const runner *r) {
    if (!r->expert_rows) return 1;
    return (double)r->busiest_rows * r->o.split->expert_degree / (double)r->expert_rows;
}

/* Bytes that all-to-all saves must be worth one more exchange: about 50 µs at 5 GB/s. */
enum { EXCHANGE_WORTH_BYTES = 256 << 10 };

static bool prefers_all_to_all(const runner *r, uint32_t n) {
    if (r->o.exchange != EXCHANGE_AUTO) return r->o.exchange == EXCHANGE_ALL_TO_ALL;
    /* The host packs rows by the experts that were chosen: beside a device it would have to wait for them. */
    if (!r->b->is_host) return false;
    const layout *l = r->o.split;
    const model_config *c = r->config;
    /* Of a row's k experts, evenly spread over E groups, a group holds at least one with 1 - (1 - 1/E)^k. */
    double misses = 1;
    for (uint32_t k = 0; k < c->experts_active; k++) misses *= 1 - 1.0 / l->expert_degree;
    double row_bytes = (double)c->hidden * sizeof(float) * (l->ranks - 1) / l->ranks;
    double replicated = 4 * n * row_bytes, sparse = (2 + (1 - misses)) * n * row_bytes;
    return replicated - sparse > EXCHANGE_WORTH_BYTES;
}

/* Packs what goes to each rank: dense rows of its share, then expert rows of its share that this rank has a
 * part in. The two kinds lie behind each other in r->partial, so one gather packs them all. */
static void pack(runner *r, const uint32_t *ids, uint32_t n) {
    const layout *l = r->o.split;
    uint32_t count = 0;
    for (uint32_t to = 0; to < l->ranks; to++) {
        range share = rows_of(r, n, to);
        uint32_t before = count;
        for (uint32_t i = share.begin; i < share.end; i++) r->moe_index[count++] = i;
        for (uint32_t i = share.begin; i < share.end; i++)
            if (holds(r, ids, l->rank, i)) r->moe_index[count++] = n + i;
        r->exchange_bytes[to] = (size_t)(count - before) * r->config->hidden * sizeof(float);
    }
    gather_rows(r, r->moe_out, r->partial, r->moe_index, count, r->config->hidden);
}

/* Where each rank's dense and expert rows of this rank's share stand in what came in; absent ones are the row
 * of zeros. */
static uint32_t index_arrivals(runner *r, const uint32_t *ids, range own, uint32_t n) {
    const layout *l = r->o.split;
    uint32_t rows = range_count(own), arrived = 0, at = 0, zero = 0;
    for (uint32_t from = 0; from < l->ranks; from++) {
        uint32_t before = arrived;
        arrived += rows;
        for (uint32_t i = own.begin; i < own.end; i++) arrived += holds(r, ids, from, i);
        r->exchange_bytes_in[from] = (size_t)(arrived - before) * r->config->hidden * sizeof(float);
    }
    zero = arrived;
    INVARIANT(zero <= 2 * (n + l->ranks));
    arrived = 0;
    for (uint32_t from = 0; from < l->ranks; from++) {
        for (uint32_t i = 0; i < rows; i++) r->moe_index[at++] = arrived++;
        for (uint32_t i = own.begin; i < own.end; i++)
            r->moe_index[at++] = holds(r, ids, from, i) ? arrived++ : zero;
    }
    return zero;
}

static status by_all_to_all(runner *r, uint32_t layer) {
    const model_config *c = r->config;
    const layout *l = r->o.split;
    const layer_weights *w = &r->o.weights->layer[layer];
    uint32_t n = r->live.n;
    uint32_t *ids = r->host_ids + (size_t)layer * r->ids_stride;
    range own = rows_of(r, n, l->rank);
    uint32_t rows = range_count(own);
    size_t row_bytes = c->hidden * sizeof(float);
    if (!r->b->is_host)
        TRY(r->ops->get(r->b, ids, r->expert_ids + (size_t)layer * r->ids_stride,
                        (size_t)n * c->experts_active * sizeof *ids));
    pack(r, ids, n);
    uint32_t zero = index_arrivals(r, ids, own, n);
    TRY(comm_all_to_all_v(r->o.activations, r->moe_out, r->exchange_bytes, r->moe_in, r->exchange_bytes_in));
    r->ops->put(r->b, r->moe_in + (size_t)zero * c->hidden, r->zeros, row_bytes);
    gather_rows(r, r->moe_out, r->moe_in, r->moe_index, l->ranks * 2 * rows, c->hidden);
    float *dense = r->moe_in, *experts = r->moe_in + (size_t)rows * c->hidden;
    r->ops->sum_blocks(r->b, dense, r->moe_out, l->ranks, (size_t)2 * rows * c->hidden);
    r->ops->norm(r->b, dense, dense, w->post_mlp_norm_1, c->norm_eps, rows, c->hidden);
    r->ops->add_norm(r->b, dense, experts, w->post_mlp_norm_2, c->norm_eps, 1.0f, NULL, NULL, rows, c->hidden);
    for (uint32_t q = 0; q < l->ranks; q++) r->exchange_bytes[q] = range_count(rows_of(r, n, q)) * row_bytes;
    return comm_all_gather_v(r->o.activations, dense, r->exchange_bytes, r->partial);
}

status expert_sums(runner *r, uint32_t layer, bool *normed) {
    uint32_t n = r->live.calls;
    *normed = r->o.split->ranks > 1 && n == r->live.n && prefers_all_to_all(r, n);
    if (*normed) return by_all_to_all(r, layer);
    return sum_over_ranks(r, r->partial, 2 * (size_t)n * r->config->hidden, after_layer(r, layer));
}
