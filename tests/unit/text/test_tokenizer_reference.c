/* The encoder against a plain one that knows no shortcut: texts instead of ids, every pair looked at before
 * every merge, no cutting into words, no cache. On the tiny models' tokenizer and on random ones, whose
 * merges come in any order, repeat, cross spaces, and join byte tokens, as no trained tokenizer's do. */
#include <jansson.h>

#include "base/memory.h"
#include "daemon/text/tokenizer.h"
#include "base/utf8.h"
#include "tests/test.h"

static uint32_t random_state = 88172645;
static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % n;
}

typedef struct reference {
    json_t *vocab; /* text → id */
    json_t *ranks; /* "left\x01right" → rank */
} reference;

static json_t *pair_rank(const reference *r, const char *left, const char *right) {
    char key[512];
    CHECK(snprintf(key, sizeof key, "%s\x01%s", left, right) < (int)sizeof key);
    return json_object_get(r->ranks, key);
}

static void set_merges(reference *r, const json_t *merges) {
    size_t i;
    json_t *merge;
    char key[512];
    r->ranks = json_object();
    json_array_foreach(merges, i, merge) {
        snprintf(key, sizeof key, "%s\x01%s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        json_object_set_new(r->ranks, key, json_integer((json_int_t)i));
    }
}

/* Start symbols of text, each an own string; returns how many. */
static size_t start_symbols(const reference *r, const char *text, size_t n, char **symbols) {
    size_t count = 0;
    uint32_t code_point;
    for (size_t at = 0; at < n;) {
        char one[8] = {0}, byte[8];
        unsigned length = utf8_decode(text + at, &code_point);
        memcpy(one, text[at] == ' ' ? "\xE2\x96\x81" : text + at, text[at] == ' ' ? 3 : length);
        if (json_object_get(r->vocab, one)) {
            symbols[count++] = memory_copy_string(one);
        } else {
            for (const char *p = one; *p; p++) {
                snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(uint8_t)*p);
                symbols[count++] = memory_copy_string(byte);
            }
        }
        at += length;
    }
    return count;
}

static size_t reference_encode(const reference *r, const char *text, size_t n, uint32_t *ids) {
    char **symbols = memory_alloc_array(n * 3 + 1, sizeof *symbols);
    json_int_t *ranks = memory_alloc_array(n * 3 + 1, sizeof *ranks);
    size_t count = start_symbols(r, text, n, symbols);
    for (size_t i = 0; i < count; i++) ranks[i] = -2; /* not looked up yet */
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < count; i++) {
            if (ranks[i] == -2) {
                json_t *rank = pair_rank(r, symbols[i], symbols[i + 1]);
                ranks[i] = rank ? json_integer_value(rank) : -1;
            }
            if (ranks[i] >= 0 && (best == SIZE_MAX || ranks[i] < ranks[best])) best = i;
        }
        if (best == SIZE_MAX) break;
        strbuf joined = {0};
        strbuf_add_format(&joined, "%s%s", symbols[best], symbols[best + 1]);
        free(symbols[best]);
        free(symbols[best + 1]);
        symbols[best] = joined.data;
        count--;
        for (size_t i = best + 1; i < count; i++) symbols[i] = symbols[i + 1], ranks[i] = ranks[i + 1];
        ranks[best] = -2;
        if (best > 0) ranks[best - 1] = -2;
    }
    for (size_t i = 0; i < count; i++) {
        ids[i] = (uint32_t)json_integer_value(json_object_get(r->vocab, symbols[i]));
        free(symbols[i]);
    }
    free(symbols);
    free(ranks);
    return count;
}

static void compare(const reference *r, const tokenizer *t, const strbuf *text) {
    uint32_t *want = memory_alloc_array(text->size * 3 + 1, sizeof *want), *got;
    size_t count, wanted = reference_encode(r, strbuf_text(text), text->size, want);
    CHECK_STATUS(tokenizer_encode(t, strbuf_text(text), text->size, false, SIZE_MAX, &got, &count), ST_OK);
    CHECK_THAT(count == wanted && (count == 0 || memcmp(got, want, count * sizeof *got) == 0),
               "\"%s\": %zu tokens, not %zu", strbuf_text(text), count, wanted);
    free(want);
    free(got);
}

/* Pieces of the vocabulary's own texts, single characters, and some that no vocabulary has. */
static void random_text(const json_t *vocab, size_t bytes, strbuf *text) {
    static const char *const odd[] = {
        " ", " ", "A", "e", "<", "\xC3\xA9", "\xE4\xBD\xA0", "\xF0\x9F\x9A\x80", "\xE2\x96\x81", "\x01"};
    const char **texts = memory_alloc_array(json_object_size(vocab), sizeof *texts), *key;
    json_t *id;
    uint32_t count = 0;
    json_object_foreach((json_t *)vocab, key, id) texts[count++] = key;
    strbuf_clear(text);
    while (text->size < bytes)
        strbuf_add_string(text, random_below(3) ? texts[random_below(count)] : odd[random_below(10)]);
    free(texts);
}

