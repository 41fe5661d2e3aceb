#include "shard/model/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void *grow(void *array, uint32_t need, uint32_t *cap, size_t size) {
    if (need <= *cap) return array;
    uint32_t want = *cap ? *cap : 16;
    while (want < need) want *= 2;
    *cap = want;
    return memory_grow(array, want * size);
}

void plan_clear(plan *p) {
    p->stop = 0;
    p->open_count = p->span_count = p->page_count = p->spill_count = p->token_count = p->listed_count = 0;
    p->allowed_count = p->word_count = 0;
}

void plan_close(plan *p) {
    free(p->open);
    free(p->span);
    free(p->page);
    free(p->spill);
    free(p->tokens);
    free(p->listed);
    free(p->allowed);
    free(p->words);
    *p = (plan){0};
}

plan_open *plan_add_open(plan *p) {
    p->open = grow(p->open, p->open_count + 1, &p->open_cap, sizeof *p->open);
    plan_open *o = &p->open[p->open_count++];
    memset(o, 0, sizeof *o);
    return o;
}

plan_span *plan_add_span(plan *p) {
    p->span = grow(p->span, p->span_count + 1, &p->span_cap, sizeof *p->span);
    plan_span *s = &p->span[p->span_count++];
    *s = (plan_span){.next_token = PLAN_NO_TOKEN};
    return s;
}

void plan_add_page(plan *p, uint32_t slot, kv_kind kind, uint32_t index, uint32_t page) {
    p->page = grow(p->page, p->page_count + 1, &p->page_cap, sizeof *p->page);
    p->page[p->page_count++] = (plan_page){slot, kind, index, page};
}

void plan_add_spills(plan *p, const spill_op *ops, uint32_t n) {
    p->spill = grow(p->spill, p->spill_count + n, &p->spill_cap, sizeof *p->spill);
    if (n) memcpy(p->spill + p->spill_count, ops, n * sizeof *ops);
    p->spill_count += n;
}

uint32_t plan_add_tokens(plan *p, const uint32_t *tokens, uint32_t n) {
    uint32_t first = p->token_count;
    p->tokens = grow(p->tokens, first + n, &p->token_cap, sizeof *p->tokens);
    if (n) memcpy(p->tokens + first, tokens, n * sizeof *tokens);
    p->token_count += n;
    return first;
}

static plan_allowed *add_allowed(plan *p) {
    p->allowed = grow(p->allowed, p->allowed_count + 1, &p->allowed_cap, sizeof *p->allowed);
    return &p->allowed[p->allowed_count++];
}

void plan_add_allowed_bits(plan *p, uint32_t place, const uint32_t *words, uint32_t n) {
    *add_allowed(p) = (plan_allowed){place, PLAN_SET_BITS, p->word_count, n};
    p->words = grow(p->words, p->word_count + n, &p->word_cap, sizeof *p->words);
    memcpy(p->words + p->word_count, words, n * sizeof *words);
    p->word_count += n;
}

uint32_t *plan_add_allowed_list(plan *p, uint32_t place, uint32_t n) {
    *add_allowed(p) = (plan_allowed){place, PLAN_SET_LIST, p->token_count, n};
    p->tokens = grow(p->tokens, p->token_count + n, &p->token_cap, sizeof *p->tokens);
    p->token_count += n;
    return p->tokens + p->token_count - n;
}

/* ---- bytes: a header, then the arrays; an open's sampling is written without the unused part of its lists
 * ---- */

typedef struct plan_header {
    char magic[8];
    uint64_t step;
    uint32_t stop, open_count, span_count, page_count, spill_count, token_count, listed_count, allowed_count,
        word_count;
} plan_header;

static const char magic[8] = "gplan03";

typedef struct open_header {
    uint32_t slot, prompt_count, first_history, history_count;
    uint32_t stop_token_count, bias_count;
} open_header;

/* Everything of `sampling` before its lists. */
#define SAMPLING_FIXED offsetof(sampling, stop_token_count)

void plan_encode(const plan *p, strbuf *out) {
    plan_header h = {.step = p->step,
                     .stop = p->stop,
                     .open_count = p->open_count,
                     .span_count = p->span_count,
                     .page_count = p->page_count,
                     .spill_count = p->spill_count,
                     .token_count = p->token_count,
                     .listed_count = p->listed_count,
                     .allowed_count = p->allowed_count,
                     .word_count = p->word_count};
    memcpy(h.magic, magic, sizeof magic);
    strbuf_add(out, &h, sizeof h);
    strbuf_add(out, p->span, p->span_count * sizeof *p->span);
    strbuf_add(out, p->page, p->page_count * sizeof *p->page);
    strbuf_add(out, p->spill, p->spill_count * sizeof *p->spill);
    strbuf_add(out, p->tokens, p->token_count * sizeof *p->tokens);
    strbuf_add(out, p->listed, p->listed_count * sizeof *p->listed);
    strbuf_add(out, p->allowed, p->allowed_count * sizeof *p->allowed);
    strbuf_add(out, p->words, p->word_count * sizeof *p->words);
    for (uint32_t i = 0; i < p->open_count; i++) {
        const plan_open *o = &p->open[i];
        open_header oh = {o->slot,
                          o->prompt_count,
                          o->first_history,
                          o->history_count,
                          o->params.stop_token_count,
                          o->params.bias_count};
        strbuf_add(out, &oh, sizeof oh);
        strbuf_add(out, &o->params, SAMPLING_FIXED);
        strbuf_add(out, o->params.stop_token, oh.stop_token_count * sizeof *o->params.stop_token);
        strbuf_add(out, o->params.bias, oh.bias_count * sizeof *o->params.bias);
    }
}

