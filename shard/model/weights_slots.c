#include "shard/model/weights_slots.h"

#include <stdio.h>

#include "shard/model/weights_table.h"

typedef struct walk {
    const model_config *config;
    const layout *layout;
    status (*visit)(void *context, const weight_slot *slot);
    void *context;
} walk;

static status visit_expert(const walk *k, const weight_slot *like, uint32_t layer, uint32_t expert,
                           const char *part, weight *matrix) {
    weight_slot s = *like;
    snprintf(s.name, sizeof s.name, "layers.%u.experts.%u.%s", layer, expert, part);
    s.matrix = matrix;
    return k->visit(k->context, &s);
}

static status walk_experts(const walk *k, const weight_entry *e, const weight_slot *like, uint32_t layer,
                           expert_weights *experts) {
    for (uint32_t i = 0; i < range_count(k->layout->experts); i++) {
        uint32_t number = k->layout->experts.begin + i;
        if (e->split == SPLIT_EXPERT_DOWN) {
            TRY(visit_expert(k, like, layer, number, "down", &experts[i].down));
            continue;
        }
        TRY(visit_expert(k, like, layer, number, "gate", &experts[i].gate));
        TRY(visit_expert(k, like, layer, number, "up", &experts[i].up));
    }
    return ST_OK;
}

static status walk_entry(const walk *k, const weight_entry *e, uint32_t layer, char *base) {
    uint32_t in_layer = layer == UINT32_MAX ? 0 : layer;
    if (weight_entry_need(e, k->config, in_layer) < NEED_OPTIONAL) return ST_OK;
    weight_slot s = {.mapped = weight_form_is_mapped(e->form), .optional = e->form == FORM_ROWS};
    s.any_type = s.mapped || e->form == FORM_MATRIX || e->form == FORM_EXPERTS;
    range rows, cols;
    weight_entry_share(e, k->config, k->layout, in_layer, &rows, &cols);
    s.rows = range_count(rows);
    s.cols = range_count(cols);
    void *place = base + e->place;
    if (e->form == FORM_EXPERTS) return walk_experts(k, e, &s, layer, *(expert_weights **)place);
    if (layer == UINT32_MAX) snprintf(s.name, sizeof s.name, "%s", e->name);
    else snprintf(s.name, sizeof s.name, "layers.%u.%s", layer, e->name);
    if (e->form == FORM_VECTOR) s.vector = place;
    else if (e->form == FORM_SCALAR) s.number = place;
    else s.matrix = place;
    return k->visit(k->context, &s);
}

status weights_walk(model_weights *w, const model_config *config, const layout *l,
                    status (*visit)(void *context, const weight_slot *slot), void *context) {
    walk k = {config, l, visit, context};
    for (uint32_t i = 0; i < weight_model_entry_count; i++)
        TRY(walk_entry(&k, &weight_model_entries[i], UINT32_MAX, (char *)w));
    for (uint32_t n = 0; n < config->layers; n++)
        for (uint32_t i = 0; i < weight_layer_entry_count; i++)
            TRY(walk_entry(&k, &weight_layer_entries[i], n, (char *)&w->layer[n]));
    return ST_OK;
}