TEST(tiny_model) {
    tokenizer *t;
    json_t *root = json_load_file(TEST_DATA "/models/tiny-dense/tokenizer.json", 0, NULL);
    const json_t *model = json_object_get(root, "model");
    reference r = {.vocab = json_object_get(model, "vocab")};
    set_merges(&r, json_object_get(model, "merges"));
    CHECK(json_object_size(r.ranks) > 800);
    CHECK_STATUS(tokenizer_open(&t, TEST_DATA "/models/tiny-dense/tokenizer.json"), ST_OK);
    strbuf text = {0};
    /* 16, 256 and 4096 symbols are where the tree of minima grows a level. */
    static const size_t sizes[] = {1, 2, 3, 15, 16, 17, 40, 255, 256, 257, 1000, 5000};
    for (size_t i = 0; t && i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < (sizes[i] > 300 ? 3 : 60); k++) {
            random_text(r.vocab, sizes[i], &text);
            compare(&r, t, &text);
        }
    strbuf_close(&text);
    json_decref(r.ranks);
    json_decref(root);
    tokenizer_close(t);
}

static const char head[] = "{\"added_tokens\":[],\"normalizer\":{\"type\":\"Replace\",\"pattern\":{"
                           "\"String\":\" \"},\"content\":\"\\u2581\"},"
                           "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
                           "\"pattern\":{\"String\":\"\\u2581\"},\"content\":"
                           "\" "
                           "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]},\"model\":{\"type\":"
                           "\"BPE\",\"byte_fallback\":true,\"vocab\":";

/* Gives the text an id unless it has one. The key that comes back stays where it is while the object lives.
 */
static const char *add_token(json_t *vocab, const char *text) {
    if (!json_object_get(vocab, text))
        json_object_set_new(vocab, text, json_integer((json_int_t)json_object_size(vocab)));
    return json_object_iter_key(json_object_iter_at(vocab, text));
}

/* A merge anywhere in the list. */
static const char *add_merge(json_t *vocab, json_t *merges, const char *left, const char *right) {
    char joined[128];
    CHECK(snprintf(joined, sizeof joined, "%s%s", left, right) < (int)sizeof joined);
    add_token(vocab, left);
    add_token(vocab, right);
    json_array_insert_new(merges, random_below((uint32_t)json_array_size(merges) + 1),
                          json_pack("[ss]", left, right));
    return add_token(vocab, joined);
}

/* All byte tokens, a few letters (some of which stay without a token), and merges of whatever is there
 * already. */
static void random_merges(json_t *vocab, json_t *merges) {
    static const char *const letters[] = {
        "a", "b", "<", "0", "x", "4", "1", ">", "\n", "\xE2\x96\x81", "\xC3\xA9", "\xF0\x9F\x9A\x80"};
    const char *texts[128];
    uint32_t count = 0, merge_count = 1 + random_below(60);
    char byte[8];
    for (unsigned i = 0; i < 256; i++) {
        snprintf(byte, sizeof byte, "<0x%02X>", i);
        add_token(vocab, byte);
    }
    /* The byte tokens of U+2581 and "A" take part in merges too. */
    texts[count++] = "<0xE2>";
    texts[count++] = "<0x96>";
    texts[count++] = "<0x41>";
    for (size_t i = 0; i < sizeof letters / sizeof *letters; i++)
        if (random_below(5) > 0) texts[count++] = add_token(vocab, letters[i]);
    for (uint32_t i = 0; i < merge_count; i++) {
        const char *left = texts[random_below(count)], *right = texts[random_below(count)];
        if (strlen(left) + strlen(right) <= 60) texts[count++] = add_merge(vocab, merges, left, right);
    }
    /* "<0x41>" from its characters: a byte token that a text can spell, and that goes on from there. */
    if (random_below(3) == 0) {
        add_merge(vocab, merges, "<", "0");
        add_merge(vocab, merges, "x", "4");
        add_merge(vocab, merges, "1", ">");
        add_merge(vocab, merges, "<0", "x4");
        add_merge(vocab, merges, "<0x4", "1>");
        add_merge(vocab, merges, "<0x41>", "<0x41>");
        add_merge(vocab, merges, "b", "<0x41>");
    }
}

static void random_tokenizer(reference *r, tokenizer **t) {
    json_t *merges = json_array();
    strbuf json = {0};
    r->vocab = json_object();
    random_merges(r->vocab, merges);
    set_merges(r, merges);
    char *vocab = json_dumps(r->vocab, JSON_COMPACT), *list = json_dumps(merges, 0);
    strbuf_add_string(&json, head);
    strbuf_add_string(&json, vocab);
    strbuf_add_string(&json, ",\"merges\":");
    strbuf_add_string(&json, list);
    strbuf_add_string(&json, "}}");
    CHECK_STATUS(tokenizer_parse(t, json.data, json.size), ST_OK);
    free(vocab);
    free(list);
    strbuf_close(&json);
    json_decref(merges);
}

TEST(random_tokenizers) {
    strbuf text = {0};
    for (int i = 0; i < 400; i++) {
        reference r;
        tokenizer *t;
        random_tokenizer(&r, &t);
        for (int k = 0; t && k < 12; k++) {
            random_text(r.vocab, 1 + random_below(k == 0 ? 900 : 80), &text);
            compare(&r, t, &text);
        }
        json_decref(r.vocab);
        json_decref(r.ranks);
        tokenizer_close(t);
    }
    strbuf_close(&text);
}

int main(void) {
    RUN(tiny_model);
    RUN(random_tokenizers);
    return test_result();
}
