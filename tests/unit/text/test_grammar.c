/* Automata against the networks they were made of, followed naively, on random grammars and texts; sets of allowed tokens
 * against trying every token; what is refused; and that a document of a real vocabulary can be written. */
#include "base/automaton_parts.h"
#include "tests/gemma_tokenizer.h"
#include "tests/grammar_examples.h"
#include "tests/test.h"
#include "tests/unit/text/naive_grammar.h"

enum { SPECIALS = 3, RANDOM_GRAMMARS = TEST_SANITIZED ? 150 : 1000, TEXTS = 12, LETTERS = 12 };

static uint32_t random_state = 88172645u;
static uint32_t rnd(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % n;
}

/* Ids 0 … 2 are special, then the 256 bytes, then all texts of two to four letters of "abc". */
static vocabulary *small_vocabulary(void) {
    enum { COUNT = SPECIALS + 256 + 9 + 27 + 81 };
    static uint8_t text[COUNT][4];
    vocabulary_token list[COUNT] = {{0}};
    uint32_t n = SPECIALS;
    for (uint32_t i = 0; i < 256; i++, n++) {
        text[n][0] = (uint8_t)i;
        list[n] = (vocabulary_token){text[n], 1};
    }
    for (uint32_t size = 2, all = 9; size <= 4; size++, all *= 3)
        for (uint32_t i = 0; i < all; i++, n++) {
            for (uint32_t k = 0, x = i; k < size; k++, x /= 3) text[n][k] = (uint8_t)('a' + x % 3);
            list[n] = (vocabulary_token){text[n], size};
        }
    vocabulary *v;
    CHECK_STATUS(vocabulary_make(&v, list, COUNT), ST_OK);
    return v;
}

static uint32_t random_state_of(const grammar *g, uint32_t rule) {
    uint32_t s;
    do s = rnd(g->states);
    while (g->rule_of[s] != rule);
    return s;
}

/* A rule that may be counted: one of a few letters, or two in a row. */
static void random_unit(grammar *g, uint32_t rule) {
    uint32_t from = grammar_rule_start(g, rule), to = grammar_rule_end(g, rule), low = rnd(3);
    grammar_edge_bytes(g, from, (uint8_t)('a' + low), (uint8_t)('a' + low + rnd(2)), to);
    if (rnd(2)) return;
    uint32_t middle = grammar_add_state(g, rule);
    grammar_edge_bytes(g, from, 'd', 'd', middle);
    grammar_edge_bytes(g, middle, 'a', 'd', to);
}

static grammar *random_grammar(void) {
    grammar *g = grammar_open();
    uint32_t rules = 1 + rnd(4), units = rnd(3);
    for (uint32_t r = 1; r < rules; r++) grammar_add_rule(g);
    for (uint32_t r = 0; r < rules; r++)
        for (uint32_t i = rnd(4); i > 0; i--) grammar_add_state(g, r);
    for (uint32_t u = 0; u < units; u++) random_unit(g, grammar_add_rule(g));
    for (uint32_t r = 0; r < rules; r++)
        for (uint32_t i = 2 + rnd(6); i > 0; i--) {
            uint32_t from = random_state_of(g, r), to = random_state_of(g, r), what = rnd(10), low = rnd(4);
            uint32_t least = rnd(4), most = rnd(3) ? least + rnd(4) : GRAMMAR_UNBOUNDED;
            if (what < 5)
                grammar_edge_bytes(g, from, (uint8_t)('a' + low), (uint8_t)('a' + low + rnd(4 - low)), to);
            else if (what < 6) grammar_edge_empty(g, from, to);
            else if (what < 7) grammar_edge_token(g, from, rnd(SPECIALS), to);
            else if (what < 9) grammar_edge_call(g, from, rnd(rules), to);
            else if (units) grammar_edge_repeat(g, from, rules + rnd(units), least, most, to);
        }
    return g;
}