typedef struct reader {
    const char *at;
    size_t left;
} reader;

static status take(reader *r, void *out, size_t n, const char *what) {
    if (n > r->left)
        return fail(ST_FORMAT, "step plan ends inside its %s: %zu bytes left, %zu needed", what, r->left, n);
    if (n) memcpy(out, r->at, n);
    r->at += n;
    r->left -= n;
    return ST_OK;
}

static status check_span(const plan *p, const plan_span *s, const plan_bounds *b) {
    if (s->input != PLAN_TOKENS) return fail(ST_UNSUPPORTED, "step plan: span input %u", s->input);
    if (s->mask != PLAN_CAUSAL) return fail(ST_UNSUPPORTED, "step plan: span mask %u", s->mask);
    if (s->rollback) return fail(ST_UNSUPPORTED, "step plan: rollback of %u tokens", s->rollback);
    if (s->adapter) return fail(ST_UNSUPPORTED, "step plan: adapter %u", s->adapter);
    if (s->logits > PLAN_LOGITS_ALL) return fail(ST_UNSUPPORTED, "step plan: logits %u", s->logits);
    if (s->slot >= b->slots) return fail(ST_FORMAT, "step plan: slot %u of %u", s->slot, b->slots);
    if (s->count == 0 || s->count > b->rows_max || s->position > b->context ||
        s->count > b->context - s->position)
        return fail(ST_FORMAT, "step plan: %u rows at position %u, bounds %u and %u", s->count, s->position,
                    b->rows_max, b->context);
    if (s->first_input > p->token_count || s->count > p->token_count - s->first_input)
        return fail(ST_FORMAT, "step plan: span tokens %u+%u of %u", s->first_input, s->count,
                    p->token_count);
    if (s->logits == PLAN_LOGITS_LISTED) {
        if (s->first_listed > p->listed_count || s->listed_count > p->listed_count - s->first_listed)
            return fail(ST_FORMAT, "step plan: listed rows %u+%u of %u", s->first_listed, s->listed_count,
                        p->listed_count);
        for (uint32_t i = 0; i < s->listed_count; i++) {
            uint32_t row = p->listed[s->first_listed + i];
            if (row >= s->count || (i > 0 && row <= p->listed[s->first_listed + i - 1]))
                return fail(ST_FORMAT, "step plan: listed row %u of a span of %u", row, s->count);
        }
    }
    if (s->draw && s->logits == PLAN_LOGITS_NONE) return fail(ST_FORMAT, "step plan: a draw without logits");
    if (s->allowed > b->allowed_places || (s->allowed && !s->draw))
        return fail(ST_FORMAT, "step plan: allowed tokens of place %u of %u, draw %u", s->allowed,
                    b->allowed_places, s->draw);
    if (s->next_token != PLAN_NO_TOKEN && s->next_token >= b->vocab)
        return fail(ST_FORMAT, "step plan: next token %u of %u", s->next_token, b->vocab);
    return ST_OK;
}

static status check_spills(const plan *p, const plan_bounds *b) {
    if (p->spill_count && !b->spills)
        return fail(ST_FORMAT, "step plan: %u files, and this rank has no folder for them", p->spill_count);
    for (uint32_t i = 0; i < p->spill_count; i++) {
        const spill_op *op = &p->spill[i];
        if (op->action > SPILL_REMOVE || op->what.kind >= KV_KINDS ||
            (op->action != SPILL_REMOVE && op->page >= b->pages[op->what.kind]))
            return fail(ST_FORMAT, "step plan: operation %u on the file of page %u of kind %u", op->action,
                        op->page, op->what.kind);
    }
    return ST_OK;
}

static status check_allowed(const plan *p, const plan_bounds *b) {
    for (uint32_t i = 0; i < p->allowed_count; i++) {
        const plan_allowed *a = &p->allowed[i];
        uint32_t there = a->kind == PLAN_SET_LIST ? p->token_count : p->word_count;
        if (a->place >= b->allowed_places || a->kind > PLAN_SET_BITS || a->first > there ||
            a->count > there - a->first || (a->kind == PLAN_SET_BITS && a->count != (b->vocab + 31) / 32))
            return fail(ST_FORMAT, "step plan: %u words or tokens allowed by place %u of %u, %u are there",
                        a->count, a->place, b->allowed_places, there);
    }
    return ST_OK;
}

