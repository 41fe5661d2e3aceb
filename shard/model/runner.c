#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "shard/model/budget.h"
#include "shard/model/runner_internal.h"
#include "shard/sample/allowed_sets.h"

/* ---- sizes ---- */

typedef struct sizes {
    uint32_t q, kv, heads_per_kv, head_dim, mlp; /* the largest of any layer, of this rank */
} sizes;

static sizes largest(const model_config *c, const layout *l) {
    sizes s = {0};
    for (uint32_t i = 0; i < c->layers; i++) {
        const layer_config *lc = &c->layer[i];
        uint32_t q = range_count(l->heads) * lc->head_dim,
                 kv = range_count(l->layer[i].kv_heads) * lc->head_dim;
        uint32_t mlp = range_count(l->layer[i].mlp), per_kv = c->heads / lc->kv_heads;
        if (q > s.q) s.q = q;
        if (kv > s.kv) s.kv = kv;
        if (mlp > s.mlp) s.mlp = mlp;
        if (per_kv > s.heads_per_kv) s.heads_per_kv = per_kv;
        if (lc->head_dim > s.head_dim) s.head_dim = lc->head_dim;
    }
    return s;
}

static void kv_shapes(const model_config *c, const layout *l, kv_layer_shape *shape) {
    for (uint32_t i = 0; i < c->layers; i++) {
        const layer_config *lc = &c->layer[i];
        shape[i] = (kv_layer_shape){lc->full ? KV_FULL : KV_SLIDING, lc->owns_kv, lc->k_eq_v,
                                    range_count(l->layer[i].kv_heads), lc->head_dim};
    }
}

void runner_kv_geometry(const model_config *config, const layout *split, kv_type kv, kv_geometry *g) {
    kv_layer_shape shape[LIMIT_LAYERS];
    uint64_t offset[LIMIT_LAYERS];
    INVARIANT(config->layers <= LIMIT_LAYERS);
    kv_shapes(config, split, shape);
    kv_geometry_make(g, shape, config->layers, kv_element_bytes(kv), kv_scale_bytes(kv), offset);
}

/* One row of the table of activation buffers: floats per row of the step, or in all. */
typedef struct buffer {
    float **at;
    const char *what;
    uint64_t floats;
} buffer;

static uint32_t buffers(const model_config *c, const layout *l, uint32_t rows, runner *r, buffer out[24]) {
    sizes s = largest(c, l);
    uint64_t hidden = c->hidden, n = rows, ple = (uint64_t)c->layers * c->ple_width;
    uint32_t i = 0;
    out[i++] = (buffer){&r->h, "hidden states", n * hidden};
    out[i++] = (buffer){&r->h_spare, "hidden states of wanted rows", n * hidden};
    out[i++] = (buffer){&r->x, "normed states", n * hidden};
    out[i++] = (buffer){&r->q, "queries", n * s.q};
    out[i++] = (buffer){&r->k, "keys", n * s.kv};
    out[i++] = (buffer){&r->v, "values", n * s.kv};
    out[i++] = (buffer){&r->heads, "attention outputs", n * s.q};
    out[i++] = (buffer){&r->partial, "partial sums", n * hidden * (c->experts ? 2 : 1)};
    out[i++] = (buffer){&r->gate, "MLP gates", n * s.mlp};
    out[i++] = (buffer){&r->up, "MLP inputs", n * s.mlp};
    out[i++] = (buffer){&r->ple, "per-layer embeddings", n * ple};
    out[i++] = (buffer){&r->ple_spare, "per-layer embeddings of wanted rows", n * ple};
    out[i++] = (buffer){&r->ple_gate, "per-layer gates", n * c->ple_width};
    if (c->experts && l->ranks > 1) {
        /* Shares of rows are cut down, so a rank may get up to a row more than n / ranks from each. */
        out[i++] = (buffer){&r->moe_out, "expert sums going out", 2 * (n + l->ranks) * hidden};
        out[i++] = (buffer){&r->moe_in, "expert sums coming in", (2 * (n + l->ranks) + 1) * hidden};
    }
    out[i++] = (buffer){&r->logits, "logits", (uint64_t)RUNNER_LOGIT_ROWS * range_count(l->vocab)};
    return i;
}