static status take(automaton_cursor *c, uint32_t letter) {
    return letter < NAIVE_TOKEN ? automaton_take_byte(c, (uint8_t)letter)
                                : automaton_take_token(c, letter - NAIVE_TOKEN);
}

/* Every token tried by the cursor's own steps. */
static void check_mask(automaton_cursor *c, const vocabulary *v, uint32_t *words) {
    uint32_t wrong = 0, shown = 0, count = vocabulary_count(v);
    CHECK_STATUS(automaton_mask(c, words), ST_OK);
    for (uint32_t id = 0; id < count; id++) {
        vocabulary_token t = vocabulary_token_of(v, id);
        bool alive = t.size > 0, have = words[id / 32] >> id % 32 & 1;
        if (t.size == 0) continue;
        for (uint32_t i = 0; i < t.size && alive; i++) alive = automaton_push(c, t.bytes[i]);
        automaton_pop_to(c, 1);
        if (alive != have && wrong++ == 0) shown = id;
    }
    CHECK_THAT(wrong == 0, "%u tokens, the first %u", wrong, shown);
}

static void check_specials(const naive *n, automaton_cursor *c, const uint32_t *words, uint32_t end) {
    for (uint32_t id = 0; id < SPECIALS; id++) {
        naive copy = *n;
        copy.now = memory_alloc_array(NAIVE_MOST, sizeof *copy.now);
        copy.next = memory_alloc_array(NAIVE_MOST, sizeof *copy.next);
        memcpy(copy.now, n->now, n->count * sizeof *n->now);
        bool want = naive_take(&copy, NAIVE_TOKEN + id) || (id == end && automaton_complete(c));
        CHECK(want == (words[id / 32] >> id % 32 & 1));
        free(copy.now);
        free(copy.next);
    }
}

/* Follows both by random letters, likely ones more often. */
static void follow(naive *n, automaton *a, const vocabulary *v, bool masks) {
    static uint32_t words[64];
    automaton_cursor *c = automaton_cursor_open(a);
    naive_begin(n);
    CHECK(automaton_complete(c) == n->complete);
    for (uint32_t i = 0; i < LETTERS && !n->over; i++) {
        if (masks && (n->complete || n->count)) {
            check_mask(c, v, words);
            check_specials(n, c, words, 0);
        }
        uint32_t letter = rnd(8) ? 'a' + rnd(4) : NAIVE_TOKEN + 1 + rnd(SPECIALS - 1);
        bool alive = naive_take(n, letter);
        if (n->over) break;
        status st = take(c, letter);
        CHECK_THAT(alive == (st == ST_OK), "letter %u: naive %d, automaton %s", i, alive, status_name(st));
        if (!alive || st != ST_OK) break;
        CHECK_THAT(automaton_complete(c) == n->complete, "after letter %u", i);
    }
    automaton_cursor_close(c);
}

TEST(random_grammars_and_texts) {
    vocabulary *v = small_vocabulary();
    uint32_t compiled = 0, end = 0;
    for (uint32_t i = 0; i < RANDOM_GRAMMARS && test_checks_failed == 0; i++) {
        grammar *g = random_grammar();
        uint8_t *bytes;
        size_t size;
        /* No state is narrow for every other grammar: then all are followed by tables. */
        status st = grammar_compile_for(g, v, &end, 1, i % 2 ? 0 : 1u << 20, &bytes, &size);
        if (st == ST_OK) {
            automaton *a;
            naive n;
            compiled++;
            naive_open(&n, g);
            CHECK_STATUS(automaton_read(&a, bytes, size, v), ST_OK);
            for (uint32_t k = 0; k < TEXTS; k++) follow(&n, a, v, k < 3);
            automaton_drop(a);
            naive_close(&n);
            free(bytes);
        } else {
            CHECK_STATUS(st, ST_INVALID);
        }
        if (test_checks_failed) printf("grammar %u\n", i);
        grammar_close(g);
    }
    CHECK_THAT(compiled > RANDOM_GRAMMARS / 4, "%u", compiled);
    vocabulary_close(v);
}

