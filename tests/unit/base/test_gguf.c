#include "tests/gguf_writer.h"

#include "base/memory.h"
#include "tests/test.h"

/* From an exact copy, so that a read past its end is seen by a sanitiser. Closes the file's bytes. */
static status parse(strbuf file, uint8_t **bytes, gguf **out) {
    *bytes = memory_alloc(file.size);
    if (file.size) memcpy(*bytes, file.data, file.size);
    uint64_t n = file.size;
    strbuf_close(&file);
    *out = NULL;
    return gguf_parse(out, *bytes, n, "x.gguf");
}

static void refused(strbuf file, status want, const char *sentence) {
    gguf *g;
    uint8_t *bytes;
    CHECK_STATUS(parse(file, &bytes, &g), want);
    CHECK_SENTENCE(sentence);
    CHECK_SENTENCE("x.gguf");
    gguf_close(g);
    free(bytes);
}

static const uint64_t eight[] = {8}, block_rows[] = {64, 3};

static void put_good(gguf_writer *w) {
    gguf_put_text(w, "general.architecture", "gemma4");
    gguf_put_u32(w, "n", 7);
    gguf_put_i32s(w, "list", 3, (int32_t[]){4, -2, 4});
    gguf_put_texts(w, "words", 3, (const char *[]){"one", "", "three"});
    gguf_put_f32(w, "x", 0.5f);
    gguf_put_bool(w, "yes", true);
    gguf_put_array(w, "flags", GGUF_BOOL, 2);
    gguf_put_number(&w->values, 1, 2);
    gguf_put_tensor(w, "b", 2, 2, block_rows, 32);
    gguf_put_tensor(w, "a", 0, 1, eight, 0);
}

TEST(a_header_is_read) {
    gguf_writer w = {.version = 2};
    put_good(&w);
    gguf *g;
    uint8_t *bytes;
    CHECK_STATUS(parse(gguf_finish(&w, 32 + 2 * 3 * 18), &bytes, &g), ST_OK);
    if (!g) return;
    CHECK(g->version == 2 && g->value_count == 7 && g->tensor_count == 2);
    uint64_t data = g->file_bytes - 32 - 2 * 3 * 18;
    CHECK(data % 32 == 0 && g->header_bytes <= data);
    const gguf_tensor *b = gguf_find_tensor(g, "b");
    CHECK(b && b->dims == 2 && b->shape[0] == 64 && b->shape[1] == 3 && b->bytes == 108);
    CHECK(b && b->offset == data + 32 && !strcmp(b->format->name, "Q4_0"));
    CHECK(!gguf_find_tensor(g, "c") && !gguf_find(g, "c"));
    uint32_t n = 0, list[3] = {0};
    double x = 0;
    bool yes = false;
    gguf_text text = {0};
    CHECK_STATUS(gguf_read_u32(g, "n", 1, 7, &n), ST_OK);
    CHECK(n == 7);
    CHECK_STATUS(gguf_read_double_optional(g, "x", 0, 1, &x), ST_OK);
    CHECK(x == 0.5);
    CHECK_STATUS(gguf_read_double_optional(g, "n", 0, 9, &x), ST_OK);
    CHECK(x == 7);
    CHECK_STATUS(gguf_read_bool_optional(g, "yes", &yes), ST_OK);
    CHECK(yes);
    CHECK_STATUS(gguf_read_text_optional(g, "general.architecture", &text), ST_OK);
    CHECK(gguf_text_is(text, "gemma4") && !gguf_text_is(text, "gemma"));
    CHECK_STATUS(gguf_read_u32s(g, "flags", 0, 1, 2, list), ST_OK);
    CHECK(list[0] == 1 && list[1] == 0);
    CHECK_STATUS(gguf_read_u32s(g, "n", 0, 9, 3, list), ST_OK);
    CHECK(list[0] == 7 && list[2] == 7);
    const gguf_value *words = NULL;
    CHECK_STATUS(gguf_read_array(g, "words", GGUF_TEXT, &words), ST_OK);
    CHECK(words && words->count == 3);
    const uint8_t *at = words ? words->at : NULL;
    CHECK(at && gguf_text_is(gguf_next_text(&at), "one") && gguf_text_is(gguf_next_text(&at), "") &&
          gguf_text_is(gguf_next_text(&at), "three"));
    /* absent: unchanged */
    CHECK_STATUS(gguf_read_u32_optional(g, "none", 0, 1, &n), ST_OK);
    CHECK(n == 7);
    gguf_close(g);
    free(bytes);
}

