/* What is accepted of a tokenizer.json, and by which name the rest is refused. */
#include <unistd.h>

#include "daemon/text/tokenizer.h"
#include "proto/limits.h"
#include "tests/test.h"

/* A whole tokenizer of 256 byte tokens and a few letters; a test replaces one part of it. NULL: the field is
 * left out. */
typedef struct parts {
    const char *version, *added, *normalizer, *pre, *post, *decoder, *type, *dropout, *prefix, *suffix,
        *bytes, *ignore, *tokens, *merges, *extra_root, *extra_model;
    int bytes_left_out; /* this byte's token; -1: none */
    bool merges_first;
} parts;

static const parts whole = {
    .version = "\"1.0\"",
    .added = "[{\"id\":1,\"content\":\"<bos>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
             "\"normalized\":false,\"special\":true}]",
    .normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}",
    .pre = "{\"type\":\"Split\",\"pattern\":{\"String\":\" "
           "\"},\"behavior\":\"MergedWithPrevious\",\"invert\":false}",
    .post = "null",
    .decoder =
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},"
        "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}",
    .type = "\"BPE\"",
    .dropout = "null",
    .prefix = "null",
    .suffix = "null",
    .bytes = "true",
    .ignore = "false",
    .tokens =
        "\"<bos>\":1,\"a\":300,\"b\":301,\"ab\":302,\"\\u2581\":303,\"\\u2581a\":304,\"\\ud83d\\ude80\":305",
    .merges = "[[\"a\",\"b\"],[\"\\u2581\",\"a\"]]",
    .bytes_left_out = -1,
};

static void add_field(strbuf *b, const char *name, const char *value) {
    if (value) strbuf_add_format(b, "%s\"%s\": %s", b->data[b->size - 1] == '{' ? "" : ",\n", name, value);
}

static void add_vocab(strbuf *b, const parts *p) {
    strbuf_add_format(b, ", \"vocab\": {%s", p->tokens);
    for (int i = 0; i < 256; i++)
        if (i != p->bytes_left_out) strbuf_add_format(b, ",\"<0x%02X>\":%d", (unsigned)i, 10 + i);
    strbuf_add_string(b, "}");
}

static void write_json(strbuf *b, const parts *p) {
    strbuf_add_string(b, " {");
    add_field(b, "version", p->version);
    add_field(b, "truncation", "{\"max_length\": 5}");
    add_field(b, "added_tokens", p->added);
    add_field(b, "normalizer", p->normalizer);
    add_field(b, "pre_tokenizer", p->pre);
    add_field(b, "post_processor", p->post);
    add_field(b, "decoder", p->decoder);
    strbuf_add_string(b, p->extra_root ? p->extra_root : "");
    strbuf_add_string(b, ",\n\"model\": {");
    add_field(b, "type", p->type);
    add_field(b, "dropout", p->dropout);
    add_field(b, "unk_token", "\"<unk>\"");
    add_field(b, "continuing_subword_prefix", p->prefix);
    add_field(b, "end_of_word_suffix", p->suffix);
    add_field(b, "byte_fallback", p->bytes);
    add_field(b, "ignore_merges", p->ignore);
    strbuf_add_string(b, p->extra_model ? p->extra_model : "");
    if (p->merges_first) add_field(b, "merges", p->merges);
    if (p->tokens) add_vocab(b, p);
    if (!p->merges_first) add_field(b, "merges", p->merges);
    strbuf_add_string(b, "}}\n");
}

static status read_parts(const parts *p, tokenizer **t) {
    strbuf b = {0};
    write_json(&b, p);
    status st = tokenizer_parse(t, b.data, b.size);
    CHECK((st == ST_OK) == (*t != NULL));
    strbuf_close(&b);
    return st;
}

static void check_refused(const char *name, const parts *p, status want, const char *sentence) {
    tokenizer *t;
    status st = read_parts(p, &t);
    CHECK_THAT(st == want && strstr(status_text(), sentence), "%s: %s \"%s\", not \"%s\"", name,
               status_name(st), st == ST_OK ? "" : status_text(), sentence);
    tokenizer_close(t);
}

