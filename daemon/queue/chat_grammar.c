#include "daemon/queue/chat_grammar.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/sha256.h"
#include "daemon/text/grammar_answer.h"
#include "proto/limits.h"

/* A form, and its place in the cache. Everything but `count` is guarded by the cache's lock until it is made, and never
 * changes afterwards. */
typedef struct entry {
    chat_grammar form; /* first: what callers hold */
    atomic_uint count; /* callers, and one for the cache */
    uint8_t key[32];
    bool making;
    status st; /* not ST_OK: it could not be made */
    char text[STATUS_TEXT_MAX];
    struct entry *next, **link; /* by last use */
} entry;

struct chat_grammar_cache {
    pthread_mutex_t lock;
    pthread_cond_t made;
    size_t bytes, bytes_max; /* of entries that are made */
    entry *first;
};

chat_grammar_cache *chat_grammar_cache_open(size_t bytes_max) {
    chat_grammar_cache *c = memory_alloc(sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->made, NULL);
    c->bytes_max = bytes_max;
    return c;
}

static void give_back(entry *e) {
    if (atomic_fetch_sub(&e->count, 1) > 1) return;
    free((void *)e->form.bytes);
    free(e);
}

void chat_grammar_release(const chat_grammar *g) {
    if (g) give_back((entry *)g);
}

static void take_out(entry *e) {
    *e->link = e->next;
    if (e->next) e->next->link = e->link;
    e->link = NULL;
}

static void put_first(chat_grammar_cache *c, entry *e) {
    e->next = c->first;
    e->link = &c->first;
    if (e->next) e->next->link = &e->next;
    c->first = e;
}

void chat_grammar_cache_close(chat_grammar_cache *c) {
    if (!c) return;
    while (c->first) {
        entry *e = c->first;
        take_out(e);
        give_back(e);
    }
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->made);
    free(c);
}

/* The least lately used go; what is being made has no size yet and stays. */
static void shrink(chat_grammar_cache *c) {
    while (c->bytes > c->bytes_max) {
        entry *last = NULL;
        for (entry *e = c->first; e; e = e->next)
            if (!e->making) last = e;
        c->bytes -= last->form.size + sizeof *last;
        take_out(last);
        give_back(last);
    }
}

static status make(entry *e, const chat_grammar_model *m, const form_answer *f) {
    static atomic_uint_fast64_t ids;
    uint8_t *bytes = NULL;
    size_t size = 0;
    grammar *g = grammar_open();
    status st = grammar_write_answer(g, m->tokenizer, f);
    if (st == ST_OK) {
        st = grammar_compile(g, m->tokenizer, m->ends, m->end_count, &bytes, &size);
        if (st != ST_OK)
            st = fail_within(st, "%s",
                             f->calls == FORM_CALLS_NEVER ? "response_format"
                             : f->kind == FORM_TEXT       ? "tools"
                                                          : "response_format and tools");
    }
    grammar_close(g);
    e->form = (chat_grammar){bytes, size, atomic_fetch_add(&ids, 1) + 1};
    return st;
}

static entry *find(chat_grammar_cache *c, const uint8_t key[32]) {
    for (entry *e = c->first; e; e = e->next)
        if (memcmp(e->key, key, sizeof e->key) == 0) return e;
    return NULL;
}

/* The one that another thread makes, or made; its count is raised. Called and returns with the lock. */
static status share(chat_grammar_cache *c, entry *e, const chat_grammar **out) {
    atomic_fetch_add(&e->count, 1);
    while (e->making) pthread_cond_wait(&c->made, &c->lock);
    if (e->st != ST_OK) {
        status st = fail(e->st, "%s", e->text);
        give_back(e);
        return st;
    }
    if (e->link) {
        take_out(e);
        put_first(c, e);
    }
    *out = &e->form;
    return ST_OK;
}

