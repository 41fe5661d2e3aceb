#include "shard/plan_command.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/gguf.h"
#include "base/memory.h"

/* What of the options and the model's files the budgets follow from. */
typedef struct planned {
    model_config *config;
    model_pack *pack;  /* NULL: a checkpoint */
    checkpoint *files; /* of a GGUF file; NULL: config.json says the type, the files need not be there */
    weights_choice choice;
    weight_type stored;
    kv_type kv;
    bool on_device;
    uint64_t device_free_bytes; /* of all ranks' GPUs */
    layout_options split;       /* without the rank */
} planned;

static status prepare(const plan_command_options *o, planned *p) {
    TRY(gpu_wanted(o->gpu, o->device, &p->on_device));
    TRY(model_config_open(&p->config, o->model_path, NULL));
    TRY(model_pack_open(&p->pack, o->model_path, p->config));
    if (p->pack) {
        TRY(model_pack_fit(p->pack, o->model_path, p->config, o->ranks, o->expert_degree, o->width_degree,
                           o->weights, &p->split));
        p->choice = p->pack->choice;
        p->stored = p->pack->stored;
    } else {
        p->choice = o->weights;
        if (gguf_is_path(o->model_path)) TRY(checkpoint_open(&p->files, o->model_path));
        p->stored = p->files                 ? weights_stored_type(p->files)
                    : p->config->stored_bf16 ? WEIGHT_BF16
                                             : WEIGHT_F32;
        p->split = (layout_options){.ranks = o->ranks,
                                    .group = weights_group(p->choice, p->stored),
                                    .expert_degree = o->expert_degree,
                                    .width_degree = o->width_degree};
        if (o->expert_degree == 0)
            layout_choose_experts(p->config, o->ranks, o->ranks, p->split.group, &p->split.expert_degree,
                                  &p->split.width_degree);
    }
    p->kv = o->kv_given ? o->kv : p->choice == WEIGHTS_F32 ? KV_F32 : KV_BF16;
    TRY(weights_check_device(p->choice, p->on_device));
    if (p->choice == WEIGHTS_BF16 && p->stored != WEIGHT_BF16)
        return fail(ST_UNSUPPORTED, "--weights bf16: the checkpoint's matrices are not stored as bf16");
    return ST_OK;
}

/* What a rank's GPU has, and what the back end will take of it. */
static status device_share(const plan_command_options *o, const model_config *c, const layout *l,
                           uint32_t rank, uint64_t *bytes, uint64_t *scratch) {
    gpu_place place;
    cuda_backend_options g;
    TRY(o->gpu->choose(o->share * o->ranks + rank, o->shares * o->ranks, &place));
    gpu_options_make(&g, c, l,
                     &(gpu_sizes){.rows_max = BUDGET_ROWS_GPU,
                                  .slots = BUDGET_SLOTS,
                                  .context = o->context ? o->context : c->context,
                                  .logit_rows = RUNNER_LOGIT_ROWS});
    *bytes = place.free_bytes;
    *scratch = o->gpu->bytes(&g);
    return ST_OK;
}

/* Budgets of every rank, each cut to what the poorest can hold, as the ranks themselves would agree. */
static status rank_budgets(const plan_command_options *o, planned *p, budget *all, layout **first) {
    status st = ST_OK;
    const model_config *c = p->config;
    layout_options split = p->split;
    budget_share *shares = memory_alloc_array(o->ranks, sizeof *shares);
    for (uint32_t r = 0; st == ST_OK && r < o->ranks; r++) {
        layout *l = NULL;
        split.rank = r;
        TRY_OR_FAIL(layout_open(&l, c, &split));
        uint64_t packed = 0, device_bytes = 0, scratch = 0;
        if (p->pack) st = model_pack_bytes(p->pack, o->model_path, r, p->on_device, &packed);
        if (st == ST_OK && p->on_device) st = device_share(o, c, l, r, &device_bytes, &scratch);
        p->device_free_bytes += device_bytes;
        if (st == ST_OK)
            st = budget_make(&all[r], c, l,
                             &(budget_options){.choice = p->choice,
                                               .files = p->files,
                                               .stored = p->stored,
                                               .weight_bytes = packed,
                                               .device_bytes = device_bytes,
                                               .device_scratch_bytes = scratch,
                                               .kv = p->kv,
                                               .context = o->context,
                                               .memory_bytes = o->memory_bytes,
                                               .free_bytes = budget_free_memory() / o->ranks / o->shares});
        if (r == 0) *first = l;
        else layout_close(l);
        shares[r] = budget_share_of(&all[r]);
    }
    for (uint32_t r = 0; st == ST_OK && r < o->ranks; r++) st = budget_agree(&all[r], shares, o->ranks);
fail:
    free(shares);
    return st;
}