static void check_ids(const tokenizer *t, const char *text, size_t count, const uint32_t *want) {
    uint32_t *ids;
    size_t n;
    CHECK_STATUS(tokenizer_encode(t, text, strlen(text), true, SIZE_MAX, &ids, &n), ST_OK);
    CHECK_THAT(n == count && memcmp(ids, want, n * sizeof *ids) == 0, "%s: %zu ids", text, n);
    free(ids);
}

/* One field of `whole` replaced. */
#define REFUSED(field, value, want, sentence)                                                                \
    do {                                                                                                     \
        parts p_ = whole;                                                                                    \
        p_.field = (value);                                                                                  \
        check_refused(#field, &p_, want, sentence);                                                          \
    } while (0)
#define ACCEPTED(field, value)                                                                               \
    do {                                                                                                     \
        parts p_ = whole;                                                                                    \
        tokenizer *t_;                                                                                       \
        p_.field = (value);                                                                                  \
        CHECK_STATUS(read_parts(&p_, &t_), ST_OK);                                                           \
        if (t_) check_ids(t_, "ab a\xF0\x9F\x9A\x80", 3, (const uint32_t[]){302, 304, 305});                 \
        tokenizer_close(t_);                                                                                 \
    } while (0)

TEST(the_whole_is_accepted) {
    tokenizer *t;
    uint32_t id;
    size_t n;
    CHECK_STATUS(read_parts(&whole, &t), ST_OK);
    if (!t) return;
    CHECK(tokenizer_vocab_size(t) == 306);
    CHECK(tokenizer_find(t,
                         "\xE2\x96\x81"
                         "a",
                         &id) &&
          id == 304 && !tokenizer_find(t, "x", &id));
    CHECK(tokenizer_bos(t, &id) && id == 1 && tokenizer_is_special(t, 1));
    CHECK(!tokenizer_is_special(t, 300) && !tokenizer_is_special(t, 9999));
    CHECK(memcmp(tokenizer_text(t, 304, &n),
                 "\xE2\x96\x81"
                 "a",
                 4) == 0 &&
          n == 4);
    CHECK(memcmp(tokenizer_bytes(t, 304, &n), " a", 2) == 0 && n == 2);
    CHECK(*tokenizer_bytes(t, 10 + 0x41, &n) == 'A' && n == 1);
    CHECK(!tokenizer_text(t, 2, &n) && n == 0 && !tokenizer_bytes(t, 306, &n));
    strbuf out = {0};
    CHECK_STATUS(tokenizer_decode(t, (const uint32_t[]){300, 2}, 2, false, &out), ST_INVALID);
    CHECK_SENTENCE("token id 2 is not used");
    CHECK_STATUS(tokenizer_decode(t, (const uint32_t[]){300, 306}, 2, false, &out), ST_INVALID);
    CHECK_SENTENCE("token id 306 is outside the vocabulary of 306");
    CHECK(out.size == 0);
    strbuf_close(&out);
    /* A file that never saw "é" writes its bytes. */
    check_ids(t, "a\xC3\xA9", 3, (const uint32_t[]){300, 10 + 0xC3, 10 + 0xA9});
    tokenizer_close(t);
}

TEST(other_spellings_are_accepted) {
    ACCEPTED(merges, "[\"a b\", \"\\u2581 a\"]");
    ACCEPTED(merges, "[ \"a b\" , [ \"\xE2\x96\x81\" , \"\\u0061\" ] ]");
    ACCEPTED(merges_first, true);
    ACCEPTED(version, NULL);
    ACCEPTED(added, NULL);
    ACCEPTED(pre, "null");
    ACCEPTED(pre, NULL);
    ACCEPTED(post, NULL);
    ACCEPTED(post,
             "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}");
    ACCEPTED(
        post,
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<bos>\",\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}");
    ACCEPTED(dropout, "0.0");
    ACCEPTED(prefix, "\"\"");
    ACCEPTED(ignore, NULL);
}

TEST(other_tokenizers_are_refused_by_name) {
    REFUSED(version, "\"2.0\"", ST_UNSUPPORTED, "version is \"2.0\", only");
    REFUSED(type, "\"Unigram\"", ST_UNSUPPORTED, "model.type is \"Unigram\", only \"BPE\"");
    REFUSED(type, NULL, ST_UNSUPPORTED, "model.type is absent");
    REFUSED(dropout, "0.1", ST_UNSUPPORTED, "model.dropout is 0.1");
    REFUSED(prefix, "\"##\"", ST_UNSUPPORTED, "model.continuing_subword_prefix");
    REFUSED(suffix, "\"</w>\"", ST_UNSUPPORTED, "model.end_of_word_suffix");
    REFUSED(bytes, "false", ST_UNSUPPORTED, "model.byte_fallback is false");
    REFUSED(bytes, NULL, ST_UNSUPPORTED, "model.byte_fallback is absent");
    REFUSED(ignore, "true", ST_UNSUPPORTED, "model.ignore_merges is true");
    REFUSED(normalizer, NULL, ST_UNSUPPORTED, "normalizer is absent");
    REFUSED(normalizer, "{\"type\":\"NFC\"}", ST_UNSUPPORTED, "normalizer is {\"type\":\"NFC\"}");
    REFUSED(normalizer, "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" \"},\"content\":\"\\u2581\"}",
            ST_UNSUPPORTED, "normalizer is");
    REFUSED(pre, "{\"type\":\"ByteLevel\"}", ST_UNSUPPORTED, "pre_tokenizer is");
    REFUSED(pre,
            "{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Removed\",\"invert\":true}",
            ST_UNSUPPORTED, "pre_tokenizer is");
    REFUSED(post, "{\"type\":\"BertProcessing\"}", ST_UNSUPPORTED, "post_processor is");
    REFUSED(post,
            "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"
            "{\"SpecialToken\":{\"id\":\"<eos>\",\"type_id\":0}}]}",
            ST_UNSUPPORTED, "post_processor is");
    REFUSED(decoder, "null", ST_UNSUPPORTED, "decoder is null");
    REFUSED(decoder, "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}",
            ST_UNSUPPORTED, "decoder is");
    REFUSED(extra_root, ",\"novelty\":1", ST_UNSUPPORTED, "field \"novelty\" is not known");
    REFUSED(extra_model, ",\"max_input_chars_per_word\":1", ST_UNSUPPORTED,
            "field \"model.max_input_chars_per_word\" is not known");
}

TEST(broken_vocabularies_are_refused) {
    REFUSED(tokens, NULL, ST_FORMAT, "model.vocab is missing");
    REFUSED(tokens, "\"a\":300,\"b\":301,\"a\":302", ST_FORMAT,
            "token \"a\" is there twice: ids 300 and 302");
    REFUSED(tokens, "\"a\":300,\"b\":300", ST_FORMAT, "id 300 is given to \"a\" and to \"b\"");
    REFUSED(tokens, "\"a\":10", ST_FORMAT, "id 10 is given to \"a\" and to \"<0x00>\"");
    REFUSED(tokens, "\"a\":1048576", ST_FORMAT, "the number 1048576 is above 1048575");
    REFUSED(tokens, "\"a\":99999999999999999999999", ST_FORMAT, "is above 1048575");
    REFUSED(tokens, "\"a\":-1", ST_FORMAT, "a whole number is expected");
    REFUSED(tokens, "\"a\":3.5", ST_FORMAT, "a whole number is expected");
    REFUSED(tokens, "\"a\":007", ST_FORMAT, "leading zero");
    REFUSED(tokens, "\"\\ud83d\":300", ST_FORMAT, "half of a surrogate pair");
    REFUSED(tokens, "\"\xFF\":300", ST_FORMAT, "is not UTF-8");
    REFUSED(bytes_left_out, 0xA9, ST_FORMAT, "byte token <0xA9> is missing");
    _Static_assert(LIMIT_VOCAB == 1048576, "the numbers above");
}

TEST(broken_merges_are_refused) {
    REFUSED(merges, NULL, ST_FORMAT, "model.merges is missing");
    REFUSED(merges, "{}", ST_FORMAT, "'[' is expected");
    REFUSED(merges, "[[\"a\",\"b\"],[\"a\",\"z\"]]", ST_FORMAT,
            "model.merges[1]: \"z\" is not in the vocabulary");
    REFUSED(merges, "[[\"b\",\"a\"]]", ST_FORMAT,
            "model.merges[0] makes \"ba\", which is not in the vocabulary");
    REFUSED(merges, "[\"ab\"]", ST_FORMAT, "model.merges[0]: \"ab\" is not two tokens");
    REFUSED(merges, "[\"a b c\"]", ST_FORMAT, "\"a b c\" is not two tokens");
    REFUSED(merges, "[[\"a\"]]", ST_FORMAT, "',' is expected");
    REFUSED(merges, "[[\"a\",\"b\",\"a\"]]", ST_FORMAT, "']' is expected");
}

TEST(added_tokens_are_checked) {
    tokenizer *t;
    parts p = whole;
#define ADDED(id, content, flag) "[{\"id\":" #id ",\"content\":\"" content "\"," flag "\"special\":true}]"
    REFUSED(added, "{}", ST_FORMAT, "added_tokens is not a list");
    REFUSED(added, ADDED(1, "", ""), ST_FORMAT, "added_tokens[0]: content");
    REFUSED(added, ADDED(2, "<bos>", ""), ST_FORMAT, "\"<bos>\" has id 2, and 1 in model.vocab");
    REFUSED(added, ADDED(300, "<x>", ""), ST_FORMAT, "id 300 is given to \"a\" and to \"<x>\"");
    REFUSED(added, ADDED(1048576, "<x>", ""), ST_FORMAT, "id is 1048576");
    REFUSED(added, ADDED(1, "<bos>", "\"lstrip\":true,"), ST_UNSUPPORTED, "added_tokens[0]: lstrip is true");
    REFUSED(added, ADDED(1, "<bos>", "\"rstrip\":true,"), ST_UNSUPPORTED, "rstrip is true");
    REFUSED(added, ADDED(1, "<bos>", "\"single_word\":true,"), ST_UNSUPPORTED, "single_word is true");
    REFUSED(added, ADDED(1, "<bos>", "\"normalized\":true,"), ST_UNSUPPORTED, "normalized is true");
    REFUSED(added, "[{\"id\":1,\"content\":\"<bos>\"},{\"id\":1,\"content\":\"<bos>\"}]", ST_FORMAT,
            "has id 1 twice");
    /* Past the end of the vocabulary, and not special: found with parse_special off too. The longest wins. */
    p.added = "[{\"id\":400,\"content\":\"a<x>\",\"special\":false},{\"id\":401,\"content\":\"a<x>a\","
              "\"special\":true},"
              "{\"id\":402,\"content\":\"a<\",\"special\":false}]";
    CHECK_STATUS(read_parts(&p, &t), ST_OK);
    if (!t) return;
    CHECK(tokenizer_vocab_size(t) == 403);
    check_ids(t, "ba<x>ab", 3, (const uint32_t[]){301, 401, 301});
    check_ids(t, "a<x>ba<b", 4, (const uint32_t[]){400, 301, 402, 301});
    uint32_t *ids;
    size_t n;
    CHECK_STATUS(tokenizer_encode(t, "a<x>a", 5, false, 9, &ids, &n), ST_OK);
    CHECK(n == 2 && ids[0] == 400 && ids[1] == 300);
    free(ids);
    tokenizer_close(t);
}

/* A range is plain for special tokens alone: tokens with a byte in it are not found, merges go across its
 * ends. */
TEST(plain_ranges) {
    static const char text[] = "<bos>a<bos>b<bos>";
    static const struct {
        text_range plain[3];
        size_t ranges, specials;
    } cases[] = {
        {{{0, 0}}, 0, 3},           {{{0, 17}}, 1, 0},
        {{{6, 11}}, 1, 2},          {{{6, 7}}, 1, 2},
        {{{10, 11}}, 1, 2},         {{{5, 6}, {11, 12}}, 2, 3},
        {{{0, 1}, {16, 17}}, 2, 1}, {{{8, 8}}, 1, 3},
        {{{4, 7}}, 1, 1},           {{{0, 2}, {2, 2}, {3, 9}}, 3, 1},
    };
    tokenizer *t;
    CHECK_STATUS(read_parts(&whole, &t), ST_OK);
    if (!t) return;
    uint32_t *ids;
    size_t n;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_STATUS(tokenizer_encode_marked(t, text, 17, cases[i].plain, cases[i].ranges, 99, &ids, &n),
                     ST_OK);
        size_t specials = 0;
        for (size_t k = 0; k < n; k++) specials += ids[k] == 1;
        CHECK_THAT(specials == cases[i].specials, "case %zu: %zu", i, specials);
        free(ids);
    }
    text_range border = {1, 2};
    CHECK_STATUS(tokenizer_encode_marked(t, "ab", 2, &border, 1, 99, &ids, &n), ST_OK);
    CHECK(n == 1 && ids[0] == 302);
    free(ids);
    tokenizer_close(t);
}

