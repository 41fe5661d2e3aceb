/* Routing and experts of the GPU back end against double precision, with bounds that follow from how activations are
 * rounded; and that a token has the bits it has alone wherever that is promised. */
#include "tests/unit/cuda/cuda_kernels.h"
#include "tests/unit/cuda/stand_in.h"

static uint32_t row_count;
static uint32_t *row_count_device;

static void rows_there(uint32_t n) {
    row_count = n;
    OK(cudaStreamSynchronize(gpu.stream));
    OK(cudaMemcpy(row_count_device, &row_count, sizeof row_count, cudaMemcpyHostToDevice));
    OK(cudaDeviceSynchronize());
    gpu.rows.count = row_count_device;
}

/* ---- routing ---- */

/* What the CPU has: kernels/cpu/cpu_moe.c. */
static void route_reference(const moe_layer *m, const float *scale, const float *router, const float *per_expert,
                            const float *h, double *p, uint32_t *ids, float *weights) {
    float *x = malloc(m->hidden * 4), *logit = malloc(m->experts * 4);
    ref_rmsnorm(x, h, NULL, m->eps, m->hidden);
    ref_multiply(x, scale, m->hidden);
    ref_scale(x, 1.0f / sqrtf((float)m->hidden), m->hidden);
    double most = -INFINITY, total = 0, sum = 0;
    for (uint32_t e = 0; e < m->experts; e++) {
        double d = 0;
        for (uint32_t i = 0; i < m->hidden; i++) d += (double)x[i] * router[(size_t)e * m->hidden + i];
        logit[e] = (float)d;
        most = fmax(most, d);
    }
    for (uint32_t e = 0; e < m->experts; e++) total += p[e] = exp(logit[e] - most);
    for (uint32_t e = 0; e < m->experts; e++) p[e] /= total;
    for (uint32_t k = 0; k < m->active; k++) {
        uint32_t best = m->experts;
        for (uint32_t e = 0; e < m->experts; e++) {
            bool taken = false;
            for (uint32_t j = 0; j < k; j++) taken |= ids[j] == e;
            if (!taken && (best == m->experts || p[e] > p[best])) best = e;
        }
        ids[k] = best;
        sum += p[best];
    }
    for (uint32_t k = 0; k < m->active; k++) weights[k] = (float)(p[ids[k]] / sum * per_expert[ids[k]]);
    free(x), free(logit);
}

