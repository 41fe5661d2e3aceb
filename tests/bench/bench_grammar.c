// link: daemon_core
/* What following a grammar costs the leader, with Gemma 4's vocabulary: compiling, reading, and a step (mask, then token)
 * along a document, in the time of one processor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static uint32_t chance(void) {
    static uint32_t random_state = 1;
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

typedef enum liking { ANY_TOKEN, SHORT_TOKEN, MARK_TOKEN } liking;

static bool is_liked(const vocabulary *v, uint32_t id, liking l) {
    vocabulary_token t = vocabulary_token_of(v, id);
    if (l == ANY_TOKEN) return true;
    if (l == SHORT_TOKEN) return t.size <= 2;
    return t.size == 0 || strchr("\"{}[],: \n", t.bytes[0]);
}

/* A token that the mask allows: any one, a short one or a mark, so that more than the inside of strings is seen. */
static uint32_t some_allowed(const vocabulary *v, const uint32_t *words) {
    liking l = (liking)(chance() % 3);
    uint32_t n = vocabulary_count(v), from = chance() % n, other = n;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = (from + i) % n;
        if (!(words[id / 32] >> id % 32 & 1)) continue;
        if (is_liked(v, id, l)) return id;
        if (other == n) other = id;
    }
    return other;
}

enum { ROUNDS = 8, STEPS = 400, SHOWN = 8 };

typedef struct times {
    double mask_us[ROUNDS * STEPS], take_us[ROUNDS * STEPS];
    uint32_t n;
    double worst_us;
    uint32_t latest[SHOWN], worst[SHOWN]; /* tokens before a mask, the last one first */
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
        uint32_t id = ids ? ids[i] : some_allowed(v, words);
        uint64_t t2 = cpu_ns();
        st = automaton_take_token(c, id);
        t->take_us[t->n] = (double)(cpu_ns() - t2) / 1e3;
        t->mask_us[t->n] = (double)(t1 - t0) / 1e3;
        if (t->mask_us[t->n] > t->worst_us) {
            t->worst_us = t->mask_us[t->n];
            memcpy(t->worst, t->latest, sizeof t->worst);
        }
        memmove(t->latest + 1, t->latest, (SHOWN - 1) * sizeof *t->latest);
        t->latest[0] = id;
    }
    automaton_cursor_close(c);
    free(words);
    return st;
}

/* Behind what the slowest mask stood. */
static void print_worst(const times *t, const vocabulary *v) {
    printf("  slowest behind        ");
    for (int i = SHOWN; i-- > 0;) {
        vocabulary_token text = vocabulary_token_of(v, t->worst[i]);
        printf(" %u", t->worst[i]);
        if (text.size) printf(" \"%.*s\"", (int)text.size, text.bytes);
    }
    printf("\n");
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
    spent = (times){0};
    for (uint32_t round = 0; round < ROUNDS && st == ST_OK; round++)
        st = answer(a, v, ids, (uint32_t)count, &spent);
    if (st == ST_OK) print_times("mask", spent.mask_us, spent.n);
    if (st == ST_OK) print_worst(&spent, v);
    if (st == ST_OK) print_times("token", spent.take_us, spent.n);
    free(ids);
    automaton_drop(a);
    return st;
}

/* compiles: a grammar that takes seconds is made once. */
static status measure(const char *name, grammar *g, const tokenizer *t, const char *text, int compiles) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    uint32_t end;
    if (!tokenizer_find(t, "<turn|>", &end)) return fail(ST_NOT_FOUND, "there is no <turn|>");
    double best = 1e9, ms = 0;
    status st = ST_OK;
    for (int i = 0; i < compiles && ms < 500 && st == ST_OK; i++) {
        free(bytes);
        bytes = NULL;
        uint64_t begin = cpu_ns();
        st = grammar_compile(g, t, &end, 1, &bytes, &size);
        ms = (double)(cpu_ns() - begin) / 1e6;
        if (ms < best) best = ms;
    }
    grammar_close(g);
    if (st == ST_INVALID) {
        printf("%s: refused after %.1f ms: %s\n", name, best, status_text());
        return ST_OK;
    }
    TRY(st);
    printf("%s: compiled in %.1f ms, %.1f KiB\n", name, best, (double)size / 1024);
    st = follow(bytes, size, t, text);
    free(bytes);
    return st;
}

