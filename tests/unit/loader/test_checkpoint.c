#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sys/stat.h>

#include "tests/checkpoint_writer.h"
#include "tests/test.h"

static checkpoint *opened(const char *path) {
    checkpoint *c = NULL;
    CHECK_STATUS(checkpoint_open(&c, path), ST_OK);
    if (!c) exit(1);
    return c;
}

static uint32_t random_state = 1;
static uint32_t random_next(void) {
    random_state = random_state * 1664525 + 1013904223;
    return random_state >> 8;
}

static void *random_bytes(size_t n) {
    uint8_t *p = memory_alloc(n);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)random_next();
    return p;
}

static written_tensor made(const char *name, const char *dtype, uint32_t element, uint32_t dims, uint64_t a,
                           uint64_t b, uint64_t c) {
    written_tensor w = {.t = {.name = name, .dtype = dtype, .dims = dims, .shape = {a, b, c}}};
    w.t.bytes = element;
    for (uint32_t i = 0; i < dims; i++) w.t.bytes *= w.t.shape[i];
    w.data = random_bytes(w.t.bytes);
    return w;
}

TEST(goldens_open_single_and_sharded) {
    checkpoint *c = opened(TEST_DATA "/golden/dense");
    CHECK(checkpoint_find(c, "model.language_model.norm.weight") != NULL);
    CHECK(checkpoint_find(c, "model.language_model.norm") == NULL && checkpoint_find(c, "") == NULL);
    uint32_t files = 0;
    for (uint32_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const tensor *t = checkpoint_tensor(c, i);
        CHECK(checkpoint_find(c, t->name) == t);
        CHECK(i == 0 || strcmp(checkpoint_tensor(c, i - 1)->name, t->name) < 0);
        if (t->file + 1 > files) files = t->file + 1;
    }
    CHECK(files == 6 && !strcmp(checkpoint_file_name(c, 5), "model-00006-of-00006.safetensors"));
    checkpoint_close(c);
    c = opened(TEST_DATA "/golden/e2b");
    const tensor *t = checkpoint_find(c, "model.language_model.embed_tokens_per_layer.weight");
    CHECK(t && t->type == TENSOR_BF16 && t->dims == 2 && t->shape[0] == 320 && t->shape[1] == 240);
    checkpoint_close(c);
}

/* One slice against the same picked element by element. */
static void check_slice(checkpoint *c, const written_tensor *w, uint32_t element, tensor_type type,
                        const tensor_slice *s) {
    const tensor *t = checkpoint_find(c, w->t.name);
    const uint64_t *shape = w->t.shape;
    uint64_t rows = w->t.dims == 3 ? shape[1] : w->t.dims == 2 ? shape[0] : 1;
    uint64_t cols = w->t.dims == 0 ? 1 : shape[w->t.dims - 1];
    uint64_t n = (s->outer_end - s->outer_begin) * (s->row_end - s->row_begin) * (s->col_end - s->col_begin);
    uint8_t *want = memory_alloc(n * element), *got = memory_alloc(n * element + 1), *p = want;
    for (uint64_t o = s->outer_begin; o < s->outer_end; o++) {
        for (uint64_t r = s->row_begin; r < s->row_end; r++) {
            for (uint64_t i = s->col_begin; i < s->col_end; i++, p += element)
                memcpy(p, (const uint8_t *)w->data + ((o * rows + r) * cols + i) * element, element);
        }
    }
    got[n * element] = 0xA5;
    uint64_t before = checkpoint_bytes_read(c);
    CHECK_STATUS(checkpoint_read_slice(c, t, s, type, got), ST_OK);
    CHECK_THAT(!memcmp(want, got, n * element), "%s outer %llu:%llu rows %llu:%llu cols %llu:%llu", w->t.name,
               (unsigned long long)s->outer_begin, (unsigned long long)s->outer_end,
               (unsigned long long)s->row_begin, (unsigned long long)s->row_end,
               (unsigned long long)s->col_begin, (unsigned long long)s->col_end);
    CHECK(got[n * element] == 0xA5);
    CHECK(checkpoint_bytes_read(c) - before == n * element);
    free(want);
    free(got);
}