/* ---- what is refused ---- */

static status compile_small(const grammar *g, uint8_t **bytes, size_t *size) {
    vocabulary *v = small_vocabulary();
    uint32_t end = 0;
    status st = grammar_compile_for(g, v, &end, 1, 0, bytes, size);
    vocabulary_close(v);
    return st;
}

static void check_refused(grammar *g, const char *text) {
    uint8_t *bytes;
    size_t size;
    CHECK_STATUS(compile_small(g, &bytes, &size), ST_INVALID);
    CHECK_THAT(strstr(status_text(), text), "%s", status_text());
    grammar_close(g);
}

TEST(left_recursion_is_refused) {
    grammar *g = grammar_open();
    uint32_t a = grammar_add_rule(g), b = grammar_add_rule(g), empty = grammar_add_rule(g),
             middle = grammar_add_state(g, b);
    grammar_edge_call(g, grammar_rule_start(g, 0), a, grammar_rule_end(g, 0));
    grammar_edge_call(g, grammar_rule_start(g, a), b, grammar_rule_end(g, a));
    example_text(g, grammar_rule_start(g, a), "x", grammar_rule_end(g, a));
    grammar_edge_empty(g, grammar_rule_start(g, empty), grammar_rule_end(g, empty));
    grammar_edge_call(g, grammar_rule_start(g, b), empty, middle); /* hidden behind what may be empty */
    grammar_edge_call(g, middle, a, grammar_rule_end(g, b));
    check_refused(g, "recursion on the left");
}

TEST(units_that_cannot_be_counted_are_refused) {
    static const char *const why[] = {"matches the empty text", "begins like another",
                                      "calls or repeats another"};
    for (int kind = 0; kind < 3; kind++) {
        grammar *g = grammar_open();
        uint32_t unit = grammar_add_rule(g), other = grammar_add_rule(g), from = grammar_rule_start(g, unit);
        example_text(g, grammar_rule_start(g, other), "z", grammar_rule_end(g, other));
        example_text(g, from, "a", grammar_rule_end(g, unit));
        if (kind == 0) grammar_edge_empty(g, from, grammar_rule_end(g, unit));
        if (kind == 1) example_text(g, from, "ab", grammar_rule_end(g, unit));
        if (kind == 2) grammar_edge_call(g, from, other, grammar_rule_end(g, unit));
        grammar_edge_repeat(g, grammar_rule_start(g, 0), unit, 1, 5, grammar_rule_end(g, 0));
        check_refused(g, why[kind]);
    }
}

TEST(what_matches_nothing_is_refused) {
    grammar *g = grammar_open();
    uint32_t loop = grammar_add_rule(g);
    example_text(g, grammar_rule_start(g, loop), "a", grammar_add_state(g, loop));
    grammar_edge_call(g, grammar_rule_start(g, 0), loop, grammar_rule_end(g, 0));
    check_refused(g, "matches no text");
    g = grammar_open();
    grammar_edge_token(g, grammar_rule_start(g, 0), 1000, grammar_rule_end(g, 0));
    check_refused(g, "names token 1000");
}

TEST(too_large_networks_are_refused) {
    grammar *g = grammar_open();
    for (uint32_t i = 0; i < GRAMMAR_RULES_MAX + 5; i++) grammar_add_rule(g);
    check_refused(g, "16390 rules");
    g = grammar_open();
    for (uint32_t i = 0; i < GRAMMAR_STATES_MAX; i++)
        grammar_edge_bytes(g, grammar_rule_start(g, 0), 'a', 'a', grammar_add_state(g, 0));
    check_refused(g, "262146 states");
    /* (a|b)* a (a|b)^30: twice as many states for each letter that must be remembered. */
    g = grammar_open();
    uint32_t at = grammar_rule_start(g, 0), next = grammar_add_state(g, 0);
    grammar_edge_bytes(g, at, 'a', 'b', at);
    grammar_edge_bytes(g, at, 'a', 'a', next);
    for (int i = 0; i < 30; i++, next = at) {
        at = grammar_add_state(g, 0);
        grammar_edge_bytes(g, next, 'a', 'b', at);
    }
    grammar_edge_empty(g, next, grammar_rule_end(g, 0));
    check_refused(g, "states of an automaton");
}