static void check_route(uint32_t experts, uint32_t active, uint32_t hidden, uint32_t n, uint32_t there) {
    float *scale = random_floats(hidden), *router = random_floats((size_t)experts * hidden), *per = random_floats(experts);
    float *h = random_floats((size_t)n * hidden), *weights = malloc((size_t)n * active * 4), one_weight[64], want_weight[64];
    uint32_t *ids = malloc((size_t)n * active * 4), one_id[64], want_id[64];
    double *p = malloc(experts * sizeof *p);
    for (uint32_t i = 0; i < experts * hidden; i++) router[i] *= 4;
    /* Experts 1 and experts - 1 tie with expert 0, and are often among the best. */
    for (uint32_t e = 1; e < experts; e += experts - 2 ? experts - 2 : 1)
        memcpy(router + (size_t)e * hidden, router, hidden * 4);
    float *ds = device_of(scale, hidden * 4), *dr = device_of(router, (size_t)experts * hidden * 4);
    float *dp = device_of(per, experts * 4), *dh = device_of(h, (size_t)n * hidden * 4);
    float *dw = device_of(NULL, (size_t)n * active * 4);
    uint32_t *di = device_of(NULL, (size_t)n * active * 4);
    moe_layer m = {.router_scale = ds, .per_expert_scale = dp, .router = {dr, experts, hidden, WEIGHT_F32, 0},
                   .experts = experts, .active = active, .hidden = hidden, .eps = 1e-6f};
    gpu.options = (cuda_backend_options){.rows_max = n, .hidden = hidden, .experts = experts, .active_max = active};
    CHECK_STATUS(cuda_moe_open(&gpu), ST_OK);
    rows_there(there);
    cuda_route(&gpu.base, &m, dh, n, di, dw);
    fetch(ids, di, (size_t)n * active * 4);
    fetch(weights, dw, (size_t)n * active * 4);
    uint32_t wrong = 0;
    for (uint32_t r = 0; r < n; r++) {
        const uint32_t *id = ids + (size_t)r * active;
        const float *w = weights + (size_t)r * active;
        if (r >= there) {
            for (uint32_t k = 0; k < active; k++) wrong += id[k] != UINT32_MAX || w[k] != 0;
            continue;
        }
        route_reference(&m, scale, router, per, h + (size_t)r * hidden, p, want_id, want_weight);
        for (uint32_t k = 0; k < active; k++) {
            if (id[k] >= experts) {
                wrong++;
                continue;
            }
            /* Within rounding, the k-th best; exact ties by lowest id. */
            wrong += fabs(p[id[k]] - p[want_id[k]]) > 4e-6 * p[want_id[k]];
            wrong += p[id[k]] == p[want_id[k]] && id[k] != want_id[k];
            float sure = per[id[k]] / per[want_id[k]] * want_weight[k];
            wrong += !(fabsf(w[k] - sure) <= 2e-5f * fabsf(sure));
            for (uint32_t j = 0; j < k; j++) wrong += id[j] == id[k];
        }
    }
    CHECK_THAT(wrong == 0, "%u of %u experts, hidden %u, %u rows: %u wrong", active, experts, hidden, n, wrong);
    for (uint32_t r = 0; r < there; r += 7) { /* alone: the same bits */
        rows_there(1);
        float *row = device_of(h + (size_t)r * hidden, hidden * 4);
        cuda_route(&gpu.base, &m, row, 1, di, dw);
        fetch(one_id, di, active * 4);
        fetch(one_weight, dw, active * 4);
        CHECK(memcmp(one_id, ids + (size_t)r * active, active * 4) == 0);
        CHECK(memcmp(one_weight, weights + (size_t)r * active, active * 4) == 0);
        device_free(row);
    }
    CHECK(gpu.failed == ST_OK);
    cuda_moe_close(&gpu);
    free(scale), free(router), free(per), free(h), free(weights), free(ids), free(p);
    device_free(ds), device_free(dr), device_free(dp), device_free(dh), device_free(dw), device_free(di);
}

TEST(routing) {
    check_route(4, 2, 24, 3, 3);
    check_route(5, 1, 7, 2, 1);
    check_route(16, 4, 130, 20, 17);
    check_route(128, 8, 260, 1, 1);
    check_route(128, 8, 260, 40, 40);
    check_route(130, 8, 64, 17, 16);
    check_route(33, 2, 6000, 17, 17); /* tiles of two rows */
}

/* ---- experts ---- */

typedef struct layer {
    uint32_t experts, active, hidden, width, own_begin, own_count;
    weight_type in, down;
    bool scattered; /* matrices do not lie at one distance */
} layer;

typedef struct made_layer {
    moe_layer m;
    expert_weights *parts;
    stored *gate, *up, *down;
    uint8_t *memory; /* device */
} made_layer;

static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

