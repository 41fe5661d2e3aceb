/* Which rows a step computes, and for which of them logits are wanted. */
#include "base/invariant.h"
#include "shard/model/runner_internal.h"

static void rebuild_spans(runner *r) {
    live_rows *l = &r->live;
    l->span_count = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        bool follows = i > 0 && l->slot[i] == l->slot[i - 1] && l->position[i] == l->position[i - 1] + 1;
        if (!follows) {
            for (int kind = 0; kind < KV_KINDS; kind++)
                l->span[kind][l->span_count] =
                    (row_span){.row = i,
                               .position = l->position[i],
                               .slot = l->slot[i],
                               .pages = r->table[kind][l->slot[i]]};
            l->span_count++;
        }
        for (int kind = 0; kind < KV_KINDS; kind++) l->span[kind][l->span_count - 1].count++;
    }
}

void rows_announce(runner *r) {
    const live_rows *l = &r->live;
    r->ops->rows_begin(r->b, &(step_rows){.n = l->n,
                                          .token = l->token,
                                          .position = l->position,
                                          .spans = {l->span[KV_SLIDING], l->span[KV_FULL]},
                                          .span_count = l->span_count});
}

void gather_rows(runner *r, float *y, const float *x, const uint32_t *index, uint32_t count, uint32_t dim) {
    r->ops->put(r->b, r->device_index, index, count * sizeof *index);
    r->ops->gather(r->b, y, x, r->device_index, count, dim);
}

static void swap(float **a, float **b) {
    float *t = *a;
    *a = *b;
    *b = t;
}

void swap_spares(runner *r) {
    swap(&r->h, &r->h_spare);
    swap(&r->ple, &r->ple_spare);
}

static void want(runner *r, const plan *p, uint32_t span, uint32_t row, uint32_t step_row) {
    const plan_span *s = &p->span[span];
    uint32_t i = r->wanted_count++;
    bool last = row + 1 == s->count;
    r->wanted[i] = step_row;
    r->result_span[i] = span;
    r->result_row[i] = row;
    r->sample_rows[i] =
        (sample_row){.slot = s->slot, .position = s->position + row + 1, .known = SAMPLE_NO_TOKEN};
    if (last && s->draw) {
        r->sample_rows[i].draw = true;
        r->sample_rows[i].allowed = s->allowed;
    } else {
        r->sample_rows[i].known = last ? s->next_token : p->tokens[s->first_input + row + 1];
    }
}

/* Every page that the span writes or looks at: of sliding layers those of the window. */
static status check_pages(const runner *r, const plan_span *span) {
    uint32_t last = (span->position + span->count - 1) / KV_TOKENS_PER_PAGE;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        if (!r->geometry.page_bytes[kind]) continue;
        bool left = kind == KV_SLIDING && span->position + 1 > r->window;
        uint32_t page = left ? (span->position + 1 - r->window) / KV_TOKENS_PER_PAGE : 0;
        for (; page <= last; page++)
            if (r->table[kind][span->slot][page] == PLAN_NO_TOKEN)
                return fail(ST_FORMAT, "step plan: slot %u has no %s page for positions from %u", span->slot,
                            kind == KV_FULL ? "full" : "sliding", page * KV_TOKENS_PER_PAGE);
    }
    return ST_OK;
}

status rows_begin(runner *r, const plan *p) {
    live_rows *l = &r->live;
    l->n = r->wanted_count = 0;
    for (uint32_t s = 0; s < p->span_count; s++) {
        const plan_span *span = &p->span[s];
        uint32_t listed = 0;
        for (uint32_t i = 0; i < span->count; i++) {
            uint32_t row = l->n++;
            l->slot[row] = span->slot;
            l->position[row] = span->position + i;
            l->token[row] = p->tokens[span->first_input + i];
            bool wanted =
                span->logits == PLAN_LOGITS_ALL || (span->logits == PLAN_LOGITS_LAST && i + 1 == span->count);
            if (span->logits == PLAN_LOGITS_LISTED && listed < span->listed_count &&
                p->listed[span->first_listed + listed] == i) {
                wanted = true;
                listed++;
            }
            if (wanted) want(r, p, s, i, row);
        }
        TRY(check_pages(r, span));
        if (span->allowed && !sampler_has_allowed(r->draw, span->allowed - 1))
            return fail(ST_FORMAT, "step plan: no set of tokens has come to place %u", span->allowed - 1);
    }
    l->calls = l->n;
    rebuild_spans(r);
    return ST_OK;
}

void rows_keep_wanted(runner *r) {
    live_rows *l = &r->live;
    for (uint32_t i = 0; i < r->wanted_count; i++) {
        uint32_t from = r->wanted[i];
        INVARIANT(from >= i && from < l->n);
        r->index[i] = from;
        l->slot[i] = l->slot[from];
        l->position[i] = l->position[from];
        l->token[i] = l->token[from];
        r->wanted[i] = i;
    }
    l->n = l->calls = r->wanted_count;
    rebuild_spans(r);
}
