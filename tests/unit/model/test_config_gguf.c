/* The bundled GGUF files hold the models of tests/models: both forms must come out alike. What is missing, out of bounds
 * or of another kind is refused by key. */
#include <math.h>

#include "base/memory.h"
#include "shard/model/config.h"
#include "tests/gguf_writer.h"
#include "tests/test.h"

static void check_pair(const char *file, const char *folder) {
    model_config *a = NULL, *b = NULL;
    CHECK_STATUS(model_config_open(&a, file, NULL), ST_OK);
    CHECK_STATUS(model_config_open(&b, folder, NULL), ST_OK);
    if (!a || !b) exit(1);
    CHECK(!strcmp(a->directory, file));
    CHECK(a->hidden == b->hidden && a->layers == b->layers && a->heads == b->heads && a->vocab == b->vocab);
    CHECK(a->context == b->context && a->norm_eps == b->norm_eps && a->softcap == b->softcap);
    CHECK(a->stored_bf16 && a->embed_factor == b->embed_factor && a->ple_width == 0);
    CHECK(a->experts == b->experts && a->experts_active == b->experts_active &&
          a->expert_width == b->expert_width);
    CHECK(a->pad_token == b->pad_token && a->bos_token == b->bos_token);
    CHECK(a->default_top_k == b->default_top_k && a->default_temperature == b->default_temperature &&
          fabs(a->default_top_p - b->default_top_p) < 1e-7);
    CHECK(a->end_token_count == 3 && b->end_token_count == 3);
    for (uint32_t i = 0; i < a->end_token_count; i++) {
        bool found = false;
        for (uint32_t k = 0; k < b->end_token_count; k++)
            found = found || a->end_tokens[i] == b->end_tokens[k];
        CHECK_THAT(found, "end token %u", a->end_tokens[i]);
    }
    for (uint32_t l = 0; l < a->layers; l++) {
        const layer_config *x = &a->layer[l], *y = &b->layer[l];
        CHECK(x->full == y->full && x->k_eq_v == y->k_eq_v && x->owns_kv == y->owns_kv &&
              x->kv_source == y->kv_source);
        CHECK(x->head_dim == y->head_dim && x->kv_heads == y->kv_heads && x->mlp_width == y->mlp_width);
        CHECK(x->window == y->window && x->rope_pairs == y->rope_pairs && x->rope_base == y->rope_base);
    }
    model_config_close(a);
    model_config_close(b);
}

TEST(files_say_what_folders_say) {
    check_pair(TEST_DATA "/models/gguf/tiny-dense-q4_0.gguf", TEST_DATA "/models/tiny-dense");
    check_pair(TEST_DATA "/models/gguf/tiny-moe-q4_k_m.gguf", TEST_DATA "/models/tiny-moe");
}

/* ---- files that are made here: two sliding layers and a full one, the last two of them sharing; with per-layer
 * embeddings ---- */

typedef struct made {
    const char *without; /* this key or tensor is left out */
    const char *u32_key; /* this one has another value */
    uint32_t u32_value;
    const char *architecture;
    float still;     /* of rope_freqs' second half */
    bool has_values; /* attn_v on the full layer that owns a cache */
} made;

static void put_u32(gguf_writer *w, const made *m, const char *key, uint32_t n) {
    if (m->without && !strcmp(m->without, key)) return;
    gguf_put_u32(w, key, m->u32_key && !strcmp(m->u32_key, key) ? m->u32_value : n);
}

static void put_i32s(gguf_writer *w, const made *m, const char *key, uint32_t count, const int32_t *items) {
    if (m->without && !strcmp(m->without, key)) return;
    if (m->u32_key && !strcmp(m->u32_key, key)) gguf_put_u32(w, key, m->u32_value);
    else gguf_put_i32s(w, key, count, items);
}

static void put_tensor(gguf_writer *w, const made *m, const char *name, uint32_t dims, uint64_t a, uint64_t b,
                       uint64_t *offset) {
    if (m->without && !strcmp(m->without, name)) return;
    gguf_put_tensor(w, name, 0, dims, (uint64_t[]){a, b}, *offset);
    *offset += (a * (dims == 2 ? b : 1) * 4 + 31) / 32 * 32;
}

