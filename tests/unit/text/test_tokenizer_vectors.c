/* Gemma 4's own tokenizer against what the library that it was made with gives (tests/tokenizer/gemma4). */
#include <inttypes.h>
#include <jansson.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "daemon/text/tokenizer.h"
#include "base/utf8.h"
#include "tests/gemma_tokenizer.h"
#include "tests/test.h"

static tokenizer *gemma;
static int encodes, decodes, streams, longs;

static void ids_of(const json_t *list, uint32_t **ids, size_t *count) {
    *count = json_array_size(list);
    *ids = memory_alloc_array(*count, sizeof **ids);
    for (size_t i = 0; i < *count; i++) (*ids)[i] = (uint32_t)json_integer_value(json_array_get(list, i));
}

static const char *text_of(const json_t *v, const char *key, size_t *n) {
    const json_t *s = json_object_get(v, key);
    *n = s ? json_string_length(s) : 0;
    return s ? json_string_value(s) : NULL;
}

static bool same(const uint32_t *a, size_t n, const uint32_t *b, size_t m) {
    return n == m && (n == 0 || memcmp(a, b, n * sizeof *a) == 0);
}

static void check_decode(const char *name, const uint32_t *ids, size_t count, bool skip, const char *want,
                         size_t n) {
    strbuf out = {0};
    CHECK_STATUS(tokenizer_decode(gemma, ids, count, skip, &out), ST_OK);
    CHECK_THAT(out.size == n && memcmp(strbuf_text(&out), want, n) == 0, "%s: \"%s\" not \"%s\"", name,
               strbuf_text(&out), want);
    strbuf_close(&out);
}

/* decoded, and decoded_skip_special where it differs */
static void check_decodes(const char *name, const json_t *v, const uint32_t *ids, size_t count) {
    size_t n, m;
    const char *decoded = text_of(v, "decoded", &n), *skipped = text_of(v, "decoded_skip_special", &m);
    check_decode(name, ids, count, false, decoded, n);
    check_decode(name, ids, count, true, skipped ? skipped : decoded, skipped ? m : n);
}

static void check_encode(const char *name, const json_t *v) {
    uint32_t *want, *got;
    size_t wanted, count, n;
    const char *text = text_of(v, "text", &n);
    bool special = json_is_true(json_object_get(v, "parse_special"));
    ids_of(json_object_get(v, "ids"), &want, &wanted);
    CHECK_STATUS(tokenizer_encode(gemma, text, n, special, wanted, &got, &count), ST_OK);
    CHECK_THAT(same(got, count, want, wanted), "%s: %zu ids, not %zu", name, count, wanted);
    check_decodes(name, v, want, wanted);
    free(got);
    if (wanted > 0) {
        CHECK_STATUS(tokenizer_encode(gemma, text, n, special, wanted - 1, &got, &count), ST_INVALID);
        CHECK(got == NULL && count == 0);
    }
    free(want);
    encodes++;
}

static void check_bytes(const char *name, const json_t *v) {
    uint32_t *ids;
    size_t count, n;
    strbuf hex = {0};
    const char *want = text_of(v, "bytes_hex", &n);
    ids_of(json_object_get(v, "ids"), &ids, &count);
    for (size_t i = 0; i < count; i++) {
        size_t m;
        const char *bytes = tokenizer_bytes(gemma, ids[i], &m);
        for (size_t k = 0; k < m; k++) strbuf_add_format(&hex, "%02x", (uint8_t)bytes[k]);
    }
    CHECK_THAT(strcmp(strbuf_text(&hex), want) == 0, "%s: %s not %s", name, strbuf_text(&hex), want);
    check_decodes(name, v, ids, count);
    strbuf_close(&hex);
    free(ids);
    decodes++;
}

static void check_stream(const char *name, const json_t *v) {
    uint32_t *ids;
    size_t count;
    detokenizer d;
    strbuf out = {0}, all = {0};
    bool skip = json_is_true(json_object_get(v, "skip_special"));
    const json_t *emits = json_object_get(v, "emits");
    ids_of(json_object_get(v, "ids"), &ids, &count);
    detokenizer_open(&d, gemma, skip);
    CHECK(json_array_size(emits) == count);
    for (size_t i = 0; i <= count; i++) {
        const char *want =
            json_string_value(i < count ? json_array_get(emits, i) : json_object_get(v, "flush"));
        strbuf_clear(&out);
        if (i < count) CHECK_STATUS(detokenizer_add(&d, ids[i], &out), ST_OK);
        else detokenizer_flush(&d, &out);
        CHECK_THAT(strcmp(strbuf_text(&out), want) == 0, "%s, token %zu: \"%s\" not \"%s\"", name, i,
                   strbuf_text(&out), want);
        CHECK(utf8_check(strbuf_text(&out), out.size) == out.size);
        strbuf_add(&all, strbuf_text(&out), out.size);
    }
    CHECK(!detokenizer_waits(&d));
    check_decode(name, ids, count, skip, strbuf_text(&all), all.size);
    strbuf_close(&out);
    strbuf_close(&all);
    free(ids);
    streams++;
}