/* The first that wants it makes it, without the lock; whoever comes meanwhile waits. */
static status find_or_make(const chat_grammar **out, chat_grammar_cache *c, const uint8_t key[32],
                           const chat_grammar_model *m, const form_answer *f) {
    pthread_mutex_lock(&c->lock);
    entry *e = find(c, key);
    if (e) {
        status st = share(c, e, out);
        pthread_mutex_unlock(&c->lock);
        return st;
    }
    e = memory_alloc(sizeof *e);
    atomic_init(&e->count, 2);
    memcpy(e->key, key, sizeof e->key);
    e->making = true;
    put_first(c, e);
    pthread_mutex_unlock(&c->lock);
    status st = make(e, m, f);
    pthread_mutex_lock(&c->lock);
    e->making = false;
    e->st = st;
    if (st == ST_OK) {
        *out = &e->form;
        c->bytes += e->form.size + sizeof *e;
        shrink(c);
    } else {
        memcpy(e->text, status_text(), sizeof e->text);
        take_out(e);
        give_back(e);
    }
    pthread_cond_broadcast(&c->made);
    pthread_mutex_unlock(&c->lock);
    if (st != ST_OK) give_back(e);
    return st;
}

static void add_number(sha256 *s, uint64_t value) { sha256_add(s, &value, sizeof value); }

static void add_text(sha256 *s, form_text text) {
    add_number(s, text.bytes);
    if (text.bytes > 0) sha256_add(s, text.text, text.bytes);
}

/* All that an automaton depends on. Parameters of tools that are not strict have no say. */
static void make_key(const chat_grammar_model *m, const form_answer *f, uint8_t key[32]) {
    sha256 s;
    sha256_begin(&s);
    add_number(&s, (uintptr_t)m->tokenizer);
    add_number(&s, m->end_count);
    for (uint32_t i = 0; i < m->end_count; i++) add_number(&s, m->ends[i]);
    add_number(&s, f->kind);
    add_text(&s, f->text);
    add_number(&s, f->choice_count);
    for (size_t i = 0; i < f->choice_count; i++) add_text(&s, f->choice[i]);
    add_number(&s, f->calls);
    add_number(&s, (uint64_t)f->one_call << 2 | (uint64_t)f->may_think << 1 | (uint64_t)f->starts_in_thought);
    add_number(&s, f->tool_count);
    for (size_t i = 0; i < f->tool_count; i++) {
        add_text(&s, f->tool[i].name);
        add_number(&s, f->tool[i].strict);
        if (f->tool[i].strict) add_text(&s, f->tool[i].parameters);
    }
    sha256_end(&s, key);
}

static form_text text_of(const char *text) { return (form_text){text ? text : "", text ? strlen(text) : 0}; }

/* choices, when not NULL, is free()d by the caller. */
static status read_format(form_answer *f, form_text **choices, const Gemmad__V1__ResponseFormat *r) {
    if (!r) return ST_OK;
    switch (r->format_case) {
    case GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT:
        if (r->json_object) f->kind = FORM_OBJECT;
        return ST_OK;
    case GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA:
        f->kind = FORM_SCHEMA;
        f->text = text_of(r->json_schema);
        return ST_OK;
    case GEMMAD__V1__RESPONSE_FORMAT__FORMAT_REGEX:
        f->kind = FORM_REGEX;
        f->text = text_of(r->regex);
        return ST_OK;
    case GEMMAD__V1__RESPONSE_FORMAT__FORMAT_CHOICES:
        f->kind = FORM_CHOICE;
        f->choice_count = r->choices ? r->choices->n_choices : 0;
        f->choice = *choices = memory_alloc_array(f->choice_count + 1, sizeof **choices);
        for (size_t i = 0; i < f->choice_count; i++) (*choices)[i] = text_of(r->choices->choices[i]);
        return ST_OK;
    default: return ST_OK;
    }
}

static status read_choice(form_answer *f, const Gemmad__V1__ToolChoice *choice, const char **named) {
    const char *mode = choice && choice->mode && choice->mode[0] ? choice->mode : "auto";
    *named = NULL;
    if (strcmp(mode, "none") == 0) f->calls = FORM_CALLS_NEVER;
    else if (strcmp(mode, "auto") == 0) f->calls = FORM_CALLS_MAY;
    else if (strcmp(mode, "required") == 0) f->calls = FORM_CALLS_MUST;
    else if (strcmp(mode, "named") == 0) {
        f->calls = FORM_CALLS_MUST;
        f->one_call = true;
        *named = choice->name ? choice->name : "";
    } else return fail(ST_INVALID, "tool_choice.mode is \"%.64s\": none, auto, required or named", mode);
    return ST_OK;
}

