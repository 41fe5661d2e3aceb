/* From what a machine can do to what a model can. */
#include "base/invariant.h"
#include "shard/bench/doctor.h"

static uint64_t matrix_bytes(weight_type type, uint64_t rows, uint32_t cols) {
    return weight_rows_bytes(type, rows, cols);
}

typedef struct counted {
    uint64_t bytes, read, macs; /* in memory; read for a token; multiplied for a prompt token */
} counted;

static void add(counted *c, weight_type type, uint64_t rows, uint32_t cols) {
    c->bytes += matrix_bytes(type, rows, cols);
    c->read += matrix_bytes(type, rows, cols);
    c->macs += rows * cols;
}

static void add_experts(counted *c, weight_type type, const model_config *m) {
    uint64_t one =
        2 * matrix_bytes(type, m->expert_width, m->hidden) + matrix_bytes(type, m->hidden, m->expert_width);
    c->bytes += one * m->experts;
    c->read += one * m->experts_active;
    c->macs += 3 * (uint64_t)m->expert_width * m->hidden * m->experts_active;
    add(c, WEIGHT_F32, m->experts, m->hidden); /* the router */
}

static counted count(const model_config *m, weight_type type) {
    counted c = {0};
    for (uint32_t i = 0; i < m->layers; i++) {
        const layer_config *l = &m->layer[i];
        uint32_t q = m->heads * l->head_dim, kv = l->kv_heads * l->head_dim;
        add(&c, type, q, m->hidden);
        if (l->owns_kv) add(&c, type, (uint64_t)kv * (l->k_eq_v ? 1 : 2), m->hidden);
        add(&c, type, m->hidden, q);
        add(&c, type, 2 * (uint64_t)l->mlp_width, m->hidden);
        add(&c, type, m->hidden, l->mlp_width);
        if (m->experts) add_experts(&c, type, m);
        if (m->ple_width) {
            add(&c, type, m->ple_width, m->hidden);
            add(&c, type, m->hidden, m->ple_width);
            add(&c, type, m->ple_width, m->hidden); /* this layer's part of the context projection */
        }
    }
    uint64_t prompt_macs = c.macs;
    add(&c, type, m->vocab, m->hidden);
    c.macs = prompt_macs; /* only the last row of a prompt meets the head */
    return c;
}

static double type_gmac(const doctor_findings *f, weight_type type) {
    switch (type) {
    case WEIGHT_F32: return f->gmac_per_s[0];
    case WEIGHT_Q8: return f->gmac_per_s[2];
    case WEIGHT_Q4: return f->gmac_per_s[3];
    case WEIGHT_FP8: return f->gmac_per_s[4];
    default: return f->gmac_per_s[1];
    }
}

double doctor_token_gmac(const model_config *config) {
    return (double)count(config, WEIGHT_BF16).macs / 1e9;
}

void doctor_expect(doctor_outlook *out, const model_config *m, weight_type type, const doctor_findings *f) {
    enum { OPERATORS_OF_A_LAYER = 10 };
    counted c = count(m, type);
    double best = 0, sum_us = f->sum_us[m->hidden > 4000 ? 1 : 0];
    for (uint32_t i = 0; i < f->step_count; i++)
        if (f->read[i].gb_per_s > best) best = f->read[i].gb_per_s;
    INVARIANT(best > 0 && type_gmac(f, type) > 0);
    double read_s = (double)c.read / best / 1e9;
    double wait_s = m->layers * (2 * sum_us + OPERATORS_OF_A_LAYER * f->hand_out_us) / 1e6;
    double multiply_s = (double)c.macs / type_gmac(f, type) / 1e9;
    *out = (doctor_outlook){.weight_bytes = c.bytes,
                            .token_bytes = c.read,
                            .token_gmac = (double)c.macs / 1e9,
                            .decode_tokens_per_s = 1 / (read_s + wait_s),
                            .prefill_tokens_per_s = 1 / multiply_s};
}