/* ---- special cases ---- */

static automaton_cursor *open_small(const grammar *g, const vocabulary *v) {
    uint8_t *bytes;
    size_t size;
    uint32_t end = 0;
    automaton *a;
    CHECK_STATUS(grammar_compile_for(g, v, &end, 1, 0, &bytes, &size), ST_OK);
    CHECK_STATUS(automaton_read(&a, bytes, size, v), ST_OK);
    automaton_cursor *c = automaton_cursor_open(a);
    automaton_drop(a);
    free(bytes);
    return c;
}

static status take_text(automaton_cursor *c, const char *text) {
    for (; *text; text++) TRY(automaton_take_byte(c, (uint8_t)*text));
    return ST_OK;
}

/* list = "a" (list)?: without an end to remember, so it needs no depth; nested = "a" nested "b"? needs one each. */
TEST(recursion_costs_what_it_must) {
    vocabulary *v = small_vocabulary();
    for (int nested = 0; nested < 2; nested++) {
        grammar *g = grammar_open();
        uint32_t r = grammar_add_rule(g), a = grammar_add_state(g, r), b = grammar_add_state(g, r);
        grammar_edge_call(g, grammar_rule_start(g, 0), r, grammar_rule_end(g, 0));
        example_text(g, grammar_rule_start(g, r), "a", a);
        grammar_edge_empty(g, a, grammar_rule_end(g, r));
        grammar_edge_call(g, a, r, b);
        if (nested) example_text(g, b, "b", grammar_rule_end(g, r));
        else grammar_edge_empty(g, b, grammar_rule_end(g, r));
        automaton_cursor *c = open_small(g, v);
        for (int i = 0; i < 20000; i++) CHECK_STATUS(automaton_take_byte(c, 'a'), ST_OK);
        CHECK_THAT(nested ? c->frames >= 19999 : c->frames < 200, "%u frames", c->frames);
        for (int i = 0; nested && i < 19999; i++) {
            CHECK(!automaton_complete(c) || i == 0);
            CHECK_STATUS(automaton_take_byte(c, 'b'), ST_OK);
        }
        CHECK(automaton_complete(c));
        CHECK_STATUS(automaton_take_byte(c, 'b'), ST_INVALID);
        CHECK_STATUS(automaton_take_token(c, 0), ST_OK);
        CHECK(automaton_ended(c));
        automaton_cursor_close(c);
        grammar_close(g);
    }
    vocabulary_close(v);
}

/* a{0,9000} b? a{0,9000}: after n letters there are n places to stand at. */
TEST(too_ambiguous_answers_fail_by_name) {
    vocabulary *v = small_vocabulary();
    grammar *g = grammar_open();
    uint32_t unit = grammar_add_rule(g), middle = grammar_add_state(g, 0), behind = grammar_add_state(g, 0);
    example_text(g, grammar_rule_start(g, unit), "a", grammar_rule_end(g, unit));
    grammar_edge_repeat(g, grammar_rule_start(g, 0), unit, 0, 9000, middle);
    grammar_edge_empty(g, middle, behind);
    example_text(g, middle, "b", behind);
    grammar_edge_repeat(g, behind, unit, 0, 9000, grammar_rule_end(g, 0));
    automaton_cursor *c = open_small(g, v);
    uint32_t words[64], taken = 0;
    status st = ST_OK;
    while (st == ST_OK && taken < 9000) {
        st = automaton_take_byte(c, 'a');
        taken += st == ST_OK;
    }
    CHECK(st == ST_UNSUPPORTED && taken >= 1000);
    CHECK_THAT(strstr(status_text(), "more than 1024 places"), "%s", status_text());
    CHECK_STATUS(automaton_take_byte(c, 'b'), ST_OK); /* the cursor is as it was */
    CHECK_STATUS(automaton_mask(c, words), ST_OK);
    automaton_cursor_close(c);
    grammar_close(g);
    vocabulary_close(v);
}

