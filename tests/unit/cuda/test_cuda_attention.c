/* Attention on the GPU. Answers are held against softmax in double precision over the values that the cache holds, with bounds
 * from the arithmetic of the kernel that is meant; what no row may see is NaN, pages that none needs have no number, and every
 * sixteenth value is large, so that one key too many or too few shows. Rows alone, together and in other chunks must have equal
 * bits, and so must a recorded call. */
#include "tests/unit/cuda/attention_world.h"

/* [heads, dim] of a prepared query: always the same for a row. */
static void query_of(const world *w, uint32_t slot, uint32_t position, float *q) {
    uint64_t kept = random_state;
    random_state = (slot * 100003u + position + 1) * 0x9E3779B97F4A7C15u;
    for (uint32_t i = 0; i < w->s.heads * w->s.dim; i++) q[i] = 3.0f * random_float() / sqrtf((float)w->s.dim);
    random_state = kept;
}

static void put_queries(world *w, const part *parts, uint32_t count) {
    size_t row = (size_t)w->s.heads * w->s.dim, n = 0;
    float *q = memory_alloc_array(ROWS_MAX * row, sizeof *q);
    memset(q, 0xFF, ROWS_MAX * row * sizeof *q);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < parts[i].count; j++) query_of(w, parts[i].slot, parts[i].position + j, q + row * n++);
    cuda_put(&w->c, w->device_q, q, ROWS_MAX * row * sizeof *q);
    memset(q, 0xFF, ROWS_MAX * row * sizeof *q);
    cuda_put(&w->c, w->device_y, q, ROWS_MAX * row * sizeof *q);
    free(q);
}

/* y[ROWS_MAX, heads · dim]; the caller's to free. */
static float *take_answers(world *w) {
    size_t bytes = (size_t)ROWS_MAX * w->s.heads * w->s.dim * sizeof(float);
    float *y = memory_alloc(bytes);
    device_fetch(w->c.stream, y, w->device_y, bytes);
    return y;
}

static float *attend(world *w, const part *parts, uint32_t count) {
    begin_rows(w, parts, count);
    put_queries(w, parts, count);
    cuda_attention(&w->c.base, &w->l, w->device_q, w->device_y);
    return take_answers(w);
}

/* ---- what is right ---- */

/* Relative errors, as standard deviations of roundings, of one product of a score, and of a weight; and of sums. */
typedef struct arithmetic {
    double product, weight, sum;
} arithmetic;

static arithmetic arithmetic_of(const shape *s, uint32_t rows) {
    bool tensor = s->type != KV_F32 && (s->half_size ? s->dim == 512 && s->pairs == 64 : s->dim == 128 || s->dim == 256 || s->dim == 512);
    if (!tensor) return (arithmetic){0x1p-24, 0x1p-23, 0x1p-22};
    if (rows < ATTENTION_PREFILL_ROWS || s->invariant) return (arithmetic){0x1p-18, 0x1p-18, 0x1p-21};
    return (arithmetic){0x1p-10, 0x1p-10, 0x1p-21};
}

/* y[dim] of one row and head, and what it may be off by: a score by six deviations of its products' roundings and the rounding
 * of its sum, a weight by twice that of the worst score (once in itself, once in the sum) and its own rounding. */
static void exact(const world *w, uint32_t slot, uint32_t position, uint32_t head, const float *prepared, arithmetic a, double *y,
                  double *bound) {
    const shape *s = &w->s;
    uint32_t kv = (s->first_head + head) / s->heads_per_kv - s->first_kv;
    uint32_t from = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
    static double share[CONTEXT];
    double q[DIM_MAX], largest = -INFINITY, sum = 0, worst = 0;
    for (uint32_t d = 0; d < s->dim; d++) q[d] = prepared[head * s->dim + d];
    if (s->half_size) turn(s, q, position);
    for (uint32_t i = from; i <= position; i++) {
        const double *k = w->keys[slot] + ((size_t)kv * CONTEXT + i) * s->dim;
        double dot = 0, squares = 0, size = 0;
        for (uint32_t d = 0; d < s->dim; d++) dot += q[d] * k[d], squares += q[d] * k[d] * q[d] * k[d], size += fabs(q[d] * k[d]);
        share[i] = dot;
        worst = fmax(worst, 6 * a.product * sqrt(squares) + a.sum * size);
        largest = fmax(largest, dot);
    }
    for (uint32_t i = from; i <= position; i++) sum += share[i] = exp(share[i] - largest);
    for (uint32_t d = 0; d < s->dim; d++) y[d] = bound[d] = 0;
    for (uint32_t i = from; i <= position; i++) {
        const double *v = w->values[slot] + ((size_t)kv * CONTEXT + i) * s->dim;
        for (uint32_t d = 0; d < s->dim; d++) {
            y[d] += share[i] / sum * v[d];
            bound[d] += share[i] / sum * fabs(v[d]) * (2 * worst + 2 * a.weight + a.sum);
        }
    }
}