/* The CPU back end's int8 copies of activations: a byte an element and two numbers a group, every hit expert's
 * filled up to blocks of tokens. */
static uint64_t quantised_bytes(const model_config *c, const layout *l, uint32_t rows) {
    enum { BLOCK_TOKENS = 16 };
    sizes s = largest(c, l);
    uint64_t longest = c->hidden > s.q ? c->hidden : s.q, slots = (uint64_t)rows * c->experts_active;
    if (l->group != QUANT_GROUP) return 0;
    if (s.mlp > longest) longest = s.mlp;
    uint64_t elements = (rows + BLOCK_TOKENS) * longest;
    if (c->experts)
        elements +=
            (slots + (uint64_t)(BLOCK_TOKENS - 1) * c->experts) * (c->hidden + range_count(l->expert_width));
    return elements + elements / QUANT_GROUP * 2 * sizeof(float);
}

uint64_t runner_activation_bytes(const model_config *config, const layout *split, uint32_t rows_max,
                                 bool on_device) {
    runner none;
    buffer list[24];
    uint64_t bytes = 0;
    uint32_t n = buffers(config, split, rows_max, &none, list);
    for (uint32_t i = 0; i < n; i++) bytes += list[i].floats * sizeof(float);
    if (on_device) return bytes;
    if (config->experts) /* the CPU back end's grouped inputs and outputs */
        bytes += (uint64_t)rows_max * config->experts_active * sizeof(float) *
                 (2 * (uint64_t)config->hidden + 2 * range_count(split->expert_width));
    return bytes + quantised_bytes(config, split, rows_max);
}

/* ---- open ---- */

static status take(runner *r, size_t bytes, const char *what, void **out) {
    *out = NULL;
    if (bytes == 0) return ST_OK;
    TRY(r->ops->alloc(r->b, bytes, what, out));
    INVARIANT(r->block_count < sizeof r->blocks / sizeof *r->blocks);
    r->blocks[r->block_count++] = (struct block){*out, bytes};
    return ST_OK;
}

static status open_activations(runner *r) {
    buffer list[24];
    uint32_t n = buffers(r->config, r->o.split, r->o.rows_max, r, list);
    for (uint32_t i = 0; i < n; i++) {
        void *p;
        TRY(take(r, list[i].floats * sizeof(float), list[i].what, &p));
        *list[i].at = p;
    }
    return ST_OK;
}

static void open_tables(runner *r) {
    uint32_t n = r->o.rows_max;
    live_rows *l = &r->live;
    l->slot = memory_alloc_array(n, sizeof *l->slot);
    l->position = memory_alloc_array(n, sizeof *l->position);
    l->token = memory_alloc_array(n, sizeof *l->token);
    r->wanted = memory_alloc_array(n, sizeof *r->wanted);
    r->index = memory_alloc_array(n, sizeof *r->index);
    r->sample_rows = memory_alloc_array(n, sizeof *r->sample_rows);
    r->sample_results = memory_alloc_array(n, sizeof *r->sample_results);
    r->result_span = memory_alloc_array(n, sizeof *r->result_span);
    r->result_row = memory_alloc_array(n, sizeof *r->result_row);
    r->exchange_bytes = memory_alloc_array(r->o.split->ranks, sizeof *r->exchange_bytes);
    r->exchange_bytes_in = memory_alloc_array(r->o.split->ranks, sizeof *r->exchange_bytes_in);
    r->moe_index = memory_alloc_array(2 * ((size_t)n + r->o.split->ranks), sizeof *r->moe_index);
    r->expert_hit = memory_alloc_array(r->config->experts + 1, 1);
    r->zeros = memory_alloc_array(r->config->hidden, sizeof *r->zeros);
    r->pages_per_slot = r->o.context / KV_TOKENS_PER_PAGE + 1;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        l->span[kind] = memory_alloc_array(n, sizeof *l->span[kind]);
        r->table[kind] = memory_alloc_array(r->o.slots, sizeof *r->table[kind]);
        for (uint32_t s = 0; s < r->o.slots; s++) {
            r->table[kind][s] = memory_alloc_array(r->pages_per_slot, sizeof **r->table[kind]);
            memset(r->table[kind][s], 0xFF, r->pages_per_slot * sizeof **r->table[kind]);
        }
    }
}

