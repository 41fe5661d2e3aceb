#include "shard/sample/sampler_inside.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

status sampler_open(sampler **out, const sampler_options *o) {
    sampler *s = memory_alloc(sizeof *s);
    s->ranks = o->ranks;
    s->k = o->kernels;
    s->device = o->device && !o->device->is_host ? o->device : NULL;
    INVARIANT(!s->device || s->device->ops->scan);
    s->rank = comm_rank(o->ranks);
    s->size = comm_size(o->ranks);
    s->vocab = o->vocab;
    s->slots = o->slots;
    s->rows_max = o->rows_max;
    s->share_begin = memory_alloc_array(s->size + 1, sizeof *s->share_begin);
    memcpy(s->share_begin, o->share_begin, (s->size + 1) * sizeof *s->share_begin);
    s->begin = s->share_begin[s->rank];
    s->share = s->share_begin[s->rank + 1] - s->begin;
    s->slot = memory_alloc_array(s->slots, sizeof *s->slot);
    s->merged = memory_alloc_array((size_t)s->size * SAMPLE_CANDIDATES, sizeof *s->merged);
    s->bytes = memory_alloc_array(s->size, sizeof *s->bytes);
    s->at = memory_alloc_array(s->size, sizeof *s->at);
    s->tops = memory_alloc_array((size_t)s->rows_max * LIMIT_LOGPROBS, sizeof *s->tops);
    s->changed_begin = memory_alloc_array((size_t)s->rows_max + 1, sizeof *s->changed_begin);
    s->scan = memory_alloc_array(s->rows_max, sizeof *s->scan);
    s->want = memory_alloc_array(s->rows_max, sizeof *s->want);
    s->view = memory_alloc(sizeof *s->view);
    *out = s;
    return ST_OK;
}

void sampler_close(sampler *s) {
    if (!s) return;
    for (uint32_t i = 0; i < s->slots; i++) penalties_close(&s->slot[i].seen);
    free(s->share_begin);
    free(s->slot);
    free(s->merged);
    free(s->changes);
    free(s->raw);
    free(s->changed_begin);
    free(s->scan);
    free(s->want);
    free(s->view);
    free(s->full);
    free(s->full_sorted);
    free(s->fetched);
    free(s->mine);
    free(s->all);
    free(s->bytes);
    free(s->at);
    free(s->tops);
    for (uint32_t i = 0; i < ALLOWED_PLACES; i++) free(s->allowed[i]);
    free(s);
}

void sampler_begin(sampler *s, uint32_t slot, const sampling *params, const uint32_t *history,
                   uint32_t history_count, uint32_t prompt_count) {
    INVARIANT(slot < s->slots);
    slot_state *state = &s->slot[slot];
    state->params = *params;
    penalties_clear(&state->seen);
    if (!penalties_wanted(params)) return;
    for (uint32_t i = 0; i < history_count; i++) penalties_add(&state->seen, history[i], i >= prompt_count);
}

static row_want want_of(const sampler *s, const sample_row *row) {
    const sampling *p = &s->slot[row->slot].params;
    row_want w = {0};
    int32_t top = row->draw ? p->logprobs : p->prompt_logprobs;
    w.logprob = top >= 0;
    w.tops = top < 0 ? 0 : (uint32_t)top < s->vocab ? (uint32_t)top : s->vocab;
    if (!row->draw || p->temperature == 0) return w;
    bool filtered = p->top_k > 0 || p->top_p < 1.0f || p->min_p > 0.0f;
    w.blocks = true; /* with filters for the total that top_p is a share of */
    if (filtered) w.candidates = p->top_k > 0 && p->top_k < SAMPLE_CANDIDATES ? p->top_k : SAMPLE_CANDIDATES;
    return w;
}

