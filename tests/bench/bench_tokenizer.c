// link: daemon_core
/* How fast the tokenizer loads, encodes and decodes, on one core.
 *
 *     bench_tokenizer [TOKENIZER.json[.xz] [TEXT]]
 *
 * Without TEXT: English-like text drawn from the vocabulary (words by Zipf's law, every tenth made of two
 * tokens). Adversarial texts follow: one character, spaces, random letters; what a stranger would send to
 * keep a core busy. */
#include <math.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "daemon/text/tokenizer.h"
#include "tests/gemma_tokenizer.h"
#include "tests/test.h"

enum { TEXT_BYTES = 4 << 20, ADVERSARIAL_BYTES = 1 << 20, REPEAT = 5, WORDS_MAX = 40000 };

static uint32_t random_state = 2463534242u;
static uint32_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static double seconds_since(uint64_t start_ns) { return (double)(clock_now_ns() - start_ns) / 1e9; }

/* Ids of " lower-case" tokens, in the vocabulary's order, which is that of their frequency. */
static size_t find_words(const tokenizer *t, uint32_t *words) {
    size_t count = 0, n;
    for (uint32_t id = 0; id < tokenizer_vocab_size(t) && count < WORDS_MAX; id++) {
        const char *text = tokenizer_bytes(t, id, &n);
        bool word = text && n > 1 && text[0] == ' ';
        for (size_t i = 1; word && i < n; i++) word = text[i] >= 'a' && text[i] <= 'z';
        if (word) words[count++] = id;
    }
    return count;
}

static void english(const tokenizer *t, strbuf *text) {
    uint32_t *words = memory_alloc_array(WORDS_MAX, sizeof *words);
    size_t count = find_words(t, words), n;
    while (text->size < TEXT_BYTES && count > 0) {
        double u = (double)random_next() / 4294967296.0;
        const char *word = tokenizer_bytes(t, words[(size_t)(pow((double)count, u)) - 1], &n);
        strbuf_add(text, word, n);
        if (random_next() % 10 == 0) {
            word = tokenizer_bytes(t, words[random_next() % count], &n);
            strbuf_add(text, word + 1, n - 1);
        }
        uint32_t mark = random_next() % 100;
        if (mark < 12) strbuf_add(text, mark < 6 ? "," : mark < 11 ? "." : ".\n", mark == 11 ? 2 : 1);
    }
    free(words);
}

static void measure(const tokenizer *t, const char *name, const char *text, size_t n) {
    uint32_t *ids = NULL;
    size_t count = 0;
    double best = 1e9, decode = 1e9;
    for (int i = 0; i < REPEAT; i++) {
        free(ids);
        uint64_t start = clock_now_ns();
        status st = tokenizer_encode(t, text, n, true, SIZE_MAX, &ids, &count);
        double s = seconds_since(start);
        if (st != ST_OK) {
            printf("%-24s %s\n", name, status_text());
            exit(1);
        }
        if (s < best) best = s;
    }
    for (int i = 0; i < REPEAT; i++) {
        strbuf out = {0};
        uint64_t start = clock_now_ns();
        CHECK_STATUS(tokenizer_decode(t, ids, count, false, &out), ST_OK);
        double s = seconds_since(start);
        if (s < decode) decode = s;
        CHECK(out.size == n && memcmp(strbuf_text(&out), text, n) == 0);
        strbuf_close(&out);
    }
    printf("%-24s %8.1f MB/s  %8.2f M tokens/s  %5.2f bytes a token   decode %8.1f MB/s\n", name,
           (double)n / best / 1e6, (double)count / best / 1e6, (double)n / (double)(count ? count : 1),
           (double)n / decode / 1e6);
    free(ids);
}

static void adversarial(const tokenizer *t) {
    static const struct {
        const char *name, *alphabet;
    } texts[] = {
        {"one letter", "a"},      {"spaces", " "},
        {"\"<\"", "<"},           {"letters", "abcdefghijklmnopqrstuvwxyz"},
        {"digits", "0123456789"}, {"marks", "-=_*.<>/"},
    };
    strbuf text = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t n = strlen(texts[i].alphabet);
        strbuf_clear(&text);
        while (text.size < ADVERSARIAL_BYTES) strbuf_add(&text, &texts[i].alphabet[random_next() % n], 1);
        measure(t, texts[i].name, text.data, text.size);
    }
    strbuf_close(&text);
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : GEMMA_TOKENIZER_XZ;
    size_t length = strlen(path);
    strbuf json = {0}, text = {0};
    tokenizer *t;
    uint64_t start = clock_now_ns();
    if (length > 3 && !strcmp(path + length - 3, ".xz")) {
        if (!gemma_tokenizer_unpack(path, &json)) test_skip("xz cannot unpack the tokenizer");
        printf("xz                        %8.3f s\n", seconds_since(start));
        start = clock_now_ns();
        CHECK_STATUS(tokenizer_parse(&t, json.data, json.size), ST_OK);
    } else {
        CHECK_STATUS(tokenizer_open(&t, path), ST_OK);
    }
    if (!t) return 1;
    printf("load                      %8.3f s, %u tokens\n", seconds_since(start), tokenizer_vocab_size(t));
    strbuf_close(&json);
    if (argc > 2) {
        char *file;
        size_t n;
        CHECK_STATUS(file_read_all(argv[2], (size_t)1 << 30, &file, &n), ST_OK);
        if (!file) return 1;
        measure(t, "text", file, n);
        free(file);
    } else {
        english(t, &text);
        measure(t, "English-like", text.data, text.size);
        measure(t, "English-like, 1 KB", text.data, 1000);
        strbuf_close(&text);
    }
    adversarial(t);
    tokenizer_close(t);
    return test_checks_failed > 0;
}