TEST(text_must_be_utf8) {
    static const struct {
        const char *text;
        size_t n;
        const char *sentence;
    } bad[] = {
        {"ab\xFF", 3, "at byte 2"},
        {"abcdefgh\x80", 9, "at byte 8"},
        {"a\xC3", 2, "at byte 1"},
        {"\xC0\x80", 2, "at byte 0"},
        {"\xE0\x80\x80", 3, "at byte 0"},
        {"\xED\xA0\x80", 3, "at byte 0"},
        {"a\xF4\x90\x80\x80", 5, "at byte 1"},
        {"\xF0\x9F\x9A", 3, "at byte 0"},
        {"\xE2\x96\x81\xF8", 4, "at byte 3"},
    };
    tokenizer *t;
    uint32_t *ids;
    size_t n;
    CHECK_STATUS(read_parts(&whole, &t), ST_OK);
    if (!t) return;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(tokenizer_encode(t, bad[i].text, bad[i].n, true, 99, &ids, &n), ST_INVALID);
        CHECK_SENTENCE(bad[i].sentence);
    }
    CHECK_STATUS(tokenizer_encode(t, "abb", 3, true, 1, &ids, &n), ST_INVALID);
    CHECK_SENTENCE("has 2 tokens, at most 1");
    CHECK_STATUS(tokenizer_encode(t, NULL, 0, true, 0, &ids, &n), ST_OK);
    CHECK(ids != NULL && n == 0);
    free(ids);
    CHECK_STATUS(tokenizer_encode(t, "a\0b", 3, true, 9, &ids, &n), ST_OK);
    CHECK(n == 3 && ids[1] == 10);
    free(ids);
    tokenizer_close(t);
}

