/* The decoder: docs/model.md, layer by layer, driven by the config's per-layer table. */
#include <string.h>

#include "base/invariant.h"
#include "shard/model/runner_internal.h"

void runner_look(const runner *r, const char *name, uint32_t layer, const float *data, const uint32_t *ids,
                 uint32_t rows, uint32_t cols) {
    if (!r->o.tap) return;
    r->ops->finish(r->b);
    r->o.tap(r->o.tap_context, name, layer, data, ids, rows, cols);
}

/* Partial sums of all ranks, added in rank order. */
status sum_over_ranks(runner *r, float *x, size_t count, const weight *next) {
    enum { NEXT_BYTES = 256 << 10 }; /* an exchange is over before more has come */
    r->ops->finish(r->b);
    if (next && next->data) {
        uint64_t bytes = weight_rows_bytes(next->type, next->rows, next->cols);
        comm_while_waiting(r->o.ranks, next->data, bytes < NEXT_BYTES ? bytes : NEXT_BYTES);
    }
    return comm_all_reduce(r->o.ranks, x, count);
}

/* Every rank reads rows of the mapped file. A row that is in memory alone is read by the rank whose vocabulary share
 * holds it and reaches the others in one exact exchange: copies, no sums. */
static status embed(runner *r) {
    const model_config *c = r->config;
    const live_rows *l = &r->live;
    uint32_t ranks = r->o.split->ranks, self = r->o.split->rank, mine = 0, packed = 0;
    const weight *share = &r->o.weights->embed, *all = &r->o.weights->embed_rows;
    if (all->data || ranks == 1) {
        r->ops->embed(r->b, r->h, all->data ? all : share, 0, l->token, l->n, c->embed_factor);
        return ST_OK;
    }
    memset(r->exchange_bytes, 0, ranks * sizeof *r->exchange_bytes);
    uint32_t *own_ids = r->index;
    for (uint32_t i = 0; i < l->n; i++) {
        uint32_t owner = layout_vocab_owner(c, r->o.split, l->token[i]);
        if (owner == self) own_ids[mine++] = l->token[i];
        r->exchange_bytes[owner] += c->hidden * sizeof(float);
    }
    r->ops->embed(r->b, r->x, share, r->o.split->vocab.begin, own_ids, mine, c->embed_factor);
    r->ops->finish(r->b);
    TRY(comm_all_gather_v(r->o.ranks, r->x, r->exchange_bytes, r->packed));
    /* packed holds rank 0's rows in row order, then rank 1's … */
    for (uint32_t owner = 0; owner < ranks; owner++)
        for (uint32_t i = 0; i < l->n; i++)
            if (layout_vocab_owner(c, r->o.split, l->token[i]) == owner) r->index[i] = packed++;
    r->ops->gather(r->b, r->h, r->packed, r->index, l->n, c->hidden);
    return ST_OK;
}

static void multiply(runner *r, float *y, size_t y_stride, const float *x, size_t x_stride, const weight *w) {
    r->ops->linear(r->b, &(product){y, y_stride, w}, 1, x, x_stride, r->live.n);
}

static void per_layer_embeddings(runner *r) {
    const model_config *c = r->config;
    const model_weights *w = r->o.weights;
    uint32_t width = c->layers * c->ple_width;
    multiply(r, r->ple, width, r->h, c->hidden, &w->ple_context);
    r->ops->ple_mix(r->b, r->ple, &w->ple_table, r->live.token, w->ple_norm, c->norm_eps,
                    1.0f / __builtin_sqrtf((float)c->hidden), c->ple_factor, c->ple_width, r->live.n);
    runner_look(r, "ple", 0, r->ple, NULL, r->live.n, width);
}

static status attention(runner *r, uint32_t layer) {
    const model_config *c = r->config;
    const layer_config *lc = &c->layer[layer];
    const layer_weights *w = &r->o.weights->layer[layer];
    const attention_layer *a = &r->attention[layer];
    uint32_t n = r->live.n, q_width = a->heads * lc->head_dim, kv_width = a->kv.kv_heads * lc->head_dim;
    const row_span *spans = r->live.span[lc->full ? KV_FULL : KV_SLIDING];
    r->ops->norm(r->b, r->x, r->h, w->input_norm, c->norm_eps, n, c->hidden);
    const product inputs[] = {{r->q, q_width, &w->q}, {r->k, kv_width, &w->k}, {r->v, kv_width, &w->v}};
    r->ops->linear(r->b, inputs, !lc->owns_kv ? 1 : lc->k_eq_v ? 2 : 3, r->x, c->hidden, n);
    r->ops->attention_prepare(r->b, a, spans, r->live.span_count, r->q, lc->owns_kv ? r->k : NULL, r->v);
    r->ops->attention(r->b, a, spans, r->live.span_count, r->q, r->heads);
    runner_look(r, "heads", layer, r->heads, NULL, n, q_width);
    multiply(r, r->partial, c->hidden, r->heads, q_width, &w->o);
    TRY(sum_over_ranks(r, r->partial, (size_t)n * c->hidden, &w->gate));
    runner_look(r, "attn", layer, r->partial, NULL, n, c->hidden);
    r->ops->add_norm(r->b, r->h, r->partial, w->post_attention_norm, c->norm_eps, 1.0f, n, c->hidden);
    return ST_OK;
}