/* What is no row of floats, in backend memory. */
static status open_device_tables(runner *r) {
    const model_config *c = r->config;
    uint32_t n = r->o.rows_max, most = 2 * (n + r->o.split->ranks);
    size_t ids = (size_t)n * c->experts_active, bytes = c->layers * ids * sizeof *r->expert_ids;
    void *p;
    TRY(take(r, most * sizeof *r->device_index, "indices of rows", &p));
    r->device_index = p;
    TRY(take(r, bytes, "chosen experts", &p));
    r->expert_ids = p;
    r->host_ids = r->b->is_host || !bytes ? r->expert_ids : memory_alloc(bytes);
    TRY(take(r, ids * sizeof *r->expert_weights, "weights of experts", &p));
    r->expert_weights = p;
    return ST_OK;
}

static status open_layers(runner *r) {
    const model_config *c = r->config;
    const layout *l = r->o.split;
    r->attention = memory_alloc_array(c->layers, sizeof *r->attention);
    r->tail_begin = c->layers;
    while (r->tail_begin > 0 && !c->layer[r->tail_begin - 1].owns_kv) r->tail_begin--;
    for (uint32_t i = 0; i < c->layers; i++) {
        const layer_config *lc = &c->layer[i], *source = &c->layer[lc->kv_source];
        const layer_weights *w = &r->o.weights->layer[i];
        kv_kind kind = lc->full ? KV_FULL : KV_SLIDING;
        /* One table of angles a kind: every layer of a kind has the same base and head size in every
         * published config. */
        if (!r->angles[kind])
            TRY(r->ops->rope_open(r->b, lc->rope_base, lc->head_dim, lc->rope_pairs,
                                  source->k_eq_v ? r->o.context : 0, r->o.rows_max, &r->angles[kind]));
        range kv = l->layer[lc->kv_source].kv_heads;
        r->attention[i] = (attention_layer){.kv = {.base = r->pool,
                                                   .slab_bytes = r->geometry.slab_bytes,
                                                   .page_bytes = r->geometry.page_bytes[kind],
                                                   .layer_offset = r->layer_offset[lc->kv_source],
                                                   .pages_per_slab = r->geometry.pages_per_slab[kind],
                                                   .kv_heads = range_count(kv),
                                                   .head_dim = lc->head_dim,
                                                   .type = r->o.kv,
                                                   .half_size = source->k_eq_v},
                                            .angles = r->angles[kind],
                                            .heads = range_count(l->heads),
                                            .first_head = l->heads.begin,
                                            .heads_per_kv = c->heads / source->kv_heads,
                                            .first_kv = kv.begin,
                                            .window = lc->window,
                                            .table = kind,
                                            .q_norm = w->q_norm,
                                            .k_norm = w->k_norm,
                                            .eps = c->norm_eps};
        /* A shared half-size cache is rebuilt with the k_norm of the layer that wrote it. */
        if (!lc->owns_kv) r->attention[i].k_norm = r->o.weights->layer[lc->kv_source].k_norm;
    }
    return ST_OK;
}

static void open_experts(runner *r) {
    const model_config *c = r->config;
    const layout *l = r->o.split;
    if (c->experts == 0) return;
    r->moe = memory_alloc_array(c->layers, sizeof *r->moe);
    for (uint32_t i = 0; i < c->layers; i++) {
        const layer_weights *w = &r->o.weights->layer[i];
        r->moe[i] = (moe_layer){.router_scale = w->router_scale,
                                .per_expert_scale = w->per_expert_scale,
                                .router = w->router,
                                .expert = w->expert,
                                .experts = c->experts,
                                .active = c->experts_active,
                                .hidden = c->hidden,
                                .own_begin = l->experts.begin,
                                .own_count = range_count(l->experts),
                                .width = range_count(l->expert_width),
                                .eps = c->norm_eps};
    }
}