static double check_answers(world *w, const part *parts, uint32_t count, const float *y) {
    const shape *s = &w->s;
    double want[DIM_MAX], bound[DIM_MAX], nearest = 0;
    static float q[HEADS_MAX * DIM_MAX];
    uint32_t row = 0, wrong = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < parts[i].count; j++, row++) {
            query_of(w, parts[i].slot, parts[i].position + j, q);
            for (uint32_t h = 0; h < s->heads; h++) {
                exact(w, parts[i].slot, parts[i].position + j, h, q, arithmetic_of(s, parts[i].count), want, bound);
                const float *got = y + ((size_t)row * s->heads + h) * s->dim;
                for (uint32_t d = 0; d < s->dim; d++) {
                    double off = got[d] == want[d] ? 0 : fabs(got[d] - want[d]) / bound[d];
                    if (!(off <= 1) && !wrong++)
                        CHECK_THAT(off <= 1, "dim %u type %u half %u window %u: position %u row %u head %u element %u: %g not %g within %g",
                                   s->dim, s->type, s->half_size, s->window, parts[i].position + j, row, h, d, got[d], want[d], bound[d]);
                    nearest = fmax(nearest, off);
                }
            }
        }
    CHECK_THAT(wrong == 0, "%u elements", wrong);
    uint32_t pad = least(ROWS_MAX, row + row / 2 + 1);
    for (size_t i = (size_t)row * s->heads * s->dim; row < 64 && i < (size_t)pad * s->heads * s->dim; i++)
        if (y[i] != 0) {
            CHECK_THAT(y[i] == 0, "padded row: %g at %zu", y[i], i);
            break;
        }
    return nearest;
}

static void check_shape(const shape *s, const part *parts, uint32_t count) {
    static uint32_t shapes;
    if (TEST_SANITIZED && shapes++ % 3) return; /* a third of them, which still are of every kind */
    world *w = world_open(s, parts, count);
    float *y = attend(w, parts, count);
    check_answers(w, parts, count, y);
    free(y);
    world_close(w);
}

/* ---- tests ---- */

static const uint32_t depths[] = {0, 1, 63, 64, 65, 127, 255, 256, 511, 512, 1023, 1500};
enum { DEPTHS = sizeof depths / sizeof *depths };

static void check_decode(shape s) {
    part parts[DEPTHS + 1];
    for (uint32_t i = 0; i < DEPTHS; i++) parts[i] = (part){i % SLOTS, depths[i], 1};
    parts[DEPTHS] = (part){2, 700, 5};
    check_shape(&s, parts, DEPTHS + 1);
}

TEST(decode_float) {
    static const uint32_t dims[] = {16, 24, 64, 17};
    for (uint32_t i = 0; i < 4; i++)
        for (int type = 0; type < 3; type++) {
            shape s = {.dim = dims[i], .pairs = dims[i] / 2, .type = (kv_type)type, .heads = 4, .heads_per_kv = 2, .kv_heads = 2};
            s.window = i % 2 ? 100 : 0;
            check_decode(s);
            if (dims[i] % 8) continue;
            s.half_size = true;
            s.window = 0;
            s.pairs = dims[i] / 8;
            check_decode(s);
        }
}

TEST(decode_tensor) {
    static const uint32_t dims[] = {128, 256, 512};
    for (int type = KV_BF16; type <= KV_Q8; type++)
        for (uint32_t i = 0; i < 3; i++)
            for (int windowed = 0; windowed < 2; windowed++) {
                shape s = {.dim = dims[i], .pairs = dims[i] / 2, .type = (kv_type)type, .heads = 2, .heads_per_kv = 2, .kv_heads = 1};
                s.window = windowed ? 512 : 0;
                check_decode(s);
            }
}

/* GPUs with less shared memory than the tensor-core kernels of this width take. */
TEST(decode_little_memory) {
    shape s = {.dim = 512, .pairs = 256, .type = KV_BF16, .window = 100, .heads = 2, .heads_per_kv = 2, .kv_heads = 1};
    s.shared_bytes = 99 << 10;
    check_decode(s);
    s.pairs = 64;
    s.window = 0;
    s.half_size = true;
    check_decode(s);
}

TEST(decode_half_size) {
    for (int type = KV_BF16; type <= KV_Q8; type++)
        check_decode((shape){.dim = 512, .pairs = 64, .half_size = true, .type = (kv_type)type, .heads = 8, .heads_per_kv = 8,
                             .kv_heads = 1});
}

