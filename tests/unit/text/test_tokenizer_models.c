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
    RUN(dense_samples);
    RUN(moe_samples);
    RUN(long_texts);
    RUN(threads_share_a_tokenizer);
    return test_result();
}