TEST(values_out_of_bounds_are_named) {
    gguf_writer w = {0};
    put_good(&w);
    gguf *g;
    uint8_t *bytes;
    CHECK_STATUS(parse(gguf_finish(&w, 32 + 2 * 3 * 18), &bytes, &g), ST_OK);
    if (!g) return;
    uint32_t n = 0, list[3];
    double x;
    bool yes;
    gguf_text text;
    const gguf_value *v;
    CHECK_STATUS(gguf_read_u32(g, "n", 8, 9, &n), ST_FORMAT);
    CHECK_SENTENCE("x.gguf: n is 7, allowed are 8 to 9");
    CHECK_STATUS(gguf_read_u32(g, "none", 0, 1, &n), ST_FORMAT);
    CHECK_SENTENCE("none is missing");
    CHECK_STATUS(gguf_read_u32(g, "list", 0, 9, &n), ST_FORMAT);
    CHECK_SENTENCE("list is an array of i32, expected is an integer");
    CHECK_STATUS(gguf_read_u32s(g, "list", 0, 9, 3, list), ST_FORMAT);
    CHECK_SENTENCE("list is -2, allowed are 0 to 9");
    CHECK_STATUS(gguf_read_u32s(g, "list", 0, 9, 2, list), ST_FORMAT);
    CHECK_SENTENCE("list has 3 entries, expected are 2");
    CHECK_STATUS(gguf_read_u32s(g, "words", 0, 9, 3, list), ST_FORMAT);
    CHECK_STATUS(gguf_read_double_optional(g, "x", 0.6, 1, &x), ST_FORMAT);
    CHECK_SENTENCE("x is 0.5, allowed are 0.6 to 1");
    CHECK_STATUS(gguf_read_double_optional(g, "words", 0, 1, &x), ST_FORMAT);
    CHECK_STATUS(gguf_read_bool_optional(g, "n", &yes), ST_FORMAT);
    CHECK_STATUS(gguf_read_text_optional(g, "n", &text), ST_FORMAT);
    CHECK_STATUS(gguf_read_array(g, "list", GGUF_TEXT, &v), ST_FORMAT);
    CHECK_SENTENCE("expected is an array of text");
    gguf_close(g);
    free(bytes);
}

TEST(a_file_cut_anywhere_is_refused) {
    gguf_writer w = {0};
    put_good(&w);
    strbuf file = gguf_finish(&w, 32 + 2 * 3 * 18);
    for (size_t n = 0; n < file.size; n++) {
        uint8_t *exact = memory_alloc(n);
        memcpy(exact, file.data, n);
        gguf *g = NULL;
        CHECK_STATUS(gguf_parse(&g, exact, n, "x.gguf"), ST_FORMAT);
        CHECK(!g);
        free(exact);
    }
    strbuf_close(&file);
}

TEST(fixed_parts) {
    gguf_writer w = {0};
    strbuf empty = {0};
    refused(empty, ST_FORMAT, "is not a GGUF file");
    w.version = 1;
    refused(gguf_finish(&w, 0), ST_UNSUPPORTED, "GGUF version 1; 2 and 3");
    w.version = 3 << 24;
    refused(gguf_finish(&w, 0), ST_UNSUPPORTED, "big-endian");
    w.value_count = UINT64_MAX;
    refused(gguf_finish(&w, 64), ST_FORMAT, "18446744073709551615 metadata keys");
    w.value_count = 5;
    refused(gguf_finish(&w, 64), ST_FORMAT, "5 metadata keys");
    w.tensor_count = UINT64_MAX;
    refused(gguf_finish(&w, 64), ST_FORMAT, "18446744073709551615 tensors");
}

TEST(bad_metadata) {
    gguf_writer w = {0};
    gguf_put_u32(&w, "n", 1);
    gguf_put_u32(&w, "n", 1);
    refused(gguf_finish(&w, 0), ST_FORMAT, "n is there twice");
    gguf_put_u32(&w, "", 1);
    refused(gguf_finish(&w, 0), ST_FORMAT, "a metadata key has 0 bytes, allowed are 1 to 256");
    gguf_put_u32(&w, "a\nb", 1);
    refused(gguf_finish(&w, 0), ST_FORMAT, "byte 10, which is not printable");
    gguf_put_key(&w, "n", GGUF_TYPES);
    gguf_put_number(&w.values, 0, 8);
    refused(gguf_finish(&w, 0), ST_FORMAT, "n has type 13, known are 0 to 12");
    gguf_put_array(&w, "n", GGUF_TYPES, 0);
    refused(gguf_finish(&w, 0), ST_FORMAT, "n has type 13");
    gguf_put_array(&w, "n", GGUF_ARRAY, 0);
    refused(gguf_finish(&w, 0), ST_UNSUPPORTED, "n is an array of arrays");
    gguf_put_array(&w, "n", GGUF_U64, UINT64_MAX / 8 + 1);
    refused(gguf_finish(&w, 64), ST_FORMAT, "inside n");
    gguf_put_array(&w, "n", GGUF_TEXT, UINT64_MAX);
    refused(gguf_finish(&w, 64), ST_FORMAT, "inside n");
    gguf_put_array(&w, "n", GGUF_TEXT, 1);
    gguf_put_number(&w.values, UINT64_MAX - 4, 8);
    refused(gguf_finish(&w, 64), ST_FORMAT, "n: text 0 has 18446744073709551611 bytes, 64 are left");
    gguf_put_key(&w, "n", GGUF_BOOL);
    gguf_put_number(&w.values, 2, 1);
    refused(gguf_finish(&w, 0), ST_FORMAT, "n: a truth value is 2");
}