static made_layer layer_make(const layer *l) {
    uint32_t own = l->own_count;
    made_layer made = {.parts = calloc(own + 1, sizeof *made.parts), .gate = calloc(own + 1, sizeof(stored)),
                       .up = calloc(own + 1, sizeof(stored)), .down = calloc(own + 1, sizeof(stored))};
    size_t in = padded(weight_rows_bytes(l->in, l->width, l->hidden)), down = padded(weight_rows_bytes(l->down, l->hidden, l->width));
    size_t each = 2 * in + down;
    uint8_t *host = calloc(own + 2, each + 64);
    for (uint32_t e = 0; e < own; e++) {
        made.gate[e] = stored_random(l->in, l->width, l->hidden);
        made.up[e] = stored_random(l->in, l->width, l->hidden);
        made.down[e] = stored_random(l->down, l->hidden, l->width);
        size_t at = e * each + (l->scattered ? e / 2 * 64 : 0);
        memcpy(host + at, made.gate[e].host, made.gate[e].bytes);
        memcpy(host + at + in, made.up[e].host, made.up[e].bytes);
        memcpy(host + at + 2 * in, made.down[e].host, made.down[e].bytes);
    }
    made.memory = device_of(host, (own + 2) * (each + 64));
    for (uint32_t e = 0; e < own; e++) {
        uint8_t *at = made.memory + e * each + (l->scattered ? e / 2 * 64 : 0);
        made.parts[e] = (expert_weights){{at, l->width, l->hidden, l->in, 0},
                                         {at + in, l->width, l->hidden, l->in, 0},
                                         {at + 2 * in, l->hidden, l->width, l->down, 0}};
    }
    made.m = (moe_layer){.expert = made.parts, .experts = l->experts, .active = l->active, .hidden = l->hidden,
                         .own_begin = l->own_begin, .own_count = own, .width = l->width, .eps = 1e-6f};
    free(host);
    return made;
}
static void layer_free(made_layer *made) {
    for (uint32_t e = 0; e < made->m.own_count; e++)
        stored_free(&made->gate[e]), stored_free(&made->up[e]), stored_free(&made->down[e]);
    free(made->gate), free(made->up), free(made->down), free(made->parts);
    device_free(made->memory);
}

/* How a call's tokens choose: any experts, all the same ones, none of this rank's. */
typedef enum choice { CHOICE_ANY, CHOICE_SAME, CHOICE_FOREIGN } choice;

static void choose(const layer *l, choice how, uint32_t n, uint32_t *ids, float *weights) {
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t k = 0; k < l->active; k++) {
            uint32_t *row = ids + (size_t)r * l->active, e = how == CHOICE_SAME ? l->experts - 1 - k : random_word() % l->experts;
            bool again = true;
            while (again) {
                again = false;
                for (uint32_t j = 0; j < k; j++) again |= row[j] == e;
                if (again) e = (e + 1) % l->experts;
            }
            row[k] = e;
            weights[(size_t)r * l->active + k] = random_float();
            if (how == CHOICE_FOREIGN && e >= l->own_begin && e < l->own_begin + l->own_count) row[k] = UINT32_MAX;
            if (r % 11 == 9) { /* a padded row */
                row[k] = UINT32_MAX;
                weights[(size_t)r * l->active + k] = 0;
            }
        }
}

/* A row's answer, and what its rounding errors are in proportion to. */
static void experts_double(const made_layer *made, const float *x, const uint32_t *ids, const float *weights, double *y,
                           double *size) {
    const moe_layer *m = &made->m;
    double *act = malloc((m->width + 1) * sizeof *act), *act_size = malloc((m->width + 1) * sizeof *act_size);
    for (uint32_t i = 0; i < m->hidden; i++) y[i] = size[i] = 0;
    for (uint32_t k = 0; k < m->active; k++) {
        uint32_t e = ids[k] - m->own_begin;
        if (e >= m->own_count) continue;
        for (uint32_t r = 0; r < m->width; r++) {
            double g = 0, u = 0, g_size = 0, u_size = 0;
            const float *gate = made->gate[e].value + (size_t)r * m->hidden, *up = made->up[e].value + (size_t)r * m->hidden;
            for (uint32_t i = 0; i < m->hidden; i++) {
                g += (double)gate[i] * x[i], u += (double)up[i] * x[i];
                g_size += fabs((double)gate[i] * x[i]), u_size += fabs((double)up[i] * x[i]);
            }
            act[r] = gelu_double(g) * u;
            act_size[r] = 1.2 * g_size * fabs(u) + fabs(gelu_double(g)) * u_size + fabs(act[r]);
        }
        for (uint32_t i = 0; i < m->hidden; i++) {
            const float *down = made->down[e].value + (size_t)i * m->width;
            for (uint32_t r = 0; r < m->width; r++) {
                y[i] += weights[k] * down[r] * act[r];
                size[i] += fabs(weights[k] * down[r]) * act_size[r];
            }
        }
    }
    free(act), free(act_size);
}

/* Activations of two bf16 are within 2^-17, of one within 2^-9, and then so are weights that are not bf16; twice over,
 * for both products. Float sums add a little. */
