#include "shard/kernels/quant_layout.h"
#include "shard/model/weights.h"
#include "shard/model/weights_table.h"
#include "tests/checkpoint_writer.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

static const char *const models[] = {
    "golden/dense", "golden/dense-realheads", "golden/moe",     "golden/moe-128x8", "golden/e2b",
    "golden/e4b",   "models/tiny-dense",      "models/tiny-moe"};
enum { MODELS = sizeof models / sizeof *models, EVERY = TEST_SANITIZED ? 2 : 1 /* of them */ };

typedef struct opened {
    model_config *config;
    checkpoint *c;
} opened;

static opened open_model(const char *name) {
    opened o = {NULL, NULL};
    char path[512];
    snprintf(path, sizeof path, "%s%s%s", name[0] == '/' ? "" : TEST_DATA, name[0] == '/' ? "" : "/", name);
    CHECK_STATUS(model_config_open(&o.config, path, NULL), ST_OK);
    CHECK_STATUS(checkpoint_open(&o.c, path), ST_OK);
    if (!o.config || !o.c) exit(1);
    return o;
}

static void close_model(opened o) {
    checkpoint_close(o.c);
    model_config_close(o.config);
}

typedef struct shared {
    layout *l;
    model_weights *w;
} shared;

static shared load(opened o, layout_options options, bool as_f32, uint32_t threads) {
    shared s = {NULL, NULL};
    CHECK_STATUS(layout_open(&s.l, o.config, &options), ST_OK);
    CHECK_STATUS(model_weights_open(&s.w, o.c, o.config, s.l,
                                    &(model_weights_options){.choice = as_f32 ? WEIGHTS_F32 : WEIGHTS_AUTO,
                                                             .threads = threads}),
                 ST_OK);
    if (!s.l || !s.w) exit(1);
    return s;
}

static void unload(shared s) {
    model_weights_close(s.w);
    layout_close(s.l);
}

/* ---- what is held equals what is stored ---- */

static const char in_layer[] = "model.language_model.layers.%u.%s";
static const char in_model[] = "model.language_model.%.0u%s"; /* a layer of 0 prints nothing */

/* A stored tensor, whole, in the type that it is compared in. */
typedef struct whole {
    uint8_t *bytes;
    uint64_t rows, cols; /* of one plane */
    uint32_t element;
} whole;

static whole read_whole(opened o, const char *format, uint32_t layer, const char *name, tensor_type type) {
    char full[256];
    snprintf(full, sizeof full, format, layer, name);
    const tensor *t = checkpoint_find(o.c, full);
    CHECK_THAT(t != NULL, "%s", full);
    if (!t) exit(1);
    uint64_t planes = t->dims == 3 ? t->shape[0] : 1;
    whole w = {NULL, t->dims >= 2 ? t->shape[t->dims - 2] : 1, t->shape[t->dims - 1],
               type == TENSOR_F32 ? 4 : 2};
    w.bytes = memory_alloc(planes * w.rows * w.cols * w.element);
    CHECK_STATUS(
        checkpoint_read_slice(o.c, t, &(tensor_slice){0, planes, 0, w.rows, 0, w.cols}, type, w.bytes),
        ST_OK);
    return w;
}

/* m is rows [r0, r0 + m->rows) and columns [c0, c0 + m->cols) of a plane. */
static void check_plane(const weight *m, whole w, uint64_t plane, uint64_t r0, uint64_t c0) {
    CHECK((m->data == NULL) == (m->rows == 0 || m->cols == 0));
    CHECK((uintptr_t)m->data % 64 == 0);
    CHECK(w.element == weight_element_bytes(m->type) && r0 + m->rows <= w.rows && c0 + m->cols <= w.cols);
    uint64_t wrong = 0;
    for (uint64_t r = 0; m->data && r < m->rows; r++) {
        const uint8_t *want = w.bytes + ((plane * w.rows + r0 + r) * w.cols + c0) * w.element;
        wrong += memcmp((const uint8_t *)m->data + r * m->cols * w.element, want, m->cols * w.element) != 0;
    }
    CHECK_THAT(wrong == 0, "%llu rows of %u x %u differ", (unsigned long long)wrong, m->rows, m->cols);
}

