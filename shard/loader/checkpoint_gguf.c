/* Tensors of a GGUF file under the names that published safetensors have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/gguf.h"
#include "base/memory.h"
#include "shard/loader/checkpoint_parts.h"

enum { NAME_MAX_BYTES = 320, DIMS_READ_MAX = 3, LAYER_DIGITS_MAX = 9 };

#define PREFIX "model.language_model."

typedef struct renaming {
    const char *from, *to;
} renaming;

static const renaming of_model[] = {
    {"token_embd.weight", "embed_tokens.weight"},
    {"output_norm.weight", "norm.weight"},
    {"per_layer_token_embd.weight", "embed_tokens_per_layer.weight"},
    {"per_layer_model_proj.weight", "per_layer_model_projection.weight"},
    {"per_layer_proj_norm.weight", "per_layer_projection_norm.weight"},
    {NULL, NULL},
};

static const renaming of_layer[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
    {"layer_output_scale.weight", "layer_scalar"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"},
    {"pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"},
    {"post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"},
    {"ffn_gate_inp.weight", "router.proj.weight"},
    {"ffn_gate_inp.scale", "router.scale"},
    {"ffn_down_exps.scale", "router.per_expert_scale"},
    {"ffn_gate_up_exps.weight", "experts.gate_up_proj"},
    {"ffn_down_exps.weight", "experts.down_proj"},
    {"inp_gate.weight", "per_layer_input_gate.weight"},
    {"proj.weight", "per_layer_projection.weight"},
    {"post_norm.weight", "post_per_layer_input_norm.weight"},
    {NULL, NULL},
};

static const char *renamed(const renaming *list, const char *name) {
    while (list->from && strcmp(list->from, name) != 0) list++;
    return list->to;
}

/* "blk.12.attn_q.weight": what follows the layer's number, whose digits are at name + 4; NULL: no such name. */
static const char *after_layer(const char *name, int *digits) {
    if (strncmp(name, "blk.", 4) != 0) return NULL;
    size_t n = strspn(name + 4, "0123456789");
    bool plain = n == 1 || (n > 1 && name[4] != '0'); /* blk.01 is not blk.1 */
    if (!plain || n > LAYER_DIGITS_MAX || name[4 + n] != '.') return NULL;
    *digits = (int)n;
    return name + 4 + n + 1;
}

static void published_name(const char *name, char out[NAME_MAX_BYTES]) {
    int digits = 0;
    const char *rest = after_layer(name, &digits);
    const char *to = rest ? renamed(of_layer, rest) : renamed(of_model, name);
    if (!to) snprintf(out, NAME_MAX_BYTES, "%s", name);
    else if (rest) snprintf(out, NAME_MAX_BYTES, PREFIX "layers.%.*s.%s", digits, name + 4, to);
    else snprintf(out, NAME_MAX_BYTES, PREFIX "%s", to);
}

static tensor_type type_of(const gguf_format *format) {
    static const struct {
        const char *name;
        tensor_type type;
    } types[] = {
        {"F32", TENSOR_F32},   {"BF16", TENSOR_BF16}, {"F16", TENSOR_F16},   {"Q4_0", TENSOR_Q4_0},
        {"Q4_1", TENSOR_Q4_1}, {"Q5_0", TENSOR_Q5_0}, {"Q5_1", TENSOR_Q5_1}, {"Q8_0", TENSOR_Q8_0},
        {"Q4_K", TENSOR_Q4_K}, {"Q5_K", TENSOR_Q5_K}, {"Q6_K", TENSOR_Q6_K},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, format->name)) return types[i].type;
    return TENSOR_OTHER;
}

static void add_tensor(checkpoint *c, const gguf_tensor *from) {
    char name[NAME_MAX_BYTES];
    published_name(from->name, name);
    tensor t = {.name = name,
                .dtype = from->format->name,
                .type = from->dims > DIMS_READ_MAX ? TENSOR_OTHER : type_of(from->format),
                .dims = from->dims,
                .bytes = from->bytes,
                .offset = from->offset};
    for (uint32_t i = 0; i < from->dims; i++) t.shape[i] = from->shape[from->dims - 1 - i];
    checkpoint_add_tensor(c, &t);
}

status checkpoint_open_gguf(checkpoint *c, const char *path) {
    const char *slash = strrchr(path, '/');
    gguf *g = NULL;
    c->files = memory_alloc(sizeof *c->files);
    c->file_count = 1;
    c->files[0] = (checkpoint_file){
        .name = memory_copy_string(slash ? slash + 1 : path), .path = memory_copy_string(path), .fd = -1};
    TRY(checkpoint_open_file(&c->files[0]));
    TRY(gguf_open(&g, path));
    status st = ST_OK;
    if (g->file_bytes != c->files[0].bytes)
        st = fail(ST_FORMAT, "%s has %llu bytes and had %llu a moment before: it is being written", path,
                  (unsigned long long)g->file_bytes, (unsigned long long)c->files[0].bytes);
    for (uint32_t i = 0; st == ST_OK && i < g->tensor_count; i++)
        if (strcmp(g->tensors[i].name, "rope_freqs.weight") != 0) add_tensor(c, &g->tensors[i]);
    gguf_hash(g, c->hash);
    gguf_close(g);
    return st;
}
