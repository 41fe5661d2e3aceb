/* Row operators of the GPU back end: what has no sum has the CPU's bits, norms are as exact as a float32 tree. */
#include "shard/kernels/cpu/cpu_kernels.h"
#include "tests/unit/cuda/cuda_kernels.h"
#include "tests/unit/cuda/stand_in.h"

TEST(angles) {
    const struct { double base; uint32_t head_dim, pairs; } ropes[] = {{1e4, 256, 128}, {1e6, 512, 64}, {1e4, 6, 3}, {5e5, 128, 65}};
    const uint32_t positions[] = {0, 1, 63, 64, 4095, 16000, 131071, 262143, random_word() % 262144};
    enum { N = sizeof positions / sizeof *positions };
    uint32_t *device = device_of(positions, sizeof positions);
    for (size_t r = 0; r < sizeof ropes / sizeof *ropes; r++)
        for (int stepped = 0; stepped < 2; stepped++) {
            uint32_t pairs = ropes[r].pairs, wrong = 0;
            float *cosine = malloc(N * pairs * 4), *sine = malloc(N * pairs * 4), c[256], s[256];
            float *dc = device_of(NULL, N * pairs * 4), *ds = device_of(NULL, N * pairs * 4);
            cuda_rope_angles(gpu.stream, dc, ds, stepped ? NULL : device, N, 64, ropes[r].base, ropes[r].head_dim, pairs);
            fetch(cosine, dc, N * pairs * 4);
            fetch(sine, ds, N * pairs * 4);
            for (uint32_t i = 0; i < N; i++) {
                rope_angles(c, s, stepped ? i * 64 : positions[i], ropes[r].base, ropes[r].head_dim, pairs);
                for (uint32_t k = 0; k < pairs; k++)
                    wrong += !same_bits(c[k], cosine[i * pairs + k]) || !same_bits(s[k], sine[i * pairs + k]);
            }
            CHECK_THAT(wrong == 0, "base %g: %u of %u", ropes[r].base, wrong, N * pairs);
            free(cosine), free(sine);
            device_free(dc), device_free(ds);
        }
    device_free(device);
}

TEST(pages) {
    enum { SLOTS = 3, PER_SLOT = 40, N = 700 };
    static uint32_t want[PAGE_TABLES][SLOTS * PER_SLOT], got[SLOTS * PER_SLOT];
    static page_change changes[N];
    uint32_t *tables[PAGE_TABLES];
    memset(want, 0, sizeof want);
    for (int t = 0; t < PAGE_TABLES; t++) tables[t] = device_of(want[t], sizeof want[t]);
    for (uint32_t i = 0; i < N; i++) { /* many entries come more than once: the last one counts */
        page_change p = {random_word() % PAGE_TABLES, random_word() % SLOTS, random_word() % PER_SLOT, random_word()};
        changes[i] = p;
        want[p.table][p.slot * PER_SLOT + p.index] = p.page;
    }
    page_change *device = device_of(changes, sizeof changes);
    cuda_pages_set(gpu.stream, tables, PER_SLOT, device, N);
    cuda_pages_set(gpu.stream, tables, PER_SLOT, device, 0);
    for (int t = 0; t < PAGE_TABLES; t++) {
        fetch(got, tables[t], sizeof got);
        CHECK(memcmp(got, want[t], sizeof got) == 0);
        device_free(tables[t]);
    }
    device_free(device);
}

TEST(embed) {
    enum { ROWS = 37, FIRST = 1000 };
    const uint32_t tokens[] = {1000, 1036, 999, 1017, 0, 1037, 1016, 1015};
    enum { N = sizeof tokens / sizeof *tokens };
    const uint32_t widths[] = {4, 20, 31, 96, 1100};
    uint32_t *device = device_of(tokens, sizeof tokens);
    gpu.rows.token = device;
    for (int t = 0; t < STORED_TYPES; t++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            uint32_t cols = widths[i], wrong = 0;
            stored s = stored_random(stored_types[t], ROWS, cols);
            void *data = device_of(s.host, s.bytes);
            weight w = {data, ROWS, cols, s.type, 0};
            float *y = malloc(N * cols * 4), *dy = device_of(NULL, N * cols * 4);
            cuda_embed(&gpu.base, dy, &w, FIRST, N, 53.0f);
            fetch(y, dy, N * cols * 4);
            for (uint32_t k = 0; k < N; k++)
                for (uint32_t c = 0; c < cols; c++) {
                    uint32_t row = tokens[k] - FIRST;
                    wrong += !same_bits(y[k * cols + c], row < ROWS ? s.value[row * cols + c] * 53.0f : 0.0f);
                }
            CHECK_THAT(wrong == 0, "type %d cols %u: %u", (int)s.type, cols, wrong);
            free(y), stored_free(&s);
            device_free(dy), device_free(data);
        }
    device_free(device);
}

