#include "base/shape.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct shape {
    const char *name;
    uint32_t hidden, layers, sliding_run /* sliding layers before each full one */, heads, kv_heads,
        kv_heads_full;
    bool k_equals_v, double_wide;
    uint32_t window, mlp_width, experts, experts_active, expert_width, kv_shared, ple_width, context;
} shape;

/* From the configurations that Google publishes with the checkpoints. */
static const shape shapes[] = {
    {.name = "31b",
     .hidden = 5376,
     .layers = 60,
     .sliding_run = 5,
     .heads = 32,
     .kv_heads = 16,
     .kv_heads_full = 4,
     .k_equals_v = true,
     .window = 1024,
     .mlp_width = 21504,
     .context = 262144},
    {.name = "26b-a4b",
     .hidden = 2816,
     .layers = 30,
     .sliding_run = 5,
     .heads = 16,
     .kv_heads = 8,
     .kv_heads_full = 2,
     .k_equals_v = true,
     .window = 1024,
     .mlp_width = 2112,
     .experts = 128,
     .experts_active = 8,
     .expert_width = 704,
     .context = 262144},
    {.name = "e4b",
     .hidden = 2560,
     .layers = 42,
     .sliding_run = 5,
     .heads = 8,
     .kv_heads = 2,
     .kv_heads_full = 2,
     .window = 512,
     .mlp_width = 10240,
     .kv_shared = 18,
     .ple_width = 256,
     .context = 131072},
    {.name = "e2b",
     .hidden = 1536,
     .layers = 35,
     .sliding_run = 4,
     .heads = 8,
     .kv_heads = 1,
     .kv_heads_full = 1,
     .double_wide = true,
     .window = 512,
     .mlp_width = 6144,
     .kv_shared = 20,
     .ple_width = 256,
     .context = 131072},
};

static void add_layer_types(strbuf *b, const shape *s) {
    strbuf_add_string(b, "\"layer_types\":[");
    for (uint32_t i = 0; i < s->layers; i++) {
        bool full = i % (s->sliding_run + 1) == s->sliding_run;
        strbuf_add_format(b, "%s\"%s_attention\"", i ? "," : "", full ? "full" : "sliding");
    }
    strbuf_add_string(b, "],");
}

static const char *word(bool yes) { return yes ? "true" : "false"; }

static void add_config(strbuf *b, const shape *s) {
    strbuf_add_format(b,
                      "{\"model_type\":\"gemma4_text\",\"dtype\":\"bfloat16\",\"vocab_size\":262144,"
                      "\"hidden_size\":%u,\"num_hidden_layers\":%u,\"num_attention_heads\":%u,",
                      s->hidden, s->layers, s->heads);
    strbuf_add_format(b,
                      "\"num_key_value_heads\":%u,\"num_global_key_value_heads\":%u,\"head_dim\":256,"
                      "\"global_head_dim\":512,\"attention_k_eq_v\":%s,\"sliding_window\":%u,",
                      s->kv_heads, s->kv_heads_full, word(s->k_equals_v), s->window);
    strbuf_add_format(b, "\"intermediate_size\":%u,\"use_double_wide_mlp\":%s,\"num_kv_shared_layers\":%u,",
                      s->mlp_width, word(s->double_wide), s->kv_shared);
    strbuf_add_format(b, "\"enable_moe_block\":%s,", word(s->experts > 0));
    if (s->experts)
        strbuf_add_format(b, "\"num_experts\":%u,\"top_k_experts\":%u,\"moe_intermediate_size\":%u,",
                          s->experts, s->experts_active, s->expert_width);
    strbuf_add_format(b, "\"hidden_size_per_layer_input\":%u,\"vocab_size_per_layer_input\":262144,",
                      s->ple_width);
    add_layer_types(b, s);
    strbuf_add_format(
        b,
        "\"max_position_embeddings\":%u,\"rms_norm_eps\":1e-06,\"final_logit_softcapping\":30.0,"
        "\"hidden_activation\":\"gelu_pytorch_tanh\",\"tie_word_embeddings\":true,"
        "\"bos_token_id\":2,\"eos_token_id\":[1,106,50],\"pad_token_id\":0,",
        s->context);
    strbuf_add_string(b, "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"proportional\","
                         "\"rope_theta\":1000000.0,\"partial_rotary_factor\":0.25},"
                         "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}}}\n");
}

/* The trailing layers that share KV read the last own layer of either kind, so one of each must stay. */
static void cut_layers(shape *s, uint32_t layers) {
    uint32_t shared = (uint32_t)((uint64_t)s->kv_shared * layers / s->layers);
    s->kv_shared = layers - shared > s->sliding_run ? shared : 0;
    s->layers = layers;
}

status shape_write_config(const char *name, uint32_t layers, strbuf *out) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        shape s = shapes[i];
        if (strcmp(s.name, name) != 0) continue;
        if (layers > s.layers)
            return fail(ST_INVALID, "--layers is %u, shape %s has %u", layers, name, s.layers);
        if (layers) cut_layers(&s, layers);
        add_config(out, &s);
        return ST_OK;
    }
    return fail(ST_NOT_FOUND, "there is no shape %s; 31b, 26b-a4b, e4b or e2b", name);
}
