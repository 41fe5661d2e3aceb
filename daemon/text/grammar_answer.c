#include "daemon/text/grammar_answer.h"

#include <string.h>

#include "base/utf8.h"
#include "daemon/text/call_scan.h"
#include "daemon/text/grammar_schema.h"
#include "daemon/text/regex.h"

typedef struct writer {
    grammar *g;
    const tokenizer *t;
    const form_answer *f;
    uint32_t end;  /* of rule 0 */
    uint32_t call; /* rule of one call */
} writer;

static status find_token(const writer *w, const char *why, const char *text, uint32_t *id) {
    if (tokenizer_find(w->t, text, id) && tokenizer_is_special(w->t, *id)) return ST_OK;
    return fail(ST_INVALID, "%s: the model's tokenizer has no special token %s", why, text);
}

static status add_arguments(writer *w, value_notation *n, const form_tool *tool, uint32_t *rule) {
    schema *s;
    if (!tool->strict) {
        *rule = value_rule_object(n);
        return ST_OK;
    }
    static const char none[] = "{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}";
    form_text text = tool->parameters.bytes > 0 ? tool->parameters : (form_text){none, sizeof none - 1};
    status st = schema_open(&s, text.text, text.bytes);
    if (st == ST_OK) {
        st = grammar_write_schema(n, s, SCHEMA_OBJECT, rule);
        schema_close(s);
    }
    (void)w;
    return st == ST_OK ? ST_OK : fail_within(st, "tools[%u].parameters_json", tool->index);
}

static status check_name(const form_tool *tool) {
    bool good = tool->name.bytes > 0;
    for (size_t i = 0; i < tool->name.bytes && good; i++) good = call_in_name(tool->name.text[i]);
    if (good) return ST_OK;
    return fail(ST_INVALID, "tools[%u].name \"%.*s\" has a character that the syntax of calls does not allow",
                tool->index, tool->name.bytes < 100 ? (int)tool->name.bytes : 100, tool->name.text);
}

/* The rule of one call, markers included. */
static status add_call(writer *w) {
    uint32_t open, close, delimiter;
    value_notation n;
    TRY(find_token(w, "tools", "<|tool_call>", &open));
    TRY(find_token(w, "tools", "<tool_call|>", &close));
    TRY(find_token(w, "tools", "<|\"|>", &delimiter));
    value_notation_open_gemma(&n, w->g, delimiter);
    w->call = grammar_add_rule(w->g);
    uint32_t head = grammar_add_state(w->g, w->call), name = grammar_add_state(w->g, w->call);
    uint32_t tail = grammar_add_state(w->g, w->call);
    grammar_edge_token(w->g, grammar_rule_start(w->g, w->call), open, head);
    grammar_edge_text(w->g, head, "call:", 5, name);
    for (size_t i = 0; i < w->f->tool_count; i++) {
        const form_tool *tool = &w->f->tool[i];
        uint32_t arguments, behind = grammar_add_state(w->g, w->call);
        TRY(check_name(tool));
        for (size_t k = 0; k < i; k++)
            if (w->f->tool[k].name.bytes == tool->name.bytes &&
                memcmp(w->f->tool[k].name.text, tool->name.text, tool->name.bytes) == 0)
                return fail(ST_INVALID, "tools[%u].name is that of tools[%u]", tool->index,
                            w->f->tool[k].index);
        TRY(add_arguments(w, &n, tool, &arguments));
        grammar_edge_text(w->g, name, tool->name.text, tool->name.bytes, behind);
        grammar_edge_call(w->g, behind, arguments, tail);
    }
    grammar_edge_token(w->g, tail, close, grammar_rule_end(w->g, w->call));
    return ST_OK;
}

static status write_schema(writer *w, uint32_t from) {
    value_notation n;
    uint32_t rule;
    schema *s = NULL;
    status st = ST_OK;
    value_notation_open(&n, w->g);
    if (w->f->kind == FORM_OBJECT) {
        rule = value_rule_object(&n);
    } else {
        st = schema_open(&s, w->f->text.text, w->f->text.bytes);
        if (st == ST_OK) st = grammar_write_schema(&n, s, SCHEMA_KINDS, &rule);
        schema_close(s);
        if (st != ST_OK) return fail_within(st, "response_format.json_schema");
    }
    grammar_edge_call(w->g, from, rule, w->end);
    return ST_OK;
}

