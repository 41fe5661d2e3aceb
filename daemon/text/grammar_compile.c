/* From a network to the bytes that an engine reads. */
#include "daemon/text/grammar_internal.h"

#include <string.h>

#include "base/memory.h"

static status check_ends(const uint32_t *ends, uint32_t end_count, uint32_t tokens) {
    if (end_count == 0 || end_count > LIMIT_STOP_TOKENS)
        return fail(ST_INVALID, "%u end tokens for a grammar, allowed are 1 to %d", end_count,
                    LIMIT_STOP_TOKENS);
    for (uint32_t i = 0; i < end_count; i++)
        if (ends[i] >= tokens)
            return fail(ST_INVALID, "end token %u is not in the vocabulary of %u", ends[i], tokens);
    return ST_OK;
}

status grammar_compile_for(const grammar *g, const vocabulary *v, const uint32_t *ends, uint32_t end_count,
                           uint32_t narrow_nodes, uint8_t **bytes, size_t *size) {
    automaton_parts p = {0};
    TRY(check_ends(ends, end_count, vocabulary_count(v)));
    status st = grammar_determinise(g, vocabulary_count(v), &p);
    if (st != ST_OK) {
        automaton_parts_close(&p);
        return st;
    }
    p.ends = end_count;
    p.end = memory_alloc_array(end_count, sizeof *p.end);
    memcpy(p.end, ends, end_count * sizeof *p.end);
    automaton *a = automaton_make(&p, v);
    st = grammar_add_tables(a, narrow_nodes);
    strbuf out = {.max = LIMIT_GRAMMAR_BYTES};
    if (st == ST_OK) automaton_write(&a->p, v, &out);
    if (out.full)
        st = fail(ST_INVALID, "the grammar needs more than %d bytes: %u states, %u ranges, %u sets of tokens",
                  LIMIT_GRAMMAR_BYTES, a->p.states, a->p.ranges, a->p.masks);
    automaton_drop(a);
    if (st != ST_OK) {
        strbuf_close(&out);
        return st;
    }
    *bytes = (uint8_t *)out.data;
    *size = out.size;
    return ST_OK;
}

status grammar_compile(const grammar *g, const tokenizer *t, const uint32_t *ends, uint32_t end_count,
                       uint8_t **bytes, size_t *size) {
    const vocabulary *v;
    TRY(tokenizer_vocabulary(t, &v));
    return grammar_compile_for(g, v, ends, end_count, GRAMMAR_NARROW_NODES, bytes, size);
}
