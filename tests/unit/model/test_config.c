#include <math.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "shard/model/config.h"
#include "tests/test.h"

#define DENSE TEST_DATA "/golden/dense"
enum { CONFIG_MAX = 1 << 20 };

static model_config *opened(const char *path, const char *name) {
    model_config *c = NULL;
    CHECK_STATUS(model_config_open(&c, path, name), ST_OK);
    if (!c) exit(1);
    return c;
}

static void check_layer(const model_config *c, uint32_t l, layer_config want) {
    const layer_config *got = &c->layer[l];
    CHECK_THAT(got->full == want.full && got->k_eq_v == want.k_eq_v && got->owns_kv == want.owns_kv,
               "layer %u", l);
    CHECK_THAT(got->kv_source == want.kv_source, "layer %u reads layer %u", l, got->kv_source);
    CHECK_THAT(got->head_dim == want.head_dim && got->kv_heads == want.kv_heads, "layer %u: %u, %u", l,
               got->head_dim, got->kv_heads);
    CHECK_THAT(got->mlp_width == want.mlp_width, "layer %u: %u", l, got->mlp_width);
    CHECK_THAT(got->window == want.window, "layer %u: %u", l, got->window);
    CHECK_THAT(got->rope_pairs == want.rope_pairs, "layer %u: %u", l, got->rope_pairs);
    CHECK(got->rope_base == (want.full ? 1e6 : 1e4));
}

TEST(both_dialects_give_the_same_layers) {
    static const char *const names[] = {"config.json", "config.old-dialect.json"};
    for (int d = 0; d < 2; d++) {
        model_config *c = opened(DENSE, names[d]);
        CHECK(c->hidden == 64 && c->layers == 12 && c->heads == 8 && c->vocab == 320 && c->context == 131072);
        CHECK(c->norm_eps == 1e-6f && c->softcap == 30 && c->embed_factor == 8 && c->stored_bf16);
        CHECK(c->experts == 0 && c->ple_width == 0 && c->bidirectional_vision);
        CHECK(c->pad_token == 0 && c->bos_token == 2 && c->end_token_count == 1 && c->end_tokens[0] == 1);
        CHECK(c->default_temperature == 1 && c->default_top_p == 1 && c->default_top_k == 0);
        CHECK(!strcmp(c->directory, DENSE));
        for (uint32_t l = 0; l < 12; l++) {
            if (l % 6 == 5) check_layer(c, l, (layer_config){true, true, true, l, 32, 2, 96, 0, 4, 0});
            else check_layer(c, l, (layer_config){false, false, true, l, 16, 4, 96, 8, 8, 0});
        }
        model_config_close(c);
    }
}

TEST(shared_kv_and_double_wide) {
    model_config *c = opened(TEST_DATA "/golden/e2b", NULL);
    CHECK(c->layers == 15 && c->ple_width == 16 && c->ple_vocab == 320 && c->ple_factor == 4);
    for (uint32_t l = 0; l < 15; l++) {
        bool full = l % 5 == 4, own = l < 7;
        /* Layers 0…6 own theirs: the last full one is 4, the last sliding one 6. */
        uint32_t source = own ? l : full ? 4 : 6;
        check_layer(c, l,
                    (layer_config){full, false, own, source, full ? 32 : 16, 1, own ? 80 : 160, full ? 0 : 8,
                                   full ? 4 : 8, 0});
    }
    model_config_close(c);
    c = opened(TEST_DATA "/golden/e4b", NULL);
    CHECK(c->embed_factor == 12 && !c->layer[7].owns_kv && c->layer[7].kv_source == 6 &&
          c->layer[11].kv_source == 5);
    CHECK(c->layer[11].mlp_width == 112); /* no double-wide MLP here */
    model_config_close(c);
}

TEST(experts_and_generation_defaults) {
    model_config *c = opened(TEST_DATA "/models/tiny-moe", NULL);
    CHECK(c->experts == 8 && c->experts_active == 2 && c->expert_width == 32);
    check_layer(c, 1, (layer_config){true, true, true, 1, 128, 2, 256, 0, 16, 0}); /* of the older dialect */
    CHECK(c->end_token_count == 3 && c->end_tokens[0] == 1 && c->end_tokens[1] == 16 &&
          c->end_tokens[2] == 9);
    CHECK(c->default_temperature == 1 && c->default_top_p == 0.95 && c->default_top_k == 64);
    model_config_close(c);
    c = opened(TEST_DATA "/golden/moe-128x8", NULL);
    CHECK(c->experts == 128 && c->experts_active == 8 && c->expert_width == 24);
    model_config_close(c);
    c = opened(TEST_DATA "/golden/dense-realheads", NULL);
    check_layer(c, 3, (layer_config){true, true, true, 3, 512, 1, 160, 0, 64, 0});
    check_layer(c, 0, (layer_config){false, false, true, 0, 256, 2, 160, 32, 128, 0});
    model_config_close(c);
}

