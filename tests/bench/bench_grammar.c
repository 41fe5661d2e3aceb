// link: daemon_core
/* What following a grammar costs the leader, with Gemma 4's vocabulary: compiling, reading, and a step (mask, then token)
 * along a document. */
#include <stdio.h>
#include <stdlib.h>

#include "base/automaton.h"
#include "base/clock.h"
#include "base/memory.h"
#include "tests/gemma_tokenizer.h"
#include "tests/grammar_examples.h"

static const char *const json_text = "{\"title\": \"Annual report of the \\\"Harbour\\\" committee\", "
                                     "\"year\": 2024, \"tags\": [\"finance\", \"ships\", "
                                     "\"the weather in Kiel\"],\n  \"budget\": {\"planned\": 1250000.5, "
                                     "\"spent\": 1180000, \"notes\": null, \"approved\": true},\n"
                                     "  \"summary\": \"Over the past year the committee met eleven times. "
                                     "Die Mitglieder waren sich einig, dass der Hafen "
                                     "weiter ausgebaut werden soll; \\u00fc 港の拡張 was discussed at "
                                     "length, and no decision was taken.\", \"items\": "
                                     "[[1, 2, 3], [4.25, -17, 0], {\"deep\": {\"deeper\": [\"end\"]}}]}";
static const char *const record_text = "{\"name\": \"Konstantin Alexandrowitsch Mayer\", \"age\": 47, "
                                       "\"tags\": [\"tall\", \"left-handed\", \"a sailor\"], "
                                       "\"kind\": \"person\", \"parent\": {\"name\": \"Wilhelmine\", "
                                       "\"age\": 71.5, \"tags\": [], \"kind\": \"plant\", \"parent\": null}}";

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_times(const char *what, double *us, uint32_t n) {
    qsort(us, n, sizeof *us, rising);
    printf("  %-22s median %7.1f us   p99 %7.1f us   max %7.1f us   (%u steps)\n", what, us[n / 2],
           us[n * 99 / 100], us[n - 1], n);
}

static status follow(const uint8_t *bytes, size_t size, const tokenizer *t, const char *text, uint32_t end) {
    enum { ROUNDS = 20, STEPS = 512 };
    static double mask_us[ROUNDS * STEPS], take_us[ROUNDS * STEPS];
    const vocabulary *v;
    automaton *a;
    TRY(tokenizer_vocabulary(t, &v));
    uint64_t begin = clock_now_ns();
    TRY(automaton_read(&a, bytes, size, v));
    printf("  read by the leader     %.2f ms\n", (double)(clock_now_ns() - begin) / 1e6);
    uint32_t *ids, n = 0, *words = memory_alloc(vocabulary_count(v) / 8 + 8);
    size_t count;
    TRY(tokenizer_encode(t, text, strlen(text), false, STEPS - 1, &ids, &count));
    for (uint32_t round = 0; round < ROUNDS; round++) {
        automaton_cursor *c = automaton_cursor_open(a);
        for (size_t i = 0; i <= count; i++, n++) {
            uint32_t id = i < count ? ids[i] : end;
            uint64_t t0 = clock_now_ns();
            TRY(automaton_mask(c, words));
            uint64_t t1 = clock_now_ns();
            if (!(words[id / 32] >> id % 32 & 1))
                return fail(ST_INTERNAL, "token %zu of the document is not allowed", i);
            TRY(automaton_take_token(c, id));
            take_us[n] = (double)(clock_now_ns() - t1) / 1e3;
            mask_us[n] = (double)(t1 - t0) / 1e3;
        }
        automaton_cursor_close(c);
    }
    print_times("mask", mask_us, n);
    print_times("token", take_us, n);
    free(ids);
    free(words);
    automaton_drop(a);
    return ST_OK;
}

static status measure(const char *name, grammar *g, const tokenizer *t, const char *text) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    uint32_t end;
    if (!tokenizer_find(t, "<turn|>", &end)) return fail(ST_NOT_FOUND, "there is no <turn|>");
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        free(bytes);
        uint64_t begin = clock_now_ns();
        TRY(grammar_compile(g, t, &end, 1, &bytes, &size));
        double ms = (double)(clock_now_ns() - begin) / 1e6;
        if (ms < best) best = ms;
    }
    printf("%s: compiled in %.1f ms, %.1f KiB\n", name, best, (double)size / 1024);
    status st = follow(bytes, size, t, text, end);
    free(bytes);
    grammar_close(g);
    return st;
}

int main(void) {
    strbuf json = {0};
    tokenizer *t;
    if (!gemma_tokenizer_unpack(GEMMA_TOKENIZER_XZ, &json)) {
        printf("skipped: xz cannot unpack the tokenizer\n");
        return 0;
    }
    status st = tokenizer_parse(&t, json.data, json.size);
    strbuf_close(&json);
    if (st == ST_OK) {
        const vocabulary *v;
        size_t bytes;
        uint64_t begin = clock_now_ns();
        st = tokenizer_vocabulary(t, &v);
        double ms = (double)(clock_now_ns() - begin) / 1e6;
        if (st == ST_OK) {
            vocabulary_bytes(v, &bytes);
            printf("vocabulary: made in %.0f ms, %.2f MiB on the link, ", ms, (double)bytes / 1048576);
            vocabulary *copy;
            begin = clock_now_ns();
            st = vocabulary_read(&copy, vocabulary_bytes(v, &bytes), bytes);
            printf("read in %.1f ms, %u nodes\n", (double)(clock_now_ns() - begin) / 1e6,
                   vocabulary_trie(v)->nodes);
            if (st == ST_OK) vocabulary_close(copy);
        }
        if (st == ST_OK) st = measure("JSON object", example_json_object(), t, json_text);
        if (st == ST_OK) st = measure("record", example_record(), t, record_text);
        tokenizer_close(t);
    }
    if (st != ST_OK) fprintf(stderr, "%s\n", status_text());
    return st != ST_OK;
}
