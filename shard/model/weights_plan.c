/* How many bytes a rank's share comes to, by arithmetic on the layout alone. */
#include <string.h>

#include "base/invariant.h"
#include "shard/model/weights_parts.h"

static uint64_t elements_of(const weight_entry *e, const model_config *config, uint32_t layer) {
    uint64_t shape[3], n = 1;
    uint32_t dims = weight_entry_shape(e, config, layer, shape);
    for (uint32_t i = 0; i < dims; i++) n *= shape[i];
    return n;
}

/* The share of n elements that this rank holds: exact, since every split is along a whole dimension. */
static uint64_t share_of(const weight_entry *e, const model_config *c, const layout *l, uint32_t layer,
                         uint64_t n) {
    switch (e->split) {
    case SPLIT_NONE: return n;
    case SPLIT_HEAD_ROWS:
    case SPLIT_HEAD_COLS: return n / c->heads * range_count(l->heads);
    case SPLIT_KV_ROWS: return n / c->layer[layer].kv_heads * range_count(l->layer[layer].kv_heads);
    case SPLIT_MLP_ROWS:
    case SPLIT_MLP_COLS: return n / c->layer[layer].mlp_width * range_count(l->layer[layer].mlp);
    case SPLIT_VOCAB_ROWS: return n / c->vocab * range_count(l->vocab);
    case SPLIT_EXPERT_GATE_UP:
    case SPLIT_EXPERT_DOWN:
        return n / c->experts / c->expert_width * range_count(l->experts) * range_count(l->expert_width);
    }
    INVARIANT(!"a weight_split");
    return 0;
}

/* The columns of a matrix that this rank holds, of all its rows or of some. */
static range columns_of(const weight_entry *e, const model_config *c, const layout *l, uint32_t layer) {
    range rows, cols;
    weight_entry_share(e, c, l, layer, &rows, &cols);
    return cols;
}

static uint64_t expected_of(const weight_entry *e, const model_config *c, const layout *l, uint32_t layer,
                            tensor_type stored, weights_choice choice, bool on_device) {
    if (weight_entry_need(e, c, layer) < NEED_OPTIONAL || stored == TENSOR_OTHER) return 0;
    if (weight_form_is_mapped(e->form) && !on_device) return 0;
    if (e->form == FORM_ROWS && !weights_need_rows(choice, stored)) return 0;
    uint64_t share = share_of(e, c, l, layer, elements_of(e, c, layer));
    range cols = columns_of(e, c, l, layer);
    return share == 0 ? 0 : share / range_count(cols) * tensor_column_bytes(stored, cols.begin, cols.end);
}

uint64_t weights_expected_bytes(const model_config *config, const layout *l,
                                tensor_type (*stored)(void *context, const weight_entry *e, uint32_t layer),
                                void *context, weights_choice choice, bool on_device) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < weight_model_entry_count; i++) {
        const weight_entry *e = &weight_model_entries[i];
        total += expected_of(e, config, l, 0, stored(context, e, UINT32_MAX), choice, on_device);
    }
    for (uint32_t n = 0; n < config->layers; n++) {
        for (uint32_t i = 0; i < weight_layer_entry_count; i++) {
            const weight_entry *e = &weight_layer_entries[i];
            total += expected_of(e, config, l, n, stored(context, e, n), choice, on_device);
        }
    }
    return total;
}

weight_type weights_choose(weights_choice choice, weight_type stored) {
    switch (choice) {
    case WEIGHTS_F32: return WEIGHT_F32;
    case WEIGHTS_Q8: return WEIGHT_Q8;
    case WEIGHTS_Q4: return WEIGHT_Q4;
    case WEIGHTS_FP8: return WEIGHT_FP8;
    case WEIGHTS_AUTO:
    case WEIGHTS_BF16:
    case WEIGHTS_CHOICES: break;
    }
    return stored;
}

weight_type weights_type_in_memory(weights_choice choice, tensor_type stored, uint64_t col_begin) {
    weight_type type = WEIGHT_F32;
    switch (stored) {
    case TENSOR_F32: break;
    case TENSOR_BF16: type = WEIGHT_BF16; break;
    case TENSOR_F16: type = WEIGHT_F16; break;
    case TENSOR_Q4_0: type = col_begin % QUANT_GROUP == 0 ? WEIGHT_Q4 : WEIGHT_Q8; break;
    default: type = WEIGHT_Q8; break;
    }
    return weights_choose(choice, type);
}

bool weights_keep_values(tensor_type blocks) {
    return blocks == TENSOR_Q4_0 || blocks == TENSOR_Q8_0 || blocks == TENSOR_Q5_0;
}

bool weights_need_rows(weights_choice choice, tensor_type stored) {
    return choice == WEIGHTS_AUTO && tensor_is_blocks(stored) && !weights_keep_values(stored);
}

weight_type weights_table_type(tensor_type stored, bool on_device) {
    if (tensor_is_blocks(stored)) return on_device ? WEIGHT_F32 : WEIGHT_BLOCKS;
    return weights_type_in_memory(WEIGHTS_AUTO, stored, 0);
}

status weights_check_device(weights_choice choice, bool on_device) {
    if (choice != WEIGHTS_FP8 || on_device) return ST_OK;
    return fail(ST_UNSUPPORTED, "--weights fp8 runs on a GPU; on CPUs q8 takes about as much memory");
}

const char *weights_choice_name(weights_choice choice) {
    static const char *const names[WEIGHTS_CHOICES] = {"auto", "f32", "bf16", "q8", "q4", "fp8"};
    INVARIANT(choice < WEIGHTS_CHOICES);
    return names[choice];
}

