#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "shard/model/weights_parts.h"

enum { NAME_MAX_BYTES = 128 };

/* Published multimodal files use the first; the others are what text-only exports and older writers leave of
 * it. */
static const char *const prefixes[] = {"model.language_model.", "language_model.model.", "language_model.",
                                       "model.", ""};

static void name_of(const weight_plan *p, const weight_entry *e, uint32_t layer, char name[NAME_MAX_BYTES]) {
    if (layer == UINT32_MAX) snprintf(name, NAME_MAX_BYTES, "%s%s", p->prefix, e->name);
    else snprintf(name, NAME_MAX_BYTES, "%slayers.%u.%s", p->prefix, layer, e->name);
}

const tensor *weight_plan_find(const weight_plan *plan, const weight_entry *e, uint32_t layer) {
    char name[NAME_MAX_BYTES];
    name_of(plan, e, layer, name);
    return checkpoint_find(plan->checkpoint, name);
}

void weight_plan_find_prefix(weight_plan *p) {
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        p->prefix = prefixes[i];
        if (weight_plan_find(p, &weight_model_entries[0], UINT32_MAX)) return;
    }
    p->prefix = prefixes[0]; /* so that what is missing is named as published */
}

static void shape_text(const uint64_t *shape, uint32_t dims, strbuf *out) {
    strbuf_add_string(out, "[");
    for (uint32_t i = 0; i < dims && i < 4; i++)
        strbuf_add_format(out, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
    strbuf_add_string(out, dims > 4 ? ", …]" : "]");
}

static status check_tensor(const weight_plan *p, const tensor *t, const uint64_t *shape, uint32_t dims) {
    const char *file = checkpoint_file_name(p->checkpoint, t->file);
    if (t->dims != dims || memcmp(t->shape, shape, dims * sizeof *shape) != 0) {
        strbuf found = {0}, expected = {0};
        shape_text(t->shape, t->dims, &found);
        shape_text(shape, dims, &expected);
        status st = fail(ST_FORMAT, "%s: tensor %s has shape %s, expected by config.json is %s", file,
                         t->name, strbuf_text(&found), strbuf_text(&expected));
        strbuf_close(&found);
        strbuf_close(&expected);
        return st;
    }
    if (t->type == TENSOR_OTHER)
        return fail(ST_UNSUPPORTED,
                    "%s: tensor %s has dtype %s, expected is BF16, F16 or F32, or in a GGUF file Q4_0, Q4_1, "
                    "Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K",
                    file, t->name, t->dtype);
    return ST_OK;
}

static void mark_used(weight_plan *p, const tensor *t) {
    p->used[t - checkpoint_tensor(p->checkpoint, 0)] = true;
}

static weight_part *add_part(weight_plan *p, const tensor *t, weight_type type) {
    if (p->count == p->capacity) {
        p->capacity = p->capacity ? p->capacity * 2 : 256;
        p->parts = memory_grow(p->parts, (size_t)p->capacity * sizeof *p->parts);
    }
    weight_part *part = &p->parts[p->count++];
    *part = (weight_part){.source = t, .type = type, .slice = {.outer_end = 1}};
    return part;
}

weight_type weights_stored_type(const checkpoint *c) {
    /* The embedding stands for the matrices: published checkpoints store them alike. Of a quantised file one
     * matrix that is in blocks is enough. */
    weight_type type = WEIGHT_BF16;
    for (uint32_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const tensor *t = checkpoint_tensor(c, i);
        if (t->type == TENSOR_OTHER) continue;
        if (tensor_is_blocks(t->type)) return WEIGHT_Q8;
        if (strstr(t->name, "embed_tokens.weight")) type = weights_type_in_memory(WEIGHTS_AUTO, t->type, 0);
    }
    return type;
}

/* Rows and columns of plane `outer` go to *matrix. A matrix that came out empty stays without data. */
static void add_matrix(weight_plan *p, const tensor *t, weights_choice choice, uint64_t outer, range rows,
                       range cols, weight *matrix) {
    weight_type type = weights_type_in_memory(choice, t->type, cols.begin);
    *matrix = (weight){.rows = range_count(rows), .cols = range_count(cols), .type = type};
    if (matrix->rows == 0 || matrix->cols == 0) return;
    weight_part *part = add_part(p, t, type);
    part->slice = (tensor_slice){outer, outer + 1, rows.begin, rows.end, cols.begin, cols.end};
    part->matrix = matrix;
}

static void add_split_matrix(weight_plan *p, const weight_entry *e, const tensor *t, weights_choice choice,
                             uint32_t layer, weight *matrix) {
    range rows, cols;
    weight_entry_share(e, p->config, p->layout, layer, &rows, &cols);
    add_matrix(p, t, choice, 0, rows, cols, matrix);
}

static void add_experts(weight_plan *p, const weight_entry *e, const tensor *t, weights_choice choice,
                        expert_weights *experts) {
    range width = p->layout->expert_width, hidden = {0, p->config->hidden};
    range up_rows = {width.begin + p->config->expert_width, width.end + p->config->expert_width};
    for (uint32_t i = 0; i < range_count(p->layout->experts); i++) {
        uint64_t outer = p->layout->experts.begin + i;
        if (e->split == SPLIT_EXPERT_DOWN) {
            add_matrix(p, t, choice, outer, hidden, width, &experts[i].down);
        } else {
            add_matrix(p, t, choice, outer, width, hidden, &experts[i].gate);
            add_matrix(p, t, choice, outer, up_rows, hidden, &experts[i].up);
        }
    }
}

/* With auto, blocks that have no kernel of their own are held as q8: said once, since it costs memory. */
static void count_conversion(weight_plan *p, const weight_entry *e, const tensor *t) {
    bool matrix = e->form == FORM_MATRIX || e->form == FORM_EXPERTS;
    if (!matrix || p->choice != WEIGHTS_AUTO || !tensor_is_blocks(t->type)) return;
    if (t->type == TENSOR_Q4_0 || t->type == TENSOR_Q8_0) return;
    p->converted[t->type]++;
    p->converted_name[t->type] = t->dtype;
}

static void log_conversions(const weight_plan *p) {
    for (int type = 0; type < TENSOR_TYPES; type++)
        if (p->converted[type] > 0)
            log_info("%s: %u tensors of type %s are held as q8%s", p->config->directory, p->converted[type],
                     p->converted_name[type],
                     weights_keep_values((tensor_type)type) ? ", with the same values" : "");
}

/* A table that is looked up. The host leaves it in the mapped file, as it is stored; a device holds it whole, and its
 * operators look up floats alone. */
static void add_table(weight_plan *p, const tensor *t, weight *table) {
    *table = (weight){.rows = (uint32_t)t->shape[0], .cols = (uint32_t)t->shape[1]};
    table->type = weights_table_type(t->type, p->on_device);
    if (!p->on_device) {
        if (table->type == WEIGHT_BLOCKS) table->blocks = tensor_block_format(t->type);
        return;
    }
    weight_part *part = add_part(p, t, table->type);
    part->slice.row_end = table->rows;
    part->slice.col_end = table->cols;
    part->matrix = table;
}

/* base is the layer_weights, or the model_weights, that the entry's place counts from. */
static status add_entry(weight_plan *p, const weight_entry *e, uint32_t layer, char *base) {
    uint32_t in_layer = layer == UINT32_MAX ? 0 : layer;
    const tensor *t = weight_plan_find(p, e, layer);
    weight_need need = weight_entry_need(e, p->config, in_layer);
    if (need == NEED_NONE || (need != NEED_YES && !t)) return ST_OK;
    char name[NAME_MAX_BYTES];
    name_of(p, e, layer, name);
    if (!t)
        return fail(ST_NOT_FOUND, "%s: tensor %s is missing from the checkpoint", p->config->directory, name);
    if (need == NEED_KNOWN) return ST_OK;
    uint64_t shape[3];
    uint32_t dims = weight_entry_shape(e, p->config, in_layer, shape);
    TRY(check_tensor(p, t, shape, dims));
    mark_used(p, t);
    count_conversion(p, e, t);
    void *place = base + e->place;
    switch (e->form) {
    case FORM_VECTOR:
    case FORM_SCALAR: {
        weight_part *part = add_part(p, t, WEIGHT_F32);
        part->slice.row_end = 1;
        part->slice.col_end = shape[0];
        if (e->form == FORM_VECTOR) part->vector = place;
        else part->scalar = place;
        break;
    }
    case FORM_MATRIX: add_split_matrix(p, e, t, p->choice, in_layer, place); break;
    case FORM_MATRIX_F32: add_split_matrix(p, e, t, WEIGHTS_F32, in_layer, place); break;
    case FORM_EXPERTS: add_experts(p, e, t, p->choice, *(expert_weights **)place); break;
    case FORM_ROWS:
        if (weights_need_rows(p->choice, t->type)) add_table(p, t, place);
        break;
    case FORM_MAPPED: add_table(p, t, place); break;
    }
    return ST_OK;
}

static bool begins_with(const char *text, const char *start) { return !strncmp(text, start, strlen(start)); }

typedef enum spare {
    SPARE_VISION,
    SPARE_AUDIO,
    SPARE_SHARED_KV,
    SPARE_HEAD,
    SPARE_KINDS,
    SPARE_UNKNOWN
} spare;

static const char *const spare_names[SPARE_KINDS] = {
    "the vision tower and its projection",
    "the audio tower and its projection",
    "keys and values of layers that share another layer's",
    "an output head that the embedding is tied to",
};

/* "…layers.N.NAME" where NAME is known and layer N does not need it. */
static bool is_known_of_layer(const weight_plan *p, const char *name) {
    size_t n = strlen(p->prefix);
    if (strncmp(name, p->prefix, n) != 0 || !begins_with(name + n, "layers.")) return false;
    unsigned long layer = strtoul(name + n + 7, NULL, 10);
    if (layer >= p->config->layers) return false;
    for (uint32_t i = 0; i < weight_layer_entry_count; i++) {
        const weight_entry *e = &weight_layer_entries[i];
        char known[NAME_MAX_BYTES];
        name_of(p, e, (uint32_t)layer, known);
        if (!strcmp(name, known)) return weight_entry_need(e, p->config, (uint32_t)layer) == NEED_KNOWN;
    }
    return false;
}

static spare spare_kind(const weight_plan *p, const tensor *t) {
    const char *name = begins_with(t->name, "model.") ? t->name + 6 : t->name;
    if (begins_with(name, "vision_tower.") || begins_with(name, "embed_vision.")) return SPARE_VISION;
    if (begins_with(name, "audio_tower.") || begins_with(name, "embed_audio.")) return SPARE_AUDIO;
    if (is_known_of_layer(p, t->name)) return SPARE_SHARED_KV;
    const char *head = begins_with(name, "language_model.") ? name + 15 : name;
    if (!strcmp(head, "lm_head.weight")) return SPARE_HEAD;
    return SPARE_UNKNOWN;
}

/* Whatever no entry took is known by kind and counted in the log, or refused: a tensor that we do not
 * understand may be one that the model needs. */
static status name_the_rest(const weight_plan *p) {
    uint32_t counts[SPARE_KINDS] = {0};
    const uint64_t head_shape[2] = {p->config->vocab, p->config->hidden};
    for (uint32_t i = 0; i < checkpoint_tensor_count(p->checkpoint); i++) {
        if (p->used[i]) continue;
        const tensor *t = checkpoint_tensor(p->checkpoint, i);
        spare kind = spare_kind(p, t);
        if (kind == SPARE_UNKNOWN)
            return fail(ST_FORMAT,
                        "%s: tensor %s is unknown: this model, as config.json describes it, has none of "
                        "that name",
                        checkpoint_file_name(p->checkpoint, t->file), t->name);
        if (kind == SPARE_HEAD) TRY(check_tensor(p, t, head_shape, 2));
        counts[kind]++;
    }
    if (p->layout->rank != 0) return ST_OK; /* one rank's word is enough */
    log_conversions(p);
    for (int kind = 0; kind < SPARE_KINDS; kind++)
        if (counts[kind] > 0)
            log_info("%s: %u tensors are known and not needed: %s", p->config->directory, counts[kind],
                     spare_names[kind]);
    return ST_OK;
}

status weight_plan_make(weight_plan *p) {
    weight_plan_find_prefix(p);
    p->used = memory_alloc_array(checkpoint_tensor_count(p->checkpoint), sizeof *p->used);
    for (uint32_t i = 0; i < weight_model_entry_count; i++)
        TRY(add_entry(p, &weight_model_entries[i], UINT32_MAX, (char *)p->weights));
    for (uint32_t l = 0; l < p->config->layers; l++)
        for (uint32_t i = 0; i < weight_layer_entry_count; i++)
            TRY(add_entry(p, &weight_layer_entries[i], l, (char *)&p->weights->layer[l]));
    return name_the_rest(p);
}

void weight_plan_release(weight_plan *p) {
    free(p->used);
    free(p->parts);
}