static status parse(const made *m, model_config **out) {
    gguf_writer w = {0};
    uint64_t data = 0;
    gguf_put_text(&w, "general.architecture", m->architecture ? m->architecture : "gemma4");
    put_u32(&w, m, "gemma4.block_count", 4);
    put_u32(&w, m, "gemma4.context_length", 512);
    put_u32(&w, m, "gemma4.embedding_length", 8);
    put_i32s(&w, m, "gemma4.feed_forward_length", 4, (int32_t[]){16, 16, 32, 32});
    put_u32(&w, m, "gemma4.attention.head_count", 4);
    put_i32s(&w, m, "gemma4.attention.head_count_kv", 4, (int32_t[]){2, 1, 2, 1});
    put_u32(&w, m, "gemma4.attention.key_length", 16);
    put_u32(&w, m, "gemma4.attention.value_length", 16);
    put_u32(&w, m, "gemma4.attention.key_length_swa", 8);
    put_u32(&w, m, "gemma4.attention.sliding_window", 32);
    put_u32(&w, m, "gemma4.attention.shared_kv_layers", 2);
    put_u32(&w, m, "gemma4.embedding_length_per_layer_input", 4);
    put_u32(&w, m, "gemma4.expert_count", 0);
    if (!m->without || strcmp(m->without, "gemma4.attention.sliding_window_pattern") != 0) {
        gguf_put_array(&w, "gemma4.attention.sliding_window_pattern", GGUF_BOOL, 4);
        gguf_put_number(&w.values, 0x00010001, 4); /* sliding, full, sliding, full */
    }
    gguf_put_f32(&w, "gemma4.rope.freq_base", 5000);
    put_u32(&w, m, "tokenizer.ggml.eos_token_id", 1);
    gguf_put_texts(&w, "tokenizer.ggml.tokens", 6,
                   (const char *[]){"<pad>", "<eos>", "<bos>", "<turn|>", "a", "<|tool_response>"});
    put_tensor(&w, m, "rope_freqs.weight", 1, 8, 0, &data);
    put_tensor(&w, m, "token_embd.weight", 2, 8, 6, &data);
    put_tensor(&w, m, "per_layer_token_embd.weight", 2, 16, 6, &data);
    if (m->has_values) put_tensor(&w, m, "blk.1.attn_v.weight", 1, 8, 0, &data);
    strbuf file = gguf_finish(&w, data);
    const float ones = 1;
    if (!m->without || strcmp(m->without, "rope_freqs.weight") != 0)
        for (int i = 0; i < 8; i++)
            memcpy(file.data + file.size - data + 4 * i, i < 2 ? &ones : &m->still, 4);
    uint8_t *exact = memory_alloc(file.size);
    memcpy(exact, file.data, file.size);
    status st = model_config_parse_gguf(out, exact, file.size, "x.gguf");
    strbuf_close(&file);
    free(exact);
    return st;
}

TEST(arrays_and_shared_layers) {
    model_config *c = NULL;
    CHECK_STATUS(parse(&(made){.still = 1e30f}, &c), ST_OK);
    if (!c) return;
    const layer_config *l = c->layer;
    CHECK(c->layers == 4 && c->vocab == 6 && c->ple_vocab == 6 && c->ple_width == 4 && c->ple_factor == 2);
    CHECK(!l[0].full && l[1].full && !l[2].full && l[3].full);
    CHECK(l[0].owns_kv && l[1].owns_kv && !l[2].owns_kv && !l[3].owns_kv && l[2].kv_source == 0 &&
          l[3].kv_source == 1);
    CHECK(l[0].kv_heads == 2 && l[1].kv_heads == 1 && l[1].mlp_width == 16 && l[2].mlp_width == 32);
    CHECK(l[0].head_dim == 8 && l[1].head_dim == 16 && l[0].rope_pairs == 4 && l[1].rope_pairs == 2);
    CHECK(l[0].window == 32 && l[1].window == 0 && l[0].rope_base == 1e4 && l[1].rope_base == 5000);
    CHECK(!l[0].k_eq_v && l[1].k_eq_v && l[3].k_eq_v);
    CHECK(c->end_token_count == 3 && c->end_tokens[0] == 1 && c->end_tokens[1] == 3 && c->end_tokens[2] == 5);
    model_config_close(c);
    c = NULL;
    CHECK_STATUS(parse(&(made){.still = 1, .has_values = true}, &c), ST_OK);
    CHECK(c && c->layer[1].rope_pairs == 8 && !c->layer[1].k_eq_v && !c->layer[3].k_eq_v);
    model_config_close(c);
}