/* More splits than are merged at once, with and without a window. */
TEST(deep) {
    static const part parts[] = {{0, 5000, 1}, {1, 2111, 1}, {2, 2112, 2}, {3, 8190, 1}, {1, 4095, 1}};
    for (uint32_t i = 0; i < 6; i++) {
        shape s = {.dim = i % 3 == 0 ? 16 : i % 3 == 1 ? 128 : 512, .type = KV_BF16, .heads = 2, .heads_per_kv = 2, .kv_heads = 1};
        s.half_size = i == 5;
        s.pairs = s.half_size ? 64 : s.dim / 2;
        s.window = i < 2 ? 2100 : 0;
        check_shape(&s, parts, i % 3 == 2 ? 4 : 5);
    }
}

/* Rows in several launches, because a long context's partial sums are many. */
TEST(launches) {
    static const part parts[] = {{0, 300, 2}, {1, 280, 70}, {2, 0, 1}};
    check_shape(&(shape){.dim = 512, .pairs = 64, .half_size = true, .type = KV_BF16, .heads = 8, .heads_per_kv = 8, .kv_heads = 1,
                         .invariant = true, .is_long = true}, parts, 3);
}

/* Ranks' shares: heads of one KV head cut in two, more of them than a unit has, one of each. */
TEST(shares) {
    static const part parts[] = {{0, 130, 1}, {1, 70, 17}, {3, 3, 1}, {2, 200, 40}};
    static const shape shares[] = {{.heads = 5, .first_head = 3, .heads_per_kv = 4, .kv_heads = 2},
                                   {.heads = 16, .heads_per_kv = 16, .kv_heads = 1},
                                   {.heads = 11, .first_head = 18, .heads_per_kv = 16, .first_kv = 1, .kv_heads = 1},
                                   {.heads = 3, .first_head = 5, .heads_per_kv = 1, .first_kv = 5, .kv_heads = 3},
                                   {.heads = 9, .first_head = 12, .heads_per_kv = 8, .first_kv = 1, .kv_heads = 2}};
    for (uint32_t i = 0; i < 5; i++)
        for (int tensor = 0; tensor < 2; tensor++) {
            shape s = shares[i];
            s.dim = tensor ? 128 : 16;
            s.pairs = s.dim / 2;
            s.type = KV_BF16;
            check_shape(&s, parts, 4);
        }
}

TEST(prefill) {
    static const part parts[] = {{0, 0, 37}, {1, 700, 1}, {2, 250, 33}, {3, 63, 16}, {1, 95, 2}};
    static const uint32_t dims[] = {24, 128, 256, 512};
    for (int type = 0; type < 3; type++)
        for (uint32_t i = 0; i < 4; i++) {
            shape s = {.dim = dims[i], .pairs = dims[i] / 2, .type = (kv_type)type, .heads = 4, .heads_per_kv = 2, .kv_heads = 2};
            if (type == KV_F32 && i > 1) continue;
            s.window = (i + (uint32_t)type) % 2 ? 100 : 0;
            check_shape(&s, parts, 5);
        }
    for (int type = KV_BF16; type <= KV_Q8; type++) {
        shape s = {.dim = 512, .pairs = 64, .half_size = true, .type = (kv_type)type, .heads = 8, .heads_per_kv = 8, .kv_heads = 1};
        check_shape(&s, parts, 5);
    }
}

/* Products of warpgroups: as prefill; windows and spans that begin and end in the middle of pages and tiles, shares of heads, more
 * of them than a tile has, and what stays with the other kernel, which takes all of them elsewhere than on Hopper. */
TEST(prefill_wgmma) {
    static const part parts[] = {{0, 0, 37}, {1, 700, 1}, {2, 250, 65}, {3, 63, 16}, {1, 95, 2}};
    static const part deep[] = {{0, 0, 64}, {2, 1000, 81}, {1, 3, 1}};
    static const shape shapes[] = {{.dim = 256, .heads = 4, .heads_per_kv = 2, .kv_heads = 2},
                                   {.dim = 256, .window = 100, .heads = 4, .heads_per_kv = 2, .kv_heads = 2},
                                   {.dim = 256, .window = 100, .heads = 5, .first_head = 3, .heads_per_kv = 4, .kv_heads = 2},
                                   {.dim = 256, .type = KV_Q8, .heads = 2, .heads_per_kv = 2, .kv_heads = 1},
                                   {.dim = 512, .half_size = true, .heads = 8, .heads_per_kv = 8, .kv_heads = 1},
                                   {.dim = 512, .half_size = true, .heads = 16, .heads_per_kv = 16, .kv_heads = 1},
                                   {.dim = 512, .half_size = true, .heads = 3, .heads_per_kv = 8, .kv_heads = 1},
                                   {.dim = 256, .window = 512, .heads = 2, .heads_per_kv = 2, .kv_heads = 1}};
    OK(setenv("GEMMAD_WGMMA", "1", 1) ? cudaErrorUnknown : cudaSuccess);
    for (uint32_t i = 0; i < 8; i++) {
        shape s = shapes[i];
        s.pairs = s.half_size ? 64 : s.dim / 2;
        if (s.type != KV_Q8) s.type = KV_BF16;
        check_shape(&s, i < 6 ? parts : deep, i < 6 ? 5 : 3);
    }
    unsetenv("GEMMAD_WGMMA");
}