/* *tools is free()d by the caller. */
static status read_tools(form_answer *f, form_tool **tools, const Gemmad__V1__ChatRequest *r) {
    const char *named;
    TRY(read_choice(f, r->tool_choice, &named));
    if (r->n_tools > LIMIT_TOOLS)
        return fail(ST_INVALID, "tools has %zu, at most %d", r->n_tools, LIMIT_TOOLS);
    if (f->calls == FORM_CALLS_NEVER) return ST_OK;
    if (r->n_tools == 0) {
        if (f->calls == FORM_CALLS_MUST)
            return fail(ST_INVALID, "tool_choice asks for a call, and there are no tools");
        f->calls = FORM_CALLS_NEVER;
        return ST_OK;
    }
    if (r->has_parallel_tool_calls && !r->parallel_tool_calls) f->one_call = true;
    f->tool = *tools = memory_alloc_array(r->n_tools, sizeof **tools);
    for (uint32_t i = 0; i < r->n_tools; i++) {
        const Gemmad__V1__Tool *t = r->tools[i];
        if (named && (!t->name || strcmp(t->name, named) != 0)) continue;
        (*tools)[f->tool_count++] = (form_tool){.index = i,
                                                .name = text_of(t->name),
                                                .parameters = text_of(t->parameters_json),
                                                .strict = t->has_strict && t->strict};
    }
    if (f->tool_count == 0) return fail(ST_INVALID, "tool_choice.name \"%.64s\" is none of the tools", named);
    return ST_OK;
}

static bool asks_form(const Gemmad__V1__ResponseFormat *r) {
    if (!r || r->format_case == GEMMAD__V1__RESPONSE_FORMAT__FORMAT__NOT_SET) return false;
    return r->format_case != GEMMAD__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT || r->json_object;
}

/* tool_choice alone may be wrong. */
bool chat_grammar_wanted(const Gemmad__V1__ChatRequest *r) {
    return r->n_tools > 0 || r->tool_choice || asks_form(r->response_format);
}

static status check_model(const chat_grammar_model *m) {
    if (m->tokenizer) return ST_OK;
    return fail(ST_INVALID,
                "response_format, tools: the model has no tokenizer, and takes and gives token ids only");
}

static status make_form(const chat_grammar **out, chat_grammar_cache *c, const chat_grammar_model *m,
                        const form_answer *f) {
    uint8_t key[32];
    TRY(check_model(m));
    make_key(m, f, key);
    return find_or_make(out, c, key, m, f);
}

status chat_grammar_make(const chat_grammar **out, chat_grammar_cache *c, const chat_grammar_model *m,
                         const Gemmad__V1__ChatRequest *r, bool starts_in_thought) {
    *out = NULL;
    if (!chat_grammar_wanted(r)) return ST_OK;
    form_answer f = {.may_think = r->has_enable_thinking && r->enable_thinking,
                     .starts_in_thought = starts_in_thought};
    form_text *choices = NULL;
    form_tool *tools = NULL;
    status st = read_format(&f, &choices, r->response_format);
    if (st == ST_OK) st = read_tools(&f, &tools, r);
    /* Without tools nothing is there to forbid. */
    bool any_text = f.kind == FORM_TEXT && r->n_tools == 0;
    if (st == ST_OK && !any_text) st = make_form(out, c, m, &f);
    free(choices);
    free(tools);
    return st;
}

status chat_grammar_make_format(const chat_grammar **out, chat_grammar_cache *c, const chat_grammar_model *m,
                                const Gemmad__V1__ResponseFormat *r) {
    *out = NULL;
    if (!asks_form(r)) return ST_OK;
    form_answer f = {0};
    form_text *choices = NULL;
    status st = read_format(&f, &choices, r);
    if (st == ST_OK) st = make_form(out, c, m, &f);
    free(choices);
    return st;
}
