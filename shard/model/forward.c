/* The decoder: docs/model.md, layer by layer, driven by the config's per-layer table. */
#include "base/invariant.h"
#include "base/memory.h"
#include "shard/model/runner_internal.h"

static const void *on_host(runner *r, const void *data, size_t at, size_t bytes) {
    return r->ops->get(r->b, (char *)r->look + at, data, bytes) == ST_OK ? (char *)r->look + at : NULL;
}

void runner_look(runner *r, const char *name, uint32_t layer, const float *data, const uint32_t *ids,
                 uint32_t rows, uint32_t cols) {
    if (!r->o.tap) return;
    size_t bytes = (size_t)rows * cols * sizeof *data;
    if (!r->b->is_host) { /* an error there is told by the step's end */
        if (2 * bytes > r->look_bytes) r->look = memory_grow(r->look, r->look_bytes = 2 * bytes);
        data = on_host(r, data, 0, bytes);
        if (ids) ids = on_host(r, ids, bytes, bytes);
        if (!data) return;
    }
    r->o.tap(r->o.tap_context, name, layer, data, ids, rows, cols);
}

/* Partial sums of all ranks, added in rank order. */
status sum_over_ranks(runner *r, float *x, size_t count, const weight *next) {
    enum { NEXT_BYTES = 256 << 10 }; /* an exchange is over before more has come */
    if (next && next->data && r->b->is_host) {
        uint64_t bytes = weight_rows_bytes(next->type, next->rows, next->cols);
        comm_while_waiting(r->o.ranks, next->data, bytes < NEXT_BYTES ? bytes : NEXT_BYTES);
    }
    return comm_all_reduce(r->o.activations, x, count);
}

/* Every rank reads rows of the mapped file. Of a table that is split, a rank has the rows of its vocabulary share and zeros
 * for the others: their sum is exact. */
static status embed(runner *r) {
    const model_config *c = r->config;
    uint32_t n = r->live.calls;
    const weight *share = &r->o.weights->embed, *all = &r->o.weights->embed_rows;
    if (all->data || r->o.split->ranks == 1) {
        r->ops->embed(r->b, r->h, all->data ? all : share, 0, n, c->embed_factor);
        return ST_OK;
    }
    r->ops->embed(r->b, r->h, share, r->o.split->vocab.begin, n, c->embed_factor);
    return sum_over_ranks(r, r->h, (size_t)n * c->hidden, &r->o.weights->layer[0].q);
}

static void multiply(runner *r, float *y, size_t y_stride, const float *x, size_t x_stride, const weight *w) {
    r->ops->linear(r->b, &(product){y, y_stride, w}, 1, x, x_stride, r->live.calls);
}

static void per_layer_embeddings(runner *r) {
    const model_config *c = r->config;
    const model_weights *w = r->o.weights;
    uint32_t width = c->layers * c->ple_width;
    multiply(r, r->ple, width, r->h, c->hidden, &w->ple_context);
    r->ops->ple_mix(r->b, r->ple, &w->ple_table, w->ple_norm, c->norm_eps,
                    1.0f / __builtin_sqrtf((float)c->hidden), c->ple_factor, c->ple_width, r->live.calls);
    runner_look(r, "ple", 0, r->ple, NULL, r->live.n, width);
}

/* From r->x = rms(h) to the residual behind attention, and r->x = rms of that. */
static status attention(runner *r, uint32_t layer) {
    const model_config *c = r->config;
    const layer_config *lc = &c->layer[layer];
    const layer_weights *w = &r->o.weights->layer[layer];
    const attention_layer *a = &r->attention[layer];
    uint32_t n = r->live.calls, q_width = a->heads * lc->head_dim, kv_width = a->kv.kv_heads * lc->head_dim;
    const product inputs[] = {{r->q, q_width, &w->q}, {r->k, kv_width, &w->k}, {r->v, kv_width, &w->v}};
    r->ops->linear(r->b, inputs, !lc->owns_kv ? 1 : lc->k_eq_v ? 2 : 3, r->x, c->hidden, n);
    r->ops->attention_prepare(r->b, a, r->q, lc->owns_kv ? r->k : NULL, r->v);
    r->ops->attention(r->b, a, r->q, r->heads);
    runner_look(r, "heads", layer, r->heads, NULL, r->live.n, q_width);
    multiply(r, r->partial, c->hidden, r->heads, q_width, &w->o);
    TRY(sum_over_ranks(r, r->partial, (size_t)n * c->hidden, &w->gate));
    runner_look(r, "attn", layer, r->partial, NULL, r->live.n, c->hidden);
    r->ops->add_norm(r->b, r->h, r->partial, w->post_attention_norm, c->norm_eps, 1.0f, r->x, w->pre_mlp_norm,
                     n, c->hidden);
    return ST_OK;
}

const weight *after_layer(const runner *r, uint32_t layer) {
    const model_weights *w = r->o.weights;
    return layer + 1 < r->config->layers ? &w->layer[layer + 1].q : &w->embed;
}

/* The dense MLP's partial sums into r->partial[0 …], and with experts their sums behind it: both travel in
 * one exchange. */
