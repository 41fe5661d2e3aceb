/* Answers that follow a grammar: its state goes on with every token that is drawn, and each draw is among what it allows.
 * Preemption does not touch it, since tokens stay; a replayed request begins behind the tokens it came with. */
#include <stdlib.h>

#include "base/memory.h"
#include "shard/sched/sched_internal.h"

status sched_take_vocabulary(sched *s, const uint8_t *bytes, size_t n) {
    return grammar_book_take_vocabulary(s->grammars, bytes, n);
}

status grammar_arrive(sched *s, sequence *q) {
    sched_request *r = &q->r;
    if (!r->grammar) return ST_OK;
    status st = grammar_book_take_grammar(s->grammars, r->grammar, r->grammar_bytes);
    free(r->grammar);
    r->grammar = NULL;
    return st == ST_OK ? ST_OK : fail_within(st, "grammar");
}

status grammar_begin(sched *s, sequence *q) {
    const sched_request *r = &q->r;
    status st = grammar_state_open(&q->grammar, s->grammars, r->tokens + r->prompt_count,
                                   r->token_count - r->prompt_count);
    return st == ST_OK ? ST_OK : fail_within(st, "grammar");
}

status grammar_took(sequence *q, uint32_t token) {
    if (!q->grammar) return ST_OK;
    status st = grammar_state_take(q->grammar, token);
    return st == ST_OK ? ST_OK : fail_within(st, "grammar");
}

bool grammar_ended(const sequence *q) { return q->grammar && grammar_state_ended(q->grammar); }

/* Few tokens travel by their ids, many as bits. */
static void add_set(plan *p, uint32_t place, const uint32_t *words, uint32_t vocab) {
    uint32_t n = (vocab + 31) / 32, count = 0;
    for (uint32_t i = 0; i < n; i++) count += (uint32_t)__builtin_popcount(words[i]);
    if (count >= n) {
        plan_add_allowed_bits(p, place, words, n);
        return;
    }
    uint32_t *ids = plan_add_allowed_list(p, place, count);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t left = words[i]; left; left &= left - 1)
            *ids++ = i * 32 + (uint32_t)__builtin_ctz(left);
}

void grammar_tell(sched *s, plan *p, const sequence *q, plan_span *span) {
    if (!q->grammar || !span->draw) return;
    const uint32_t *words = grammar_state_allowed(q->grammar);
    bool is_new;
    uint32_t place = allowed_sets_place(s->allowed, words, p->step, &is_new);
    if (is_new) add_set(p, place, words, s->o.vocab);
    span->allowed = place + 1;
}
