#include "shard/model/weights_table.h"

#include "base/invariant.h"

#define IN_LAYER(member) offsetof(layer_weights, member)
#define IN_MODEL(member) offsetof(model_weights, member)
#define COUNT(array) (sizeof(array) / sizeof *(array))
#define VECTOR(name, length, where, place)                                                                   \
    { name, {length}, where, FORM_VECTOR, SPLIT_NONE, IN_LAYER(place) }
#define MATRIX(name, rows, cols, where, split, place)                                                        \
    { name, {rows, cols}, where, FORM_MATRIX, split, IN_LAYER(place) }

const weight_entry weight_layer_entries[] = {
    VECTOR("input_layernorm.weight", LENGTH_HIDDEN, WHERE_ALL, input_norm),
    VECTOR("post_attention_layernorm.weight", LENGTH_HIDDEN, WHERE_ALL, post_attention_norm),
    VECTOR("pre_feedforward_layernorm.weight", LENGTH_HIDDEN, WHERE_ALL, pre_mlp_norm),
    VECTOR("post_feedforward_layernorm.weight", LENGTH_HIDDEN, WHERE_ALL, post_mlp_norm),
    {"layer_scalar", {LENGTH_ONE}, WHERE_OPTIONAL, FORM_SCALAR, SPLIT_NONE, IN_LAYER(scalar)},
    MATRIX("self_attn.q_proj.weight", LENGTH_Q, LENGTH_HIDDEN, WHERE_ALL, SPLIT_HEAD_ROWS, q),
    MATRIX("self_attn.k_proj.weight", LENGTH_KV, LENGTH_HIDDEN, WHERE_OWN_KV, SPLIT_KV_ROWS, k),
    MATRIX("self_attn.v_proj.weight", LENGTH_KV, LENGTH_HIDDEN, WHERE_OWN_V, SPLIT_KV_ROWS, v),
    MATRIX("self_attn.o_proj.weight", LENGTH_HIDDEN, LENGTH_Q, WHERE_ALL, SPLIT_HEAD_COLS, o),
    VECTOR("self_attn.q_norm.weight", LENGTH_HEAD_DIM, WHERE_ALL, q_norm),
    VECTOR("self_attn.k_norm.weight", LENGTH_HEAD_DIM, WHERE_OWN_KV, k_norm),
    MATRIX("mlp.gate_proj.weight", LENGTH_MLP, LENGTH_HIDDEN, WHERE_ALL, SPLIT_MLP_ROWS, gate),
    MATRIX("mlp.up_proj.weight", LENGTH_MLP, LENGTH_HIDDEN, WHERE_ALL, SPLIT_MLP_ROWS, up),
    MATRIX("mlp.down_proj.weight", LENGTH_HIDDEN, LENGTH_MLP, WHERE_ALL, SPLIT_MLP_COLS, down),
    VECTOR("post_feedforward_layernorm_1.weight", LENGTH_HIDDEN, WHERE_EXPERTS, post_mlp_norm_1),
    VECTOR("pre_feedforward_layernorm_2.weight", LENGTH_HIDDEN, WHERE_EXPERTS, pre_mlp_norm_2),
    VECTOR("post_feedforward_layernorm_2.weight", LENGTH_HIDDEN, WHERE_EXPERTS, post_mlp_norm_2),
    VECTOR("router.scale", LENGTH_HIDDEN, WHERE_EXPERTS, router_scale),
    VECTOR("router.per_expert_scale", LENGTH_EXPERTS, WHERE_EXPERTS, per_expert_scale),
    {"router.proj.weight",
     {LENGTH_EXPERTS, LENGTH_HIDDEN},
     WHERE_EXPERTS,
     FORM_MATRIX_F32,
     SPLIT_NONE,
     IN_LAYER(router)},
    {"experts.gate_up_proj",
     {LENGTH_EXPERTS, LENGTH_GATE_UP, LENGTH_HIDDEN},
     WHERE_EXPERTS,
     FORM_EXPERTS,
     SPLIT_EXPERT_GATE_UP,
     IN_LAYER(expert)},
    {"experts.down_proj",
     {LENGTH_EXPERTS, LENGTH_HIDDEN, LENGTH_EXPERT_WIDTH},
     WHERE_EXPERTS,
     FORM_EXPERTS,
     SPLIT_EXPERT_DOWN,
     IN_LAYER(expert)},
    MATRIX("per_layer_input_gate.weight", LENGTH_PLE, LENGTH_HIDDEN, WHERE_PLE, SPLIT_NONE, ple_gate),
    MATRIX("per_layer_projection.weight", LENGTH_HIDDEN, LENGTH_PLE, WHERE_PLE, SPLIT_NONE, ple_projection),
    VECTOR("post_per_layer_input_norm.weight", LENGTH_HIDDEN, WHERE_PLE, post_ple_norm),
};
const uint32_t weight_layer_entry_count = COUNT(weight_layer_entries);