/* A config of the dense golden ("../e2b/config.json" is another's) with one piece of text replaced by
 * another. */
static status parse_changed(const char *name, const char *from, const char *to, const char *generation,
                            model_config **out) {
    char *path = file_join(DENSE, name), *bytes;
    size_t n;
    CHECK_STATUS(file_read_all(path, CONFIG_MAX, &bytes, &n), ST_OK);
    free(path);
    char *at = strstr(bytes, from);
    CHECK_THAT(at != NULL, "%s is not in the config", from);
    strbuf changed = {0};
    strbuf_add(&changed, bytes, (size_t)(at - bytes));
    strbuf_add_string(&changed, to);
    strbuf_add_string(&changed, at + strlen(from));
    status st =
        model_config_parse(out, changed.data, changed.size, generation, generation ? strlen(generation) : 0);
    strbuf_close(&changed);
    free(bytes);
    return st;
}

static const struct refusal {
    const char *from, *to;
    status st;
    const char *sentence;
} refusals[] = {
    {"\"model_type\": \"gemma4\"", "\"model_type\": \"llama\"", ST_UNSUPPORTED, "model_type is llama"},
    {"\"model_type\": \"gemma4\"", "\"model_type\": \"gemma4_unified\"", ST_UNSUPPORTED, "gemma4_unified"},
    {"\"model_type\": \"gemma4\"", "\"model_type\": \"gemma4_assistant\"", ST_UNSUPPORTED, "a drafter"},
    {"\"model_type\": \"gemma4\"", "\"model_type\": 4", ST_FORMAT, "model_type is not a string"},
    {"\"model_type\": \"gemma4\",", "", ST_FORMAT, "model_type is missing"},
    {"\"model_type\": \"gemma4_text\"", "\"model_type\": \"gemma3_text\"", ST_UNSUPPORTED, "gemma3_text"},
    {"\"text_config\"", "\"language_config\"", ST_FORMAT, "text_config is missing"},
    {"\"attention_bias\": false", "\"attention_bias\": true", ST_UNSUPPORTED, "attention_bias is true"},
    {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", ST_UNSUPPORTED,
     "tie_word_embeddings is false"},
    {"gelu_pytorch_tanh", "silu", ST_UNSUPPORTED, "hidden_activation is silu"},
    {"\"use_bidirectional_attention\": \"vision\"", "\"use_bidirectional_attention\": \"all\"",
     ST_UNSUPPORTED, "use_bidirectional_attention is all"},
    {"\"dtype\": \"bfloat16\"", "\"quantization_config\": {\"quant_method\": \"gptq\"}", ST_UNSUPPORTED,
     "gptq"},
    {"\"hidden_size\": 64", "\"hidden_size\": 0", ST_FORMAT, "hidden_size is 0"},
    {"\"hidden_size\": 64", "\"hidden_size\": 1e3", ST_FORMAT, "hidden_size is not an integer"},
    {"\"hidden_size\": 64", "\"hidden_size\": 9223372036854775807", ST_FORMAT, "9223372036854775807"},
    {"\"hidden_size\": 64,", "", ST_FORMAT, "hidden_size is missing"},
    {"\"vocab_size\": 320", "\"vocab_size\": 1048577", ST_FORMAT,
     "vocab_size is 1048577, allowed are 1 to 1048576"},
    {"\"num_attention_heads\": 8", "\"num_attention_heads\": 6", ST_FORMAT,
     "4 KV heads of layer 0 do not divide"},
    {"\"head_dim\": 16", "\"head_dim\": 15", ST_FORMAT, "head_dim of layer 0 is 15, which is odd"},
    {"\"num_hidden_layers\": 12", "\"num_hidden_layers\": 11", ST_FORMAT,
     "layer_types has 12 entries, num_hidden_layers is 11"},
    {"\"num_hidden_layers\": 12", "\"num_hidden_layers\": 100000", ST_FORMAT, "num_hidden_layers is 100000"},
    {"\"layer_types\"", "\"layer_kinds\"", ST_FORMAT, "layer_types is missing"},
    {"\"sliding_attention\",\n", "\"linear_attention\",\n", ST_UNSUPPORTED,
     "layer_types[0] is linear_attention"},
    {"\"sliding_attention\",\n", "7,\n", ST_FORMAT, "layer_types[0] is not a string"},
    {"\"sliding_window\": 8,", "", ST_FORMAT, "sliding_window is missing"},
    {"\"05\"", "\"5x\"", ST_FORMAT, "the key 5x"},
    {"\"05\"", "\"\"", ST_FORMAT, "not a layer number"},
    {"\"05\"", "\"11111111111\"", ST_FORMAT, "not a layer number"},
    {"\"05\"", "\"12\"", ST_FORMAT, "names layer 12, num_hidden_layers is 12"},
    {"\"05\"", "\"011\"", ST_FORMAT, "names layer 11 twice"},
    {"\"head_dim\": 32", "\"intermediate_size\": 32", ST_UNSUPPORTED,
     "per_layer_config 5: intermediate_size"},
    {"\"head_dim\": 32", "\"head_dim\": 4098", ST_FORMAT, "per_layer_config 5: head_dim is 4098"},
    {"\"rope_type\": \"proportional\"", "\"rope_type\": \"yarn\"", ST_UNSUPPORTED,
     "rope_parameters: full_attention: rope_type is yarn"},
    {"\"rope_type\": \"proportional\"", "\"rope_type\": \"default\"", ST_UNSUPPORTED,
     "partial_rotary_factor is 0.25"},
    {"\"rope_type\": \"proportional\"", "\"rope_type\": \"proportional\", \"factor\": 8.0", ST_UNSUPPORTED,
     "factor is 8"},
    {"\"rope_theta\": 1000000.0", "\"rope_theta\": 0", ST_FORMAT, "rope_theta is 0"},
    {"\"full_attention\": {", "\"other\": {", ST_FORMAT, "rope_parameters: full_attention is missing"},
    {"\"num_kv_shared_layers\": 0", "\"num_kv_shared_layers\": 12", ST_FORMAT, "num_kv_shared_layers is 12"},
    {"\"num_kv_shared_layers\": 0", "\"num_kv_shared_layers\": 8", ST_FORMAT,
     "no layer before layer 4 is of the type of layer 5"},
    {"\"enable_moe_block\": false", "\"enable_moe_block\": true", ST_FORMAT, "num_experts is missing"},
    {"\"pad_token_id\": 0", "\"pad_token_id\": 320", ST_FORMAT, "pad_token_id is 320"},
    {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": -1.0", ST_FORMAT, "rms_norm_eps is -1"},
    {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": NaN", ST_FORMAT, "config.json: line"},
    {"\"transformers_version\"", "\"dtype\": 5, \"x\"", ST_FORMAT, "duplicate"},
    {"{", "[", ST_FORMAT, "config.json: line"},
};