static double bound_of(const layer *l, uint32_t n, bool batch_invariant) {
    bool tensor = l->in != WEIGHT_F32 && l->in != WEIGHT_F16, many = n > 16 && !batch_invariant && n * l->active > 8 * l->experts;
    return !tensor ? 0x1p-21 : many ? 0x1p-7 : 0x1p-15;
}

static void check_experts(const layer *l, const made_layer *made, uint32_t n, choice how, bool batch_invariant) {
    size_t pairs = (size_t)n * l->active, elements = (size_t)n * l->hidden;
    gpu.options = (cuda_backend_options){.rows_max = n, .hidden = l->hidden, .experts = l->experts, .active_max = l->active,
                                         .expert_width = l->width, .own_experts = l->own_count,
                                         .batch_invariant = batch_invariant};
    CHECK_STATUS(cuda_moe_open(&gpu), ST_OK);
    float *x = random_floats(elements), *weights = malloc(pairs * 4), *y = malloc(elements * 4), *alone = malloc(l->hidden * 4);
    uint32_t *ids = malloc(pairs * 4);
    choose(l, how, n, ids, weights);
    float *dx = device_of(x, elements * 4), *dw = device_of(weights, pairs * 4), *dy = device_of(NULL, elements * 4);
    uint32_t *di = device_of(ids, pairs * 4);
    cuda_experts(&gpu.base, &made->m, dx, n, di, dw, dy);
    fetch(y, dy, elements * 4);
    double *want = malloc(l->hidden * sizeof *want), *size = malloc(l->hidden * sizeof *size), worst = 0;
    uint32_t step = n < 20 ? 1 : n / 10, differ = 0;
    for (uint32_t r = 0; r < n; r++) {
        bool looked = r % step == 0 || r + 1 == n;
        for (uint32_t i = 0; !looked && i < l->hidden; i++) worst = worse(worst, y[(size_t)r * l->hidden + i] * 0.0);
        if (!looked) continue;
        experts_double(made, x + (size_t)r * l->hidden, ids + (size_t)r * l->active, weights + (size_t)r * l->active, want, size);
        for (uint32_t i = 0; i < l->hidden; i++) {
            double error = fabs(y[(size_t)r * l->hidden + i] - want[i]);
            worst = worse(worst, size[i] > 0 ? error / size[i] : error > 0 ? INFINITY : 0);
        }
        if (n > 16 && !batch_invariant) continue;
        OK(cudaMemset(dy, 0xFF, l->hidden * 4));
        OK(cudaDeviceSynchronize());
        float *row = device_of(x + (size_t)r * l->hidden, l->hidden * 4);
        cuda_experts(&gpu.base, &made->m, row, 1, di + (size_t)r * l->active, dw + (size_t)r * l->active, dy);
        fetch(alone, dy, l->hidden * 4);
        differ += memcmp(alone, y + (size_t)r * l->hidden, l->hidden * 4) != 0;
        device_free(row);
    }
    double bound = bound_of(l, n, batch_invariant);
    CHECK_THAT(worst <= bound && differ == 0 && gpu.failed == ST_OK,
               "types %d %d, %u of %u experts, own %u+%u, hidden %u width %u, n %u, choice %d%s: %g of %g, %u rows differ, %s",
               (int)l->in, (int)l->down, l->active, l->experts, l->own_begin, l->own_count, l->hidden, l->width, n, (int)how,
               batch_invariant ? ", invariant" : "", worst, bound, differ, gpu.failure);
    cuda_moe_close(&gpu);
    free(x), free(weights), free(y), free(alone), free(ids), free(want), free(size);
    device_free(dx), device_free(dw), device_free(dy), device_free(di);
}

static void check_layer(layer l, const uint32_t *ns, size_t count) {
    made_layer made = layer_make(&l);
    for (size_t i = 0; i < count; i += TEST_SANITIZED ? 3 : 1) {
        check_experts(&l, &made, ns[i], CHOICE_ANY, false);
        if (ns[i] > 16) check_experts(&l, &made, ns[i], CHOICE_ANY, true);
    }
    layer_free(&made);
}