static void random_range(uint64_t n, uint64_t *begin, uint64_t *end) {
    *begin = random_next() % (n + 1);
    *end = *begin + random_next() % (n - *begin + 1);
}

TEST(slices_equal_picking_by_hand) {
    writer_folder f = writer_open();
    /* Columns of 40,000 singles make runs and gaps that are read one by one; 300 rows of 9,000 halves need
     * several blocks; the rest are small and odd. */
    written_tensor w[] = {
        made("wide", "F32", 4, 2, 9, 40000, 0),
        made("blocks", "BF16", 2, 2, 300, 9000, 0),
        made("experts", "F16", 2, 3, 5, 7, 11),
        made("vector", "BF16", 2, 1, 13, 0, 0),
        made("scalar", "F32", 4, 0, 0, 0, 0),
        made("empty", "F32", 4, 2, 0, 3, 0),
        made("odd", "U8", 1, 1, 3, 0, 0),
        made("after", "F32", 4, 2, 3, 5, 0), /* begins at an odd offset */
    };
    static const tensor_type types[] = {TENSOR_F32, TENSOR_BF16, TENSOR_F16,   TENSOR_BF16,
                                        TENSOR_F32, TENSOR_F32,  TENSOR_OTHER, TENSOR_F32};
    enum { COUNT = sizeof w / sizeof *w };
    writer_safetensors(&f, "model.safetensors", w, COUNT);
    writer_text(&f, "config.json", "{}");
    checkpoint *c = opened(f.path);
    for (int k = 0; k < COUNT; k++) {
        if (types[k] == TENSOR_OTHER) continue;
        uint64_t outer = w[k].t.dims == 3 ? w[k].t.shape[0] : 1;
        uint64_t rows = w[k].t.dims == 3 ? w[k].t.shape[1] : w[k].t.dims == 2 ? w[k].t.shape[0] : 1;
        uint64_t cols = w[k].t.dims == 0 ? 1 : w[k].t.shape[w[k].t.dims - 1];
        uint32_t element = types[k] == TENSOR_F32 ? 4 : 2;
        check_slice(c, &w[k], element, types[k], &(tensor_slice){0, outer, 0, rows, 0, cols});
        for (int n = 0; n < 40; n++) {
            tensor_slice s = {0, outer, 0, rows, 0, cols};
            if (n % 2) random_range(outer, &s.outer_begin, &s.outer_end);
            if (n % 4 < 2) random_range(rows, &s.row_begin, &s.row_end);
            if (n % 8 < 6) random_range(cols, &s.col_begin, &s.col_end);
            check_slice(c, &w[k], element, types[k], &s);
        }
    }
    float out[4];
    CHECK_STATUS(checkpoint_read_slice(c, checkpoint_find(c, "odd"), &(tensor_slice){0, 1, 0, 1, 0, 3},
                                       TENSOR_F32, out),
                 ST_UNSUPPORTED);
    CHECK_SENTENCE("tensor odd of dtype U8");
    checkpoint_close(c);
    for (int k = 0; k < COUNT; k++) free((void *)w[k].data);
    writer_close(&f);
}

TEST(skipped_bytes_are_counted_apart) {
    writer_folder f = writer_open();
    written_tensor w = made("w", "BF16", 2, 2, 4, 1000, 0);
    writer_safetensors(&f, "model.safetensors", &w, 1);
    writer_text(&f, "config.json", "{}");
    checkpoint *c = opened(f.path);
    uint16_t out[4000];
    const tensor *t = checkpoint_find(c, "w");
    /* 4 runs of 250 with 3 gaps of 750 between them. */
    CHECK_STATUS(checkpoint_read_slice(c, t, &(tensor_slice){0, 1, 0, 4, 250, 500}, TENSOR_BF16, out), ST_OK);
    CHECK(checkpoint_bytes_read(c) == 2000 && checkpoint_bytes_skipped(c) == 4500);
    CHECK_STATUS(checkpoint_read_slice(c, t, &(tensor_slice){0, 1, 1, 3, 0, 1000}, TENSOR_BF16, out), ST_OK);
    CHECK(checkpoint_bytes_read(c) == 6000 && checkpoint_bytes_skipped(c) == 4500);
    checkpoint_close(c);
    free((void *)w.data);
    writer_close(&f);
}