/* unit × repeat, or n_chars characters of an alphabet drawn by xorshift32 */
static void long_text(const json_t *v, strbuf *text) {
    size_t n;
    const char *unit = text_of(v, "unit", &n);
    if (unit) {
        for (json_int_t i = json_integer_value(json_object_get(v, "repeat")); i > 0; i--)
            strbuf_add(text, unit, n);
        return;
    }
    const char *alphabet = text_of(v, "alphabet", &n), *chars[64];
    uint32_t s = (uint32_t)json_integer_value(json_object_get(v, "xorshift32_seed")), code_point, count = 0;
    for (size_t at = 0; at < n && count < 64; count++) {
        chars[count] = alphabet + at;
        at += utf8_decode(alphabet + at, &code_point);
    }
    for (json_int_t i = json_integer_value(json_object_get(v, "n_chars")); i > 0; i--) {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        strbuf_add(text, chars[s % count], utf8_decode(chars[s % count], &code_point));
    }
}

static void check_long(const char *name, const json_t *v) {
    strbuf text = {0};
    uint32_t *got, *head;
    size_t count, n;
    uint8_t digest[32];
    char hex[65];
    long_text(v, &text);
    CHECK(text.size == (size_t)json_integer_value(json_object_get(v, "n_bytes")));
    bool special = json_is_true(json_object_get(v, "parse_special"));
    CHECK_STATUS(tokenizer_encode(gemma, text.data, text.size, special, SIZE_MAX, &got, &count), ST_OK);
    CHECK_THAT(count == (size_t)json_integer_value(json_object_get(v, "n_ids")), "%s: %zu", name, count);
    ids_of(json_object_get(v, "ids_head"), &head, &n);
    CHECK_THAT(n <= count && same(got, n, head, n), "%s: head", name);
    free(head);
    ids_of(json_object_get(v, "ids_tail"), &head, &n);
    CHECK_THAT(n <= count && same(got + count - n, n, head, n), "%s: tail", name);
    free(head);
    sha256 s;
    sha256_begin(&s);
    sha256_add(&s, got, count * sizeof *got); /* little-endian, as all machines of this project are */
    sha256_end(&s, digest);
    sha256_hex(digest, hex);
    CHECK_THAT(strcmp(hex, text_of(v, "ids_sha256", &n)) == 0, "%s: %s", name, hex);
    strbuf_close(&text);
    free(got);
    longs++;
}

TEST(vectors) {
    FILE *file = fopen(TEST_DATA "/tokenizer/gemma4/vectors.jsonl", "r");
    CHECK(file);
    char *line = NULL;
    size_t capacity = 0;
    while (file && getline(&line, &capacity, file) > 0) {
        json_t *v = json_loads(line, JSON_ALLOW_NUL, NULL);
        CHECK(v);
        const char *kind = json_string_value(json_object_get(v, "kind"));
        const char *name = json_string_value(json_object_get(v, "id"));
        if (!kind || !name) CHECK_THAT(false, "%s", line);
        else if (!strcmp(kind, "encode")) check_encode(name, v);
        else if (!strcmp(kind, "decode")) check_bytes(name, v);
        else if (!strcmp(kind, "stream")) check_stream(name, v);
        else if (!strcmp(kind, "long")) check_long(name, v);
        else CHECK_THAT(false, "kind %s", kind);
        json_decref(v);
    }
    free(line);
    if (file) fclose(file);
    CHECK_THAT(encodes == 380 && decodes == 26 && streams == 26 && longs == 18, "%d %d %d %d", encodes,
               decodes, streams, longs);
}

/* llama.cpp's texts, one after another with a separator line, and its ids, a line each */
TEST(llama_texts) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char *inp, *out, *ids_end, *end = NULL;
    size_t inp_size, out_size;
    int texts = 0;
    CHECK_STATUS(
        file_read_all(TEST_DATA "/tokenizer/gemma4/ggml-vocab-gemma-4.inp", 1 << 20, &inp, &inp_size), ST_OK);
    CHECK_STATUS(
        file_read_all(TEST_DATA "/tokenizer/gemma4/ggml-vocab-gemma-4.out", 1 << 20, &out, &out_size), ST_OK);
    char *text = inp, *line = out;
    for (bool last = false; !last; text = end + sizeof separator - 1, texts++) {
        uint32_t *ids;
        size_t count, i = 0;
        end = strstr(text, separator);
        last = !end;
        if (last) end = inp + inp_size;
        CHECK_STATUS(tokenizer_encode(gemma, text, (size_t)(end - text), true, 1000, &ids, &count), ST_OK);
        ids_end = strchr(line, '\n');
        CHECK(ids_end != NULL);
        if (!ids_end) break;
        for (; line < ids_end; i++) {
            while (line < ids_end && *line == ' ') line++;
            if (line == ids_end) break;
            unsigned long id = strtoul(line, &line, 10);
            CHECK_THAT(i < count && ids[i] == id, "text %d, id %zu", texts, i);
        }
        CHECK_THAT(i == count, "text %d: %zu ids, not %zu", texts, count, i);
        line = ids_end + 1;
        free(ids);
    }
    CHECK_THAT(texts == 46, "%d", texts);
    free(inp);
    free(out);
}