TEST(code_points_are_those_and_no_others) {
    static const uint32_t range[][2] = {{0, 0x10FFFF},        {0x7F, 0x80},     {0x7FF, 0x800},
                                        {0x20, 0xFFFF},       {0xD000, 0xE001}, {0xFFFE, 0x10002},
                                        {0x10FFFF, 0x10FFFF}, {0x3A5, 0x12345}};
    vocabulary *v = small_vocabulary();
    for (size_t k = 0; k < sizeof range / sizeof *range; k++) {
        grammar *g = grammar_open();
        grammar_edge_code_points(g, grammar_rule_start(g, 0), range[k][0], range[k][1],
                                 grammar_rule_end(g, 0));
        uint8_t *bytes;
        size_t size;
        uint32_t end = 0, wrong = 0, code;
        automaton *a;
        CHECK_STATUS(grammar_compile_for(g, v, &end, 1, 1u << 20, &bytes, &size), ST_OK);
        CHECK_STATUS(automaton_read(&a, bytes, size, v), ST_OK);
        for (code = 0; code <= 0x10FFFF;
             code += code < 0x3000 || (code & 0xFFF) > 0xFF0 || (code & 0xFFF) < 0x10 ? 1 : 7) {
            uint32_t state = a->p.rule[0],
                     lead = code >> 12; /* surrogates too, written as if they were characters */
            uint8_t b[4] = {(uint8_t)code};
            unsigned n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
            if (n == 2) b[0] = (uint8_t)(0xC0 | code >> 6);
            if (n == 3) b[0] = (uint8_t)(0xE0 | lead);
            if (n == 4) b[0] = (uint8_t)(0xF0 | code >> 18);
            for (unsigned i = 1; i < n; i++) b[i] = (uint8_t)(0x80 | (code >> (6 * (n - 1 - i)) & 0x3F));
            for (unsigned i = 0; i < n && state != AUTOMATON_NONE; i++)
                state = automaton_next(&a->p, state, b[i]);
            bool want = code >= range[k][0] && code <= range[k][1] && (code < 0xD800 || code > 0xDFFF);
            wrong += want != (state != AUTOMATON_NONE && a->p.state[state].accept);
        }
        CHECK_THAT(wrong == 0, "range %zu: %u", k, wrong);
        automaton_drop(a);
        free(bytes);
        grammar_close(g);
    }
    vocabulary_close(v);
}

/* Two states that take the same letters and then call different rules: their sets are not the same. */
TEST(states_are_told_apart_by_what_they_call) {
    vocabulary *v = small_vocabulary();
    grammar *g = grammar_open();
    uint32_t words[64];
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t callee = grammar_add_rule(g), s = grammar_add_state(g, 0), t = grammar_add_state(g, 0);
        grammar_edge_bytes(g, grammar_rule_start(g, 0), (uint8_t)('a' + i), (uint8_t)('a' + i), s);
        grammar_edge_bytes(g, s, 'a', 'c', t);
        grammar_edge_call(g, t, callee, grammar_rule_end(g, 0));
        example_text(g, grammar_rule_start(g, callee), i ? "c" : "b", grammar_rule_end(g, callee));
    }
    for (const char *first = "ab"; *first; first++) {
        automaton_cursor *c = open_small(g, v);
        CHECK_STATUS(automaton_take_byte(c, (uint8_t)*first), ST_OK);
        check_mask(c, v, words);
        automaton_cursor_close(c);
    }
    grammar_close(g);
    vocabulary_close(v);
}

/* ---- bytes from outside ---- */

