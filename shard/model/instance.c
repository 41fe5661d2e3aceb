#include "shard/model/instance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "build_id.h"
#include "shard/kernels/timed.h"
#include "shard/model/weights_random.h"

/* What ranks must agree on, and what each brings to the common plan. */
typedef struct rank_card {
    char host[64], build[20], config[65], checkpoint[65], pack[65], device[8];
    budget_share share;
    uint32_t failed; /* a status, with its sentence */
    char sentence[STATUS_TEXT_MAX];
} rank_card;

static status compare(const rank_card *all, uint32_t rank, const char *what, const char *a, const char *b) {
    if (!strcmp(a, b)) return ST_OK;
    return fail(ST_MISMATCH, "ranks disagree on the %s: rank 0 on %s has %s, rank %u on %s has %s", what,
                all[0].host, a, rank, all[rank].host, b);
}

/* Every rank hands in its card, failed ones too, so that all leave together and with the first failure's
 * sentence. */
static status agree(comm *ranks, rank_card *mine, status so_far, instance *i) {
    uint32_t n = comm_size(ranks);
    rank_card *all = memory_alloc_array(n, sizeof *all);
    mine->failed = (uint32_t)so_far;
    if (so_far != ST_OK) snprintf(mine->sentence, sizeof mine->sentence, "%s", status_text());
    status st = comm_all_gather(ranks, mine, sizeof *mine, all);
    for (uint32_t r = 0; st == ST_OK && r < n; r++)
        if (all[r].failed) st = fail((status)all[r].failed, "%s", all[r].sentence);
    for (uint32_t r = 1; st == ST_OK && r < n; r++) {
        st = compare(all, r, "build", all[0].build, all[r].build);
        if (st == ST_OK) st = compare(all, r, "config.json", all[0].config, all[r].config);
        if (st == ST_OK) st = compare(all, r, "checkpoint", all[0].checkpoint, all[r].checkpoint);
        if (st == ST_OK) st = compare(all, r, "packed directory", all[0].pack, all[r].pack);
        if (st == ST_OK && strcmp(all[0].device, all[r].device) != 0) {
            st = compare(all, r, "device", all[0].device, all[r].device);
            st = fail_within(st, "an engine computes on GPUs or on CPUs alone (--device)");
        }
    }
    if (st == ST_OK) {
        budget_share *shares = memory_alloc_array(n, sizeof *shares);
        for (uint32_t r = 0; r < n; r++) shares[r] = all[r].share;
        st = budget_agree(&i->plan, shares, n);
        free(shares);
    }
    free(all);
    return st;
}

static bool is_random(const instance_options *o) {
    return o->random_config || weights_random_marked(o->model_path);
}

/* What every host has a multiple of: ranks that may share an expert's width without leaving their host. */
static status common_ranks_of_host(comm *ranks, uint32_t *out) {
    uint32_t n = comm_size(ranks), mine = comm_where(ranks).local_ranks;
    uint32_t *all = memory_alloc_array(n, sizeof *all);
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    *out = all[0];
    for (uint32_t r = 1; r < n; r++)
        for (uint32_t b = all[r]; b;) {
            uint32_t rest = *out % b;
            *out = b;
            b = rest;
        }
    free(all);
    return st;
}

static status open_model(instance *i, const instance_options *o, rank_card *card) {
    uint8_t digest[32];
    if (o->random_config) {
        TRY(model_config_parse(&i->config, o->random_config, strlen(o->random_config), NULL, 0));
    } else {
        TRY(model_config_open(&i->config, o->model_path, o->config_name));
        TRY(model_pack_open(&i->pack, o->model_path, i->config));
    }
    if (!i->pack && is_random(o)) TRY(weights_random_checkpoint(&i->files, i->config));
    else if (!i->pack) TRY(checkpoint_open(&i->files, o->model_path));
    sha256_hex(i->config->hash, card->config);
    snprintf(card->pack, sizeof card->pack, "none");
    if (i->pack) {
        memcpy(digest, i->pack->manifest.checkpoint_hash, sizeof digest);
        sha256_hex(i->pack->manifest.hash, card->pack);
    } else {
        checkpoint_hash(i->files, digest);
    }
    sha256_hex(digest, i->checkpoint_hash);
    memcpy(card->checkpoint, i->checkpoint_hash, sizeof card->checkpoint);
    return ST_OK;
}

