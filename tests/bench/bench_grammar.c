// link: daemon_core
/* What following a grammar costs the leader, with Gemma 4's vocabulary: compiling, reading, and a step (mask, then token)
 * along a document, in the time of one processor. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/automaton.h"
#include "base/memory.h"
#include "daemon/text/grammar_answer.h"
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

/* Of this thread: a busy machine shows in nothing else. */
static uint64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_times(const char *what, double *us, uint32_t n) {
    qsort(us, n, sizeof *us, rising);
    printf("  %-22s median %7.1f us   p99 %7.1f us   max %7.1f us   (%u steps)\n", what, us[n / 2],
           us[n * 99 / 100], us[n - 1], n);
}

/* A token that the mask allows, any one of them. */
static uint32_t any_allowed(const uint32_t *words, uint32_t n) {
    static uint32_t random_state = 1;
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) count += (uint32_t)__builtin_popcount(words[i]);
    random_state = random_state * 1664525u + 1013904223u;
    uint32_t which = (uint32_t)((uint64_t)random_state * count >> 32);
    for (uint32_t i = 0;; i++) {
        uint32_t here = (uint32_t)__builtin_popcount(words[i]), word = words[i];
        if (which >= here) {
            which -= here;
            continue;
        }
        while (which-- > 0) word &= word - 1;
        return i * 32 + (uint32_t)__builtin_ctz(word);
    }
}

enum { ROUNDS = 20, STEPS = 512 };

typedef struct times {
    double mask_us[ROUNDS * STEPS], take_us[ROUNDS * STEPS];
    uint32_t n;
} times;

/* Along the document's tokens; without one, wherever chance leads. */
static status answer(automaton *a, const vocabulary *v, const uint32_t *ids, uint32_t count, times *t) {
    uint32_t n = (vocabulary_count(v) + 31) / 32, *words = memory_alloc_array(n, sizeof *words);
    automaton_cursor *c = automaton_cursor_open(a);
    status st = ST_OK;
    for (uint32_t i = 0; st == ST_OK && i < count && !automaton_ended(c); i++, t->n++) {
        uint64_t t0 = cpu_ns();
        st = automaton_mask(c, words);
        if (st != ST_OK) break;
        uint64_t t1 = cpu_ns();
        uint32_t id = ids ? ids[i] : any_allowed(words, n);
        uint64_t t2 = cpu_ns();
        st = automaton_take_token(c, id);
        t->take_us[t->n] = (double)(cpu_ns() - t2) / 1e3;
        t->mask_us[t->n] = (double)(t1 - t0) / 1e3;
    }
    automaton_cursor_close(c);
    free(words);
    return st;
}

static status follow(const uint8_t *bytes, size_t size, const tokenizer *t, const char *text) {
    static times spent;
    const vocabulary *v;
    automaton *a;
    uint32_t *ids = NULL;
    size_t count = STEPS;
    TRY(tokenizer_vocabulary(t, &v));
    uint64_t begin = cpu_ns();
    TRY(automaton_read(&a, bytes, size, v));
    printf("  read by the leader     %.2f ms\n", (double)(cpu_ns() - begin) / 1e6);
    if (text) TRY(tokenizer_encode(t, text, strlen(text), false, STEPS, &ids, &count));
    status st = ST_OK;
    spent.n = 0;
    for (uint32_t round = 0; round < ROUNDS && st == ST_OK; round++)
        st = answer(a, v, ids, (uint32_t)count, &spent);
    if (st == ST_OK) print_times("mask", spent.mask_us, spent.n);
    if (st == ST_OK) print_times("token", spent.take_us, spent.n);
    free(ids);
    automaton_drop(a);
    return st;
}

static status measure(const char *name, grammar *g, const tokenizer *t, const char *text) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    uint32_t end;
    if (!tokenizer_find(t, "<turn|>", &end)) return fail(ST_NOT_FOUND, "there is no <turn|>");
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        free(bytes);
        uint64_t begin = cpu_ns();
        TRY(grammar_compile(g, t, &end, 1, &bytes, &size));
        double ms = (double)(cpu_ns() - begin) / 1e6;
        if (ms < best) best = ms;
    }
    printf("%s: compiled in %.1f ms, %.1f KiB\n", name, best, (double)size / 1024);
    status st = follow(bytes, size, t, text);
    free(bytes);
    grammar_close(g);
    return st;
}

/* What a request asks for, answered by chance: the odd corners of a grammar come up as often as the beaten track. */
static status measure_form(const char *name, form_kind kind, const char *text, const tokenizer *t) {
    grammar *g = grammar_open();
    form_answer f = {.kind = kind, .text = {text, strlen(text)}};
    TRY(grammar_write_answer(g, t, &f));
    return measure(name, g, t, NULL);
}

static const char *const schema_text =
    "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"minLength\": 1, "
    "\"maxLength\": 80}, "
    "\"email\": {\"type\": \"string\", \"pattern\": \"^[a-z0-9.]+@[a-z0-9]+\\\\.[a-z]{2,6}$\"}, "
    "\"age\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 150}, \"score\": {\"type\": \"number\"}, "
    "\"kind\": {\"enum\": [\"person\", \"place\", \"plant\"]}, "
    "\"lines\": {\"type\": \"array\", \"minItems\": 1, \"maxItems\": 20, \"items\": {\"anyOf\": ["
    "{\"type\": \"object\", \"properties\": {\"text\": {\"type\": \"string\"}}, \"required\": [\"text\"], "
    "\"additionalProperties\": false}, {\"type\": \"object\", \"properties\": {\"tone\": {\"type\": "
    "\"string\", "
    "\"maxLength\": 9}, \"value\": {\"type\": [\"number\", \"null\"]}}, \"required\": [\"tone\", \"value\"], "
    "\"additionalProperties\": false}, {\"type\": \"string\"}]}}, \"next\": {\"$ref\": \"#\"}}, "
    "\"required\": [\"name\", \"age\", \"kind\", \"lines\"], \"additionalProperties\": false}";
static const char *const regex_text =
    "(The|A|One) [a-zA-Z ,.]{20,400}(, and|; but) .*\\.( [0-9]{1,4}(st|nd|rd|th)?)*";

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
        uint64_t begin = cpu_ns();
        st = tokenizer_vocabulary(t, &v);
        double ms = (double)(cpu_ns() - begin) / 1e6;
        if (st == ST_OK) {
            vocabulary_bytes(v, &bytes);
            printf("vocabulary: made in %.0f ms, %.2f MiB on the link, ", ms, (double)bytes / 1048576);
            vocabulary *copy;
            begin = cpu_ns();
            st = vocabulary_read(&copy, vocabulary_bytes(v, &bytes), bytes);
            printf("read in %.1f ms, %u nodes\n", (double)(cpu_ns() - begin) / 1e6,
                   vocabulary_trie(v)->nodes);
            if (st == ST_OK) vocabulary_close(copy);
        }
        if (st == ST_OK) st = measure("JSON object", example_json_object(), t, json_text);
        if (st == ST_OK) st = measure("record", example_record(), t, record_text);
        if (st == ST_OK) st = measure_form("json_object by chance", FORM_OBJECT, "", t);
        if (st == ST_OK) st = measure_form("json_schema by chance", FORM_SCHEMA, schema_text, t);
        if (st == ST_OK) st = measure_form("regex by chance", FORM_REGEX, regex_text, t);
        tokenizer_close(t);
    }
    if (st != ST_OK) fprintf(stderr, "%s\n", status_text());
    return st != ST_OK;
}