static status write_regex(writer *w, uint32_t from) {
    char_nfa a;
    status st = regex_read(&a, w->f->text.text, w->f->text.bytes, REGEX_WHOLE);
    if (st == ST_OK && a.state_count == 0) st = fail(ST_INVALID, "no text matches");
    if (st == ST_OK && char_nfa_wide_states(&a) > CHAR_NFA_WIDE_MAX)
        st = fail(ST_INVALID, "%u states that take many characters, at most %d", char_nfa_wide_states(&a),
                  CHAR_NFA_WIDE_MAX);
    if (st == ST_OK) char_nfa_write(&a, w->g, 0, from, w->end, CHAR_WRITING_PLAIN);
    char_nfa_close(&a);
    return st == ST_OK ? ST_OK : fail_within(st, "response_format.regex");
}

static status write_choices(writer *w, uint32_t from) {
    if (w->f->choice_count == 0 || w->f->choice_count > FORM_CHOICES_MAX)
        return fail(ST_INVALID, "response_format.choices has %zu choices, at least 1 and at most %d",
                    w->f->choice_count, FORM_CHOICES_MAX);
    for (size_t i = 0; i < w->f->choice_count; i++) {
        const form_text *c = &w->f->choice[i];
        if (c->bytes == 0 || c->bytes > FORM_CHOICE_BYTES_MAX)
            return fail(ST_INVALID, "response_format.choices[%zu] has %zu bytes, at least 1 and at most %d",
                        i, c->bytes, FORM_CHOICE_BYTES_MAX);
        if (utf8_check(c->text, c->bytes) != c->bytes)
            return fail(ST_INVALID, "response_format.choices[%zu] is not UTF-8 at byte %zu", i,
                        utf8_check(c->text, c->bytes));
        grammar_edge_text(w->g, from, c->text, c->bytes, w->end);
    }
    return ST_OK;
}

/* Calls alone: one, or any number from one on. */
static void write_calls(writer *w, uint32_t from) {
    uint32_t behind = grammar_add_state(w->g, 0);
    grammar_edge_call(w->g, from, w->call, behind);
    grammar_edge_empty(w->g, behind, w->end);
    if (!w->f->one_call) grammar_edge_call(w->g, behind, w->call, behind);
}

static void write_text(writer *w, uint32_t from) {
    uint32_t text = grammar_add_state(w->g, 0);
    grammar_edge_empty(w->g, from, text);
    grammar_loop_any(w->g, text);
    grammar_edge_empty(w->g, text, w->end);
    if (w->f->calls == FORM_CALLS_MAY) grammar_edge_call(w->g, text, w->call, w->f->one_call ? w->end : text);
}

/* Behind the thought. */
static status write_body(writer *w, uint32_t from) {
    if (w->f->calls != FORM_CALLS_NEVER) TRY(add_call(w));
    if (w->f->calls == FORM_CALLS_MUST || (w->f->calls == FORM_CALLS_MAY && w->f->kind != FORM_TEXT))
        write_calls(w, from);
    if (w->f->calls == FORM_CALLS_MUST) return ST_OK;
    switch (w->f->kind) {
    case FORM_TEXT: write_text(w, from); return ST_OK;
    case FORM_REGEX: return write_regex(w, from);
    case FORM_CHOICE: return write_choices(w, from);
    default: return write_schema(w, from);
    }
}

status grammar_write_answer(grammar *g, const tokenizer *t, const form_answer *f) {
    writer w = {.g = g, .t = t, .f = f, .end = grammar_rule_end(g, 0)};
    uint32_t start = grammar_rule_start(g, 0), body = start;
    if (f->may_think || f->starts_in_thought) {
        uint32_t open, close, thought = grammar_add_state(g, 0);
        const char *why = f->may_think ? "enable_thinking" : "the prompt ends in a thought";
        TRY(find_token(&w, why, "<|channel>", &open));
        TRY(find_token(&w, why, "<channel|>", &close));
        body = grammar_add_state(g, 0);
        if (f->starts_in_thought) {
            grammar_edge_empty(g, start, thought);
        } else {
            grammar_edge_token(g, start, open, thought);
            grammar_edge_empty(g, start, body);
        }
        grammar_loop_any(g, thought);
        grammar_edge_token(g, thought, close, body);
    }
    return write_body(&w, body);
}