const weight *after_layer(const runner *r, uint32_t layer) {
    const model_weights *w = r->o.weights;
    return layer + 1 < r->config->layers ? &w->layer[layer + 1].q : &w->embed;
}

/* The dense MLP's partial sums into r->partial[0 …], and with experts their sums behind it: both travel in
 * one exchange. */
static status feed_forward(runner *r, uint32_t layer) {
    const model_config *c = r->config;
    const layer_weights *w = &r->o.weights->layer[layer];
    uint32_t n = r->live.n, width = w->gate.rows;
    size_t sum = (size_t)n * c->hidden;
    r->ops->norm(r->b, r->x, r->h, w->pre_mlp_norm, c->norm_eps, n, c->hidden);
    const product inputs[] = {{r->gate, width, &w->gate}, {r->up, width, &w->up}};
    r->ops->linear(r->b, inputs, 2, r->x, c->hidden, n);
    r->ops->gelu_multiply(r->b, r->gate, width, r->up, width, n, width);
    multiply(r, r->partial, c->hidden, r->gate, width, &w->down);
    if (c->experts == 0) return sum_over_ranks(r, r->partial, sum, after_layer(r, layer));
    const moe_layer *m = &r->moe[layer];
    float *experts = r->partial + sum;
    r->ops->route(r->b, m, r->h, n, r->expert_ids, r->expert_weights);
    runner_look(r, "router_weights", layer, r->expert_weights, r->expert_ids, n, c->experts_active);
    count_expert_rows(r, n);
    count_experts_hit(r, n);
    r->ops->norm(r->b, r->x, r->h, w->pre_mlp_norm_2, c->norm_eps, n, c->hidden);
    r->ops->experts(r->b, m, r->x, n, r->expert_ids, r->expert_weights, experts);
    return expert_sums(r, layer, n);
}

static void add_per_layer_embedding(runner *r, uint32_t layer) {
    const model_config *c = r->config;
    const layer_weights *w = &r->o.weights->layer[layer];
    uint32_t n = r->live.n;
    multiply(r, r->ple_gate, c->ple_width, r->h, c->hidden, &w->ple_gate);
    r->ops->gelu_multiply(r->b, r->ple_gate, c->ple_width, r->ple + (size_t)layer * c->ple_width,
                          (size_t)c->layers * c->ple_width, n, c->ple_width);
    multiply(r, r->partial, c->hidden, r->ple_gate, c->ple_width, &w->ple_projection);
    r->ops->add_norm(r->b, r->h, r->partial, w->post_ple_norm, c->norm_eps, w->scalar, n, c->hidden);
}

static void swap(float **a, float **b) {
    float *t = *a;
    *a = *b;
    *b = t;
}

/* From here on no layer writes KV: rows whose logits nobody wants have done all they had to. */
static void drop_unwanted_rows(runner *r) {
    const model_config *c = r->config;
    rows_keep_wanted(r);
    r->ops->gather(r->b, r->h_spare, r->h, r->index, r->live.n, c->hidden);
    swap(&r->h, &r->h_spare);
    if (c->ple_width) {
        r->ops->gather(r->b, r->ple_spare, r->ple, r->index, r->live.n, c->layers * c->ple_width);
        swap(&r->ple, &r->ple_spare);
    }
}

static void begin_angles(runner *r) {
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (r->angles[kind]) r->ops->rope_begin(r->b, r->angles[kind], r->live.position, r->live.n);
}

status forward(runner *r) {
    const model_config *c = r->config;
    TRY(embed(r));
    runner_look(r, "embed", 0, r->h, NULL, r->live.n, c->hidden);
    if (c->ple_width) per_layer_embeddings(r);
    begin_angles(r);
    r->reads.whole++;
    for (uint32_t layer = 0; layer < c->layers; layer++) {
        const layer_weights *w = &r->o.weights->layer[layer];
        if (r->o.alive) r->o.alive(r->o.alive_context);
        if (layer == r->tail_begin && r->wanted_count < r->live.n) {
            drop_unwanted_rows(r);
            if (r->live.n == 0) return ST_OK;
            begin_angles(r);
        }
        if (layer == r->tail_begin) r->reads.tail++;
        TRY(attention(r, layer));
        TRY(feed_forward(r, layer));
        r->ops->add_norm(r->b, r->h, r->partial, w->post_mlp_norm, c->norm_eps,
                         c->ple_width ? 1.0f : w->scalar, r->live.n, c->hidden);
        if (c->ple_width) add_per_layer_embedding(r, layer);
        runner_look(r, "hidden", layer, r->h, NULL, r->live.n, c->hidden);
    }
    return ST_OK;
}