static void change(sampler *s, uint32_t token, float times, float add) {
    if (s->changed_count == s->changed_cap) {
        s->changed_cap = s->changed_cap ? s->changed_cap * 2 : 256;
        s->changes = memory_grow(s->changes, s->changed_cap * sizeof *s->changes);
        s->raw = memory_grow(s->raw, s->changed_cap * sizeof *s->raw);
    }
    s->changes[s->changed_count++] = (scan_change){token - s->begin, add, times};
}

/* x - p is x + -p, and x + -0 is x, also where that is -0. */
void sampler_list_changes(sampler *s, const slot_state *state) {
    const sampling *p = &state->params;
    for (uint32_t i = 0; i < p->bias_count; i++)
        if (p->bias[i].token - s->begin < s->share) change(s, p->bias[i].token, 0, p->bias[i].bias);
    if (!penalties_wanted(p)) return;
    for (uint32_t i = 0; i < state->seen.capacity; i++) {
        const seen_token *t = &state->seen.place[i];
        if (t->token == SAMPLE_NO_TOKEN || t->token - s->begin >= s->share) continue;
        change(s, t->token, p->repetition_penalty, t->in_answer ? -p->presence_penalty : -0.0f);
        if (t->in_answer && p->frequency_penalty != 0)
            change(s, t->token, 0, -(p->frequency_penalty * (float)t->in_answer));
    }
}

static uint32_t share_words(const sampler *s) {
    return s->share ? (s->begin + s->share + 31) / 32 - s->begin / 32 : 0;
}

static uint32_t *allowed_at(sampler *s, uint32_t place) {
    INVARIANT(place < ALLOWED_PLACES);
    if (!s->allowed[place])
        s->allowed[place] = memory_alloc_array(share_words(s) + 1, sizeof *s->allowed[place]);
    s->allowed_new[place] = true;
    return s->allowed[place];
}

void sampler_allow_bits(sampler *s, uint32_t place, const uint32_t *words) {
    memcpy(allowed_at(s, place), words + s->begin / 32, share_words(s) * sizeof *words);
}

void sampler_allow_list(sampler *s, uint32_t place, const uint32_t *ids, uint32_t n) {
    uint32_t *own = allowed_at(s, place);
    memset(own, 0, share_words(s) * sizeof *own);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] - s->begin < s->share) own[ids[i] / 32 - s->begin / 32] |= 1u << ids[i] % 32;
}

bool sampler_has_allowed(const sampler *s, uint32_t place) {
    return place < ALLOWED_PLACES && s->allowed[place];
}

static status exchange(sampler *s) {
    size_t total = 0;
    for (uint32_t r = 0; r < s->size; r++) {
        s->at[r] = total;
        total += s->bytes[r];
    }
    if (total > s->all_cap) {
        s->all = memory_grow(s->all, total);
        s->all_cap = total;
    }
    return comm_all_gather_v(s->ranks, s->mine, s->bytes, s->all);
}

status sampler_run(sampler *s, float *logits, uint32_t n, const sample_row *rows, sample_result *results) {
    INVARIANT(n <= s->rows_max);
    if (n == 0) return ST_OK;
    memset(s->bytes, 0, s->size * sizeof *s->bytes);
    for (uint32_t i = 0; i < n; i++) {
        s->want[i] = want_of(s, &rows[i]);
        for (uint32_t r = 0; r < s->size; r++) s->bytes[r] += sampler_record_bytes(s, &s->want[i], r);
    }
    if (s->bytes[s->rank] > s->mine_cap) {
        s->mine = memory_grow(s->mine, s->bytes[s->rank]);
        s->mine_cap = s->bytes[s->rank];
    }
    run_logits of = {logits, logits};
    if (s->device) TRY(sampler_device_records(s, logits, n, rows, &of.adjusted));
    else sampler_host_records(s, logits, n, rows);
    TRY(exchange(s));
    for (uint32_t i = 0; i < n; i++) TRY(sampler_finish_row(s, &of, &rows[i], i, &results[i]));
    return ST_OK;
}