/* Row i of y and row j of z. */
static bool same_row(const world *w, const float *y, uint32_t i, const float *z, uint32_t j) {
    size_t row = (size_t)w->s.heads * w->s.dim;
    return !memcmp(y + i * row, z + j * row, row * sizeof *y);
}

/* A row's bits: alone, beside others, with more rows before it, and from a recording that was made for other rows. */
static void check_bits(shape s) {
    if (TEST_SANITIZED && s.dim > 256) return;
    static const part all[] = {{1, 600, 3}, {0, 1400, 1}, {2, 64, 1}, {3, 900, 1}, {2, 63, 1}};
    static const uint32_t first[] = {0, 3, 4, 5, 6};
    world *w = world_open(&s, all, 5);
    float *together = attend(w, all, 5);
    for (uint32_t i = 0; i < 5; i++) {
        float *alone = attend(w, &all[i], 1);
        for (uint32_t j = 0; j < all[i].count; j++) CHECK(same_row(w, together, first[i] + j, alone, j));
        free(alone);
    }
    cudaGraph_t graph;
    cudaGraphExec_t made;
    begin_rows(w, all + 2, 2);
    put_queries(w, all + 2, 2);
    OK(cudaStreamBeginCapture(w->c.stream, cudaStreamCaptureModeThreadLocal));
    cuda_attention(&w->c.base, &w->l, w->device_q, w->device_y);
    OK(cudaStreamEndCapture(w->c.stream, &graph));
    OK(cudaGraphInstantiate(&made, graph, 0));
    begin_rows(w, all + 1, 3);
    put_queries(w, all + 1, 3);
    OK(cudaGraphLaunch(made, w->c.stream));
    float *replayed = take_answers(w);
    for (uint32_t i = 0; i < 3; i++) CHECK(same_row(w, together, 3 + i, replayed, i));
    free(replayed);
    OK(cudaGraphExecDestroy(made));
    OK(cudaGraphDestroy(graph));
    free(together);
    world_close(w);
}

TEST(bits) {
    for (int type = 0; type < 3; type++) {
        check_bits((shape){.dim = 24, .pairs = 12, .type = (kv_type)type, .heads = 4, .heads_per_kv = 2, .kv_heads = 2});
        if (type == KV_F32) continue;
        check_bits((shape){.dim = 256, .pairs = 128, .type = (kv_type)type, .window = 512, .heads = 2, .heads_per_kv = 2, .kv_heads = 1});
        check_bits((shape){.dim = 512, .pairs = 64, .half_size = true, .type = (kv_type)type, .heads = 3, .heads_per_kv = 8,
                           .kv_heads = 1});
    }
}

/* With batch_invariant a prompt has the same bits in chunks of any size, and those of rows alone. */
TEST(chunks) {
    static const uint32_t chunks[] = {1, 7, 45};
    for (int tensor = 0; tensor < 2; tensor++) {
        shape s = {.dim = tensor ? 128 : 32, .pairs = 16, .type = KV_BF16, .heads = 2, .heads_per_kv = 2, .kv_heads = 1, .invariant = true};
        const part all = {2, 300, 90};
        world *w = world_open(&s, &all, 1);
        float *whole = attend(w, &all, 1);
        check_answers(w, &all, 1, whole);
        for (uint32_t c = 0; c < 3; c++)
            for (uint32_t at = 0; at < all.count; at += chunks[c]) {
                part some = {all.slot, all.position + at, least(chunks[c], all.count - at)};
                float *y = attend(w, &some, 1);
                for (uint32_t j = 0; j < some.count; j++) CHECK(same_row(w, whole, at + j, y, j));
                free(y);
            }
        free(whole);
        world_close(w);
    }
}

int main(void) {
    device_needed();
    RUN(decode_float);
    RUN(decode_tensor);
    RUN(decode_little_memory);
    RUN(decode_half_size);
    RUN(deep);
    RUN(launches);
    RUN(shares);
    RUN(prefill);
    RUN(prefill_wgmma);
    RUN(bits);
    RUN(chunks);
    return test_result();
}