/* Every text cut short is refused, and refused politely. */
TEST(cut_files_are_refused) {
    strbuf b = {0};
    tokenizer *t;
    write_json(&b, &whole);
    size_t body = b.size - 1; /* without the last newline */
    for (size_t n = 0; n < body; n++) {
        CHECK(tokenizer_parse(&t, b.data, n) == ST_FORMAT && t == NULL);
        CHECK_SENTENCE("tokenizer.json: ");
    }
    strbuf_add_string(&b, "x");
    CHECK_STATUS(tokenizer_parse(&t, b.data, b.size), ST_FORMAT);
    CHECK_SENTENCE("text after the end");
    strbuf_close(&b);
    CHECK_STATUS(tokenizer_parse(&t, "{\"model\":1}", 11), ST_FORMAT);
    CHECK_STATUS(tokenizer_parse(&t, "{\"version\":1}", 13), ST_FORMAT);
    CHECK_SENTENCE("model is missing");
    CHECK_STATUS(tokenizer_parse(&t, "{\"version\":1,\"version\":1}", 25), ST_FORMAT);
    CHECK_SENTENCE("version is there twice");
}

TEST(files) {
    char path[] = "/tmp/gemmad-test-XXXXXX";
    tokenizer *t;
    strbuf b = {0};
    write_json(&b, &whole);
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, b.data, b.size) == (ssize_t)b.size);
    CHECK_STATUS(tokenizer_open(&t, path), ST_OK);
    tokenizer_close(t);
    CHECK(ftruncate(fd, 100) == 0);
    CHECK_STATUS(tokenizer_open(&t, path), ST_FORMAT);
    CHECK_SENTENCE(path);
    close(fd);
    unlink(path);
    CHECK_STATUS(tokenizer_open(&t, path), ST_NOT_FOUND);
    tokenizer_close(NULL);
    strbuf_close(&b);
}

int main(void) {
    RUN(the_whole_is_accepted);
    RUN(other_spellings_are_accepted);
    RUN(other_tokenizers_are_refused_by_name);
    RUN(broken_vocabularies_are_refused);
    RUN(broken_merges_are_refused);
    RUN(added_tokens_are_checked);
    RUN(plain_ranges);
    RUN(text_must_be_utf8);
    RUN(cut_files_are_refused);
    RUN(files);
    return test_result();
}