static tensor_type type_of(const weight *m) {
    return m->type == WEIGHT_F32 ? TENSOR_F32 : TENSOR_BF16; /* as all goldens are */
}

static void check_matrix(const weight *m, opened o, const char *format, uint32_t layer, const char *name,
                         uint64_t r0, uint64_t c0) {
    whole w = read_whole(o, format, layer, name, type_of(m));
    check_plane(m, w, 0, r0, c0);
    free(w.bytes);
}

static void check_vector(const float *v, opened o, const char *format, uint32_t layer, const char *name) {
    whole w = read_whole(o, format, layer, name, TENSOR_F32);
    CHECK_THAT(v && !memcmp(v, w.bytes, w.cols * 4), "%s of layer %u", name, layer);
    CHECK((uintptr_t)v % 64 == 0);
    free(w.bytes);
}

static void check_attention(opened o, shared s, uint32_t n) {
    const layer_weights *w = &s.w->layer[n];
    const layer_config *layer = &o.config->layer[n];
    uint32_t d = layer->head_dim;
    static const char *const names[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight", "self_attn.o_proj.weight"};
    const weight *matrices[] = {&w->q, &w->k, &w->v, &w->o};
    range rows[] = {s.l->heads, s.l->layer[n].kv_heads, s.l->layer[n].kv_heads, {0, 0}};
    for (int i = 0; i < 4; i++) {
        bool has = i == 0 || i == 3 || (layer->owns_kv && !(i == 2 && layer->k_eq_v));
        if (!has) {
            CHECK(matrices[i]->data == NULL && matrices[i]->rows == 0);
            continue;
        }
        if (i < 3)
            CHECK(matrices[i]->rows == range_count(rows[i]) * d && matrices[i]->cols == o.config->hidden);
        else CHECK(matrices[i]->rows == o.config->hidden && matrices[i]->cols == range_count(s.l->heads) * d);
        check_matrix(matrices[i], o, in_layer, n, names[i], rows[i].begin * d,
                     i == 3 ? s.l->heads.begin * d : 0);
    }
    check_vector(w->q_norm, o, in_layer, n, "self_attn.q_norm.weight");
    if (layer->owns_kv) check_vector(w->k_norm, o, in_layer, n, "self_attn.k_norm.weight");
    else CHECK(w->k_norm == NULL);
}

static void check_mlp(opened o, shared s, uint32_t n) {
    const layer_weights *w = &s.w->layer[n];
    range mlp = s.l->layer[n].mlp;
    CHECK(w->gate.rows == range_count(mlp) && w->up.rows == range_count(mlp) &&
          w->down.cols == range_count(mlp));
    check_matrix(&w->gate, o, in_layer, n, "mlp.gate_proj.weight", mlp.begin, 0);
    check_matrix(&w->up, o, in_layer, n, "mlp.up_proj.weight", mlp.begin, 0);
    check_matrix(&w->down, o, in_layer, n, "mlp.down_proj.weight", 0, mlp.begin);
}

static void check_experts(opened o, shared s, uint32_t n) {
    const layer_weights *w = &s.w->layer[n];
    if (o.config->experts == 0) {
        CHECK(w->expert == NULL && w->router.data == NULL && w->per_expert_scale == NULL &&
              w->post_mlp_norm_1 == NULL);
        return;
    }
    CHECK(range_count(s.l->experts) > 0);
    whole gate_up = read_whole(o, in_layer, n, "experts.gate_up_proj", type_of(&w->expert[0].gate));
    whole down = read_whole(o, in_layer, n, "experts.down_proj", type_of(&w->expert[0].down));
    range width = s.l->expert_width;
    for (uint32_t e = s.l->experts.begin; e < s.l->experts.end; e++) {
        const expert_weights *x = &w->expert[e - s.l->experts.begin];
        CHECK(x->gate.rows == range_count(width) && x->up.rows == range_count(width) &&
              x->down.cols == range_count(width));
        check_plane(&x->gate, gate_up, e, width.begin, 0);
        check_plane(&x->up, gate_up, e, o.config->expert_width + width.begin, 0);
        check_plane(&x->down, down, e, 0, width.begin);
    }
    CHECK(w->router.type == WEIGHT_F32 && w->router.rows == o.config->experts);
    check_matrix(&w->router, o, in_layer, n, "router.proj.weight", 0, 0);
    check_vector(w->router_scale, o, in_layer, n, "router.scale");
    check_vector(w->per_expert_scale, o, in_layer, n, "router.per_expert_scale");
    check_vector(w->post_mlp_norm_1, o, in_layer, n, "post_feedforward_layernorm_1.weight");
    check_vector(w->pre_mlp_norm_2, o, in_layer, n, "pre_feedforward_layernorm_2.weight");
    check_vector(w->post_mlp_norm_2, o, in_layer, n, "post_feedforward_layernorm_2.weight");
    free(gate_up.bytes);
    free(down.bytes);
}

static void check_ple(opened o, shared s) {
    if (o.config->ple_width == 0) {
        CHECK(s.w->ple_table.data == NULL && s.w->ple_context.data == NULL &&
              s.w->layer[0].ple_gate.data == NULL);
        return;
    }
    CHECK(s.w->ple_table.rows == o.config->ple_vocab &&
          s.w->ple_table.cols == o.config->layers * o.config->ple_width);
    CHECK(s.w->ple_table.type == WEIGHT_BF16);
    /* The table lies in the file, where nothing is aligned to cache lines. */
    whole table = read_whole(o, in_model, 0, "embed_tokens_per_layer.weight", TENSOR_BF16);
    CHECK(s.w->ple_table.data && !memcmp(s.w->ple_table.data, table.bytes, table.rows * table.cols * 2));
    free(table.bytes);
    check_matrix(&s.w->ple_context, o, in_model, 0, "per_layer_model_projection.weight", 0, 0);
    check_vector(s.w->ple_norm, o, in_model, 0, "per_layer_projection_norm.weight");
    for (uint32_t n = 0; n < o.config->layers; n++) {
        check_matrix(&s.w->layer[n].ple_gate, o, in_layer, n, "per_layer_input_gate.weight", 0, 0);
        check_matrix(&s.w->layer[n].ple_projection, o, in_layer, n, "per_layer_projection.weight", 0, 0);
        check_vector(s.w->layer[n].post_ple_norm, o, in_layer, n, "post_per_layer_input_norm.weight");
    }
}

static void check_share(opened o, shared s) {
    CHECK(s.w->embed.rows == range_count(s.l->vocab) && s.w->embed.cols == o.config->hidden);
    check_matrix(&s.w->embed, o, in_model, 0, "embed_tokens.weight", s.l->vocab.begin, 0);
    check_vector(s.w->final_norm, o, in_model, 0, "norm.weight");
    for (uint32_t n = 0; n < o.config->layers; n++) {
        const layer_weights *w = &s.w->layer[n];
        check_attention(o, s, n);
        check_mlp(o, s, n);
        check_experts(o, s, n);
        check_vector(w->input_norm, o, in_layer, n, "input_layernorm.weight");
        check_vector(w->post_attention_norm, o, in_layer, n, "post_attention_layernorm.weight");
        check_vector(w->pre_mlp_norm, o, in_layer, n, "pre_feedforward_layernorm.weight");
        check_vector(w->post_mlp_norm, o, in_layer, n, "post_feedforward_layernorm.weight");
        whole scalar = read_whole(o, in_layer, n, "layer_scalar", TENSOR_F32);
        CHECK(!memcmp(&w->scalar, scalar.bytes, 4));
        free(scalar.bytes);
    }
    check_ple(o, s);
}

TEST(every_rank_holds_what_is_stored) {
    static const layout_options layouts[] = {{1, 0, 1, 0, 0}, {2, 1, 1, 0, 0},  {4, 2, 1, 0, 0},
                                             {4, 3, 1, 2, 2}, {2, 0, 32, 1, 2}, {4, 3, 32, 1, 4}};
    for (int m = 0; m < MODELS; m += EVERY) {
        opened o = open_model(models[m]);
        for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
            for (int as_f32 = 0; as_f32 < 2; as_f32++) {
                shared s = load(o, layouts[i], as_f32, 3);
                CHECK(s.w->embed.type == (as_f32 ? WEIGHT_F32 : WEIGHT_BF16));
                check_share(o, s);
                unload(s);
            }
        }
        close_model(o);
    }
}

