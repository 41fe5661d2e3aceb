#include "shard/model/model_pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/model/weights_pack.h"

static const char *const type_names[WEIGHT_TYPES] = {[WEIGHT_F32] = "f32",
                                                     [WEIGHT_BF16] = "bf16",
                                                     [WEIGHT_F16] = "f16",
                                                     [WEIGHT_Q8] = "q8",
                                                     [WEIGHT_Q4] = "q4"};

const char *model_pack_type_name(weight_type type) {
    INVARIANT(type < WEIGHT_TYPES && type_names[type]);
    return type_names[type];
}

static status read_words(model_pack *p, const char *path) {
    const pack_manifest *m = &p->manifest;
    weights_choice choice = weights_choice_of(m->weights);
    int type = 0;
    while (type < WEIGHT_TYPES && (!type_names[type] || strcmp(m->stored, type_names[type]) != 0)) type++;
    if (choice == WEIGHTS_CHOICES || type == WEIGHT_TYPES)
        return fail(ST_FORMAT,
                    "%s/%s: weights is %s and stored %s, which are no choice and type of this build", path,
                    PACK_MANIFEST_NAME, m->weights, m->stored);
    p->choice = choice;
    p->stored = (weight_type)type;
    return ST_OK;
}

status model_pack_open(model_pack **out, const char *path, const model_config *config) {
    *out = NULL;
    if (!pack_manifest_exists(path)) return ST_OK;
    model_pack *p = memory_alloc(sizeof *p);
    status st = pack_manifest_read(&p->manifest, path);
    if (st == ST_OK) st = read_words(p, path);
    if (st == ST_OK && memcmp(p->manifest.config_hash, config->hash, 32) != 0)
        st = fail(ST_MISMATCH, "%s: config.json is not the one that the model was packed with", path);
    if (st == ST_OK) *out = p;
    else model_pack_close(p);
    return st;
}

void model_pack_close(model_pack *p) { free(p); }

/* A checkpoint of bf16 packed as it is answers to bf16 as well as to auto. */
static weights_choice plain(weights_choice choice, weight_type stored) {
    if (choice != WEIGHTS_AUTO) return choice;
    return stored == WEIGHT_F32 ? WEIGHTS_F32 : stored == WEIGHT_BF16 ? WEIGHTS_BF16 : WEIGHTS_AUTO;
}

static status refuse(const model_pack *p, status st, const char *path, uint32_t ranks, uint32_t expert_degree,
                     uint32_t width_degree, weights_choice choice) {
    const pack_manifest *m = &p->manifest;
    char experts[48] = "";
    if (expert_degree)
        snprintf(experts, sizeof experts, " --expert-layout %ux%u", expert_degree, width_degree);
    return fail(st,
                "%s is packed for %u ranks, layout %s, weights %s; asked are %u ranks%s and weights %s: "
                "`gemmactl pack "
                "--model %s --ranks %u%s --weights %s --out DIR` makes such a one",
                path, m->ranks, m->layout, m->weights, ranks, experts, weights_choice_name(choice), m->source,
                ranks, experts, weights_choice_name(choice == WEIGHTS_AUTO ? p->choice : choice));
}

status model_pack_fit(const model_pack *p, const char *path, const model_config *config, uint32_t ranks,
                      uint32_t expert_degree, uint32_t width_degree, weights_choice choice,
                      layout_options *l) {
    const pack_manifest *m = &p->manifest;
    bool degrees = config->experts > 0 && (expert_degree || width_degree);
    if (ranks != m->ranks ||
        (degrees && (expert_degree != m->expert_degree || width_degree != m->width_degree)))
        return refuse(p, ST_LAYOUT, path, ranks, degrees ? expert_degree : 0, width_degree, choice);
    if (choice != WEIGHTS_AUTO && plain(choice, p->stored) != plain(p->choice, p->stored))
        return refuse(p, ST_MISMATCH, path, ranks, degrees ? expert_degree : 0, width_degree, choice);
    *l = (layout_options){.ranks = ranks,
                          .group = m->group,
                          .expert_degree = m->expert_degree,
                          .width_degree = m->width_degree};
    return ST_OK;
}

status model_pack_weights(const model_pack *p, const char *path, const model_config *config, const layout *l,
                          const model_weights_options *load, model_weights **out) {
    pack_file *file = NULL, *tables = NULL;
    char layout_text[64];
    layout_describe(config, l, layout_text, sizeof layout_text);
    if (strcmp(layout_text, p->manifest.layout) != 0)
        return fail(ST_MISMATCH, "%s is packed for layout %s, this engine has %s", path, p->manifest.layout,
                    layout_text);
    TRY(pack_manifest_open(&p->manifest, path, l->rank, &file));
    status st =
        p->manifest.tables.bytes ? pack_manifest_open(&p->manifest, path, PACK_SHARED_RANK, &tables) : ST_OK;
    if (st != ST_OK) {
        pack_file_close(file);
        return st;
    }
    const char *say = weights_go_to_device(load->device) ? "loading weights" : "mapping weights";
    const weights_pack_options o = {.threads = load->threads,
                                    .say = l->rank == 0 ? say : NULL,
                                    .device = load->device,
                                    .load = load->load,
                                    .piece_bytes = load->piece_bytes};
    return weights_pack_open(out, file, tables, config, l, &o);
}

status model_pack_bytes(const model_pack *p, const char *path, uint32_t rank, bool on_device,
                        uint64_t *bytes) {
    pack_file *tables = NULL;
    *bytes = p->manifest.rank[rank].bytes;
    if (!on_device) return ST_OK;
    if (p->manifest.tables.bytes) TRY(pack_manifest_open(&p->manifest, path, PACK_SHARED_RANK, &tables));
    *bytes = weights_pack_device_bytes(*bytes, tables);
    pack_file_close(tables);
    return ST_OK;
}