TEST(refusals_name_key_value_and_bound) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        model_config *c = (void *)&c;
        CHECK_STATUS(parse_changed("config.json", refusals[i].from, refusals[i].to, NULL, &c),
                     refusals[i].st);
        CHECK_SENTENCE(refusals[i].sentence);
        CHECK(c == NULL);
    }
}

TEST(refusals_of_shared_kv_and_per_layer_embeddings) {
    model_config *c;
    CHECK_STATUS(parse_changed("../e2b/config.json", "\"vocab_size\": 320", "\"vocab_size\": 321", NULL, &c),
                 ST_FORMAT);
    CHECK_SENTENCE("vocab_size_per_layer_input is 320, allowed are 321 to");
    CHECK_STATUS(parse_changed("../e2b/config.json", "\"14\": {\n        \"head_dim\": 32",
                               "\"14\": {\n        \"head_dim\": 64", NULL, &c),
                 ST_FORMAT);
    CHECK_SENTENCE("layer 14 shares the KV of layer 4, but has head_dim 64 and 1 KV heads, not 32 and 1");
    CHECK_STATUS(parse_changed("../e2b/config.json", "\"num_kv_shared_layers\": 8",
                               "\"num_kv_shared_layers\": 11", NULL, &c),
                 ST_FORMAT);
    CHECK_SENTENCE("num_kv_shared_layers is 11, but no layer before layer 4");
}