/* ---- bytes ---- */

/* Stored bytes of everything that the text model uses: split by heads, MLP, vocabulary or experts, and the
 * rest, which every rank reads whole. The per-layer table is mapped, and redundant k/v are not used. */
static void stored_bytes(opened o, uint64_t *split, uint64_t *kv, uint64_t *rest) {
    *split = *kv = *rest = 0;
    for (uint32_t i = 0; i < checkpoint_tensor_count(o.c); i++) {
        const tensor *t = checkpoint_tensor(o.c, i);
        unsigned layer = 0;
        bool in = sscanf(t->name, "model.language_model.layers.%u.", &layer) == 1;
        bool of_kv =
            strstr(t->name, ".k_proj.") || strstr(t->name, ".v_proj.") || strstr(t->name, ".k_norm.");
        if (strstr(t->name, "embed_tokens_per_layer") || (in && of_kv && !o.config->layer[layer].owns_kv))
            continue;
        if (strstr(t->name, ".k_proj.") || strstr(t->name, ".v_proj.")) *kv += t->bytes;
        else if (strstr(t->name, ".q_proj.") || strstr(t->name, ".o_proj.") || strstr(t->name, ".mlp.") ||
                 strstr(t->name, ".experts.") || strstr(t->name, "embed_tokens."))
            *split += t->bytes;
        else *rest += t->bytes;
    }
}