static json_t *integer(uint64_t n) { return json_integer((json_int_t)n); }

static json_t *describe(const plan_command_options *o, const model_config *c, const budget *all,
                        const layout *l) {
    char text[64];
    uint64_t weights = 0, activations = 0, full = 0, sliding = 0, pool = 0;
    json_t *root = json_object(), *ranks = json_array(), *ends = json_array();
    for (uint32_t r = 0; r < o->ranks; r++) {
        const budget *b = &all[r];
        weights += b->weight_bytes;
        activations += b->activation_bytes;
        pool += b->kv_bytes;
        full += b->kv_request_bytes[KV_FULL];
        sliding += b->kv_request_bytes[KV_SLIDING];
        json_t *rank = json_object();
        json_object_set_new(rank, "rank", integer(r));
        json_object_set_new(rank, "weight_bytes", integer(b->weight_bytes));
        json_object_set_new(rank, "activation_bytes", integer(b->activation_bytes));
        json_object_set_new(rank, "kv_bytes", integer(b->kv_bytes));
        json_object_set_new(rank, "kv_slabs", integer(b->slabs));
        json_object_set_new(rank, "kv_slab_bytes", integer(b->geometry.slab_bytes));
        json_array_append_new(ranks, rank);
    }
    for (uint32_t i = 0; i < c->end_token_count; i++) json_array_append_new(ends, integer(c->end_tokens[i]));
    layout_describe(c, l, text, sizeof text);
    json_object_set_new(root, "layout", json_string(text));
    json_object_set_new(root, "vocab", integer(c->vocab));
    json_object_set_new(root, "context_tokens", integer(all[0].context));
    json_object_set_new(root, "context_model", integer(c->context));
    json_object_set_new(root, "context_cut", json_boolean(!o->context && all[0].context < c->context));
    json_object_set_new(root, "bos_token", integer(c->bos_token));
    json_object_set_new(root, "pad_token", integer(c->pad_token));
    json_object_set_new(root, "end_tokens", ends);
    json_object_set_new(root, "default_temperature", json_real(c->default_temperature));
    json_object_set_new(root, "default_top_p", json_real(c->default_top_p));
    json_object_set_new(root, "default_top_k", integer(c->default_top_k));
    json_object_set_new(root, "checkpoint_hash", json_string(""));
    json_object_set_new(root, "weight_bytes", integer(weights));
    json_object_set_new(root, "kv_bytes_total", integer(full + sliding));
    json_object_set_new(root, "kv_bytes_full", integer(full));
    json_object_set_new(root, "kv_bytes_sliding", integer(sliding));
    json_object_set_new(root, "activation_bytes", integer(activations));
    json_object_set_new(root, "kv_request_slabs", integer(budget_request_slabs(&all[0])));
    json_object_set_new(root, "kv_pool_bytes", integer(pool));
    json_object_set_new(root, "kv_tokens", integer(all[0].tokens_held));
    json_object_set_new(root, "kv_requests", integer(all[0].requests_held));
    json_object_set_new(root, "requests_max", integer(all[0].slots));
    json_object_set_new(root, "per_rank", ranks);
    return root;
}

status plan_command(const plan_command_options *o) {
    planned p = {0};
    layout *l = NULL;
    budget *all = calloc(o->ranks, sizeof *all);
    status st = all ? ST_OK : fail(ST_NO_MEMORY, "budgets of %u ranks", o->ranks);
    if (st == ST_OK) st = prepare(o, &p);
    if (st == ST_OK) st = rank_budgets(o, &p, all, &l);
    if (st == ST_OK) {
        json_t *root = describe(o, p.config, all, l);
        json_object_set_new(root, "kv_type", json_string(kv_type_name(p.kv)));
        json_object_set_new(root, "device", json_string(p.on_device ? "cuda" : "cpu"));
        if (p.on_device) json_object_set_new(root, "device_free_bytes", integer(p.device_free_bytes));
        if (json_dumpf(root, stdout, JSON_INDENT(2)) != 0 || putchar('\n') == EOF || fflush(stdout) != 0)
            st = fail(ST_IO, "cannot write the plan to standard output");
        json_decref(root);
    }
    layout_close(l);
    checkpoint_close(p.files);
    model_pack_close(p.pack);
    model_config_close(p.config);
    free(all);
    return st;
}