TEST(older_dialect_defaults) {
    model_config *c;
    /* Absent global_head_dim: 512. Absent or null global KV heads, or no K=V: the flat number. */
    CHECK_STATUS(parse_changed("config.old-dialect.json", "\"global_head_dim\": 32,", "", NULL, &c), ST_OK);
    CHECK(c->layer[5].head_dim == 512 && c->layer[5].kv_heads == 2 && c->layer[4].head_dim == 16);
    CHECK(c->layer[5].rope_pairs == 64);
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.old-dialect.json", "\"num_global_key_value_heads\": 2",
                               "\"num_global_key_value_heads\": null", NULL, &c),
                 ST_OK);
    CHECK(c->layer[5].kv_heads == 4);
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.old-dialect.json", "\"attention_k_eq_v\": true",
                               "\"attention_k_eq_v\": false", NULL, &c),
                 ST_OK);
    CHECK(c->layer[5].kv_heads == 4 && !c->layer[5].k_eq_v && c->layer[5].head_dim == 32);
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.old-dialect.json", "\"num_global_key_value_heads\": 2",
                               "\"num_global_key_value_heads\": 3", NULL, &c),
                 ST_FORMAT);
    CHECK_SENTENCE("3 KV heads of layer 5 do not divide");
}

TEST(other_ways_to_say_it) {
    model_config *c;
    /* A sliding last layer is forced to full attention; the text is the last one before the closing bracket.
     */
    CHECK_STATUS(
        parse_changed("config.json", "\"full_attention\"\n    ]", "\"sliding_attention\"\n    ]", NULL, &c),
        ST_OK);
    CHECK(c->layer[11].full && c->layer[11].window == 0 && c->layer[11].k_eq_v);
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.json", "\"layer_types\"",
                               "\"sliding_window_pattern\": 6, \"layer_types\": null, \"x\"", NULL, &c),
                 ST_OK);
    CHECK(c->layer[5].full && c->layer[11].full && !c->layer[4].full && !c->layer[6].full);
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.json", "\"rope_parameters\"", "\"rope_elsewhere\"", NULL, &c), ST_OK);
    CHECK(c->layer[0].rope_base == 1e4 && c->layer[5].rope_base == 1e6 && c->layer[0].rope_pairs == 8 &&
          c->layer[5].rope_pairs == 4);
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.json", "\"partial_rotary_factor\": 0.25",
                               "\"partial_rotary_factor\": 0.3", NULL, &c),
                 ST_OK);
    CHECK(c->layer[5].rope_pairs == 4); /* floor(0.3 · 32 / 2) */
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.json", "\"final_logit_softcapping\": 30.0",
                               "\"final_logit_softcapping\": null", NULL, &c),
                 ST_OK);
    CHECK(c->softcap == 0);
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.json", "\"use_bidirectional_attention\": \"vision\"",
                               "\"use_bidirectional_attention\": null", NULL, &c),
                 ST_OK);
    CHECK(!c->bidirectional_vision);
    model_config_close(c);
}

TEST(a_text_only_config_has_its_keys_on_top) {
    static const char text[] =
        "{\"model_type\": \"gemma4_text\", \"torch_dtype\": \"float16\", \"hidden_size\": 2, "
        "\"num_hidden_layers\": 1,"
        " \"num_attention_heads\": 1, \"num_key_value_heads\": 1, \"head_dim\": 2, \"intermediate_size\": 3,"
        " \"vocab_size\": 4, \"max_position_embeddings\": 5, \"layer_types\": [\"full_attention\"],"
        " \"per_layer_config\": {}, \"eos_token_id\": [3, 3, 1]}";
    model_config *c;
    CHECK_STATUS(model_config_parse(&c, text, sizeof text - 1, NULL, 0), ST_OK);
    CHECK(c->hidden == 2 && c->layer[0].full && c->layer[0].head_dim == 2 && !c->stored_bf16);
    CHECK(c->embed_factor == sqrtf(2));
    CHECK(c->end_token_count == 2 && c->end_tokens[0] == 3 && c->end_tokens[1] == 1);
    model_config_close(c);
}

/* 39.25 for 1536, 50.5 for 2560, 53 for 2816, 62 for 3840, 73.5 for 5376: what published models multiply by.
 */
TEST(embedding_factors_are_rounded_like_the_weights) {
    static const struct {
        const char *hidden;
        float bf16;
    } v[] = {{"\"hidden_size\": 1536", 39.25f},
             {"\"hidden_size\": 2560", 50.5f},
             {"\"hidden_size\": 2816", 53.0f},
             {"\"hidden_size\": 3840", 62.0f},
             {"\"hidden_size\": 5376", 73.5f}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        model_config *c;
        CHECK_STATUS(parse_changed("config.json", "\"hidden_size\": 64", v[i].hidden, NULL, &c), ST_OK);
        CHECK_THAT(c->embed_factor == v[i].bf16, "%s: %g", v[i].hidden, c->embed_factor);
        model_config_close(c);
    }
    model_config *c;
    CHECK_STATUS(parse_changed("config.json", "\"dtype\": \"bfloat16\"", "\"dtype\": \"float32\"", NULL, &c),
                 ST_OK);
    CHECK(!c->stored_bf16);
    model_config_close(c);
    CHECK_STATUS(
        parse_changed("config.json", "\"dtype\": \"bfloat16\"", "\"torch_dtype\": \"bfloat16\"", NULL, &c),
        ST_OK);
    CHECK(c->stored_bf16);
    model_config_close(c);
}