TEST(bytes_read_are_the_layouts_share) {
    static const layout_options layouts[] = {{1, 0, 1, 0, 0}, {2, 0, 1, 0, 0}, {4, 0, 1, 0, 0},
                                             {2, 0, 1, 1, 2}, {4, 0, 1, 2, 2}, {4, 0, 32, 1, 4}};
    for (int m = 0; m < MODELS; m += EVERY) {
        opened o = open_model(models[m]);
        uint64_t split, kv, rest;
        stored_bytes(o, &split, &kv, &rest);
        for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
            layout_options options = layouts[i];
            uint64_t sum = 0, kv_copies = 0;
            for (options.rank = 0; options.rank < options.ranks; options.rank++) {
                shared s = load(o, options, false, 2);
                CHECK_THAT(s.w->bytes_read == s.w->bytes_expected, "%s rank %u of %u: %llu, not %llu",
                           models[m], options.rank, options.ranks, (unsigned long long)s.w->bytes_read,
                           (unsigned long long)s.w->bytes_expected);
                CHECK(s.w->bytes == model_weights_plan_bytes(o.config, s.l, NULL, WEIGHT_BF16, WEIGHTS_AUTO, false));
                if (options.ranks == 1) CHECK(s.w->bytes_skipped == 0);
                sum += s.w->bytes_read;
                for (uint32_t n = 0; n < o.config->layers; n++) {
                    const layer_weights *w = &s.w->layer[n];
                    kv_copies += 2 * ((uint64_t)w->k.rows * w->k.cols + (uint64_t)w->v.rows * w->v.cols);
                }
                unload(s);
                if (options.rank > 0) continue;
                s = load(o, options, true, 2);
                CHECK(s.w->bytes_read == s.w->bytes_expected);
                CHECK(s.w->bytes == model_weights_plan_bytes(o.config, s.l, NULL, WEIGHT_BF16, WEIGHTS_F32, false));
                unload(s);
            }
            /* What is split adds up to itself; KV heads may be held several times; the rest is held by all.
             */
            CHECK(kv_copies >= kv && (options.ranks > 1 || kv_copies == kv));
            CHECK_THAT(sum == split + kv_copies + rest * options.ranks, "%s on %u: %llu", models[m],
                       options.ranks, (unsigned long long)sum);
        }
        close_model(o);
    }
}

/* Every shape of the published models, on paper: nothing overflows, shares add up to the published 30.7
 * billion. */
