/* The bundled tiny models' tokenizers: recorded prompts and answers, long texts, and many threads at once. */
#include <jansson.h>
#include <pthread.h>

#include "base/memory.h"
#include "daemon/text/tokenizer.h"
#include "tests/test.h"

enum { THREADS = 4, ROUNDS = 20 };

static tokenizer *open_model(const char *model) {
    char path[512];
    tokenizer *t;
    snprintf(path, sizeof path, TEST_DATA "/models/%s/tokenizer.json", model);
    CHECK_STATUS(tokenizer_open(&t, path), ST_OK);
    return t;
}

static json_t *open_samples(const char *model) {
    char path[512];
    snprintf(path, sizeof path, TEST_DATA "/models/%s/samples.json", model);
    return json_load_file(path, 0, NULL);
}

static bool same_ids(const json_t *list, const uint32_t *ids, size_t count) {
    bool same = json_array_size(list) == count;
    for (size_t i = 0; same && i < count; i++) same = json_integer_value(json_array_get(list, i)) == ids[i];
    return same;
}

static void check_completion(const tokenizer *t, const json_t *sample, const char *name) {
    const json_t *list = json_object_get(sample, "completion_token_ids");
    const char *want = json_string_value(json_object_get(sample, "completion"));
    size_t count = json_array_size(list);
    uint32_t *ids = memory_alloc_array(count, sizeof *ids);
    strbuf text = {0}, streamed = {0};
    detokenizer d;
    if (count > 0) count--; /* the last one ended the answer */
    for (size_t i = 0; i < count; i++) ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    CHECK_STATUS(tokenizer_decode(t, ids, count, false, &text), ST_OK);
    CHECK_THAT(!strcmp(strbuf_text(&text), want), "%s: %s", name, strbuf_text(&text));
    detokenizer_open(&d, t, false);
    for (size_t i = 0; i < count; i++) CHECK_STATUS(detokenizer_add(&d, ids[i], &streamed), ST_OK);
    detokenizer_flush(&d, &streamed);
    CHECK_THAT(!strcmp(strbuf_text(&streamed), want), "%s: %s", name, strbuf_text(&streamed));
    strbuf_close(&text);
    strbuf_close(&streamed);
    free(ids);
}

static void check_model(const char *model) {
    tokenizer *t = open_model(model);
    json_t *samples = open_samples(model), *sample;
    size_t i, count;
    CHECK_THAT(json_array_size(samples) >= 40, "%s", model);
    if (!t) return;
    CHECK(tokenizer_vocab_size(t) == 1280);
    json_array_foreach(samples, i, sample) {
        const char *prompt = json_string_value(json_object_get(sample, "prompt"));
        const char *name = json_string_value(json_object_get(sample, "id"));
        uint32_t *ids;
        CHECK_STATUS(tokenizer_encode(t, prompt, strlen(prompt), true, SIZE_MAX, &ids, &count), ST_OK);
        CHECK_THAT(same_ids(json_object_get(sample, "prompt_token_ids"), ids, count), "%s %s", model, name);
        strbuf text = {0};
        CHECK_STATUS(tokenizer_decode(t, ids, count, false, &text), ST_OK);
        CHECK_THAT(!strcmp(strbuf_text(&text), prompt), "%s %s", model, name);
        strbuf_close(&text);
        free(ids);
        check_completion(t, sample, name);
    }
    json_decref(samples);
    tokenizer_close(t);
}

/* ---- the same models as GGUF files ---- */

static tokenizer *open_gguf(const char *file) {
    char path[512];
    gguf *g = NULL;
    tokenizer *t = NULL;
    snprintf(path, sizeof path, TEST_DATA "/models/gguf/%s.gguf", file);
    CHECK_STATUS(gguf_open(&g, path), ST_OK);
    if (g) CHECK_STATUS(tokenizer_read_gguf(&t, g), ST_OK);
    gguf_close(g); /* nothing of it is kept */
    return t;
}

static void check_same_encoding(const tokenizer *a, const tokenizer *b, const char *text, size_t n) {
    for (int special = 0; special < 2; special++) {
        uint32_t *x, *y;
        size_t x_count, y_count;
        CHECK_STATUS(tokenizer_encode(a, text, n, special, SIZE_MAX, &x, &x_count), ST_OK);
        CHECK_STATUS(tokenizer_encode(b, text, n, special, SIZE_MAX, &y, &y_count), ST_OK);
        CHECK_THAT(x_count == y_count && !memcmp(x, y, x_count * sizeof *x), "%.*s", (int)n, text);
        free(x);
        free(y);
    }
}

