#include <unistd.h>

#include "base/memory.h"
#include "shard/loader/checkpoint.h"
#include "tests/gguf_writer.h"
#include "tests/test.h"

#define FILE_NAME "tiny-moe-q4_k_m.gguf"
#define IN_LAYER "model.language_model.layers.0."

static checkpoint *open_bundled(void) {
    checkpoint *c = NULL;
    CHECK_STATUS(checkpoint_open(&c, TEST_DATA "/models/gguf/" FILE_NAME), ST_OK);
    if (!c) exit(1);
    return c;
}

TEST(tensors_have_published_names_and_shapes) {
    checkpoint *c = open_bundled();
    static const struct {
        const char *name, *dtype;
        uint32_t dims;
        uint64_t shape[3];
    } some[] = {
        {"model.language_model.embed_tokens.weight", "Q6_K", 2, {1280, 256, 0}},
        {"model.language_model.norm.weight", "F32", 1, {256, 0, 0}},
        {IN_LAYER "self_attn.q_proj.weight", "Q4_K", 2, {256, 256, 0}},
        {IN_LAYER "experts.gate_up_proj", "Q4_K", 3, {8, 64, 256}},
        {IN_LAYER "experts.down_proj", "Q5_0", 3, {8, 256, 32}},
        {IN_LAYER "router.per_expert_scale", "F32", 1, {8, 0, 0}},
        {IN_LAYER "layer_scalar", "F32", 1, {1, 0, 0}},
        {"model.language_model.layers.3.self_attn.k_proj.weight", "Q8_0", 2, {256, 256, 0}},
    };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const tensor *t = checkpoint_find(c, some[i].name);
        CHECK_THAT(t && !strcmp(t->dtype, some[i].dtype) && t->dims == some[i].dims &&
                       !memcmp(t->shape, some[i].shape, some[i].dims * sizeof *t->shape),
                   "%s", some[i].name);
    }
    CHECK(checkpoint_tensor_count(c) == 88); /* rope_freqs.weight is the configuration's */
    CHECK(!checkpoint_find(c, "rope_freqs.weight"));
    CHECK(!strcmp(checkpoint_file_name(c, 0), FILE_NAME));
    checkpoint_close(c);
}

static uint64_t planes(const tensor *t) { return t->dims == 3 ? t->shape[0] : 1; }
static uint64_t rows(const tensor *t) { return t->shape[t->dims - 2]; }
static uint64_t cols(const tensor *t) { return t->shape[t->dims - 1]; }

/* One slice of floats against the whole tensor's, and what was counted. */
static void check_floats(checkpoint *c, const tensor *t, const float *whole, tensor_slice s) {
    uint64_t n = (s.outer_end - s.outer_begin) * (s.row_end - s.row_begin) * (s.col_end - s.col_begin),
             wrong = 0, i = 0;
    float *got = memory_alloc(n * sizeof *got);
    uint64_t before = checkpoint_bytes_read(c);
    CHECK_STATUS(checkpoint_read_slice(c, t, &s, TENSOR_F32, got), ST_OK);
    uint64_t runs = (s.outer_end - s.outer_begin) * (s.row_end - s.row_begin);
    CHECK(checkpoint_bytes_read(c) - before == runs * tensor_column_bytes(t->type, s.col_begin, s.col_end));
    for (uint64_t o = s.outer_begin; o < s.outer_end; o++)
        for (uint64_t r = s.row_begin; r < s.row_end; r++)
            for (uint64_t k = s.col_begin; k < s.col_end; k++, i++)
                wrong += memcmp(&got[i], &whole[(o * rows(t) + r) * cols(t) + k], sizeof *got) != 0;
    CHECK_THAT(wrong == 0, "%s: %llu values, columns %llu to %llu", t->name, (unsigned long long)wrong,
               (unsigned long long)s.col_begin, (unsigned long long)s.col_end);
    free(got);
}

static void check_raw(checkpoint *c, const tensor *t, const uint8_t *whole, uint64_t begin, uint64_t end) {
    uint64_t row = tensor_row_bytes(t->type, cols(t)), part = tensor_column_bytes(t->type, begin, end);
    uint64_t skip = tensor_column_bytes(t->type, 0, begin), all = planes(t) * rows(t);
    uint8_t *got = memory_alloc(all * part);
    tensor_slice s = {0, planes(t), 0, rows(t), begin, end};
    CHECK_STATUS(checkpoint_read_slice(c, t, &s, t->type, got), ST_OK);
    for (uint64_t r = 0; r < all; r++) CHECK(!memcmp(got + r * part, whole + r * row + skip, part));
    free(got);
}