TEST(plans_of_published_sizes) {
    layer_config *layers = memory_alloc_array(60, sizeof *layers);
    model_config c = {.hidden = 5376, .layers = 60, .heads = 32, .vocab = 262144, .layer = layers};
    for (uint32_t l = 0; l < 60; l++) {
        bool full = l % 6 == 5;
        layers[l] = (layer_config){.full = full,
                                   .k_eq_v = full,
                                   .owns_kv = true,
                                   .kv_source = l,
                                   .head_dim = full ? 512 : 256,
                                   .kv_heads = full ? 4 : 16,
                                   .mlp_width = 21504};
    }
    layout *l;
    CHECK_STATUS(layout_open(&l, &c, &(layout_options){.ranks = 1, .group = 1}), ST_OK);
    double parameters = (double)model_weights_plan_bytes(&c, l, NULL, WEIGHT_BF16, WEIGHTS_AUTO, false) / 2;
    CHECK_THAT(parameters > 30.6e9 && parameters < 30.8e9, "%g", parameters);
    CHECK(model_weights_plan_bytes(&c, l, NULL, WEIGHT_F16, WEIGHTS_F32, false) >
          1.99 * model_weights_plan_bytes(&c, l, NULL, WEIGHT_F16, WEIGHTS_AUTO, false));
    layout_close(l);
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < 4; rank++) {
        CHECK_STATUS(layout_open(&l, &c, &(layout_options){.ranks = 4, .rank = rank, .group = 1}), ST_OK);
        sum += model_weights_plan_bytes(&c, l, NULL, WEIGHT_BF16, WEIGHTS_AUTO, false);
        layout_close(l);
    }
    CHECK((double)sum / 2 > parameters && (double)sum / 2 < parameters * 1.001); /* norms four times */
    free(layers);
}

/* ---- names and refusals, on changed copies ---- */

typedef struct copy {
    writer_folder folder;
    golden *source; /* any safetensors file: its tensors and their bytes */
    written_tensor *tensors;
    size_t count;
} copy;

static copy copy_model(const char *name) {
    copy k = {.folder = writer_open()};
    char path[512];
    char *bytes;
    size_t n;
    snprintf(path, sizeof path, "%s/%s/config.json", TEST_DATA, name);
    CHECK_STATUS(file_read_all(path, 1 << 20, &bytes, &n), ST_OK);
    writer_file(&k.folder, "config.json", bytes, n);
    free(bytes);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", TEST_DATA, name);
    k.source = golden_open(path);
    k.count = k.source->count;
    k.tensors = memory_alloc_array(k.count + 1, sizeof *k.tensors);
    for (size_t i = 0; i < k.count; i++)
        k.tensors[i] = (written_tensor){
            k.source->tensors[i], k.source->data + (k.source->tensors[i].offset - k.source->data_begin)};
    return k;
}

static void drop_copy(copy *k) {
    free(k->tensors);
    golden_close(k->source);
    writer_close(&k->folder);
}

static written_tensor *tensor_of(copy *k, const char *name) {
    for (size_t i = 0; i < k->count; i++)
        if (!strcmp(k->tensors[i].t.name, name)) return &k->tensors[i];
    printf("no tensor %s to change\n", name);
    exit(1);
}

static status load_copy(copy *k, bool as_f32, uint32_t threads, void (*check)(opened o, shared s)) {
    writer_safetensors(&k->folder, "model.safetensors", k->tensors, k->count);
    opened o = open_model(k->folder.path);
    shared s = {NULL, (void *)&s};
    CHECK_STATUS(layout_open(&s.l, o.config, &(layout_options){.ranks = 2, .rank = 1, .group = 1}), ST_OK);
    status st = model_weights_open(
        &s.w, o.c, o.config, s.l,
        &(model_weights_options){.choice = as_f32 ? WEIGHTS_F32 : WEIGHTS_AUTO, .threads = threads});
    if (st != ST_OK) CHECK(s.w == NULL);
    else CHECK(s.w->bytes_read == s.w->bytes_expected);
    if (st == ST_OK && check) check(o, s);
    unload(s);
    close_model(o);
    return st;
}

#define REALHEADS "golden/dense-realheads"
#define LAYER0 "model.language_model.layers.0."