TEST(moves) {
    const uint32_t dims[] = {1, 7, 64, 1025, 2052};
    const uint32_t index[] = {4, 0, 4, 2};
    uint32_t *device = device_of(index, sizeof index);
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        uint32_t dim = dims[d], wrong = 0;
        float *x = random_floats(5 * dim), *y = malloc(4 * dim * 4);
        float *dx = device_of(x, 5 * dim * 4), *dy = device_of(NULL, 4 * dim * 4);
        cuda_gather(&gpu.base, dy, dx, device, 4, dim);
        fetch(y, dy, 4 * dim * 4);
        for (uint32_t i = 0; i < 4 * dim; i++) wrong += !same_bits(y[i], x[index[i / dim] * dim + i % dim]);
        CHECK_THAT(wrong == 0, "gather dim %u: %u", dim, wrong);
        for (uint32_t blocks = 1; blocks <= 5; blocks += 2) {
            cuda_sum_blocks(&gpu.base, dy, dx, blocks, dim);
            fetch(y, dy, dim * 4);
            for (uint32_t i = 0; i < dim; i++) {
                float sum = x[i];
                for (uint32_t b = 1; b < blocks; b++) sum += x[b * dim + i];
                wrong += !same_bits(y[i], sum);
            }
            CHECK_THAT(wrong == 0, "sum of %u, %u: %u", blocks, dim, wrong);
        }
        free(x), free(y);
        device_free(dx), device_free(dy);
    }
    device_free(device);
}

TEST(activations) {
    const struct { uint32_t dim, gate_stride, up_stride; } shapes[] = {
        {1, 1, 1}, {30, 31, 33}, {64, 64, 128}, {1028, 1032, 2056}, {1029, 1029, 1030}};
    enum { N = 3 };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        uint32_t dim = shapes[i].dim, gs = shapes[i].gate_stride, us = shapes[i].up_stride, wrong = 0;
        float *gate = random_floats(N * gs), *up = random_floats(N * us), *got = malloc(N * gs * 4);
        for (uint32_t k = 0; k < N * gs; k++) gate[k] *= 12;
        float *dg = device_of(gate, N * gs * 4), *du = device_of(up, N * us * 4);
        cuda_gelu_multiply(&gpu.base, dg, gs, du, us, N, dim);
        fetch(got, dg, N * gs * 4);
        for (uint32_t r = 0; r < N; r++) ref_gelu_multiply(gate + r * gs, gate + r * gs, up + r * us, dim);
        for (uint32_t k = 0; k < N * gs; k++) wrong += !same_bits(gate[k], got[k]); /* what lies between rows as well */
        CHECK_THAT(wrong == 0, "gelu %u: %u", dim, wrong);
        for (uint32_t k = 0; k < N * gs; k++) gate[k] = 40 * random_float() * random_float();
        OK(cudaMemcpy(dg, gate, N * gs * 4, cudaMemcpyHostToDevice));
        OK(cudaDeviceSynchronize());
        cuda_softcap(&gpu.base, dg, 30.0f, N, gs);
        fetch(got, dg, N * gs * 4);
        ref_softcap(gate, 30.0f, N * gs);
        for (uint32_t k = 0; k < N * gs; k++) wrong += !same_bits(gate[k], got[k]);
        CHECK_THAT(wrong == 0, "softcap %u: %u", gs, wrong);
        free(gate), free(up), free(got);
        device_free(dg), device_free(du);
    }
}

/* x · 1/rms · w in double. */
static void norm_double(double *y, const double *x, const float *w, double eps, uint32_t dim) {
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) sum += x[i] * x[i];
    double factor = 1 / sqrt(sum / dim + eps);
    for (uint32_t i = 0; i < dim; i++) y[i] = x[i] * factor * (w ? w[i] : 1);
}