/* special_tokens.json, and what the model card says of the others */
TEST(special_tokens) {
    json_t *list = json_load_file(TEST_DATA "/tokenizer/gemma4/special_tokens.json", 0, NULL);
    json_t *tokens = json_is_array(list) ? list : json_object_get(list, "tokens"), *token;
    size_t i;
    uint32_t id, specials = 0;
    CHECK(json_array_size(tokens) == 24);
    json_array_foreach(tokens, i, token) {
        const char *text = json_string_value(json_object_get(token, "text"));
        CHECK_THAT(text && tokenizer_find(gemma, text, &id), "%s", text ? text : "no text");
        CHECK(id == (uint32_t)json_integer_value(json_object_get(token, "id")) &&
              tokenizer_is_special(gemma, id));
    }
    json_decref(list);
    CHECK(tokenizer_vocab_size(gemma) == 262144);
    for (id = 0; id < 262144; id++) specials += tokenizer_is_special(gemma, id);
    CHECK_THAT(specials == 24, "%u", specials);
    CHECK(tokenizer_bos(gemma, &id) && id == 2);
    CHECK(tokenizer_find(gemma, "</s>", &id) && id == 212 && !tokenizer_is_special(gemma, id));
}

static void check_prompt(const char *name, const char *prompt, size_t n, const json_t *list,
                         const text_range *plain, size_t plain_count) {
    uint32_t *want, *got;
    size_t wanted, count;
    ids_of(list, &want, &wanted);
    CHECK_STATUS(tokenizer_encode_marked(gemma, prompt, n, plain, plain_count, SIZE_MAX, &got, &count),
                 ST_OK);
    CHECK_THAT(same(got, count, want, wanted), "%s: %zu ids, %zu ranges", name, count, plain_count);
    free(want);
    free(got);
}

/* Where what system, user and tool wrote stands in the prompt: it is there as it was written in these
 * vectors. */
static size_t find_plain(const json_t *messages, const char *prompt, size_t n, text_range *plain) {
    size_t i, k, count = 0, at = 0;
    json_t *message, *part;
    json_array_foreach(messages, i, message) {
        if (!strcmp(json_string_value(json_object_get(message, "role")), "assistant")) continue;
        json_t *content = json_object_get(message, "content"), *parts = json_array();
        if (json_is_array(content)) json_array_extend(parts, content);
        else json_array_append_new(parts, json_pack("{s:O}", "text", content));
        json_array_foreach(parts, k, part) {
            const char *text = json_string_value(json_object_get(part, "text"));
            const char *found = text ? memmem(prompt + at, n - at, text, strlen(text)) : NULL;
            CHECK(found || !text);
            if (!found) continue;
            plain[count].begin = (size_t)(found - prompt);
            at = plain[count++].end = (size_t)(found - prompt) + strlen(text);
        }
        json_decref(parts);
    }
    return count;
}

/* Prompts of chats: with every special token parsed, and with those left as text that strangers wrote. */
TEST(chat_prompts) {
    FILE *file = fopen(TEST_DATA "/tokenizer/gemma4/chat.jsonl", "r");
    CHECK(file);
    char *line = NULL;
    size_t capacity = 0, n;
    int prompts = 0, marked = 0;
    while (file && getline(&line, &capacity, file) > 0) {
        json_t *v = json_loads(line, JSON_ALLOW_NUL, NULL), *safe = json_object_get(v, "ids_content_plain");
        const char *prompt = text_of(v, "prompt", &n), *name = json_string_value(json_object_get(v, "id"));
        if (prompt) {
            check_prompt(name, prompt, n, json_object_get(v, "ids"), NULL, 0);
            prompts++;
        }
        if (safe) {
            text_range plain[16];
            size_t count = find_plain(json_object_get(v, "messages"), prompt, n, plain);
            check_prompt(name, prompt, n, safe, plain, count);
            marked++;
        }
        json_decref(v);
    }
    free(line);
    if (file) fclose(file);
    CHECK_THAT(prompts > 50 && marked >= 3, "%d %d", prompts, marked);
}

int main(void) {
    strbuf json = {0};
    if (!gemma_tokenizer_unpack(GEMMA_TOKENIZER_XZ, &json))
        test_skip("xz cannot unpack Gemma's tokenizer.json here");
    CHECK_STATUS(tokenizer_parse(&gemma, json.data, json.size), ST_OK);
    strbuf_close(&json);
    if (!gemma) return 1;
    RUN(vectors);
    RUN(llama_texts);
    RUN(special_tokens);
    RUN(chat_prompts);
    tokenizer_close(gemma);
    return test_result();
}