static status open_sampler(runner *r) {
    const cpu_kernels *kernels;
    TRY(cpu_kernels_pick(&kernels));
    uint32_t ranks = r->o.split->ranks, *begin = memory_alloc_array(ranks + 1, sizeof *begin);
    for (uint32_t i = 0; i < ranks; i++)
        begin[i] = layout_share(r->config->vocab, r->o.split->group, ranks, i).begin;
    begin[ranks] = r->config->vocab;
    status st = sampler_open(&r->draw, &(sampler_options){.ranks = r->o.ranks,
                                                          .kernels = kernels,
                                                          .device = r->b,
                                                          .vocab = r->config->vocab,
                                                          .share_begin = begin,
                                                          .slots = r->o.slots,
                                                          .rows_max = RUNNER_LOGIT_ROWS});
    free(begin);
    return st;
}

/* One rope table serves a kind of layer: a config whose layers of one kind differ is refused by name. */
static status check_kinds(const model_config *c) {
    const layer_config *first[KV_KINDS] = {NULL};
    for (uint32_t i = 0; i < c->layers; i++) {
        const layer_config *l = &c->layer[i], **f = &first[l->full ? KV_FULL : KV_SLIDING];
        if (!*f) *f = l;
        if (l->rope_base != (*f)->rope_base || l->head_dim != (*f)->head_dim ||
            l->rope_pairs != (*f)->rope_pairs || l->window != (*f)->window)
            return fail(ST_UNSUPPORTED,
                        "layer %u differs in head size, rotation or window from another %s layer", i,
                        l->full ? "full" : "sliding");
    }
    return ST_OK;
}

status runner_open(runner **out, const runner_options *o) {
    runner *r = memory_alloc(sizeof *r);
    status st;
    r->o = *o;
    r->config = o->config;
    r->b = o->device;
    r->ops = o->device->ops;
    if (!r->o.activations) r->o.activations = o->ranks;
    const model_config *c = o->config;
    TRY_OR_FAIL(check_kinds(c));
    r->window = budget_window(c);
    r->layer_offset = memory_alloc_array(c->layers, sizeof *r->layer_offset);
    kv_layer_shape shape[LIMIT_LAYERS];
    kv_shapes(c, o->split, shape);
    kv_geometry_make(&r->geometry, shape, c->layers, kv_element_bytes(o->kv), kv_scale_bytes(o->kv),
                     r->layer_offset);
    kv_geometry_follow(&r->geometry, o->pages_per_slab);
    r->pool_bytes = r->geometry.slab_bytes * o->slabs;
    TRY_OR_FAIL(take(r, r->pool_bytes, "KV pool", &r->pool));
    TRY_OR_FAIL(open_activations(r));
    open_tables(r);
    TRY_OR_FAIL(open_device_tables(r));
    r->first_h = r->h;
    TRY_OR_FAIL(open_layers(r));
    open_experts(r);
    TRY_OR_FAIL(open_sampler(r));
    *out = r;
    return ST_OK;
fail:
    runner_close(r);
    return st;
}

void runner_close(runner *r) {
    if (!r) return;
    if (r->ops->replay) r->ops->forget(r->b);
    sampler_close(r->draw);
    for (int kind = 0; kind < KV_KINDS; kind++) {
        r->ops->rope_close(r->b, r->angles[kind]);
        for (uint32_t s = 0; r->table[kind] && s < r->o.slots; s++) free(r->table[kind][s]);
        free(r->table[kind]);
        free(r->live.span[kind]);
    }
    if (r->host_ids != r->expert_ids) free(r->host_ids);
    for (uint32_t i = 0; i < r->block_count; i++) r->ops->release(r->b, r->blocks[i].p, r->blocks[i].bytes);
    free(r->live.slot);
    free(r->live.position);
    free(r->live.token);
    free(r->wanted);
    free(r->index);
    free(r->sample_rows);
    free(r->sample_results);
    free(r->result_span);
    free(r->result_row);
    free(r->exchange_bytes);
    free(r->exchange_bytes_in);
    free(r->moe_index);
    free(r->expert_hit);
    free(r->zeros);
    free(r->look);
    free(r->page);
    free(r->changes);
    free(r->spilled);
    free(r->attention);
    free(r->moe);
    free(r->layer_offset);
    free(r);
}