/* What a request asks for, answered by chance: the odd corners of a grammar come up as often as the beaten track. */
static status measure_answer(const char *name, const form_answer *f, const tokenizer *t) {
    grammar *g = grammar_open();
    uint64_t begin = cpu_ns();
    status st = grammar_write_answer(g, t, f);
    double ms = (double)(cpu_ns() - begin) / 1e6;
    if (ms > 5) printf("%s: written in %.1f ms\n", name, ms);
    if (st == ST_OK) return measure(name, g, t, NULL, 3);
    printf("%s: refused after %.1f ms: %s\n", name, ms, status_text());
    grammar_close(g);
    return st == ST_INVALID ? ST_OK : st;
}

static const char schema_text[] =
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
static const char tool_text[] =
    "{\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \"days\": {\"type\": "
    "\"integer\", \"minimum\": 1, \"maximum\": 14}, \"unit\": {\"enum\": [\"celsius\", \"fahrenheit\"]}, "
    "\"notes\": {\"type\": \"array\", \"items\": {\"type\": \"string\", \"maxLength\": 100}}, \"where\": "
    "{\"type\": \"object\", \"properties\": {\"latitude\": {\"type\": \"number\"}, \"longitude\": {\"type\": "
    "\"number\"}}, \"required\": [\"latitude\", \"longitude\"]}, \"extra\": {\"type\": \"object\"}}, "
    "\"required\": [\"city\"]}";

#define STRING_WITH(keywords) "{\"type\": \"string\", " keywords "}"

static const struct {
    const char *name;
    form_kind kind;
    const char *text;
} forms[] = {
    {"json_object", FORM_OBJECT, ""},
    {"json_schema, a usual one", FORM_SCHEMA, schema_text},
    {"regex, mixed", FORM_REGEX,
     "(The|A|One) [a-zA-Z ,.]{20,400}(, and|; but) .*\\.( [0-9]{1,4}(st|nd|rd|th)?)*"},
    {"regex [a-z]{1,500}", FORM_REGEX, "[a-z]{1,500}"},
    {"regex ([a-z]+ ){1,300}", FORM_REGEX, "([a-z]+ ){1,300}"},
    {"pattern ^[a-zA-Z ,.]{20,400}$", FORM_SCHEMA, STRING_WITH("\"pattern\": \"^[a-zA-Z ,.]{20,400}$\"")},
    {"pattern ^[a-z]+$, maxLength 500", FORM_SCHEMA,
     STRING_WITH("\"pattern\": \"^[a-z]+$\", \"maxLength\": 500")},
    {"pattern ^[A-Z][a-z ]*\\.$, maxLength 200", FORM_SCHEMA,
     STRING_WITH("\"pattern\": \"^[A-Z][a-z ]*\\\\.$\", \"maxLength\": 200")},
    {"pattern word, maxLength 200", FORM_SCHEMA, STRING_WITH("\"pattern\": \"word\", \"maxLength\": 200")},
    {"pattern ^(.{1,20}x){40}$", FORM_SCHEMA, STRING_WITH("\"pattern\": \"^(.{1,20}x){40}$\"")},
    {"format email", FORM_SCHEMA, STRING_WITH("\"format\": \"email\"")},
    {"format date-time", FORM_SCHEMA, STRING_WITH("\"format\": \"date-time\"")},
    {"format uri", FORM_SCHEMA, STRING_WITH("\"format\": \"uri\"")},
    {"maxLength 10000", FORM_SCHEMA, STRING_WITH("\"maxLength\": 10000")},
};

typedef struct plan {
    const tokenizer *t;
    const char *only; /* a part of the name; NULL: all */
} plan;

static bool wanted(const plan *p, const char *name) { return !p->only || strstr(name, p->only); }

static status measure_form(const plan *p, const char *name, form_kind kind, const char *text) {
    if (!wanted(p, name)) return ST_OK;
    form_answer f = {.kind = kind, .text = {text, strlen(text)}};
    return measure_answer(name, &f, p->t);
}

static status measure_tool(const plan *p, const char *name, bool strict) {
    if (!wanted(p, name)) return ST_OK;
    form_tool tool = {.name = {"weather", 7}, .parameters = {tool_text, strlen(tool_text)}, .strict = strict};
    form_answer f = {.calls = FORM_CALLS_MUST, .tool = &tool, .tool_count = 1};
    return measure_answer(name, &f, p->t);
}

