/* Text of a model in both forms, and GGUF metadata that is no tokenizer of this kind. */
#include "daemon/text/model_text.h"

#include <unistd.h>

#include "base/memory.h"
#include "tests/gguf_writer.h"
#include "tests/test.h"

TEST(both_forms_have_tokenizer_and_template) {
    model_text a = {0}, b = {0};
    CHECK_STATUS(model_text_open(&a, TEST_DATA "/models/tiny-dense"), ST_OK);
    CHECK_STATUS(model_text_open(&b, TEST_DATA "/models/gguf/tiny-dense-q4_0.gguf"), ST_OK);
    CHECK(a.tokenizer && b.tokenizer && a.chat_template && b.chat_template);
    CHECK(b.chat_template_bytes > 1000 && strstr(b.chat_template, "<|turn>"));
    CHECK(a.chat_template_bytes == b.chat_template_bytes && !strcmp(a.chat_template, b.chat_template));
    model_text_close(&a);
    model_text_close(&b);
    CHECK_STATUS(model_text_open(&a, TEST_DATA "/golden/dense"), ST_OK);
    CHECK(!a.tokenizer && !a.chat_template);
    model_text_close(&a);
    CHECK_STATUS(model_text_open(&a, TEST_DATA "/test.h"), ST_FORMAT);
}

/* ---- metadata that is made here ---- */

enum { BYTE_TOKENS = 256, TOKENS = BYTE_TOKENS + 4 };

typedef struct made {
    const char *model, *merge, *token; /* instead of the right ones */
    int32_t type;                      /* of that token */
    bool prefix, no_types, no_bytes;
    uint32_t more_types;
} made;

static status parse(const made *m, tokenizer **out) {
    gguf_writer w = {0};
    int32_t types[TOKENS + 8];
    gguf_put_text(&w, "tokenizer.ggml.model", m->model ? m->model : "gemma4");
    gguf_put_bool(&w, "tokenizer.ggml.add_space_prefix", m->prefix);
    gguf_put_array(&w, "tokenizer.ggml.tokens", GGUF_TEXT, TOKENS);
    for (int i = 0; i < TOKENS + 8; i++) types[i] = i < BYTE_TOKENS ? 6 : 1;
    for (int i = 0; i < BYTE_TOKENS; i++) {
        char name[16];
        snprintf(name, sizeof name, m->no_bytes && i == 7 ? "seven" : "<0x%02X>", (unsigned)i);
        if (m->no_bytes && i == 7) types[i] = 1;
        gguf_put_string(&w.values, name);
    }
    gguf_put_string(&w.values, "a");
    gguf_put_string(&w.values, "b");
    gguf_put_string(&w.values, "ab");
    gguf_put_string(&w.values, m->token ? m->token : "<bos>");
    types[TOKENS - 1] = m->type ? m->type : 3;
    if (!m->no_types) gguf_put_i32s(&w, "tokenizer.ggml.token_type", TOKENS + m->more_types, types);
    gguf_put_texts(&w, "tokenizer.ggml.merges", 1, (const char *[]){m->merge ? m->merge : "a b"});
    strbuf file = gguf_finish(&w, 0);
    gguf *g = NULL;
    CHECK_STATUS(gguf_parse(&g, (const uint8_t *)file.data, file.size, "x.gguf"), ST_OK);
    status st = tokenizer_read_gguf(out, g);
    gguf_close(g);
    strbuf_close(&file);
    return st;
}

TEST(a_small_tokenizer) {
    tokenizer *t = NULL;
    uint32_t *ids, id = 0;
    size_t count;
    CHECK_STATUS(parse(&(made){0}, &t), ST_OK);
    if (!t) return;
    CHECK_STATUS(tokenizer_encode(t, "<bos>abc", 8, true, 10, &ids, &count), ST_OK);
    CHECK(count == 3 && ids[0] == TOKENS - 1 && ids[1] == BYTE_TOKENS + 2 && ids[2] == 'c');
    CHECK(tokenizer_bos(t, &id) && id == TOKENS - 1);
    free(ids);
    tokenizer_close(t);
}

TEST(refusals) {
    static const struct {
        made m;
        status st;
        const char *sentence;
    } cases[] = {
        {{.model = "llama"}, ST_UNSUPPORTED, "tokenizer.ggml.model is llama; only gemma4"},
        {{.prefix = true}, ST_UNSUPPORTED, "add_space_prefix is true"},
        {{.no_types = true}, ST_FORMAT, "tokenizer.ggml.token_type is missing"},
        {{.more_types = 1}, ST_FORMAT, "tokens has 260 entries and tokenizer.ggml.token_type 261"},
        {{.type = 7}, ST_FORMAT, "token_type[259] is 7, allowed are 1 to 6"},
        {{.type = -1}, ST_FORMAT, "token_type[259] is -1"},
        {{.type = 6}, ST_FORMAT, "tokens[259] is a byte token and not spelled as one"},
        {{.token = "a"}, ST_FORMAT, "\"a\""},
        {{.token = "\xFF"}, ST_FORMAT, "tokens[259] is not UTF-8"},
        {{.no_bytes = true}, ST_FORMAT, "byte token <0x07> is missing"},
        {{.merge = "ab"}, ST_FORMAT, "merges[0]: \"ab\" is not two tokens with one space between"},
        {{.merge = "a  b"}, ST_FORMAT, "is not two tokens"},
        {{.merge = "a c"}, ST_FORMAT, "merges[0]: \"c\" is not in the vocabulary"},
        {{.merge = "b a"}, ST_FORMAT, "merges[0] makes \"ba\", which is not in the vocabulary"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *t = NULL;
        CHECK_STATUS(parse(&cases[i].m, &t), cases[i].st);
        CHECK_SENTENCE(cases[i].sentence);
        CHECK_SENTENCE("x.gguf");
        CHECK(!t);
    }
}

int main(void) {
    RUN(both_forms_have_tokenizer_and_template);
    RUN(a_small_tokenizer);
    RUN(refusals);
    return test_result();
}