/* By the pack's own choices, or by what is asked of the checkpoint. */
static status split_model(instance *i, const instance_options *o, uint32_t ranks_of_host) {
    uint32_t ranks = comm_size(o->ranks);
    layout_options l = {.ranks = ranks, .expert_degree = o->expert_degree, .width_degree = o->width_degree};
    if (i->pack) {
        TRY(model_pack_fit(i->pack, o->model_path, i->config, ranks, o->expert_degree, o->width_degree,
                           o->weights, &l));
        i->choice = i->pack->choice;
        i->stored = i->pack->stored;
    } else {
        i->choice = o->weights;
        i->stored = weights_stored_type(i->files);
        l.group = weights_group(i->choice, i->stored);
        if (l.expert_degree == 0)
            layout_choose_experts(i->config, ranks, ranks_of_host, l.group, &l.expert_degree,
                                  &l.width_degree);
    }
    l.rank = comm_rank(o->ranks);
    i->kv = o->kv_given ? o->kv : i->choice == WEIGHTS_F32 ? KV_F32 : KV_BF16;
    TRY(layout_open(&i->split, i->config, &l));
    layout_describe(i->config, i->split, i->layout_text, sizeof i->layout_text);
    TRY(weights_check_device(i->choice, i->on_gpu));
    if (i->choice == WEIGHTS_BF16 && i->stored != WEIGHT_BF16)
        return fail(ST_UNSUPPORTED, "--weights bf16: the checkpoint's matrices are not stored as bf16");
    return ST_OK;
}

static uint32_t shares(const instance_options *o) { return o->shares ? o->shares : 1; }

static cuda_backend_options gpu_options(const instance *i, const instance_options *o, uint32_t slots,
                                        uint32_t rows_max, uint32_t context) {
    cuda_backend_options g;
    gpu_options_make(&g, i->config, i->split,
                     &(gpu_sizes){.rows_max = rows_max,
                                  .slots = slots,
                                  .context = context,
                                  .logit_rows = RUNNER_LOGIT_ROWS,
                                  .batch_invariant = o->batch_invariant,
                                  .no_recording = o->no_recording});
    g.device = i->gpu_place.device;
    return g;
}

/* What the back end will take, at most: the context may still be cut. */
static uint64_t gpu_scratch(const instance *i, const instance_options *o) {
    if (!i->on_gpu) return 0;
    uint32_t slots = o->slots ? o->slots : BUDGET_SLOTS, context = o->context ? o->context : i->config->context;
    cuda_backend_options g =
        gpu_options(i, o, slots, budget_step_rows(o->rows_max, o->chunk_max, true), context);
    return o->gpu->bytes(&g);
}

/* CPUs of its own; beside a GPU those of the GPU's node, shared with the other ranks whose GPUs are there. */
static status bind_rank(instance *i, const instance_options *o, uint32_t index, uint32_t ranks) {
    uint32_t near = 0, before = 0;
    if (!i->on_gpu) return placement_bind(&i->place, index, ranks, o->threads);
    int node = o->gpu->node(index);
    for (uint32_t r = 0; r < ranks; r++) {
        if (o->gpu->node(r) != node) continue;
        near++;
        before += r < index;
    }
    return placement_bind_near(&i->place, node, before, near, o->threads);
}

/* Before anything else is asked of this rank's machine: what is free is the device's. */
static status choose_device(instance *i, const instance_options *o, rank_card *card) {
    comm_node node = comm_where(o->ranks);
    uint32_t index = o->share * node.local_ranks + node.local_rank, ranks = shares(o) * node.local_ranks;
    bool own;
    snprintf(card->device, sizeof card->device, "cpu");
    status wanted = gpu_wanted(o->gpu, o->device, &i->on_gpu), met = gpu_is_own(o->ranks, i->on_gpu ? o->gpu : NULL, &own);
    TRY(wanted);
    TRY(met);
    if (o->placed) i->place = *o->placed;
    else if (o->pin && bind_rank(i, o, index, ranks) != ST_OK)
        log_warn("%s; going on where the system puts us", status_text());
    if (!i->on_gpu) return ST_OK;
    snprintf(card->device, sizeof card->device, "cuda");
    return own && shares(o) == 1 ? o->gpu->choose(0, 1, &i->gpu_place) : o->gpu->choose(index, ranks, &i->gpu_place);
}

static status pack_bytes(const instance *i, const instance_options *o, uint64_t *out) {
    *out = 0;
    return i->pack ? model_pack_bytes(i->pack, o->model_path, i->split->rank, i->on_gpu, out) : ST_OK;
}

static status prepare(instance *i, const instance_options *o, uint32_t ranks_of_host, rank_card *card) {
    comm_node node = comm_where(o->ranks);
    uint64_t packed;
    TRY(choose_device(i, o, card));
    TRY(open_model(i, o, card));
    TRY(split_model(i, o, ranks_of_host));
    TRY(pack_bytes(i, o, &packed));
    uint64_t host_bytes = budget_free_memory() / (node.local_ranks ? node.local_ranks : 1) / shares(o);
    TRY(budget_make(
        &i->plan, i->config, i->split,
        &(budget_options){.choice = i->choice,
                          .files = i->files,
                          .stored = i->stored,
                          .weight_bytes = packed,
                          .kv = i->kv,
                          .context = o->context,
                          .memory_bytes = o->memory_bytes,
                          .free_bytes = host_bytes,
                          .device_bytes = i->on_gpu ? i->gpu_place.free_bytes : 0,
                          .device_scratch_bytes = gpu_scratch(i, o),
                          .whole_memory = o->whole_memory,
                          .slots = o->slots,
                          .rows_max = o->rows_max,
                          .chunk_max = o->chunk_max}));
    card->share = budget_share_of(&i->plan);
    return ST_OK;
}