const weight_entry weight_model_entries[] = {
    {"embed_tokens.weight",
     {LENGTH_VOCAB, LENGTH_HIDDEN},
     WHERE_ALL,
     FORM_MATRIX,
     SPLIT_VOCAB_ROWS,
     IN_MODEL(embed)},
    {"embed_tokens.weight",
     {LENGTH_VOCAB, LENGTH_HIDDEN},
     WHERE_ALL,
     FORM_ROWS,
     SPLIT_NONE,
     IN_MODEL(embed_rows)},
    {"norm.weight", {LENGTH_HIDDEN}, WHERE_ALL, FORM_VECTOR, SPLIT_NONE, IN_MODEL(final_norm)},
    {"per_layer_model_projection.weight",
     {LENGTH_PLE_ALL, LENGTH_HIDDEN},
     WHERE_PLE,
     FORM_MATRIX,
     SPLIT_NONE,
     IN_MODEL(ple_context)},
    {"per_layer_projection_norm.weight",
     {LENGTH_PLE},
     WHERE_PLE,
     FORM_VECTOR,
     SPLIT_NONE,
     IN_MODEL(ple_norm)},
    {"embed_tokens_per_layer.weight",
     {LENGTH_PLE_VOCAB, LENGTH_PLE_ALL},
     WHERE_PLE,
     FORM_MAPPED,
     SPLIT_NONE,
     IN_MODEL(ple_table)},
};
const uint32_t weight_model_entry_count = COUNT(weight_model_entries);

weight_need weight_entry_need(const weight_entry *e, const model_config *config, uint32_t layer) {
    switch (e->where) {
    case WHERE_ALL: return NEED_YES;
    case WHERE_OPTIONAL: return NEED_OPTIONAL;
    /* Published E2B and E4B files hold k/v weights of layers that read another layer's cache; QAT files do
     * not. */
    case WHERE_OWN_KV: return config->layer[layer].owns_kv ? NEED_YES : NEED_KNOWN;
    case WHERE_OWN_V:
        if (config->layer[layer].k_eq_v) return NEED_NONE;
        return config->layer[layer].owns_kv ? NEED_YES : NEED_KNOWN;
    case WHERE_EXPERTS: return config->experts > 0 ? NEED_YES : NEED_NONE;
    case WHERE_PLE: return config->ple_width > 0 ? NEED_YES : NEED_NONE;
    }
    INVARIANT(!"a weight_where");
    return NEED_NONE;
}

static uint64_t length_of(weight_length length, const model_config *c, uint32_t layer) {
    const layer_config *l = &c->layer[layer];
    switch (length) {
    case LENGTH_NONE: break;
    case LENGTH_ONE: return 1;
    case LENGTH_HIDDEN: return c->hidden;
    case LENGTH_HEAD_DIM: return l->head_dim;
    case LENGTH_Q: return (uint64_t)c->heads * l->head_dim;
    case LENGTH_KV: return (uint64_t)l->kv_heads * l->head_dim;
    case LENGTH_MLP: return l->mlp_width;
    case LENGTH_VOCAB: return c->vocab;
    case LENGTH_EXPERTS: return c->experts;
    case LENGTH_EXPERT_WIDTH: return c->expert_width;
    case LENGTH_GATE_UP: return 2 * (uint64_t)c->expert_width;
    case LENGTH_PLE: return c->ple_width;
    case LENGTH_PLE_VOCAB: return c->ple_vocab;
    case LENGTH_PLE_ALL: return (uint64_t)c->layers * c->ple_width;
    }
    INVARIANT(!"a weight_length");
    return 0;
}

uint32_t weight_entry_shape(const weight_entry *e, const model_config *config, uint32_t layer,
                            uint64_t shape[3]) {
    uint32_t dims = 0;
    while (dims < 3 && e->length[dims] != LENGTH_NONE) {
        shape[dims] = length_of(e->length[dims], config, layer);
        dims++;
    }
    return dims;
}

static range times(range r, uint32_t n) { return (range){r.begin * n, r.end * n}; }

void weight_entry_share(const weight_entry *e, const model_config *config, const layout *l, uint32_t layer,
                        range *rows, range *cols) {
    uint64_t shape[3];
    uint32_t dims = weight_entry_shape(e, config, layer, shape);
    const layer_config *at = &config->layer[layer];
    *rows = (range){0, dims == 1 ? 1 : (uint32_t)shape[dims - 2]};
    *cols = (range){0, (uint32_t)shape[dims - 1]};
    switch (e->split) {
    case SPLIT_NONE: break;
    case SPLIT_HEAD_ROWS: *rows = times(l->heads, at->head_dim); break;
    case SPLIT_HEAD_COLS: *cols = times(l->heads, at->head_dim); break;
    case SPLIT_KV_ROWS: *rows = times(l->layer[layer].kv_heads, at->head_dim); break;
    case SPLIT_MLP_ROWS: *rows = l->layer[layer].mlp; break;
    case SPLIT_MLP_COLS: *cols = l->layer[layer].mlp; break;
    case SPLIT_VOCAB_ROWS: *rows = l->vocab; break;
    case SPLIT_EXPERT_GATE_UP: *rows = l->expert_width; break;
    case SPLIT_EXPERT_DOWN: *cols = l->expert_width; break;
    }
}