TEST(types) {
    const uint32_t ns[] = {1, 2, 8, 16, 17, 40, 130};
    for (int t = 0; t < STORED_TYPES; t++) {
        weight_type type = stored_types[t];
        bool plain = type == WEIGHT_F32 || type == WEIGHT_F16;
        check_layer((layer){5, 2, 64, 24, 0, 5, type, type, false}, ns, sizeof ns / sizeof *ns);
        check_layer((layer){7, 3, 200, 88, 1, 5, type, type, true}, ns, plain ? 5 : 6);
    }
}

/* Widths and shares around every tile, few experts of a rank, types that differ between in and out. */
TEST(shapes) {
    const uint32_t ns[] = {1, 9, 33, 130};
    check_layer((layer){4, 2, 20, 20, 0, 4, WEIGHT_BF16, WEIGHT_BF16, false}, ns, 4); /* plain: 20 is no multiple of 8 */
    check_layer((layer){4, 2, 64, 20, 0, 4, WEIGHT_BF16, WEIGHT_BF16, false}, ns, 4); /* gate and up by tiles, down plain */
    check_layer((layer){4, 2, 64, 20, 2, 2, WEIGHT_BF16, WEIGHT_Q8, false}, ns, 4);
    check_layer((layer){4, 4, 132, 1, 0, 4, WEIGHT_Q4, WEIGHT_Q4, false}, ns, 4);
    check_layer((layer){16, 8, 128, 64, 3, 1, WEIGHT_Q4, WEIGHT_Q8, false}, ns, 4);
    check_layer((layer){6, 2, 30, 17, 0, 6, WEIGHT_FP8, WEIGHT_FP8, false}, ns, 4); /* rows of x are not aligned */
    check_layer((layer){6, 2, 260, 65, 0, 3, WEIGHT_FP8, WEIGHT_BF16, true}, ns, 2);
    check_layer((layer){6, 2, 136, 136, 5, 1, WEIGHT_BF16, WEIGHT_BF16, false}, ns, 4);
    check_layer((layer){40, 8, 72, 16, 1, 39, WEIGHT_BF16, WEIGHT_BF16, false}, ns, 3);
    check_layer((layer){40, 20, 64, 16, 0, 40, WEIGHT_BF16, WEIGHT_BF16, false}, ns, 2); /* more pairs than `few` takes */
}

TEST(choices) {
    const layer l = {6, 2, 64, 40, 1, 4, WEIGHT_BF16, WEIGHT_BF16, false};
    const uint32_t ns[] = {1, 16, 17, 40, 200};
    made_layer made = layer_make(&l);
    for (size_t i = 0; i < sizeof ns / sizeof *ns; i += TEST_SANITIZED ? 2 : 1)
        for (int invariant = 0; invariant < (TEST_SANITIZED ? 1 : 2); invariant++) {
            check_experts(&l, &made, ns[i], CHOICE_SAME, invariant);
            check_experts(&l, &made, ns[i], CHOICE_FOREIGN, invariant);
        }
    layer_free(&made);
    check_layer((layer){6, 2, 64, 40, 2, 0, WEIGHT_BF16, WEIGHT_BF16, false}, ns, 3);
    check_layer((layer){6, 2, 64, 0, 0, 6, WEIGHT_BF16, WEIGHT_BF16, false}, ns, 3);
}

/* The sizes of a model, in fewer experts: too slow for a simulator. */
TEST(full_size) {
#ifndef GEMMAD_CUDA_SIM
    if (getenv("GEMMAD_TEST_SMALL")) return;
    const uint32_t ns[] = {1, 2, 4, 5, 16, 100, 600};
    for (int t = 0; t < STORED_TYPES; t++)
        check_layer((layer){16, 8, 2816, 704, 0, 16, stored_types[t], stored_types[t], false}, ns, t ? 7 : 3);
    check_route(128, 8, 2816, 1, 1);
    check_route(128, 8, 2816, 100, 99);
#endif
}

int main(void) {
    gpu_open();
    stand_in_fill = 0xFF;
    row_count_device = device_of(NULL, sizeof row_count);
    RUN(routing);
    RUN(types);
    RUN(shapes);
    RUN(choices);
    RUN(full_size);
    return test_result();
}