static status load_weights(instance *i, const instance_options *o) {
    const model_weights_options w = {.choice = i->choice,
                                     .random = is_random(o),
                                     .threads = o->threads,
                                     .device = i->device,
                                     .load = i->on_gpu ? o->gpu->load() : NULL};
    if (i->pack) return model_pack_weights(i->pack, o->model_path, i->config, i->split, &w, &i->weights);
    return model_weights_open(&i->weights, i->files, i->config, i->split, &w);
}

static status open_cpu(instance *i, const instance_options *o) {
    const model_config *c = i->config;
    cpu_backend_options cpu = {.threads = o->threads,
                               .spin_us = o->spin_us,
                               .pin = i->place.bound && i->place.cpus == o->threads,
                               .rows_max = i->plan.rows_max,
                               .active_max = c->experts_active,
                               .hidden = c->hidden,
                               .width_max = c->layers * c->ple_width};
    for (uint32_t l = 0; l < c->layers; l++) {
        uint32_t per_kv = c->heads / c->layer[l].kv_heads;
        if (c->layer[l].head_dim > cpu.head_dim_max) cpu.head_dim_max = c->layer[l].head_dim;
        if (per_kv > cpu.heads_per_kv_max) cpu.heads_per_kv_max = per_kv;
    }
    cpu.columns_max = model_weights_columns(i->weights);
    return cpu_backend_open(&i->device, &cpu);
}

static status open_gpu(instance *i, const instance_options *o) {
    cuda_backend_options g = gpu_options(i, o, i->plan.slots, i->plan.rows_max, i->plan.context);
    return o->gpu->open(&i->device, &g);
}

static status load(instance *i, const instance_options *o) {
    uint64_t begin = clock_now_ns();
    if (i->on_gpu) TRY(open_gpu(i, o));
    TRY(load_weights(i, o));
    i->load_ns = clock_now_ns() - begin;
    if (!i->on_gpu) TRY(open_cpu(i, o));
    i->untimed = i->device;
    if (o->timed) timed_open(&i->device, i->device);
    return instance_open_spill(i, o);
}

/* Once every rank has its weights: the ways between GPUs are opened by all together. */
static status open_runner(instance *i, const instance_options *o) {
    if (i->on_gpu)
        TRY(o->gpu->open_comm(&i->activations, i->untimed,
                              &(gpu_comm_options){.ranks = o->ranks, .place = &i->gpu_place}));
    runner_options r = {.config = i->config,
                        .split = i->split,
                        .weights = i->weights,
                        .ranks = o->ranks,
                        .activations = i->activations,
                        .device = i->device,
                        .kv = i->kv,
                        .slots = i->plan.slots,
                        .rows_max = i->plan.rows_max,
                        .context = i->plan.context,
                        .slabs = i->plan.slabs,
                        .exchange = o->exchange,
                        .spill = i->spill,
                        .tap = o->tap,
                        .tap_context = o->tap_context,
                        .alive = o->alive,
                        .alive_context = o->alive_context,
                        .meanwhile = o->meanwhile,
                        .meanwhile_context = o->meanwhile_context};
    memcpy(r.pages_per_slab, i->plan.geometry.pages_per_slab, sizeof r.pages_per_slab);
    return runner_open(&i->run, &r);
}

status instance_open(instance *out, const instance_options *o) {
    instance i = {0};
    rank_card card = {0};
    gethostname(card.host, sizeof card.host - 1);
    snprintf(card.build, sizeof card.build, "%s", GEMMAD_BUILD_ID);
    const char *pretended = getenv("GEMMAD_TEST_BUILD_ID"); /* lets a test make two builds of one */
    if (pretended) snprintf(card.build, sizeof card.build, "%s", pretended);
    uint32_t ranks_of_host;
    TRY(common_ranks_of_host(o->ranks, &ranks_of_host));
    status st = agree(o->ranks, &card, prepare(&i, o, ranks_of_host, &card), &i);
    if (st != ST_OK) goto fail;
    /* A second round: a rank whose weights do not load must not leave the others waiting in the first step.
     */
    status loaded = load(&i, o);
    st = agree(o->ranks, &card, loaded, &i);
    if (st == ST_OK) {
        status opened = open_runner(&i, o);
        st = agree(o->ranks, &card, opened, &i);
    }
    if (st == ST_OK) st = instance_agree_spill(&i, o->ranks);
    if (st != ST_OK) goto fail;
    *out = i;
    return ST_OK;
fail:
    instance_close(&i);
    return st;
}

void instance_close(instance *i) {
    runner_close(i->run);
    spill_close(i->spill);
    free(i->spilled);
    comm_close(i->activations);
    model_weights_close(i->weights); /* of a GPU's memory, by its back end */
    if (i->device) i->device->ops->close(i->device);
    checkpoint_close(i->files);
    model_pack_close(i->pack);
    layout_close(i->split);
    model_config_close(i->config);
    *i = (instance){0};
}