TEST(damaged_bytes_are_refused_or_harmless) {
    vocabulary *v = small_vocabulary(), *other;
    const vocabulary_token one = {(const uint8_t *)"x", 1};
    grammar *g = example_record();
    uint8_t *bytes;
    size_t size, wire;
    uint32_t end = 0, words[64], read = 0;
    automaton *a;
    CHECK_STATUS(grammar_compile_for(g, v, &end, 1, 0, &bytes, &size), ST_OK);
    CHECK_STATUS(vocabulary_make(&other, &one, 1), ST_OK);
    CHECK_STATUS(automaton_read(&a, bytes, size, other), ST_MISMATCH);
    for (size_t n = 0; n < size; n += 1 + n / 50) CHECK_STATUS(automaton_read(&a, bytes, n, v), ST_FORMAT);
    for (uint32_t i = 0; i < 2000; i++) {
        size_t at = 40 + rnd((uint32_t)size - 40);
        uint8_t kept = bytes[at];
        bytes[at] = (uint8_t)rnd(256);
        if (automaton_read(&a, bytes, size, v) == ST_OK) {
            automaton_cursor *c = automaton_cursor_open(a);
            read++;
            for (uint32_t k = 0; k < 10; k++)
                if (automaton_mask(c, words) == ST_OK) (void)!automaton_take_byte(c, (uint8_t)rnd(256));
            automaton_cursor_close(c);
            automaton_drop(a);
        }
        bytes[at] = kept;
    }
    CHECK(read > 0);
    const uint8_t *voc = vocabulary_bytes(v, &wire);
    uint8_t *copy = memory_alloc(wire);
    memcpy(copy, voc, wire);
    vocabulary *again;
    for (size_t n = 0; n < wire; n += 7) CHECK_STATUS(vocabulary_read(&again, copy, n), ST_FORMAT);
    copy[16] = 0xFF; /* the first id */
    CHECK_STATUS(vocabulary_read(&again, copy, wire), ST_FORMAT);
    free(copy);
    free(bytes);
    grammar_close(g);
    vocabulary_close(other);
    vocabulary_close(v);
}

/* ---- Gemma 4's vocabulary ---- */

static const char *const json_text =
    "{\"a\\\"b\": [1.5, -20, true, {}],\n  \"\u00e9t\u00e9\": \"long words, 12\", \"n\": null}";
static const char *const record_text =
    "{\"name\": \"Ann\", \"age\": 47, \"tags\": [\"tall\", \"a sailor now\"], "
    "\"kind\": \"plant\", \"parent\": null}";

/* Writes a text token by token; the set of each step is looked at in full every few steps. */
static void write_document(const tokenizer *t, grammar *g, const char *text, uint32_t every) {
    const vocabulary *v;
    uint8_t *bytes;
    size_t size, count;
    uint32_t end, *ids;
    automaton *a;
    CHECK(tokenizer_find(t, "<turn|>", &end));
    CHECK_STATUS(tokenizer_vocabulary(t, &v), ST_OK);
    CHECK_STATUS(grammar_compile(g, t, &end, 1, &bytes, &size), ST_OK);
    CHECK_STATUS(automaton_read(&a, bytes, size, v), ST_OK);
    CHECK(a->p.tables > 0);
    CHECK_STATUS(tokenizer_encode(t, text, strlen(text), false, 1000, &ids, &count), ST_OK);
    uint32_t *words = memory_alloc_array(a->p.words, sizeof *words);
    automaton_cursor *c = automaton_cursor_open(a);
    for (size_t i = 0; i < count; i++) {
        if (i % every == 0) check_mask(c, v, words);
        CHECK(!automaton_complete(c));
        CHECK_STATUS(automaton_take_token(c, ids[i]), ST_OK);
    }
    CHECK_STATUS(automaton_mask(c, words), ST_OK);
    uint32_t allowed = 0;
    for (uint32_t i = 0; i < a->p.words; i++) allowed += (uint32_t)__builtin_popcount(words[i]);
    CHECK_THAT(allowed == 1 && words[end / 32] >> end % 32 & 1, "%u tokens behind the end", allowed);
    CHECK_STATUS(automaton_take_token(c, end), ST_OK);
    automaton_cursor_close(c);
    automaton_drop(a);
    free(words);
    free(ids);
    free(bytes);
    grammar_close(g);
}