TEST(bad_tensors) {
    gguf_writer w = {0};
    gguf_put_tensor(&w, "a", 0, 1, eight, 0);
    gguf_put_tensor(&w, "a", 0, 1, eight, 32);
    refused(gguf_finish(&w, 64), ST_FORMAT, "tensor a is there twice");
    gguf_put_tensor(&w, "a", 2, 2, block_rows, 0);
    gguf_put_tensor(&w, "b", 0, 1, eight, 96);
    refused(gguf_finish(&w, 256), ST_FORMAT, "overlaps tensor a");
    gguf_put_tensor(&w, "a", 0, 1, eight, 8);
    refused(gguf_finish(&w, 64), ST_FORMAT,
            "tensor a begins at byte 8 of the data, which is no multiple of 32");
    gguf_put_tensor(&w, "a", 0, 1, eight, 32);
    refused(gguf_finish(&w, 63), ST_FORMAT,
            "tensor a has 32 bytes from byte 32 of the data, the file has 63");
    gguf_put_tensor(&w, "a", 0, 1, eight, UINT64_MAX - 31);
    refused(gguf_finish(&w, 64), ST_FORMAT, "(truncated?)");
    gguf_put_tensor(&w, "a", 5, 1, eight, 0);
    refused(gguf_finish(&w, 64), ST_UNSUPPORTED, "tensor a has type 5, which is not known");
    gguf_put_tensor(&w, "a", 12, 2, block_rows, 0);
    refused(gguf_finish(&w, 64), ST_FORMAT,
            "rows of 64 elements are no whole blocks of Q4_K, which have 256");
    gguf_put_tensor(&w, "a", 0, 0, eight, 0);
    refused(gguf_finish(&w, 64), ST_FORMAT, "tensor a has 0 dimensions, allowed are 1 to 4");
    gguf_put_tensor(&w, "a", 0, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0);
    refused(gguf_finish(&w, 64), ST_FORMAT, "tensor a has 5 dimensions");
    gguf_put_tensor(&w, "a", 0, 2, (uint64_t[]){4, 0}, 0);
    refused(gguf_finish(&w, 64), ST_FORMAT, "dimension 1 is 0");
    gguf_put_tensor(&w, "a", 0, 2, (uint64_t[]){(uint64_t)1 << 32, (uint64_t)1 << 32}, 0);
    refused(gguf_finish(&w, 64), ST_FORMAT, "above 2^57");
    gguf_put_u32(&w, "general.alignment", 24);
    gguf_put_tensor(&w, "a", 0, 1, eight, 0);
    refused(gguf_finish(&w, 64), ST_FORMAT, "general.alignment is 24, which is no power of two");
    gguf_put_u32(&w, "general.alignment", 0);
    refused(gguf_finish(&w, 64), ST_FORMAT, "general.alignment is 0, allowed are 1 to");
}

TEST(another_alignment) {
    gguf_writer w = {.alignment = 256};
    gguf_put_u32(&w, "general.alignment", 256);
    gguf_put_tensor(&w, "a", 0, 1, eight, 256);
    gguf *g;
    uint8_t *bytes;
    CHECK_STATUS(parse(gguf_finish(&w, 288), &bytes, &g), ST_OK);
    CHECK(g && g->tensors[0].offset == 512);
    gguf_close(g);
    free(bytes);
}

TEST(a_real_file) {
    gguf *g = NULL;
    CHECK_STATUS(gguf_open(&g, TEST_DATA "/models/gguf/tiny-moe-q4_k_m.gguf"), ST_OK);
    if (!g) return;
    CHECK(g->version == 3 && g->tensor_count == 89 && g->value_count == 45);
    const gguf_tensor *t = gguf_find_tensor(g, "blk.0.ffn_down_exps.weight");
    CHECK(t && t->offset == 594240 && t->dims == 3 && !strcmp(t->format->name, "Q5_0"));
    gguf_close(g);
    g = NULL;
    CHECK_STATUS(gguf_open(&g, TEST_DATA "/models/gguf/none.gguf"), ST_NOT_FOUND);
    CHECK_STATUS(gguf_open(&g, TEST_DATA "/models/gguf"), ST_FORMAT);
    CHECK_STATUS(gguf_open(&g, TEST_DATA "/models/tiny-moe/config.json"), ST_FORMAT);
    CHECK_SENTENCE("is not a GGUF file");
    CHECK(!g && gguf_is_path(TEST_DATA "/models/tiny-moe/config.json") && !gguf_is_path(TEST_DATA "/models"));
}

int main(void) {
    RUN(a_header_is_read);
    RUN(values_out_of_bounds_are_named);
    RUN(a_file_cut_anywhere_is_refused);
    RUN(fixed_parts);
    RUN(bad_metadata);
    RUN(bad_tensors);
    RUN(another_alignment);
    RUN(a_real_file);
    return test_result();
}