plan_bounds runner_bounds(const runner *r) {
    plan_bounds b = {.slots = r->o.slots,
                     .rows_max = r->o.rows_max,
                     .context = r->o.context,
                     .vocab = r->config->vocab,
                     .pages_per_slot = r->pages_per_slot,
                     .spills = r->o.spill != NULL,
                     .allowed_places = ALLOWED_PLACES};
    for (int kind = 0; kind < KV_KINDS; kind++) b.pages[kind] = r->o.slabs * r->geometry.pages_per_slab[kind];
    return b;
}

/* ---- step ---- */

static void open_slots(runner *r, const plan *p) {
    for (uint32_t i = 0; i < p->open_count; i++) {
        const plan_open *o = &p->open[i];
        for (int kind = 0; kind < KV_KINDS; kind++)
            memset(r->table[kind][o->slot], 0xFF, r->pages_per_slot * sizeof **r->table[kind]);
        sampler_begin(r->draw, o->slot, &o->params, p->tokens + o->first_history, o->history_count,
                      o->prompt_count);
    }
    for (uint32_t i = 0; i < p->allowed_count; i++) {
        const plan_allowed *a = &p->allowed[i];
        if (a->kind == PLAN_SET_BITS) sampler_allow_bits(r->draw, a->place, p->words + a->first);
        else sampler_allow_list(r->draw, a->place, p->tokens + a->first, a->count);
    }
    for (uint32_t i = 0; i < p->page_count; i++)
        r->table[p->page[i].kind][p->page[i].slot][p->page[i].index] = p->page[i].page;
    if (!r->ops->pages_change || p->page_count == 0) return;
    if (p->page_count > r->change_cap) {
        r->change_cap = p->page_count * 2;
        r->changes = memory_grow(r->changes, r->change_cap * sizeof *r->changes);
    }
    for (uint32_t i = 0; i < p->page_count; i++)
        r->changes[i] = (page_change){p->page[i].kind, p->page[i].slot, p->page[i].index, p->page[i].page};
    r->ops->pages_change(r->b, r->changes, p->page_count);
}

/* Logits of some wanted rows, whose states stand in r->h_spare, and what is drawn from them. */
static status finish_rows(runner *r, uint32_t first, uint32_t n, runner_sink *sink, void *context) {
    const model_config *c = r->config;
    uint32_t share = range_count(r->o.split->vocab);
    r->ops->linear(r->b, &(product){r->logits, share, &r->o.weights->embed}, 1,
                   r->h_spare + (size_t)first * c->hidden, c->hidden, n);
    if (c->softcap > 0) r->ops->softcap(r->b, r->logits, c->softcap, n, share);
    if (r->o.meanwhile && !r->b->is_host && first == 0) r->o.meanwhile(r->o.meanwhile_context);
    runner_look(r, "logits", first, r->logits, NULL, n, share);
    /* The last row of a chunk whose next token nobody named has nothing to say; it is not asked of the
     * sampler. */
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        const sample_row *row = &r->sample_rows[first + i];
        if (!row->draw && row->known == SAMPLE_NO_TOKEN) continue;
        r->sample_rows[first + kept] = *row;
        r->sample_rows[first + kept].logits_row = i;
        r->result_span[first + kept] = r->result_span[first + i];
        r->result_row[first + kept] = r->result_row[first + i];
        kept++;
    }
    TRY(sampler_run(r->draw, r->logits, kept, r->sample_rows + first, r->sample_results));
    for (uint32_t i = 0; sink && i < kept; i++) {
        runner_result result = {r->result_span[first + i], r->result_row[first + i],
                                r->sample_rows[first + i].draw, r->sample_results[i]};
        TRY(sink(context, &result));
    }
    return ST_OK;
}