static void check_same(const char *model, const char *file) {
    tokenizer *a = open_model(model), *b = open_gguf(file);
    if (!a || !b) exit(1);
    uint32_t bos[2] = {0, 0};
    CHECK(tokenizer_vocab_size(a) == tokenizer_vocab_size(b));
    CHECK(tokenizer_bos(a, &bos[0]) && tokenizer_bos(b, &bos[1]) && bos[0] == bos[1]);
    for (uint32_t id = 0; id < tokenizer_vocab_size(a); id++) {
        size_t n, m;
        const char *x = tokenizer_text(a, id, &n), *y = tokenizer_text(b, id, &m);
        CHECK_THAT(x && y && n == m && !memcmp(x, y, n), "text of %u", id);
        x = tokenizer_bytes(a, id, &n), y = tokenizer_bytes(b, id, &m);
        CHECK_THAT(x && y && n == m && !memcmp(x, y, n), "bytes of %u", id);
        CHECK_THAT(tokenizer_is_special(a, id) == tokenizer_is_special(b, id), "special %u", id);
    }
    json_t *samples = open_samples(model), *sample;
    size_t i;
    json_array_foreach(samples, i, sample) {
        const char *prompt = json_string_value(json_object_get(sample, "prompt"));
        check_same_encoding(a, b, prompt, strlen(prompt));
    }
    static const char *const odd[] = {"",
                                      " ",
                                      "  \n\n\t ",
                                      "\xE2\x96\x81x y",
                                      "na\xC3\xAFve \xF0\x9F\x98\x80",
                                      "<0x41>",
                                      "<bos",
                                      "<eos>",
                                      "<|turn>user\n<turn|>",
                                      "<|\"|>",
                                      "a<|tool_response>b",
                                      "\x01\x7F"};
    for (i = 0; i < sizeof odd / sizeof *odd; i++) check_same_encoding(a, b, odd[i], strlen(odd[i]));
    /* Texts that no one wrote: from the tokens' own alphabet, so that merges meet in every order. */
    uint32_t seed = 1;
    strbuf text = {0};
    for (int round = 0; round < 300; round++) {
        strbuf_clear(&text);
        for (int k = 0; k < 40; k++) {
            size_t n;
            seed = seed * 1664525u + 1013904223u;
            const char *piece = tokenizer_text(a, (seed >> 8) % tokenizer_vocab_size(a), &n);
            strbuf_add(&text, piece, n);
        }
        check_same_encoding(a, b, text.data, text.size);
    }
    strbuf_close(&text);
    json_decref(samples);
    tokenizer_close(a);
    tokenizer_close(b);
}

TEST(gguf_files_have_the_same_tokenizer) {
    check_same("tiny-dense", "tiny-dense-q4_0");
    check_same("tiny-moe", "tiny-moe-q4_k_m");
}

TEST(dense_samples) { check_model("tiny-dense"); }
TEST(moe_samples) { check_model("tiny-moe"); }

/* A quadratic merge of a megabyte would take hours, and the test would be ended. */
TEST(long_texts) {
    static const char *const alphabets[] = {"e", " ", "er", "<", "aeinorst \n", "\n", "ab0 <|>"};
    enum { BYTES = 1 << 20 };
    tokenizer *t = open_model("tiny-dense");
    if (!t) return;
    char *text = memory_alloc(BYTES);
    uint32_t s = 2463534242u, *ids;
    size_t count;
    for (size_t a = 0; a < sizeof alphabets / sizeof *alphabets; a++) {
        size_t n = strlen(alphabets[a]);
        for (size_t i = 0; i < BYTES; i++) {
            s ^= s << 13;
            s ^= s >> 17;
            s ^= s << 5;
            text[i] = alphabets[a][s % n];
        }
        CHECK_STATUS(tokenizer_encode(t, text, BYTES, true, SIZE_MAX, &ids, &count), ST_OK);
        strbuf back = {0};
        CHECK_STATUS(tokenizer_decode(t, ids, count, false, &back), ST_OK);
        CHECK_THAT(back.size == BYTES && memcmp(back.data, text, BYTES) == 0, "\"%s\"", alphabets[a]);
        strbuf_close(&back);
        free(ids);
    }
    free(text);
    tokenizer_close(t);
}

typedef struct job {
    const tokenizer *t;
    const json_t *samples;
    size_t first;
    int wrong;
} job;

/* Counts instead of CHECK, which belongs to the main thread. */
static void *encode_samples(void *argument) {
    job *j = argument;
    size_t n = json_array_size(j->samples), count;
    for (size_t i = 0; i < n * ROUNDS; i++) {
        const json_t *sample = json_array_get(j->samples, (j->first + i) % n);
        const char *prompt = json_string_value(json_object_get(sample, "prompt"));
        uint32_t *ids;
        if (tokenizer_encode(j->t, prompt, strlen(prompt), true, SIZE_MAX, &ids, &count) != ST_OK) {
            j->wrong++;
            continue;
        }
        strbuf text = {0};
        j->wrong += !same_ids(json_object_get(sample, "prompt_token_ids"), ids, count);
        j->wrong +=
            tokenizer_decode(j->t, ids, count, false, &text) != ST_OK || strcmp(strbuf_text(&text), prompt);
        strbuf_close(&text);
        free(ids);
    }
    return NULL;
}

TEST(threads_share_a_tokenizer) {
    tokenizer *t = open_model("tiny-dense");
    json_t *samples = open_samples("tiny-dense");
    pthread_t threads[THREADS];
    job jobs[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        jobs[i] = (job){.t = t, .samples = samples, .first = i * 7};
        CHECK(pthread_create(&threads[i], NULL, encode_samples, &jobs[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK_THAT(jobs[i].wrong == 0, "%d", jobs[i].wrong);
    }
    json_decref(samples);
    tokenizer_close(t);
}

int main(void) {
    RUN(gguf_files_have_the_same_tokenizer);
    RUN(dense_samples);
    RUN(moe_samples);
    RUN(long_texts);
    RUN(threads_share_a_tokenizer);
    return test_result();
}