TEST(refusals_name_key_value_and_bound) {
    static const struct {
        made m;
        status st;
        const char *sentence;
    } cases[] = {
        {{.architecture = "llama"}, ST_UNSUPPORTED, "general.architecture is llama; gemma4 is supported"},
        {{.without = "gemma4.block_count"}, ST_FORMAT, "gemma4.block_count is missing"},
        {{.u32_key = "gemma4.block_count", .u32_value = 257},
         ST_FORMAT,
         "gemma4.block_count is 257, allowed are 1 to 256"},
        {{.u32_key = "gemma4.block_count", .u32_value = 5}, ST_FORMAT, "has 4 entries, expected are 5"},
        {{.u32_key = "gemma4.embedding_length", .u32_value = 0},
         ST_FORMAT,
         "embedding_length is 0, allowed are 1 to"},
        {{.u32_key = "gemma4.attention.head_count_kv", .u32_value = 5},
         ST_FORMAT,
         "head_count_kv is 5, allowed are 1 to 4"},
        {{.u32_key = "gemma4.attention.head_count_kv", .u32_value = 3},
         ST_FORMAT,
         "3 KV heads of layer 0 do not divide"},
        {{.u32_key = "gemma4.attention.key_length_swa", .u32_value = 7},
         ST_FORMAT,
         "head_dim of layer 0 is 7, which is odd"},
        {{.u32_key = "gemma4.attention.value_length", .u32_value = 8},
         ST_UNSUPPORTED,
         "value_length is 8; only 16"},
        {{.without = "gemma4.attention.key_length"}, ST_FORMAT, "gemma4.attention.key_length is missing"},
        {{.without = "gemma4.attention.sliding_window"},
         ST_FORMAT,
         "gemma4.attention.sliding_window is missing"},
        {{.without = "gemma4.attention.sliding_window_pattern"},
         ST_FORMAT,
         "sliding_window_pattern is missing"},
        {{.u32_key = "gemma4.attention.shared_kv_layers", .u32_value = 3},
         ST_FORMAT,
         "gemma4.attention.shared_kv_layers is 3, but no layer before layer 1"},
        {{.u32_key = "gemma4.expert_count", .u32_value = 4},
         ST_FORMAT,
         "gemma4.expert_used_count is missing"},
        {{.u32_key = "tokenizer.ggml.eos_token_id", .u32_value = 6},
         ST_FORMAT,
         "eos_token_id is 6, allowed are 0 to 5"},
        {{.without = "token_embd.weight"}, ST_NOT_FOUND, "tensor token_embd.weight is missing"},
        {{.without = "per_layer_token_embd.weight"},
         ST_NOT_FOUND,
         "tensor per_layer_token_embd.weight is missing"},
        {{.without = "rope_freqs.weight"}, ST_NOT_FOUND, "tensor rope_freqs.weight, which tells"},
        {{.u32_key = "gemma4.attention.key_length",
          .u32_value = 32,
          .without = "gemma4.attention.value_length"},
         ST_FORMAT,
         "rope_freqs.weight has 1 dimensions and 8 elements of F32, expected are 16"},
        {{.still = 8}, ST_UNSUPPORTED, "rope_freqs.weight: element 2 is 8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        model_config *c = NULL;
        made m = cases[i].m;
        if (m.still == 0) m.still = 1e30f;
        CHECK_STATUS(parse(&m, &c), cases[i].st);
        CHECK_SENTENCE(cases[i].sentence);
        CHECK_SENTENCE("x.gguf");
        CHECK(!c);
    }
}

int main(void) {
    RUN(files_say_what_folders_say);
    RUN(arrays_and_shared_layers);
    RUN(refusals_name_key_value_and_bound);
    return test_result();
}