static status with_generation(const char *generation, model_config **out) {
    return parse_changed("config.json", "\"bos_token_id\": 2", "\"bos_token_id\": 2", generation, out);
}

TEST(end_tokens_and_sampling_defaults) {
    model_config *c;
    CHECK_STATUS(
        with_generation(
            "{\"eos_token_id\": [1, 106, 50, 500], \"temperature\": 0.7, \"top_p\": 0.9, \"top_k\": 5,"
            " \"do_sample\": false}",
            &c),
        ST_OK);
    CHECK(c->end_token_count == 3 && c->end_tokens[1] == 106 &&
          c->end_tokens[2] == 50); /* 500 is outside: left out */
    CHECK(c->default_temperature == 0.7 && c->default_top_p == 0.9 && c->default_top_k == 5);
    model_config_close(c);
    CHECK_STATUS(with_generation("{\"eos_token_id\": null}", &c), ST_OK);
    CHECK(c->end_token_count == 1 && c->end_tokens[0] == 1); /* of text_config */
    model_config_close(c);
    CHECK_STATUS(parse_changed("config.json", "\"dtype\"", "\"eos_token_id\": 7, \"dtype\"", "{}", &c),
                 ST_OK);
    CHECK(c->end_token_count == 1 && c->end_tokens[0] == 7); /* the top level comes before text_config */
    model_config_close(c);
    CHECK_STATUS(with_generation("{\"eos_token_id\": \"1\"}", &c), ST_FORMAT);
    CHECK_SENTENCE("generation_config.json: eos_token_id is neither");
    CHECK_STATUS(with_generation("{\"eos_token_id\": [-1]}", &c), ST_FORMAT);
    CHECK_STATUS(with_generation("{\"top_p\": 0}", &c), ST_FORMAT);
    CHECK_STATUS(with_generation("{\"temperature\": -0.1}", &c), ST_FORMAT);
    CHECK_STATUS(with_generation("{\"top_k\": -1}", &c), ST_FORMAT);
    CHECK_STATUS(with_generation("no json", &c), ST_FORMAT);
    CHECK_SENTENCE("generation_config.json: line 1");
    strbuf many = {0};
    strbuf_add_string(&many, "{\"eos_token_id\": [0");
    for (int i = 1; i <= 64; i++) strbuf_add_format(&many, ", %d", i);
    strbuf_add_string(&many, "]}");
    CHECK_STATUS(with_generation(strbuf_text(&many), &c), ST_FORMAT);
    CHECK_SENTENCE("more than 64 tokens");
    strbuf_close(&many);
}

TEST(paths_that_are_no_model) {
    model_config *c;
    CHECK_STATUS(model_config_open(&c, "/nonexistent/model", NULL), ST_NOT_FOUND);
    CHECK_SENTENCE("/nonexistent/model");
    CHECK_STATUS(model_config_open(&c, TEST_DATA, NULL), ST_NOT_FOUND);
    CHECK_SENTENCE("config.json");
    CHECK_STATUS(model_config_open(&c, TEST_DATA "/test.h", NULL), ST_FORMAT);
    CHECK_SENTENCE("test.h is not a GGUF file");
    CHECK_STATUS(model_config_open(&c, "/dev/null", NULL), ST_NOT_FOUND);
    CHECK_SENTENCE("neither a directory nor a GGUF file");
}

int main(void) {
    RUN(both_dialects_give_the_same_layers);
    RUN(shared_kv_and_double_wide);
    RUN(experts_and_generation_defaults);
    RUN(refusals_name_key_value_and_bound);
    RUN(refusals_of_shared_kv_and_per_layer_embeddings);
    RUN(older_dialect_defaults);
    RUN(other_ways_to_say_it);
    RUN(a_text_only_config_has_its_keys_on_top);
    RUN(embedding_factors_are_rounded_like_the_weights);
    RUN(end_tokens_and_sampling_defaults);
    RUN(paths_that_are_no_model);
    return test_result();
}