/* Squares are added in chains of at most 64 a thread and two butterflies of 5; half of that sum's error is the root's. */
static const double norm_bound = (0.5 * (64 + 10) + 8) * FLT_EPSILON / 2;

TEST(norms) {
    const uint32_t dims[] = {1, 3, 4, 20, 64, 130, 256, 2816, 5376, 8192, 8200};
    enum { N = 3 };
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (int with = 0; with < 4; with++) {
            uint32_t dim = dims[d];
            float *x = random_floats(N * dim), *h = random_floats(N * dim), *w = random_floats(dim), *next = random_floats(dim);
            float *got = malloc(N * dim * 4), *alone = malloc(dim * 4), scale = with & 1 ? 0.75f : 1.0f;
            float *dx = device_of(x, N * dim * 4), *dh = device_of(h, N * dim * 4), *dw = device_of(w, dim * 4);
            float *dn = device_of(next, dim * 4), *dy = device_of(NULL, N * dim * 4);
            double *want = malloc(dim * sizeof *want), *sum = malloc(dim * sizeof *sum), worst = 0;
            const float *weights = with & 1 ? w : NULL;
            cuda_norm(&gpu.base, dy, dx, weights ? dw : NULL, 1e-6f, N, dim);
            fetch(got, dy, N * dim * 4);
            for (uint32_t r = 0; r < N; r++) {
                for (uint32_t i = 0; i < dim; i++) sum[i] = x[r * dim + i];
                norm_double(want, sum, weights, 1e-6f, dim);
                for (uint32_t i = 0; i < dim; i++) worst = worse(worst, fabs(got[r * dim + i] - want[i]) / (fabs(want[i]) + 1e-30));
            }
            CHECK_THAT(worst <= norm_bound, "norm dim %u: %g of %g", dim, worst, norm_bound);
            OK(cudaMemset(dy, 0xFF, dim * 4));
            OK(cudaDeviceSynchronize());
            cuda_norm(&gpu.base, dy, dx + 2 * dim, weights ? dw : NULL, 1e-6f, 1, dim);
            fetch(alone, dy, dim * 4);
            /* An unaligned row takes another way, with sums of its own. */
            if (dim % 2 == 0) CHECK_THAT(memcmp(alone, got + 2 * dim, dim * 4) == 0, "norm dim %u alone", dim);

            bool follows = with & 2;
            cuda_add_norm(&gpu.base, dh, dx, dw, 1e-6f, scale, follows ? dy : NULL, follows ? dn : NULL, N, dim);
            fetch(got, dh, N * dim * 4);
            double worst_h = 0, worst_y = 0, *h_row = malloc(dim * sizeof *h_row);
            float *y = malloc(N * dim * 4);
            fetch(y, dy, N * dim * 4);
            for (uint32_t r = 0; r < N; r++) {
                for (uint32_t i = 0; i < dim; i++) sum[i] = x[r * dim + i];
                norm_double(want, sum, w, 1e-6f, dim);
                for (uint32_t i = 0; i < dim; i++) {
                    double exact = (h[r * dim + i] + want[i]) * scale;
                    worst_h = worse(worst_h, fabs(got[r * dim + i] - exact) /
                                                (fabs(h[r * dim + i]) + fabs(want[i]) + fabs(exact) + 1e-30));
                    h_row[i] = got[r * dim + i]; /* the second norm is of h as it was rounded */
                }
                norm_double(want, h_row, next, 1e-6f, dim);
                for (uint32_t i = 0; i < dim; i++) worst_y = worse(worst_y, fabs(y[r * dim + i] - want[i]) / (fabs(want[i]) + 1e-30));
            }
            CHECK_THAT(worst_h <= norm_bound, "add_norm dim %u: h %g of %g", dim, worst_h, norm_bound);
            if (follows) CHECK_THAT(worst_y <= norm_bound, "add_norm dim %u: y %g of %g", dim, worst_y, norm_bound);
            free(x), free(h), free(w), free(next), free(got), free(alone), free(want), free(sum), free(h_row), free(y);
            device_free(dx), device_free(dh), device_free(dw), device_free(dn), device_free(dy);
        }
}