static const struct {
    const char *name;
    const char *rename, *dtype;
    uint32_t dims;
    uint64_t shape[2];
    status st;
    const char *sentence;
} changes[] = {
    {LAYER0 "self_attn.q_proj.weight",
     LAYER0 "self_attn.q_proj.bias",
     NULL,
     0,
     {0},
     ST_NOT_FOUND,
     "tensor " LAYER0 "self_attn.q_proj.weight is missing"},
    {"model.language_model.embed_tokens.weight",
     "model.language_model.embed.weight",
     NULL,
     0,
     {0},
     ST_NOT_FOUND,
     "tensor model.language_model.embed_tokens.weight is missing"},
    {"model.language_model.norm.weight",
     "norm.weight",
     NULL,
     0,
     {0},
     ST_NOT_FOUND,
     "tensor model.language_model.norm.weight is missing"},
    {LAYER0 "layer_scalar",
     LAYER0 "layer_scale",
     NULL,
     0,
     {0},
     ST_FORMAT,
     "tensor " LAYER0 "layer_scale is unknown"},
    {LAYER0 "layer_scalar",
     "model.language_model.layers.4.layer_scalar",
     NULL,
     0,
     {0},
     ST_FORMAT,
     "layers.4.layer_scalar is unknown"},
    {LAYER0 "layer_scalar",
     "model.language_model.layers.00.layer_scalar",
     NULL,
     0,
     {0},
     ST_FORMAT,
     "layers.00.layer_scalar is unknown"},
    {LAYER0 "layer_scalar",
     "model.language_model.layers.3.self_attn.v_proj.weight",
     NULL,
     0,
     {0},
     ST_FORMAT,
     "layers.3.self_attn.v_proj.weight is unknown"}, /* K = V: there is none */
    {LAYER0 "layer_scalar", LAYER0 "router.scale", NULL, 0, {0}, ST_FORMAT, "router.scale is unknown"},
    {LAYER0 "layer_scalar",
     "lm_head.weight",
     NULL,
     0,
     {0},
     ST_FORMAT,
     "tensor lm_head.weight has shape [1], expected by config.json is [331, 64]"},
    {LAYER0 "self_attn.q_proj.weight",
     NULL,
     NULL,
     2,
     {64, 1024},
     ST_FORMAT,
     "tensor " LAYER0 "self_attn.q_proj.weight has shape [64, 1024], expected by config.json is [1024, 64]"},
    {LAYER0 "input_layernorm.weight",
     NULL,
     NULL,
     2,
     {1, 64},
     ST_FORMAT,
     "has shape [1, 64], expected by config.json is [64]"},
    {LAYER0 "layer_scalar", NULL, NULL, 0, {0}, ST_FORMAT, "has shape [], expected by config.json is [1]"},
    {LAYER0 "self_attn.q_proj.weight",
     NULL,
     "I16",
     2,
     {1024, 64},
     ST_UNSUPPORTED,
     "tensor " LAYER0 "self_attn.q_proj.weight has dtype I16, expected is BF16, F16 or F32"},
    {LAYER0 "input_layernorm.weight", NULL, "U16", 1, {64}, ST_UNSUPPORTED, "has dtype U16"},
};

TEST(refusals_name_the_tensor) {
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        copy k = copy_model(REALHEADS);
        written_tensor *w = tensor_of(&k, changes[i].name);
        if (changes[i].rename) {
            w->t.name = changes[i].rename;
        } else {
            w->t.dims = changes[i].dims;
            memcpy(w->t.shape, changes[i].shape, sizeof changes[i].shape);
            if (changes[i].dtype) w->t.dtype = changes[i].dtype;
        }
        CHECK_STATUS(load_copy(&k, false, 1, NULL), changes[i].st);
        CHECK_SENTENCE(changes[i].sentence);
        drop_copy(&k);
    }
}

static void check_scalar_is_one(opened o, shared s) {
    (void)o;
    CHECK(s.w->layer[0].scalar == 1 && s.w->layer[1].scalar != 1);
}

TEST(known_and_not_needed) {
    static const char *const spare[] = {"model.vision_tower.std_bias",
                                        "model.embed_vision.embedding_projection.weight",
                                        "model.audio_tower.output_proj.bias",
                                        "embed_audio.embedding_projection.weight", "vision_tower.anything"};
    for (size_t i = 0; i < sizeof spare / sizeof *spare; i++) {
        copy k = copy_model(REALHEADS);
        tensor_of(&k, LAYER0 "layer_scalar")->t.name = spare[i]; /* an absent layer_scalar is 1 */
        CHECK_STATUS(load_copy(&k, false, 1, check_scalar_is_one), ST_OK);
        drop_copy(&k);
    }
    /* A stored head of the embedding's shape: tied, so not needed. */
    copy k = copy_model(REALHEADS);
    k.tensors[k.count] = *tensor_of(&k, "model.language_model.embed_tokens.weight");
    k.tensors[k.count++].t.name = "lm_head.weight";
    CHECK_STATUS(load_copy(&k, false, 1, NULL), ST_OK);
    drop_copy(&k);
}