weights_choice weights_choice_of(const char *word) {
    int choice = 0;
    while (choice < WEIGHTS_CHOICES && strcmp(word, weights_choice_name((weights_choice)choice)) != 0)
        choice++;
    return (weights_choice)choice;
}

uint32_t weights_group(weights_choice choice, weight_type stored) {
    return weight_is_quantised(weights_choose(choice, stored)) ? QUANT_GROUP : 1;
}

/* Every matrix and vector begins on a cache line. */
static uint64_t matrix_bytes(weight_type type, uint64_t rows, uint64_t cols) {
    return rows && cols ? weights_aligned(weight_rows_bytes(type, rows, (uint32_t)cols)) : 0;
}

static uint64_t split_bytes(const weight_entry *e, const model_config *c, const layout *l, uint32_t layer,
                            weight_type type, const uint64_t shape[3]) {
    uint32_t head_dim = c->layer[layer].head_dim, heads = range_count(l->heads);
    switch (e->split) {
    case SPLIT_HEAD_ROWS: return matrix_bytes(type, (uint64_t)heads * head_dim, shape[1]);
    case SPLIT_HEAD_COLS: return matrix_bytes(type, shape[0], (uint64_t)heads * head_dim);
    case SPLIT_KV_ROWS:
        return matrix_bytes(type, (uint64_t)range_count(l->layer[layer].kv_heads) * head_dim, shape[1]);
    case SPLIT_MLP_ROWS: return matrix_bytes(type, range_count(l->layer[layer].mlp), shape[1]);
    case SPLIT_MLP_COLS: return matrix_bytes(type, shape[0], range_count(l->layer[layer].mlp));
    case SPLIT_VOCAB_ROWS: return matrix_bytes(type, range_count(l->vocab), shape[1]);
    case SPLIT_EXPERT_GATE_UP:
        return 2 * range_count(l->experts) * matrix_bytes(type, range_count(l->expert_width), c->hidden);
    case SPLIT_EXPERT_DOWN:
        return range_count(l->experts) * matrix_bytes(type, c->hidden, range_count(l->expert_width));
    case SPLIT_NONE: return matrix_bytes(type, shape[0], shape[1]);
    }
    INVARIANT(!"a weight_split");
    return 0;
}

static uint64_t memory_of(const weight_entry *e, const model_config *c, const layout *l, uint32_t layer,
                          weight_type type) {
    uint64_t shape[3];
    if (weight_entry_need(e, c, layer) != NEED_YES) return 0;
    weight_entry_shape(e, c, layer, shape);
    switch (e->form) {
    case FORM_VECTOR: return weights_aligned(elements_of(e, c, layer) * 4);
    case FORM_MATRIX_F32: return split_bytes(e, c, l, layer, WEIGHT_F32, shape);
    case FORM_MATRIX:
    case FORM_EXPERTS: return split_bytes(e, c, l, layer, type, shape);
    case FORM_MAPPED:
    case FORM_ROWS: return type == WEIGHT_BLOCKS ? 0 : split_bytes(e, c, l, layer, type, shape);
    case FORM_SCALAR: return 0;
    }
    INVARIANT(!"a weight_form");
    return 0;
}

/* WEIGHT_BLOCKS: takes no memory. */
static weight_type planned_table(const weight_plan *plan, const weight_entry *e, weight_type stored) {
    const tensor *t = plan->checkpoint ? weight_plan_find(plan, e, UINT32_MAX) : NULL;
    bool known = t && t->type != TENSOR_OTHER;
    if (!plan->on_device) return WEIGHT_BLOCKS;
    /* Without its headers a file of blocks is taken to round its embedding. */
    if (e->form == FORM_ROWS && !(known ? weights_need_rows(plan->choice, t->type)
                                        : plan->choice == WEIGHTS_AUTO && weight_in_strips(stored)))
        return WEIGHT_BLOCKS;
    if (known) return weights_table_type(t->type, true);
    return weight_in_strips(stored) ? WEIGHT_F32 : stored;
}

static weight_type planned_type(const weight_plan *plan, const weight_entry *e, const model_config *c,
                                const layout *l, uint32_t layer, weight_type stored) {
    uint32_t in_layer = layer == UINT32_MAX ? 0 : layer;
    if (weight_form_is_mapped(e->form)) return planned_table(plan, e, stored);
    const tensor *t = plan->checkpoint && e->form != FORM_SCALAR ? weight_plan_find(plan, e, layer) : NULL;
    if (!t || t->type == TENSOR_OTHER || weight_entry_need(e, c, in_layer) != NEED_YES)
        return weights_choose(plan->choice, stored);
    return weights_type_in_memory(plan->choice, t->type, columns_of(e, c, l, in_layer).begin);
}

uint64_t model_weights_plan_bytes(const model_config *config, const layout *l, const checkpoint *files,
                                  weight_type stored, weights_choice choice, bool on_device) {
    weight_plan plan = {
        .checkpoint = files, .config = config, .layout = l, .choice = choice, .on_device = on_device};
    if (files) weight_plan_find_prefix(&plan);
    uint64_t total = 0;
    for (uint32_t i = 0; i < weight_model_entry_count; i++) {
        const weight_entry *e = &weight_model_entries[i];
        total += memory_of(e, config, l, 0, planned_type(&plan, e, config, l, UINT32_MAX, stored));
    }
    for (uint32_t n = 0; n < config->layers; n++) {
        for (uint32_t i = 0; i < weight_layer_entry_count; i++) {
            const weight_entry *e = &weight_layer_entries[i];
            total += memory_of(e, config, l, n, planned_type(&plan, e, config, l, n, stored));
        }
    }
    return total;
}