static status feed_forward(runner *r, uint32_t layer, bool *normed) {
    const model_config *c = r->config;
    const layer_weights *w = &r->o.weights->layer[layer];
    uint32_t n = r->live.calls, width = w->gate.rows;
    size_t sum = (size_t)n * c->hidden;
    r->ops->gated(r->b, r->gate, r->up, &w->gate, &w->up, r->x, c->hidden, n);
    multiply(r, r->partial, c->hidden, r->gate, width, &w->down);
    if (c->experts == 0) return sum_over_ranks(r, r->partial, sum, after_layer(r, layer));
    const moe_layer *m = &r->moe[layer];
    uint32_t *ids = r->expert_ids + (size_t)layer * r->ids_stride;
    r->ops->route(r->b, m, r->h, n, ids, r->expert_weights);
    runner_look(r, "router_weights", layer, r->expert_weights, ids, r->live.n, c->experts_active);
    r->ops->norm(r->b, r->x, r->h, w->pre_mlp_norm_2, c->norm_eps, n, c->hidden);
    r->ops->experts(r->b, m, r->x, n, ids, r->expert_weights, r->partial + sum);
    return expert_sums(r, layer, normed);
}

/* The residual behind the MLP, and r->x = rms of it where `next` is what follows. */
static void add_feed_forward(runner *r, uint32_t layer, const float *next, bool normed) {
    const model_config *c = r->config;
    const layer_weights *w = &r->o.weights->layer[layer];
    uint32_t n = r->live.calls;
    float scale = c->ple_width ? 1.0f : w->scalar, *x = next ? r->x : NULL;
    if (c->experts == 0 || normed) {
        r->ops->add_norm(r->b, r->h, r->partial, w->post_mlp_norm, c->norm_eps, scale, x, next, n, c->hidden);
        return;
    }
    const mixture_norms norms = {w->post_mlp_norm_1, w->post_mlp_norm_2, w->post_mlp_norm};
    r->ops->add_mixture(r->b, r->h, r->partial, r->partial + (size_t)n * c->hidden, &norms, c->norm_eps, scale, x,
                        next, n, c->hidden);
}

/* next NULL: r->x is not wanted. */
static void add_per_layer_embedding(runner *r, uint32_t layer, const float *next) {
    const model_config *c = r->config;
    const layer_weights *w = &r->o.weights->layer[layer];
    uint32_t n = r->live.calls;
    multiply(r, r->ple_gate, c->ple_width, r->h, c->hidden, &w->ple_gate);
    r->ops->gelu_multiply(r->b, r->ple_gate, c->ple_width, r->ple + (size_t)layer * c->ple_width,
                          (size_t)c->layers * c->ple_width, n, c->ple_width);
    multiply(r, r->partial, c->hidden, r->ple_gate, c->ple_width, &w->ple_projection);
    r->ops->add_norm(r->b, r->h, r->partial, w->post_ple_norm, c->norm_eps, w->scalar, next ? r->x : NULL,
                     next, n, c->hidden);
}

/* From here on no layer writes KV: rows whose logits nobody wants have done all they had to. */
static void drop_unwanted_rows(runner *r) {
    const model_config *c = r->config;
    rows_keep_wanted(r);
    gather_rows(r, r->h_spare, r->h, r->index, r->live.n, c->hidden);
    if (c->ple_width) gather_rows(r, r->ple_spare, r->ple, r->index, r->live.n, c->layers * c->ple_width);
    swap_spares(r);
    if (r->live.n) rows_announce(r);
}

static void begin_angles(runner *r) {
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (r->angles[kind]) r->ops->rope_begin(r->b, r->angles[kind]);
}

/* Whether rows are dropped before a layer. */
static bool drops(const runner *r, uint32_t layer) {
    return layer == r->tail_begin && r->wanted_count < r->live.n;
}

/* The norm that the layer behind this one begins with, where its rows are the same. */
static const float *norm_after(const runner *r, uint32_t layer) {
    return layer + 1 < r->config->layers && !drops(r, layer + 1) ? r->o.weights->layer[layer + 1].input_norm
                                                                 : NULL;
}

status forward(runner *r) {
    const model_config *c = r->config;
    TRY(embed(r));
    runner_look(r, "embed", 0, r->h, NULL, r->live.n, c->hidden);
    if (c->ple_width) per_layer_embeddings(r);
    begin_angles(r);
    for (uint32_t layer = 0; layer < c->layers; layer++) {
        const layer_weights *w = &r->o.weights->layer[layer];
        if (r->o.alive) r->o.alive(r->o.alive_context);
        bool dropped = drops(r, layer);
        if (dropped) {
            drop_unwanted_rows(r);
            if (r->live.n == 0) return ST_OK;
            begin_angles(r);
        }
        if (layer == 0 || dropped)
            r->ops->norm(r->b, r->x, r->h, w->input_norm, c->norm_eps, r->live.calls, c->hidden);
        const float *next = norm_after(r, layer);
        bool normed = false;
        TRY(attention(r, layer));
        TRY(feed_forward(r, layer, &normed));
        add_feed_forward(r, layer, c->ple_width ? NULL : next, normed);
        if (c->ple_width) add_per_layer_embedding(r, layer, next);
        runner_look(r, "hidden", layer, r->h, NULL, r->live.n, c->hidden);
    }
    return ST_OK;
}
