#include <stdbool.h>

#include "base/memory.h"
#include "base/strbuf.h"
#include "shard/loader/checkpoint.h"
#include "tests/test.h"

typedef struct seen {
    tensor tensors[16];
    char names[16][64];
    uint32_t count;
} seen;

static status keep(void *context, const tensor *t) {
    seen *s = context;
    if (s->count == 16) return fail(ST_INTERNAL, "too many tensors for this test");
    snprintf(s->names[s->count], sizeof s->names[0], "%s", t->name);
    s->tensors[s->count++] = *t;
    return ST_OK;
}

/* The header with `data` bytes behind it. The copy is exact, so that a read past its end is seen by a
 * sanitiser. */
static status parse(const char *header, uint64_t data, seen *s) {
    size_t n = strlen(header);
    char *exact = memory_alloc(n);
    memcpy(exact, header, n);
    s->count = 0;
    status st = safetensors_parse_header(exact, n, 8 + n + data, "x.safetensors", keep, s);
    free(exact);
    return st;
}

#define F32_2X3(begin, end) "{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[" begin "," end "]}"

TEST(tensors_come_in_the_order_of_their_bytes) {
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"b\":" F32_2X3("24", "48") ",\"a\":" F32_2X3(
            "0", "24") ",\"s\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[48,50]}"
                       ",\"empty\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[48,48]}"
                       ",\"i\":{\"dtype\":\"I64\",\"shape\":[1,1,1,1,1,1],\"data_offsets\":[50,58]}"
                       ",\"nibbles\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[58,59]}}  \n";
    seen s;
    CHECK_STATUS(parse(header, 59, &s), ST_OK);
    CHECK(s.count == 6);
    CHECK(!strcmp(s.names[0], "a") && !strcmp(s.names[1], "b") && !strcmp(s.names[2], "empty"));
    uint64_t begin = 8 + strlen(header);
    CHECK(s.tensors[0].offset == begin && s.tensors[1].offset == begin + 24 && s.tensors[1].bytes == 24);
    CHECK(s.tensors[1].dims == 2 && s.tensors[1].shape[0] == 2 && s.tensors[1].shape[1] == 3);
    CHECK(s.tensors[1].type == TENSOR_F32 && !strcmp(s.tensors[1].dtype, "F32"));
    CHECK(s.tensors[2].bytes == 0 && s.tensors[2].type == TENSOR_F16);
    CHECK(s.tensors[3].dims == 0 && s.tensors[3].type == TENSOR_BF16);
    CHECK(s.tensors[4].type == TENSOR_OTHER && s.tensors[4].dims == 6 && !strcmp(s.tensors[4].dtype, "I64"));
    CHECK(s.tensors[5].type == TENSOR_OTHER && s.tensors[5].bytes == 1);
    CHECK_STATUS(parse("{}", 0, &s), ST_OK);
    CHECK(s.count == 0);
}