/* A step whose sequences all only decode makes the same calls as any other of as many rows: up to so many are recorded, for
 * one of a few sizes, which the rows are filled up to. */
static uint32_t recorded_rows(const runner *r) {
    static const uint8_t recorded[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, RECORDED_ROWS_MAX};
    uint32_t n = r->live.n;
    if (!r->ops->replay || r->o.tap || !comm_is_ordered(r->o.activations)) return 0;
    /* Its rows are packed by the host, which has to know the experts. */
    if (r->config->experts && r->o.split->ranks > 1 && r->o.exchange == EXCHANGE_ALL_TO_ALL) return 0;
    if (r->live.span_count != n || r->wanted_count != n) return 0;
    for (uint32_t i = 0; i < sizeof recorded; i++)
        if (n <= recorded[i]) return recorded[i] <= r->o.rows_max ? recorded[i] : 0;
    return 0;
}

/* The decoder, and the final norm of all rows where all are wanted: into r->h_spare. */
static status run_layers(runner *r) {
    const model_config *c = r->config;
    TRY(forward(r));
    if (r->wanted_count == r->live.n && r->live.n)
        r->ops->norm(r->b, r->h_spare, r->h, r->o.weights->final_norm, c->norm_eps, r->live.calls, c->hidden);
    return ST_OK;
}

static status run_recorded(runner *r, uint32_t size) {
    r->live.calls = size;
    rows_announce(r);
    if (r->ops->replay(r->b, size)) {
        if (r->o.alive) r->o.alive(r->o.alive_context);
        return ST_OK;
    }
    /* What a device loads or chooses when something is used first, it does outside of a recording. */
    if (!r->plain_steps[size]++) return run_layers(r);
    TRY(r->ops->record_begin(r->b, size));
    status st = run_layers(r);
    /* Half a step is not run: exchanges in it would wait for ranks that have given up. */
    if (st == ST_OK) return r->ops->record_end(r->b, true);
    (void)!r->ops->record_end(r->b, false);
    return st;
}

static status run_rows(runner *r) {
    uint32_t n = r->live.n, size = recorded_rows(r);
    if (r->h != r->first_h) swap_spares(r); /* recordings know them by their places */
    /* Close together: they all go to the host. */
    r->ids_stride = (size ? size : n) * r->config->experts_active;
    if (size) {
        TRY(run_recorded(r, size));
    } else {
        rows_announce(r);
        TRY(run_layers(r));
    }
    r->reads.whole++;
    if (r->tail_begin < r->config->layers && r->wanted_count) r->reads.tail++;
    return ST_OK;
}

/* The final norm of the wanted rows, where it has not been made of all. */
static void norm_wanted(runner *r) {
    const model_config *c = r->config;
    bool all = r->wanted_count == r->live.n;
    rows_keep_wanted(r);
    if (all) return;
    gather_rows(r, r->h_spare, r->h, r->index, r->live.n, c->hidden);
    r->ops->norm(r->b, r->h_spare, r->h_spare, r->o.weights->final_norm, c->norm_eps, r->live.n, c->hidden);
}

status runner_step(runner *r, const plan *p, runner_sink *sink, void *context) {
    TRY(runner_spill(r, p));
    open_slots(r, p);
    if (p->span_count == 0) return ST_OK;
    TRY(rows_begin(r, p));
    uint32_t begun = r->live.n;
    TRY(run_rows(r));
    fetch_experts(r);
    if (r->wanted_count) norm_wanted(r);
    for (uint32_t first = 0; first < r->wanted_count; first += RUNNER_LOGIT_ROWS) {
        uint32_t left = r->wanted_count - first;
        r->reads.heads++;
        TRY(finish_rows(r, first, left < RUNNER_LOGIT_ROWS ? left : RUNNER_LOGIT_ROWS, sink, context));
    }
    TRY(r->ops->finish(r->b));
    count_experts(r, begun);
    return ST_OK;
}