static void add_text(strbuf *s, const char *text) { strbuf_add(s, text, strlen(text)); }

/* before, then for i = 0 … count - 1 `each` with its %u made i, then behind. */
static status measure_many(const plan *p, const char *name, const char *before, const char *each,
                           uint32_t count, const char *behind) {
    strbuf s = {0};
    add_text(&s, before);
    const char *mark = strstr(each, "%u");
    for (uint32_t i = 0; i < count; i++) {
        char number[16];
        snprintf(number, sizeof number, "%u", i);
        if (i > 0) add_text(&s, ", ");
        strbuf_add(&s, each, (size_t)(mark - each));
        add_text(&s, number);
        add_text(&s, mark + 2);
    }
    add_text(&s, behind);
    strbuf_add(&s, "", 1);
    status st = measure_form(p, name, FORM_SCHEMA, s.data);
    strbuf_close(&s);
    return st;
}

static status measure_large(const plan *p) {
    TRY(measure_many(p, "300 optional properties", "{\"type\": \"object\", \"properties\": {",
                     "\"key_%u\": {\"type\": [\"string\", \"number\", \"null\"]}", 300, "}}"));
    TRY(measure_many(p, "300 optional and others", "{\"type\": \"object\", \"properties\": {",
                     "\"key_%u\": {\"type\": \"string\"}", 300, "}, \"additionalProperties\": true}"));
    TRY(measure_many(p, "enum of 1000 strings", "{\"enum\": [", "\"value number %u of them\"", 1000, "]}"));
    TRY(measure_many(p, "anyOf of 40 objects", "{\"anyOf\": [",
                     "{\"type\": \"object\", \"properties\": {\"kind\": {\"type\": \"string\"}, \"k%u\": "
                     "{\"type\": \"string\", \"maxLength\": 30}}, \"required\": [\"kind\"]}",
                     40, "]}"));
    strbuf deep = {0};
    for (int i = 0; i < 25; i++)
        add_text(&deep, "{\"anyOf\": [{\"type\": \"number\"}, {\"type\": \"array\", \"items\": ");
    add_text(&deep, "{\"type\": \"string\"}");
    for (int i = 0; i < 25; i++) add_text(&deep, "}]}");
    strbuf_add(&deep, "", 1);
    status st = measure_form(p, "anyOf, 25 deep", FORM_SCHEMA, deep.data);
    strbuf_close(&deep);
    return st;
}

static status measure_all(const plan *p) {
    if (wanted(p, "JSON object")) TRY(measure("JSON object", example_json_object(), p->t, json_text, 3));
    if (wanted(p, "record")) TRY(measure("record", example_record(), p->t, record_text, 3));
    TRY(measure_tool(p, "call, strict", true));
    TRY(measure_tool(p, "call, any object", false));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        TRY(measure_form(p, forms[i].name, forms[i].kind, forms[i].text));
    return measure_large(p);
}

static status measure_vocabulary(const tokenizer *t) {
    const vocabulary *v;
    vocabulary *copy;
    size_t bytes;
    uint64_t begin = cpu_ns();
    TRY(tokenizer_vocabulary(t, &v));
    double ms = (double)(cpu_ns() - begin) / 1e6;
    vocabulary_bytes(v, &bytes);
    begin = cpu_ns();
    TRY(vocabulary_read(&copy, vocabulary_bytes(v, &bytes), bytes));
    printf("vocabulary: made in %.0f ms, %.2f MiB on the link, read in %.1f ms, %u nodes\n", ms,
           (double)bytes / 1048576, (double)(cpu_ns() - begin) / 1e6, vocabulary_trie(v)->nodes);
    vocabulary_close(copy);
    return ST_OK;
}

/* bench_grammar [part of a name] */
int main(int argc, char **argv) {
    strbuf json = {0};
    tokenizer *t;
    if (!gemma_tokenizer_unpack(GEMMA_TOKENIZER_XZ, &json)) {
        printf("skipped: xz cannot unpack the tokenizer\n");
        return 0;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    status st = tokenizer_parse(&t, json.data, json.size);
    strbuf_close(&json);
    if (st == ST_OK) {
        plan p = {t, argc > 1 ? argv[1] : NULL};
        st = measure_vocabulary(t);
        if (st == ST_OK) st = measure_all(&p);
        tokenizer_close(t);
    }
    if (st != ST_OK) fprintf(stderr, "%s\n", status_text());
    return st != ST_OK;
}