TEST(redundant_kv_of_shared_layers_may_be_absent) {
    copy k = copy_model("golden/e2b");
    size_t kept = 0;
    for (size_t i = 0; i < k.count; i++) {
        unsigned layer = 0;
        const char *name = k.tensors[i].t.name;
        bool of_kv = strstr(name, ".k_proj.") || strstr(name, ".v_proj.") || strstr(name, ".k_norm.");
        if (sscanf(name, "model.language_model.layers.%u.", &layer) == 1 && layer >= 7 && of_kv) continue;
        k.tensors[kept++] = k.tensors[i];
    }
    CHECK(k.count - kept == 24);
    k.count = kept;
    CHECK_STATUS(load_copy(&k, false, 1, NULL), ST_OK);
    drop_copy(&k);
}

TEST(text_only_names) {
    static const char *const prefixes[] = {"model.", "", "language_model.model.", "language_model."};
    for (int p = 0; p < 4; p++) {
        copy k = copy_model(REALHEADS);
        char(*names)[128] = memory_alloc_array(k.count, sizeof *names);
        for (size_t i = 0; i < k.count; i++) {
            snprintf(names[i], sizeof names[i], "%s%s", prefixes[p],
                     k.tensors[i].t.name + strlen("model.language_model."));
            k.tensors[i].t.name = names[i];
        }
        CHECK_STATUS(load_copy(&k, false, 1, NULL), ST_OK);
        free(names);
        drop_copy(&k);
    }
}

static void check_f16(opened o, shared s) {
    (void)o;
    CHECK(s.w->layer[0].q.type == WEIGHT_F16 && s.w->layer[0].k.type == WEIGHT_BF16);
    CHECK(((const uint16_t *)s.w->layer[0].q.data)[0] == 0x3C00);
    CHECK(s.w->layer[0].input_norm[0] == 1.0f && s.w->layer[0].input_norm[63] == 1.0f);
}

static void check_f16_as_f32(opened o, shared s) {
    (void)o;
    CHECK(s.w->layer[0].q.type == WEIGHT_F32 && s.w->layer[0].k.type == WEIGHT_F32);
    CHECK(((const float *)s.w->layer[0].q.data)[0] == 1.0f);
}

/* Dtypes may differ between tensors: halves stay halves, norms become singles. */
TEST(mixed_dtypes) {
    copy k = copy_model(REALHEADS);
    written_tensor *q = tensor_of(&k, LAYER0 "self_attn.q_proj.weight"),
                   *norm = tensor_of(&k, LAYER0 "input_layernorm.weight");
    uint16_t *halves = memory_alloc(q->t.bytes);
    for (uint64_t i = 0; i < q->t.bytes / 2; i++) halves[i] = 0x3C00;
    float ones[64];
    for (int i = 0; i < 64; i++) ones[i] = 1;
    q->t.dtype = "F16";
    q->data = halves;
    norm->t.dtype = "F32";
    norm->t.bytes = sizeof ones;
    norm->data = ones;
    CHECK_STATUS(load_copy(&k, false, 2, check_f16), ST_OK);
    CHECK_STATUS(load_copy(&k, true, 2, check_f16_as_f32), ST_OK);
    free(halves);
    drop_copy(&k);
}