/* One kernel, or three: the same bits. */
TEST(mixture_has_the_bits_of_its_parts) {
    static const uint32_t dims[] = {4, 20, 21, 64, 130, 1028, 2816, 6144, 6148, 8192, 8196};
    enum { N = 3 };
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (int follows = 0; follows < 2; follows++) {
            uint32_t dim = dims[d], bytes = N * dim * 4;
            float *host[8], *device[8], *one = malloc(bytes), *three = malloc(bytes);
            for (int i = 0; i < 8; i++) {
                host[i] = random_floats(N * dim);
                device[i] = device_of(host[i], bytes);
            }
            float *h = device[0], *dense = device[1], *y = device[6];
            const mixture_norms w = {device[3], device[4], device[5]};
            cuda_add_mixture(&gpu.base, h, dense, device[2], &w, 1e-6f, 0.75f, follows ? y : NULL, device[7], N, dim);
            fetch(one, follows ? y : h, bytes);
            OK(cudaMemcpy(h, host[0], bytes, cudaMemcpyHostToDevice));
            OK(cudaMemcpy(dense, host[1], bytes, cudaMemcpyHostToDevice));
            cuda_norm(&gpu.base, dense, dense, w.dense, 1e-6f, N, dim);
            cuda_add_norm(&gpu.base, dense, device[2], w.experts, 1e-6f, 1.0f, NULL, NULL, N, dim);
            cuda_add_norm(&gpu.base, h, dense, w.sum, 1e-6f, 0.75f, follows ? y : NULL, device[7], N, dim);
            fetch(three, follows ? y : h, bytes);
            CHECK_THAT(!memcmp(one, three, bytes), "add_mixture dim %u", dim);
            for (int i = 0; i < 8; i++) free(host[i]), device_free(device[i]);
            free(one), free(three);
        }
}

TEST(per_layer_embeddings) {
    const struct { uint32_t width, layers; } shapes[] = {{256, 3}, {20, 5}, {8, 1}};
    const uint32_t tokens[] = {3, 0, 18};
    enum { N = 3, ROWS = 19 };
    uint32_t *device = device_of(tokens, sizeof tokens);
    gpu.rows.token = device;
    for (int t = 0; t < STORED_TYPES; t++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            uint32_t width = shapes[k].width, cols = width * shapes[k].layers;
            stored s = stored_random(stored_types[t], ROWS, cols);
            void *data = device_of(s.host, s.bytes);
            weight w = {data, ROWS, cols, s.type, 0};
            float *ple = random_floats(N * cols), *norm = random_floats(width), *got = malloc(N * cols * 4);
            float *dp = device_of(ple, N * cols * 4), *dn = device_of(norm, width * 4);
            cuda_ple_mix(&gpu.base, dp, &w, dn, 1e-6f, 0.125f, 16.0f, width, N);
            fetch(got, dp, N * cols * 4);
            double slice[256], want[256], worst = 0;
            for (uint32_t r = 0; r < N; r++)
                for (uint32_t at = 0; at < cols; at += width) {
                    for (uint32_t i = 0; i < width; i++) slice[i] = ple[r * cols + at + i] * 0.125;
                    norm_double(want, slice, norm, 1e-6f, width);
                    for (uint32_t i = 0; i < width; i++) {
                        double identity = s.value[tokens[r] * cols + at + i] * 16.0;
                        double exact = (want[i] + identity) * sqrt(0.5);
                        worst = worse(worst, fabs(got[r * cols + at + i] - exact) / (fabs(want[i]) + fabs(identity) + 1e-30));
                    }
                }
            CHECK_THAT(worst <= norm_bound, "type %d width %u: %g of %g", (int)s.type, width, worst, norm_bound);
            free(ple), free(norm), free(got), stored_free(&s);
            device_free(dp), device_free(dn), device_free(data);
        }
    device_free(device);
}

int main(void) {
    gpu_open();
    stand_in_fill = 0xFF;
    RUN(angles);
    RUN(pages);
    RUN(embed);
    RUN(moves);
    RUN(activations);
    RUN(norms);
    RUN(mixture_has_the_bits_of_its_parts);
    RUN(per_layer_embeddings);
    return test_result();
}