/* Every 16-bit pattern, as bf16 and as f16, against the definition of the format in doubles. */
TEST(conversions_are_exact) {
    writer_folder f = writer_open();
    uint16_t *all = memory_alloc(65536 * 2);
    for (uint32_t i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    written_tensor w[] = {
        {{.name = "bf16", .dtype = "BF16", .dims = 2, .shape = {2, 32768}, .bytes = 131072}, all},
        {{.name = "f16", .dtype = "F16", .dims = 2, .shape = {2, 32768}, .bytes = 131072}, all}};
    writer_safetensors(&f, "model.safetensors", w, 2);
    writer_text(&f, "config.json", "{}");
    checkpoint *c = opened(f.path);
    float *out = memory_alloc(65536 * sizeof *out);
    tensor_slice whole = {0, 1, 0, 2, 0, 32768};
    for (int kind = 0; kind < 2; kind++) {
        int fraction_bits = kind ? 10 : 7, bias = kind ? 15 : 127, top = kind ? 31 : 255;
        CHECK_STATUS(checkpoint_read_slice(c, checkpoint_find(c, w[kind].t.name), &whole, TENSOR_F32, out),
                     ST_OK);
        for (uint32_t i = 0; i < 65536; i++) {
            int exponent = (int)(i & 0x7FFF) >> fraction_bits, fraction = (int)i & ((1 << fraction_bits) - 1);
            double want = exponent == 0
                              ? ldexp(fraction, 1 - bias - fraction_bits)
                              : ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
            if (i & 0x8000) want = -want;
            if (exponent == top && fraction)
                CHECK_THAT(isnan(out[i]), "%s %04x: %g", w[kind].t.name, i, out[i]);
            else if (exponent == top)
                CHECK_THAT(isinf(out[i]) && !signbit(out[i]) == !(i & 0x8000), "%04x", i);
            else
                CHECK_THAT(out[i] == want && !signbit(out[i]) == !(i & 0x8000), "%s %04x: %g %g",
                           w[kind].t.name, i, out[i], want);
        }
        /* Nothing is rounded: what would be is not offered. */
        tensor_type other = kind ? TENSOR_BF16 : TENSOR_F16;
        CHECK_STATUS(checkpoint_read_slice(c, checkpoint_find(c, w[kind].t.name), &whole, other, out),
                     ST_UNSUPPORTED);
    }
    checkpoint_close(c);
    free(out);
    free(all);
    writer_close(&f);
}

TEST(mapped_bytes_are_the_files) {
    writer_folder f = writer_open();
    written_tensor w[] = {made("a", "F32", 4, 2, 30, 7, 0), made("odd", "U8", 1, 1, 1, 0, 0),
                          made("z", "BF16", 2, 1, 4, 0, 0)};
    writer_safetensors(&f, "model.safetensors", w, 3);
    writer_text(&f, "config.json", "{}");
    checkpoint *c = opened(f.path);
    const void *p = NULL, *again = NULL;
    CHECK_STATUS(checkpoint_map(c, checkpoint_find(c, "a"), &p), ST_OK);
    CHECK(p && !memcmp(p, w[0].data, w[0].t.bytes));
    CHECK_STATUS(checkpoint_map(c, checkpoint_find(c, "a"), &again), ST_OK);
    CHECK(p == again && checkpoint_bytes_read(c) == 0);
    CHECK_STATUS(checkpoint_map(c, checkpoint_find(c, "z"), &p), ST_UNSUPPORTED);
    CHECK_SENTENCE("not aligned");
    checkpoint_close(c);
    for (int i = 0; i < 3; i++) free((void *)w[i].data);
    writer_close(&f);
}

static void check_open_fails(const writer_folder *f, status want, const char *sentence) {
    checkpoint *c = (void *)&c;
    CHECK_STATUS(checkpoint_open(&c, f->path), want);
    CHECK_SENTENCE(sentence);
    CHECK(c == NULL);
}

TEST(files_that_are_no_checkpoint) {
    writer_folder f = writer_open();
    check_open_fails(&f, ST_NOT_FOUND, "has neither model.safetensors nor model.safetensors.index.json");
    writer_text(&f, "model.safetensors", "\x02\0\0\0\0\0\0");
    check_open_fails(&f, ST_NOT_FOUND, "config.json");
    writer_text(&f, "config.json", "{}");
    check_open_fails(&f, ST_FORMAT, "model.safetensors ends before byte 1, where 7 more are needed");
    writer_file(&f, "model.safetensors", "", 0);
    check_open_fails(&f, ST_FORMAT, "ends before byte 0");
    writer_file(&f, "model.safetensors", "\x03\0\0\0\0\0\0\0{}", 10);
    check_open_fails(&f, ST_FORMAT,
                     "the header has 3 bytes, allowed are at most 100000000 and what the file has (10)");
    writer_file(&f, "model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    check_open_fails(&f, ST_FORMAT, "the header has 18446744073709551615 bytes");
    written_tensor w = made("blk", "F32", 4, 1, 5, 0, 0);
    writer_safetensors(&f, "model.safetensors", &w, 1);
    char *path = file_join(f.path, "model.safetensors");
    struct stat info;
    CHECK(stat(path, &info) == 0 && truncate(path, info.st_size - 1) == 0);
    check_open_fails(&f, ST_FORMAT, "tensor blk ends at byte 20 of the data, the file has 19 (truncated?)");
    CHECK(unlink(path) == 0 && mkdir(path, 0700) == 0);
    check_open_fails(&f, ST_FORMAT, "is not a regular file");
    CHECK(rmdir(path) == 0);
    free(path);
    free((void *)w.data);
    writer_close(&f);
}

/* A file that shrinks after it was opened: reading says so, and says where. */
TEST(a_file_cut_while_open) {
    writer_folder f = writer_open();
    written_tensor w[] = {made("head", "F32", 4, 1, 5, 0, 0), made("tail", "BF16", 2, 2, 50, 4, 0)};
    writer_safetensors(&f, "model.safetensors", w, 2);
    writer_text(&f, "config.json", "{}");
    checkpoint *c = opened(f.path);
    char *path = file_join(f.path, "model.safetensors");
    struct stat info;
    CHECK(stat(path, &info) == 0 && truncate(path, info.st_size - 100) == 0);
    float out[200];
    CHECK_STATUS(checkpoint_read_slice(c, checkpoint_find(c, "head"), &(tensor_slice){0, 1, 0, 1, 0, 5},
                                       TENSOR_F32, out),
                 ST_OK);
    const tensor_slice slices[] = {{0, 1, 0, 50, 0, 4}, {0, 1, 0, 50, 1, 3}};
    for (int i = 0; i < 2; i++) {
        for (int type = 0; type < 2; type++) {
            CHECK_STATUS(checkpoint_read_slice(c, checkpoint_find(c, "tail"), &slices[i],
                                               type ? TENSOR_BF16 : TENSOR_F32, out),
                         ST_FORMAT);
            CHECK_SENTENCE("tensor tail: ");
            CHECK_SENTENCE("model.safetensors ends before byte");
        }
    }
    checkpoint_close(c);
    for (int i = 0; i < 2; i++) free((void *)w[i].data);
    free(path);
    writer_close(&f);
}

#define INDEX(map) "{\"metadata\":{\"total_size\":1},\"weight_map\":{" map "}}"

TEST(an_index_and_its_files_agree) {
    writer_folder f = writer_open();
    written_tensor a = made("a", "F32", 4, 1, 5, 0, 0), b = made("b", "F32", 4, 1, 6, 0, 0);
    written_tensor both[] = {a, b};
    writer_text(&f, "config.json", "{}");
    writer_safetensors(&f, "1.safetensors", &a, 1);
    writer_safetensors(&f, "2.safetensors", &b, 1);
    writer_text(&f, "model.safetensors.index.json", INDEX("\"b\":\"2.safetensors\",\"a\":\"1.safetensors\""));
    checkpoint *c = opened(f.path);
    CHECK(checkpoint_tensor_count(c) == 2 &&
          !strcmp(checkpoint_file_name(c, checkpoint_find(c, "b")->file), "2.safetensors"));
    float out[6];
    CHECK_STATUS(
        checkpoint_read_slice(c, checkpoint_find(c, "b"), &(tensor_slice){0, 1, 0, 1, 0, 6}, TENSOR_F32, out),
        ST_OK);
    CHECK(!memcmp(out, b.data, 24));
    checkpoint_close(c);
    static const struct {
        const char *index;
        status st;
        const char *sentence;
    } v[] = {
        {"{", ST_FORMAT, "index.json: line"},
        {"{}", ST_FORMAT, "weight_map is missing or not an object"},
        {"{\"weight_map\":[]}", ST_FORMAT, "weight_map is missing or not an object"},
        {INDEX(""), ST_FORMAT, "weight_map is missing, empty"},
        {INDEX("\"a\":1"), ST_FORMAT, "weight_map: a is in \"\", which is not a file name"},
        {INDEX("\"a\":\"../1.safetensors\""), ST_FORMAT,
         "weight_map: a is in \"../1.safetensors\", which is not a file name"},
        {INDEX("\"a\":\"/1.safetensors\""), ST_FORMAT, "which is not a file name"},
        {INDEX("\"a\":\"..\""), ST_FORMAT, "which is not a file name"},
        {INDEX("\"a\":\"1.safetensors\",\"b\":\"3.safetensors\""), ST_NOT_FOUND, "3.safetensors"},
        {INDEX("\"a\":\"1.safetensors\",\"b\":\"1.safetensors\""), ST_FORMAT,
         "tensor b is not in 1.safetensors"},
        {INDEX("\"a\":\"2.safetensors\",\"b\":\"1.safetensors\""), ST_FORMAT,
         "tensor a is not in 2.safetensors but in 1.safetensors"},
        {INDEX("\"a\":\"1.safetensors\",\"c\":\"2.safetensors\""), ST_FORMAT,
         "tensor c is not in 2.safetensors"},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        writer_text(&f, "model.safetensors.index.json", v[i].index);
        check_open_fails(&f, v[i].st, v[i].sentence);
    }
    writer_safetensors(&f, "2.safetensors", both, 2);
    writer_text(&f, "model.safetensors.index.json", INDEX("\"b\":\"2.safetensors\",\"a\":\"1.safetensors\""));
    check_open_fails(&f, ST_FORMAT, "tensor a is both in 1.safetensors and in 2.safetensors");
    writer_text(&f, "model.safetensors.index.json", INDEX("\"b\":\"2.safetensors\""));
    check_open_fails(&f, ST_FORMAT, "does not list tensor a of 2.safetensors");
    strbuf many = {0};
    strbuf_add_string(&many, "{\"weight_map\":{");
    for (int i = 0; i < 513; i++) strbuf_add_format(&many, "%s\"t%d\":\"f%d\"", i ? "," : "", i, i);
    strbuf_add_string(&many, "}}");
    writer_text(&f, "model.safetensors.index.json", strbuf_text(&many));
    check_open_fails(&f, ST_FORMAT, "weight_map names more than 512 files");
    strbuf_close(&many);
    free((void *)a.data);
    free((void *)b.data);
    writer_close(&f);
}

static void hash_of(const writer_folder *f, uint8_t digest[32]) {
    checkpoint *c = opened(f->path);
    checkpoint_hash(c, digest);
    checkpoint_close(c);
}

TEST(the_hash_sees_config_headers_and_sizes) {
    writer_folder f = writer_open();
    written_tensor a = made("a", "F32", 4, 1, 5, 0, 0), same = made("a", "F32", 4, 1, 5, 0, 0),
                   longer = made("a", "F32", 4, 1, 6, 0, 0);
    written_tensor renamed = a;
    renamed.t.name = "b";
    uint8_t first[32], second[32];
    writer_text(&f, "config.json", "{}");
    writer_safetensors(&f, "model.safetensors", &a, 1);
    hash_of(&f, first);
    writer_safetensors(&f, "model.safetensors", &same, 1); /* other data: by design not seen */
    hash_of(&f, second);
    CHECK(!memcmp(first, second, 32));
    writer_safetensors(&f, "model.safetensors", &longer, 1);
    hash_of(&f, second);
    CHECK(memcmp(first, second, 32) != 0);
    writer_safetensors(&f, "model.safetensors", &renamed, 1);
    hash_of(&f, second);
    CHECK(memcmp(first, second, 32) != 0);
    writer_safetensors(&f, "model.safetensors", &a, 1);
    writer_text(&f, "config.json", "{ }");
    hash_of(&f, second);
    CHECK(memcmp(first, second, 32) != 0);
    free((void *)a.data);
    free((void *)same.data);
    free((void *)longer.data);
    writer_close(&f);
}

typedef struct reader {
    checkpoint *c;
    const written_tensor *w;
    int wrong;
} reader;

static void *read_many(void *context) {
    reader *r = context;
    const tensor *t = checkpoint_find(r->c, "w");
    uint16_t *out = memory_alloc(64 * 64 * 2);
    for (uint64_t i = 0; i < 64; i++) {
        const void *p;
        r->wrong +=
            checkpoint_read_slice(r->c, t, &(tensor_slice){0, 1, i, i + 1, 0, 64}, TENSOR_BF16, out) != ST_OK;
        r->wrong += memcmp(out, (const uint8_t *)r->w->data + i * 128, 128) != 0;
        r->wrong += checkpoint_map(r->c, t, &p) != ST_OK || memcmp(p, r->w->data, 128) != 0;
    }
    free(out);
    return NULL;
}

TEST(threads_read_at_once) {
    writer_folder f = writer_open();
    written_tensor w = made("w", "BF16", 2, 2, 64, 64, 0);
    writer_safetensors(&f, "model.safetensors", &w, 1);
    writer_text(&f, "config.json", "{}");
    checkpoint *c = opened(f.path);
    pthread_t ids[4];
    reader readers[4];
    for (int i = 0; i < 4; i++) {
        readers[i] = (reader){c, &w, 0};
        CHECK(pthread_create(&ids[i], NULL, read_many, &readers[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(ids[i], NULL);
        CHECK_THAT(readers[i].wrong == 0, "%d", readers[i].wrong);
    }
    CHECK(checkpoint_bytes_read(c) == 4 * 64 * 128);
    checkpoint_close(c);
    free((void *)w.data);
    writer_close(&f);
}

int main(void) {
    RUN(goldens_open_single_and_sharded);
    RUN(slices_equal_picking_by_hand);
    RUN(skipped_bytes_are_counted_apart);
    RUN(conversions_are_exact);
    RUN(mapped_bytes_are_the_files);
    RUN(files_that_are_no_checkpoint);
    RUN(a_file_cut_while_open);
    RUN(an_index_and_its_files_agree);
    RUN(the_hash_sees_config_headers_and_sizes);
    RUN(threads_read_at_once);
    return test_result();
}