/* The file shrinks between open and reading: the sentence of whichever thread saw it reaches the caller. */
TEST(a_failing_read_is_reported_from_any_thread) {
    copy k = copy_model(REALHEADS);
    writer_safetensors(&k.folder, "model.safetensors", k.tensors, k.count);
    opened o = open_model(k.folder.path);
    char *path = file_join(k.folder.path, "model.safetensors");
    CHECK(truncate(path, 16384) == 0);
    layout *l;
    CHECK_STATUS(layout_open(&l, o.config, &(layout_options){.ranks = 1, .group = 1}), ST_OK);
    for (uint32_t threads = 0; threads <= 200; threads = threads * 5 + 1) {
        model_weights *w = (void *)&w;
        CHECK_STATUS(model_weights_open(&w, o.c, o.config, l, &(model_weights_options){.threads = threads}),
                     ST_FORMAT);
        CHECK_SENTENCE("model.safetensors ends before byte");
        CHECK_SENTENCE("tensor model.language_model.");
        CHECK(w == NULL);
    }
    layout_close(l);
    free(path);
    close_model(o);
    drop_copy(&k);
}

/* ---- fp8 ---- */

/* Whole rows of this rank's columns, each with its own scale, wherever the pieces of loading were cut. */
static void check_fp8(const weight *fp8, const weight *f32, uint8_t *strips) {
    CHECK(fp8->type == WEIGHT_FP8 && f32->type == WEIGHT_F32);
    CHECK(fp8->rows == f32->rows && fp8->cols == f32->cols && !fp8->data == !f32->data);
    if (!f32->data) return;
    uint64_t bytes = weight_rows_bytes(WEIGHT_FP8, f32->rows, f32->cols);
    memset(strips, 0, bytes);
    for (uint32_t r = 0; r < f32->rows; r++)
        quant_store_floats(WEIGHT_FP8, strips, f32->cols, r, (const float *)f32->data + (size_t)r * f32->cols);
    CHECK_THAT(!memcmp(fp8->data, strips, bytes), "%u x %u", f32->rows, f32->cols);
}

TEST(fp8_of_what_is_stored) {
    static const char *const names[] = {"golden/dense-realheads", "golden/moe", "golden/e2b",
                                        "models/gguf/tiny-dense-q4_0.gguf"};
    static const layout_options layouts[] = {{1, 0, 1, 0, 0}, {2, 1, 1, 0, 0}};
    uint8_t *strips = memory_alloc(8 << 20);
    for (size_t m = 0; m < sizeof names / sizeof *names; m++)
        for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
            opened o = open_model(names[m]);
            shared as_f32 = load(o, layouts[i], true, 2), s = {NULL, NULL};
            CHECK_STATUS(layout_open(&s.l, o.config, &layouts[i]), ST_OK);
            model_weights_options fp8 = {.choice = WEIGHTS_FP8, .threads = 3, .piece_bytes = 3000};
            CHECK_STATUS(model_weights_open(&s.w, o.c, o.config, s.l, &fp8), ST_OK);
            if (!s.w) exit(1);
            CHECK(s.w->bytes_read == s.w->bytes_expected);
            CHECK(s.w->bytes == model_weights_plan_bytes(o.config, s.l, o.c, WEIGHT_BF16, WEIGHTS_FP8, false));
            check_fp8(&s.w->embed, &as_f32.w->embed, strips);
            for (uint32_t n = 0; n < o.config->layers; n++) {
                const layer_weights *a = &s.w->layer[n], *b = &as_f32.w->layer[n];
                check_fp8(&a->q, &b->q, strips);
                check_fp8(&a->o, &b->o, strips);
                check_fp8(&a->down, &b->down, strips);
                CHECK(a->router.type == WEIGHT_F32 || !a->router.data);
                for (uint32_t e = 0; o.config->experts && e < range_count(s.l->experts); e++) {
                    check_fp8(&a->expert[e].up, &b->expert[e].up, strips);
                    check_fp8(&a->expert[e].down, &b->expert[e].down, strips);
                }
            }
            unload(as_f32);
            unload(s);
            close_model(o);
        }
    free(strips);
}

int main(void) {
    RUN(every_rank_holds_what_is_stored);
    RUN(bytes_read_are_the_layouts_share);
    RUN(plans_of_published_sizes);
    RUN(refusals_name_the_tensor);
    RUN(known_and_not_needed);
    RUN(redundant_kv_of_shared_layers_may_be_absent);
    RUN(text_only_names);
    RUN(mixed_dtypes);
    RUN(a_failing_read_is_reported_from_any_thread);
    RUN(fp8_of_what_is_stored);
    return test_result();
}
