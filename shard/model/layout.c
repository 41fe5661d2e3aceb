#include "shard/model/layout.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "proto/limits.h"

range layout_share(uint32_t total, uint32_t group, uint32_t parts, uint32_t part) {
    INVARIANT(group > 0 && part < parts);
    uint64_t groups = ((uint64_t)total + group - 1) / group;
    uint64_t begin = groups * part / parts * group, end = groups * (part + 1) / parts * group;
    /* The last group may be short. */
    return (range){(uint32_t)(begin < total ? begin : total), (uint32_t)(end < total ? end : total)};
}

static status check_ranks(const model_config *config, const layout_options *o) {
    if (o->ranks >= 1 && config->heads % o->ranks == 0) return ST_OK;
    strbuf works = {.max = STATUS_TEXT_MAX / 2};
    for (uint32_t n = 1; n <= config->heads && n <= LIMIT_RANKS; n++)
        if (config->heads % n == 0) strbuf_add_format(&works, "%s%u", n == 1 ? "" : ", ", n);
    status st = fail(ST_LAYOUT, "%u ranks do not divide the model's %u query heads; %s %s", o->ranks,
                     config->heads, strbuf_text(&works), config->heads == 1 ? "works" : "work");
    strbuf_close(&works);
    return st;
}

/* Ranks r and r' with r / width_degree equal own the same experts and split their width between them. A model
 * without experts ignores the request, so that one command line serves both kinds. */
static status share_experts(layout *l, const model_config *config, const layout_options *o) {
    l->expert_degree = l->ranks;
    l->width_degree = 1;
    if (config->experts == 0) return ST_OK;
    if (o->expert_degree != 0 || o->width_degree != 0) {
        if ((uint64_t)o->expert_degree * o->width_degree != l->ranks)
            return fail(ST_LAYOUT, "expert layout %ux%u is for %llu ranks, this engine has %u",
                        o->expert_degree, o->width_degree,
                        (unsigned long long)o->expert_degree * o->width_degree, l->ranks);
        l->expert_degree = o->expert_degree;
        l->width_degree = o->width_degree;
    }
    l->experts = layout_share(config->experts, 1, l->expert_degree, l->rank / l->width_degree);
    l->expert_width =
        layout_share(config->expert_width, l->group, l->width_degree, l->rank % l->width_degree);
    return ST_OK;
}

status layout_open(layout **out, const model_config *config, const layout_options *options) {
    *out = NULL;
    INVARIANT(options->group == 1 || options->group == 32);
    INVARIANT(options->ranks == 0 || options->rank < options->ranks);
    TRY(check_ranks(config, options));
    status st = ST_OK;
    layout *l = memory_alloc(sizeof *l);
    l->ranks = options->ranks;
    l->rank = options->rank;
    l->group = options->group;
    l->heads = layout_share(config->heads, 1, l->ranks, l->rank);
    l->vocab = layout_share(config->vocab, l->group, l->ranks, l->rank);
    TRY_OR_FAIL(share_experts(l, config, options));
    l->layer = memory_alloc_array(config->layers, sizeof *l->layer);
    for (uint32_t i = 0; i < config->layers; i++) {
        uint32_t heads_per_kv = config->heads / config->layer[i].kv_heads;
        l->layer[i].kv_heads = (range){l->heads.begin / heads_per_kv, (l->heads.end - 1) / heads_per_kv + 1};
        l->layer[i].mlp = layout_share(config->layer[i].mlp_width, l->group, l->ranks, l->rank);
    }
    *out = l;
    l = NULL;
fail:
    layout_close(l);
    return st;
}

void layout_close(layout *l) {
    if (!l) return;
    free(l->layer);
    free(l);
}

void layout_describe(const model_config *config, const layout *l, char *text, uint32_t text_bytes) {
    char experts[32] = "", group[16] = "";
    if (config->experts > 0)
        snprintf(experts, sizeof experts, " ep %ux%u", l->expert_degree, l->width_degree);
    if (l->group != 1) snprintf(group, sizeof group, " group %u", l->group);
    snprintf(text, text_bytes, "tp %u%s%s", l->ranks, experts, group);
}