static status check(const plan *p, const plan_bounds *b) {
    uint64_t rows = 0;
    for (uint32_t i = 0; i < p->span_count; i++) {
        TRY(check_span(p, &p->span[i], b));
        rows += p->span[i].count;
    }
    if (rows > b->rows_max)
        return fail(ST_FORMAT, "step plan: %llu rows, at most %u", (unsigned long long)rows, b->rows_max);
    for (uint32_t i = 0; i < p->token_count; i++)
        if (p->tokens[i] >= b->vocab)
            return fail(ST_FORMAT, "step plan: token %u of %u", p->tokens[i], b->vocab);
    for (uint32_t i = 0; i < p->page_count; i++) {
        const plan_page *g = &p->page[i];
        if (g->slot >= b->slots || g->kind >= KV_KINDS || g->index >= b->pages_per_slot ||
            (g->page != PLAN_NO_TOKEN && g->page >= b->pages[g->kind]))
            return fail(ST_FORMAT, "step plan: page %u of kind %u at index %u of slot %u", g->page, g->kind,
                        g->index, g->slot);
    }
    TRY(check_spills(p, b));
    TRY(check_allowed(p, b));
    for (uint32_t i = 0; i < p->open_count; i++) {
        const plan_open *o = &p->open[i];
        if (o->slot >= b->slots || o->first_history > p->token_count ||
            o->history_count > p->token_count - o->first_history || o->prompt_count > o->history_count)
            return fail(ST_FORMAT, "step plan: opening slot %u with %u tokens of history", o->slot,
                        o->history_count);
    }
    return ST_OK;
}

static status read_open(reader *r, plan_open *o) {
    open_header h;
    TRY(take(r, &h, sizeof h, "open header"));
    if (h.stop_token_count > LIMIT_STOP_TOKENS * 2 || h.bias_count > LIMIT_LOGIT_BIAS)
        return fail(ST_FORMAT, "step plan: %u stop tokens, %u biases", h.stop_token_count, h.bias_count);
    o->slot = h.slot;
    o->prompt_count = h.prompt_count;
    o->first_history = h.first_history;
    o->history_count = h.history_count;
    TRY(take(r, &o->params, SAMPLING_FIXED, "sampling"));
    o->params.stop_token_count = h.stop_token_count;
    o->params.bias_count = h.bias_count;
    TRY(take(r, o->params.stop_token, h.stop_token_count * sizeof *o->params.stop_token, "stop tokens"));
    return take(r, o->params.bias, h.bias_count * sizeof *o->params.bias, "biases");
}

static status take_array(reader *r, void **array, uint32_t n, uint32_t *cap, size_t size, const char *what) {
    if (n > r->left / size) return fail(ST_FORMAT, "step plan: %u of its %s in %zu bytes", n, what, r->left);
    *array = grow(*array, n, cap, size);
    return take(r, *array, n * size, what);
}

status plan_decode(plan *p, const void *bytes, size_t n, const plan_bounds *bounds) {
    reader r = {bytes, n};
    plan_header h;
    plan_clear(p);
    TRY(take(&r, &h, sizeof h, "header"));
    if (memcmp(h.magic, magic, sizeof magic)) return fail(ST_FORMAT, "step plan: wrong first bytes");
    p->step = h.step;
    p->stop = h.stop;
    void *array = p->span;
    status st = take_array(&r, &array, h.span_count, &p->span_cap, sizeof *p->span, "spans");
    p->span = array;
    TRY(st);
    array = p->page;
    st = take_array(&r, &array, h.page_count, &p->page_cap, sizeof *p->page, "pages");
    p->page = array;
    TRY(st);
    array = p->spill;
    st = take_array(&r, &array, h.spill_count, &p->spill_cap, sizeof *p->spill, "files");
    p->spill = array;
    TRY(st);
    array = p->tokens;
    st = take_array(&r, &array, h.token_count, &p->token_cap, sizeof *p->tokens, "tokens");
    p->tokens = array;
    TRY(st);
    array = p->listed;
    st = take_array(&r, &array, h.listed_count, &p->listed_cap, sizeof *p->listed, "listed rows");
    p->listed = array;
    TRY(st);
    array = p->allowed;
    st = take_array(&r, &array, h.allowed_count, &p->allowed_cap, sizeof *p->allowed, "sets of tokens");
    p->allowed = array;
    TRY(st);
    array = p->words;
    st = take_array(&r, &array, h.word_count, &p->word_cap, sizeof *p->words, "words");
    p->words = array;
    TRY(st);
    p->span_count = h.span_count;
    p->page_count = h.page_count;
    p->spill_count = h.spill_count;
    p->token_count = h.token_count;
    p->listed_count = h.listed_count;
    p->allowed_count = h.allowed_count;
    p->word_count = h.word_count;
    for (uint32_t i = 0; i < h.open_count; i++) TRY(read_open(&r, plan_add_open(p)));
    if (r.left) return fail(ST_FORMAT, "step plan: %zu bytes behind its end", r.left);
    return check(p, bounds);
}