/* Free text, then a call between special tokens: what tool calls look like. */
static grammar *text_and_call(const tokenizer *t) {
    grammar *g = grammar_open();
    uint32_t open = 0, close = 0, from = grammar_rule_start(g, 0), inside = grammar_add_state(g, 0);
    uint32_t behind = grammar_add_state(g, 0), name = grammar_add_state(g, 0);
    CHECK(tokenizer_find(t, "<|tool_call>", &open) && tokenizer_find(t, "<tool_call|>", &close));
    grammar_loop_any(g, from);
    grammar_edge_token(g, from, open, inside);
    example_text(g, inside, "call:", name);
    example_text(g, name, "look", behind);
    example_text(g, name, "listen", behind);
    grammar_edge_token(g, behind, close, grammar_rule_end(g, 0));
    return g;
}

TEST(real_vocabulary) {
    strbuf json = {0};
    tokenizer *t;
    if (!gemma_tokenizer_unpack(GEMMA_TOKENIZER_XZ, &json)) {
        printf("skipped: xz cannot unpack the tokenizer\n");
        return;
    }
    CHECK_STATUS(tokenizer_parse(&t, json.data, json.size), ST_OK);
    strbuf_close(&json);
    write_document(t, example_json_object(), json_text, TEST_SANITIZED ? 20 : 2);
    write_document(t, example_record(), record_text, TEST_SANITIZED ? 20 : 2);
    grammar *g = text_and_call(t);
    uint8_t *bytes;
    size_t size;
    uint32_t end, words[1 << 13], open = 0;
    automaton *a;
    const vocabulary *v;
    CHECK_STATUS(tokenizer_vocabulary(t, &v), ST_OK);
    CHECK(tokenizer_find(t, "<turn|>", &end) && tokenizer_find(t, "<|tool_call>", &open));
    CHECK_STATUS(grammar_compile(g, t, &end, 1, &bytes, &size), ST_OK);
    CHECK_STATUS(automaton_read(&a, bytes, size, v), ST_OK);
    automaton_cursor *c = automaton_cursor_open(a);
    check_mask(c, v, words);
    uint32_t texts = 0;
    for (uint32_t id = 0; id < vocabulary_count(v); id++) {
        bool text = vocabulary_token_of(v, id).size > 0;
        texts += text;
        if ((words[id / 32] >> id % 32 & 1) != (text || id == open)) CHECK_THAT(false, "token %u", id);
    }
    CHECK(texts > 250000);
    CHECK_STATUS(automaton_take_token(c, open), ST_OK);
    CHECK_STATUS(automaton_mask(c, words), ST_OK);
    check_mask(c, v, words);
    CHECK_STATUS(automaton_take_token(c, open), ST_INVALID);
    CHECK_STATUS(take_text(c, "call:listen"), ST_OK);
    automaton_cursor_close(c);
    automaton_drop(a);
    free(bytes);
    grammar_close(g);
    tokenizer_close(t);
}

int main(void) {
    RUN(left_recursion_is_refused);
    RUN(units_that_cannot_be_counted_are_refused);
    RUN(what_matches_nothing_is_refused);
    RUN(too_large_networks_are_refused);
    RUN(recursion_costs_what_it_must);
    RUN(too_ambiguous_answers_fail_by_name);
    RUN(code_points_are_those_and_no_others);
    RUN(states_are_told_apart_by_what_they_call);
    RUN(damaged_bytes_are_refused_or_harmless);
    RUN(real_vocabulary);
    RUN(random_grammars_and_texts);
    return test_result();
}