#define ONE(dtype, shape, offsets)                                                                           \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *header;
    uint64_t data;
    const char *sentence;
} refusals[] = {
    {"", 0, "does not begin with {"},
    {" {}", 0, "does not begin with {"},
    {"{", 0, "x.safetensors: line"},
    {"{}x", 0, "x.safetensors: line"},
    {"{\"a\":1}", 0, "tensor a is not an object"},
    {"{\"a\":" F32_2X3("0", "24") ",\"a\":" F32_2X3("24", "48") "}", 48, "duplicate"},
    {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__: k is not a string"},
    {"{\"a\":{}}", 0, "tensor a: dtype is missing"},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, "tensor a: shape is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, "tensor a: data_offsets is not a list of two integers"},
    {ONE("5", "[1]", "[0,4]"), 4, "dtype is missing or not a string"},
    {ONE("\"Q4\"", "[1]", "[0,4]"), 4, "tensor a: dtype Q4 is unknown"},
    {ONE("\"F32\"", "5", "[0,4]"), 4, "shape is missing or not a list"},
    {ONE("\"F32\"", "[-1]", "[0,4]"), 4, "shape[0] is not a count"},
    {ONE("\"F32\"", "[1.0]", "[0,4]"), 4, "shape[0] is not a count"},
    {ONE("\"F32\"", "[1,\"1\"]", "[0,4]"), 4, "shape[1] is not a count"},
    {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "tensor a has 9 dimensions, at most 8"},
    {ONE("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "product of its shape"},
    {ONE("\"F32\"", "[9223372036854775807,2]", "[0,0]"), 0, "product of its shape"},
    {ONE("\"F32\"", "[144115188075855873]", "[0,4]"), 4, "product of its shape"},
    {ONE("\"F64\"", "[144115188075855872]", "[0,0]"), 0,
     "tensor a has 0 bytes, but 144115188075855872 elements of F64"},
    {ONE("\"F32\"", "[1]", "[0]"), 4, "data_offsets is not a list of two integers"},
    {ONE("\"F32\"", "[1]", "[0,4,8]"), 8, "data_offsets is not a list of two integers"},
    {ONE("\"F32\"", "[1]", "[0,4.0]"), 4, "data_offsets is not a list of two integers"},
    {ONE("\"F32\"", "[1]", "{\"0\":0,\"1\":4}"), 4, "data_offsets is not a list of two integers"},
    {ONE("\"F32\"", "[1]", "[-4,0]"), 4, "data_offsets are -4 and 0"},
    {ONE("\"F32\"", "[1]", "[4,0]"), 4, "data_offsets are 4 and 0, which is no range"},
    {ONE("\"F32\"", "[2]", "[0,8]"), 7, "tensor a ends at byte 8 of the data, the file has 7 (truncated?)"},
    {ONE("\"F32\"", "[2]", "[9223372036854775800,9223372036854775807]"), 8, "(truncated?)"},
    {ONE("\"F32\"", "[2]", "[0,4]"), 4, "tensor a has 4 bytes, but 2 elements of F32"},
    {ONE("\"BF16\"", "[2]", "[0,8]"), 8, "tensor a has 8 bytes, but 2 elements of BF16"},
    {ONE("\"F4\"", "[3]", "[0,2]"), 2, "tensor a has 2 bytes, but 3 elements of F4"},
    {ONE("\"F32\"", "[1]", "[0,4]"), 5, "the tensors end at byte 4 of the data, the file has 5"},
    {ONE("\"F32\"", "[1]", "[4,8]"), 8, "no tensor holds bytes 0 to 4 of the data, before tensor a"},
    {"{}", 1, "the tensors end at byte 0"},
    {"{\"a\":" F32_2X3("0", "24") ",\"b\":" F32_2X3("20", "44") "}", 44,
     "tensor b begins at byte 20 of the data and overlaps tensor a, which ends at 24"},
    {"{\"a\":" F32_2X3("0", "24") ",\"b\":" F32_2X3("0", "24") "}", 24,
     "tensor b begins at byte 0 of the data and overlaps tensor a"},
    {"{\"a\":" F32_2X3("0", "24") ",\"b\":" F32_2X3("28", "52") "}", 52, "no tensor holds bytes 24 to 28"},
    {"{\"a\":" F32_2X3("0", "24") ",\"b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]}}", 24,
     "overlaps tensor a"},
};

TEST(refusals_name_the_tensor) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        seen s;
        CHECK_STATUS(parse(refusals[i].header, refusals[i].data, &s), ST_FORMAT);
        CHECK_SENTENCE(refusals[i].sentence);
        CHECK_THAT(strstr(status_text(), "x.safetensors") != NULL, "%s", status_text());
        CHECK_THAT(s.count == 0, "%s", refusals[i].header); /* nothing is handed out before all is checked */
    }
}

TEST(absurd_lengths) {
    seen s = {.count = 0};
    char header[] = "{}";
    CHECK_STATUS(safetensors_parse_header(header, 100000001, (uint64_t)1 << 40, "x", keep, &s), ST_FORMAT);
    CHECK_SENTENCE("the header has 100000001 bytes");
    CHECK_STATUS(safetensors_parse_header(header, UINT64_MAX, 10, "x", keep, &s), ST_FORMAT);
    CHECK_STATUS(safetensors_parse_header(header, 2, 9, "x", keep, &s), ST_FORMAT);
    CHECK_STATUS(safetensors_parse_header(header, 0, 0, "x", keep, &s), ST_FORMAT);
    CHECK_STATUS(safetensors_parse_header(header, 2, 10, "x", keep, &s), ST_OK);
}

static status refuse(void *context, const tensor *t) {
    (void)context;
    return fail(ST_INTERNAL, "no %s", t->name);
}

TEST(the_callers_refusal_comes_back) {
    static const char header[] = "{\"a\":" F32_2X3("0", "24") "}";
    CHECK_STATUS(safetensors_parse_header(header, strlen(header), 8 + strlen(header) + 24, "x", refuse, NULL),
                 ST_INTERNAL);
    CHECK_SENTENCE("no a");
}

int main(void) {
    RUN(tensors_come_in_the_order_of_their_bytes);
    RUN(refusals_name_the_tensor);
    RUN(absurd_lengths);
    RUN(the_callers_refusal_comes_back);
    return test_result();
}
