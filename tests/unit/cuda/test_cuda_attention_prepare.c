/* What comes before attention on the GPU: queries and keys are normed and turned, keys and values go into the cache, and all of it has
 * the bits of the CPU's kernels. */
#include "tests/unit/cuda/attention_world.h"

static void prepare_head(const world *w, float *x, const float *norm, uint32_t position, bool turns) {
    static float cosine[DIM_MAX / 2], sine[DIM_MAX / 2];
    rope_angles(cosine, sine, position, BASE, w->s.dim, w->s.pairs);
    ref_rmsnorm(x, x, norm, w->l.eps, w->s.dim);
    if (turns) ref_rope(x, cosine, sine, w->s.dim / 2, w->s.pairs);
}

static void want_cached(world *w, uint32_t slot, uint32_t position, uint32_t head, float *k, float *v) {
    unsigned char *rows = kv_head_page(&w->host, w->pages[slot][position / 64], head);
    prepare_head(w, k, w->s.half_size ? NULL : w->k_norm, position, !w->s.half_size);
    store(&w->s, rows, position % 64, k);
    if (w->s.half_size) return;
    ref_rmsnorm(v, v, NULL, w->l.eps, w->s.dim);
    store(&w->s, rows + kv_rows_bytes(w->s.type, w->s.dim), position % 64, v);
}

static void check_prepare(shape s, bool owns_kv) {
    static const part parts[] = {{0, 62, 4}, {3, 1000, 1}, {1, 0, 20}, {2, 127, 1}};
    const uint32_t rows = 26, n = 30, dim = s.dim, half = dim / 2;
    world *w = world_open(&s, parts, 4);
    size_t q_row = (size_t)s.heads * dim, k_row = (size_t)s.kv_heads * dim;
    float *q = memory_alloc_array(n * q_row, sizeof *q), *k = memory_alloc_array(n * k_row, sizeof *k),
          *v = memory_alloc_array(n * k_row, sizeof *v), *got = memory_alloc_array(n * q_row, sizeof *q);
    for (size_t i = 0; i < n * q_row; i++) q[i] = random_float();
    for (size_t i = 0; i < n * k_row; i++) k[i] = random_float(), v[i] = random_float();
    memset(k + 5 * k_row, 0, dim * sizeof *k); /* a row of zeros: quantised without dividing by them */
    float *device_q = device_of(q, n * q_row * sizeof *q), *device_k = device_of(k, n * k_row * sizeof *k),
          *device_v = device_of(v, n * k_row * sizeof *v);
    CHECK(begin_rows(w, parts, 4) == rows);
    cuda_attention_prepare(&w->c.base, &w->l, device_q, owns_kv ? device_k : NULL, device_v);
    for (uint32_t i = 0, row = 0; i < 4; i++)
        for (uint32_t j = 0; j < parts[i].count; j++, row++) {
            uint32_t position = parts[i].position + j;
            for (uint32_t h = 0; h < s.heads; h++) {
                float *x = q + row * q_row + h * dim;
                prepare_head(w, x, w->q_norm, position, !s.half_size);
                for (uint32_t d = 0; s.half_size && d < half; d++)
                    if (d >= s.pairs) x[d] *= w->k_norm[d], x[d + half] *= w->k_norm[d + half];
            }
            for (uint32_t h = 0; owns_kv && h < s.kv_heads; h++)
                want_cached(w, parts[i].slot, position, h, k + row * k_row + h * dim, v + row * k_row + h * dim);
        }
    unsigned char *pool = memory_alloc(w->pool_bytes);
    device_fetch(w->c.stream, pool, w->l.kv.base, w->pool_bytes);
    device_fetch(w->c.stream, got, device_q, n * q_row * sizeof *q);
    CHECK(!memcmp(pool, w->pool, w->pool_bytes)); /* what is not written, too */
    CHECK(!memcmp(got, q, rows * q_row * sizeof *q));
    device_free(device_q), device_free(device_k), device_free(device_v);
    free(pool), free(q), free(k), free(v), free(got);
    world_close(w);
}

TEST(prepare) {
    static const uint32_t dims[] = {16, 24, 36, 128, 256, 512};
    for (uint32_t i = 0; i < 6; i++)
        for (int type = 0; type < 3; type++)
            for (int half_size = 0; half_size < 2; half_size++) {
                shape s = {.dim = dims[i], .type = (kv_type)type, .half_size = half_size, .heads = 5, .heads_per_kv = 2, .kv_heads = 3};
                s.pairs = half_size ? dims[i] / 8 : dims[i] / 2;
                check_prepare(s, type != 1 || half_size);
            }
    check_prepare((shape){.dim = 64, .pairs = 32, .type = KV_BF16, .heads = 3, .heads_per_kv = 1, .kv_heads = 3}, true);
}

int main(void) {
    device_needed();
    RUN(prepare);
    return test_result();
}