static void check_tensor(checkpoint *c, const tensor *t) {
    const void *mapped;
    CHECK_STATUS(checkpoint_map(c, t, &mapped), ST_OK);
    uint64_t n = planes(t) * rows(t) * cols(t), step = block_elements(tensor_block_format(t->type));
    CHECK(t->bytes == planes(t) * rows(t) * tensor_row_bytes(t->type, cols(t)));
    float *whole = memory_alloc(n * sizeof *whole);
    block_dequantise(tensor_block_format(t->type), mapped, whole, n);
    const uint64_t bounds[] = {0, 1, step - 1, step, step + 1, cols(t) / 2, cols(t) - 1, cols(t)};
    for (size_t a = 0; a < 8; a++)
        for (size_t b = 0; b < 8; b++) {
            uint64_t begin = bounds[a], end = bounds[b];
            if (begin >= end || end > cols(t)) continue;
            check_floats(c, t, whole, (tensor_slice){0, planes(t), 0, rows(t), begin, end});
            check_floats(c, t, whole, (tensor_slice){planes(t) - 1, planes(t), 3, 17, begin, end});
            if (begin % step == 0 && (end % step == 0 || end == cols(t))) check_raw(c, t, mapped, begin, end);
        }
    free(whole);
}

TEST(any_slice_of_blocks_is_exact) {
    checkpoint *c = open_bundled();
    uint32_t seen = 0;
    for (uint32_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const tensor *t = checkpoint_tensor(c, i);
        bool small = t->dims == 3 || !TEST_SANITIZED;
        if (tensor_is_blocks(t->type) && small)
            check_tensor(c, t), seen |= 1u << tensor_block_format(t->type);
    }
    CHECK(TEST_SANITIZED || seen == (1u << BLOCK_Q4_K | 1u << BLOCK_Q5_0 | 1u << BLOCK_Q5_K |
                                     1u << BLOCK_Q6_K | 1u << BLOCK_Q8_0));
    checkpoint_close(c);
}

static status open_made(gguf_writer *w, uint64_t data, checkpoint **out) {
    char path[] = "/tmp/gemmad-gguf-XXXXXX";
    strbuf file = gguf_finish(w, data);
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, file.data, file.size) == (ssize_t)file.size);
    strbuf_close(&file);
    close(fd);
    status st = checkpoint_open(out, path);
    unlink(path);
    return st;
}

TEST(other_names_and_types) {
    gguf_writer w = {0};
    checkpoint *c = NULL;
    const uint64_t shape[] = {256, 1};
    gguf_put_tensor(&w, "blk.01.attn_q.weight", 0, 1, shape, 0);
    gguf_put_tensor(&w, "blk.1.attn_q.bias", 10, 2, shape, 1024);
    gguf_put_tensor(&w, "output.weight", 2, 2, shape, 1120);
    CHECK_STATUS(open_made(&w, 2048, &c), ST_OK);
    CHECK(c && checkpoint_find(c, "blk.01.attn_q.weight") && checkpoint_find(c, "output.weight"));
    const tensor *t = c ? checkpoint_find(c, "blk.1.attn_q.bias") : NULL;
    CHECK(t && t->type == TENSOR_OTHER && !strcmp(t->dtype, "Q2_K"));
    checkpoint_close(c);
    gguf_put_tensor(&w, "output_norm.weight", 0, 1, shape, 0);
    gguf_put_tensor(&w, "model.language_model.norm.weight", 0, 1, shape, 1024);
    CHECK_STATUS(open_made(&w, 2048, &c), ST_FORMAT);
    CHECK_SENTENCE("tensor model.language_model.norm.weight is both in");
}

TEST(hashes_differ) {
    uint8_t a[32], b[32];
    checkpoint *c = open_bundled(), *other = NULL;
    CHECK_STATUS(checkpoint_open(&other, TEST_DATA "/models/gguf/tiny-dense-q4_0.gguf"), ST_OK);
    checkpoint_hash(c, a);
    checkpoint_hash(other, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    checkpoint_close(c);
    checkpoint_close(other);
}

int main(void) {
    RUN(tensors_have_published_names_and_shapes);
    RUN(any_slice_of_blocks_is_exact);
    RUN(other_names_and_types);
    RUN(hashes_differ);
    return test_result();
}
