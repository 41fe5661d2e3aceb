/* What all ranks make of the records: the token, and its log-probability. */
#include "shard/sample/sampler_inside.h"

#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

static float exp_of(const sampler *s, float x, float shift, float factor) {
    float y;
    s->k->exp_sum(&y, &x, shift, factor, 1);
    return y;
}

size_t sampler_record_bytes(const sampler *s, const row_want *w, uint32_t rank) {
    uint32_t share = share_of(s, rank);
    return sizeof(scan_head) + (least(w->tops, share) + (size_t)least(w->candidates, share)) * sizeof(scored) +
           (w->blocks ? blocks_of(s, rank) * sizeof(float) : 0);
}

static void view_row(sampler *s, row_view *v, const row_want *w) {
    v->max = v->raw_max = -__builtin_inff();
    v->argmax = SAMPLE_NO_TOKEN;
    v->argmax_rank = 0;
    for (uint32_t r = 0; r < s->size; r++) {
        const char *p = s->all + s->at[r];
        uint32_t share = share_of(s, r);
        memcpy(&v->head[r], p, sizeof *v->head);
        p += sizeof *v->head;
        v->tops[r] = (const scored *)p;
        v->candidates[r] = v->tops[r] + least(w->tops, share);
        v->blocks[r] = (const char *)(v->candidates[r] + least(w->candidates, share));
        s->at[r] += sampler_record_bytes(s, w, r);
        if (v->head[r].raw_max > v->raw_max) v->raw_max = v->head[r].raw_max;
        if (v->head[r].argmax != SAMPLE_NO_TOKEN &&
            (v->argmax == SAMPLE_NO_TOKEN || v->head[r].max > v->max)) {
            v->max = v->head[r].max;
            v->argmax = v->head[r].argmax;
            v->argmax_rank = r;
        }
    }
    v->raw_sum = 0;
    for (uint32_t r = 0; w->logprob && r < s->size; r++)
        if (share_of(s, r))
            v->raw_sum += (double)v->head[r].raw_sum * exp_of(s, v->head[r].raw_max, v->raw_max, 1.0f);
}

static uint32_t owner_of(const sampler *s, uint32_t token) {
    uint32_t r = 0;
    while (token >= s->share_begin[r + 1]) r++;
    return r;
}

/* Total of exp((l - max)/T) over the vocabulary, blocks in id order; when `target` ≥ 0 finds the block where
 * the running sum passes target·total, its rank, and the place inside it as a share of the block. */
static double block_walk(const sampler *s, const row_view *v, float factor, double target, uint32_t *rank,
                         uint32_t *block, double *inside) {
    double total = 0, sum = 0;
    for (int pass = 0; pass < (target >= 0 ? 2 : 1); pass++) {
        double running = 0, goal = target * total;
        for (uint32_t r = 0; r < s->size; r++) {
            if (share_of(s, r) == 0) continue;
            double scale = exp_of(s, v->head[r].max, v->max, factor);
            for (uint32_t b = 0; b < blocks_of(s, r); b++) {
                float x;
                memcpy(&x, v->blocks[r] + b * sizeof x, sizeof x);
                sum = (double)x * scale;
                if (pass == 1 && sum > 0) {
                    *rank = r;
                    *block = b;
                    *inside = (goal - running) / sum;
                    if (running + sum > goal) return total;
                }
                running += sum;
            }
        }
        total = running;
        if (pass == 1) *inside = 1; /* rounding left nothing behind the last block that has any mass */
    }
    return total;
}

/* n of this rank's adjusted logits of a row from index `from` on; from a device they come into room. */
static status look_at(const sampler *s, const float *adjusted, uint32_t from, uint32_t n, float *room,
                      const float **out) {
    *out = s->device ? room : adjusted + from;
    if (!s->device || n == 0) return ST_OK;
    return s->device->ops->get(s->device, room, adjusted + from, n * sizeof *room);
}

static status pick_unfiltered(sampler *s, const float *adjusted, const row_view *v, const sampling *p, double u,
                              uint32_t *token) {
    uint32_t rank = v->argmax_rank, block = 0, last = SAMPLE_NO_TOKEN;
    double inside = 0;
    float factor = 1.0f / p->temperature;
    block_walk(s, v, factor, u, &rank, &block, &inside);
    if (rank == s->rank) {
        float e[SAMPLE_BLOCK];
        uint32_t n = least(SAMPLE_BLOCK, s->share - block * SAMPLE_BLOCK);
        const float *logits;
        TRY(look_at(s, adjusted, block * SAMPLE_BLOCK, n, e, &logits));
        s->k->exp_sum(e, logits, v->head[rank].max, factor, n);
        double total = 0, running = 0;
        for (uint32_t i = 0; i < n; i++) total += e[i];
        for (uint32_t i = 0; i < n; i++) {
            if (e[i] == 0) continue;
            last = s->begin + block * SAMPLE_BLOCK + i;
            running += e[i];
            if (running > inside * total) break;
        }
    }
    TRY(comm_broadcast(s->ranks, &last, sizeof last, rank));
    INVARIANT(last < s->vocab);
    *token = last;
    return ST_OK;
}

/* The kept prefix of sorted candidates under top_k, top_p and min_p, and its mass; covered tells whether `n`
 * candidates were enough to be sure (always, when they are the whole vocabulary). */
static uint32_t keep_prefix(const sampler *s, const scored *c, uint32_t n, const sampling *p, float max,
                            double vocab_total, double *mass, bool *covered) {
    float factor = 1.0f / p->temperature;
    bool whole = n == s->vocab, reached = false;
    uint32_t limit = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    double total = vocab_total;
    if (p->top_k > 0) {
        total = 0;
        for (uint32_t i = 0; i < limit; i++) total += exp_of(s, c[i].logit, max, factor);
        reached = limit == p->top_k;
    }
    uint32_t kept = 0;
    double sum = 0;
    float first = n ? exp_of(s, c[0].logit, max, factor) : 0;
    while (kept < limit) {
        float e = exp_of(s, c[kept].logit, max, factor);
        if (p->top_p < 1.0f && sum >= (double)p->top_p * total) {
            reached = true;
            break;
        }
        if (p->min_p > 0.0f && (double)e < (double)p->min_p * first) {
            reached = true;
            break;
        }
        sum += e;
        kept++;
    }
    if (p->top_p < 1.0f && sum >= (double)p->top_p * total) reached = true;
    *mass = sum;
    *covered = reached || whole;
    return kept;
}

static uint32_t draw_from(const sampler *s, const scored *c, uint32_t kept, const sampling *p, float max,
                          double mass, double u) {
    double running = 0, goal = u * mass;
    uint32_t token = c[0].token;
    for (uint32_t i = 0; i < kept; i++) {
        float e = exp_of(s, c[i].logit, max, 1.0f / p->temperature);
        if (e == 0) continue;
        token = c[i].token;
        running += e;
        if (running > goal) break;
    }
    return token;
}

/* Rare: a nucleus wider than the candidates. All adjusted logits of the row travel once. */
static status gather_all(sampler *s, const float *adjusted) {
    if (!s->full) {
        s->full = memory_alloc_array(s->vocab, sizeof *s->full);
        s->full_sorted = memory_alloc_array(s->vocab, sizeof *s->full_sorted);
        if (s->device) s->fetched = memory_alloc_array((size_t)s->share + 1, sizeof *s->fetched);
    }
    const float *logits;
    TRY(look_at(s, adjusted, 0, s->share, s->fetched, &logits));
    for (uint32_t r = 0; r < s->size; r++) s->bytes[r] = share_of(s, r) * sizeof(float);
    TRY(comm_all_gather_v(s->ranks, logits, s->bytes, s->full));
    for (uint32_t i = 0; i < s->vocab; i++) s->full_sorted[i] = (scored){s->full[i], i};
    select_sort(s->full_sorted, s->vocab);
    return ST_OK;
}

static status pick_filtered(sampler *s, const float *adjusted, const row_view *v, const row_want *w,
                            const sampling *p, double u, uint32_t *token) {
    uint32_t n = 0;
    for (uint32_t r = 0; r < s->size; r++) {
        uint32_t count = least(w->candidates, share_of(s, r));
        memcpy(s->merged + n, v->candidates[r], count * sizeof *s->merged);
        n += count;
    }
    select_sort(s->merged, n);
    /* Beyond the first `candidates` the merged list may miss entries of a rank whose list was longer. */
    if (n > w->candidates) n = w->candidates;
    double total = block_walk(s, v, 1.0f / p->temperature, -1, NULL, NULL, NULL), mass;
    bool covered;
    const scored *list = s->merged;
    uint32_t kept = keep_prefix(s, list, n, p, v->max, total, &mass, &covered);
    if (!covered) {
        TRY(gather_all(s, adjusted));
        list = s->full_sorted;
        kept = keep_prefix(s, list, s->vocab, p, v->max, total, &mass, &covered);
    }
    *token = draw_from(s, list, kept, p, v->max, mass, u);
    return ST_OK;
}

static void fill_logprob(sampler *s, const row_view *v, const row_want *w, uint32_t row, float raw,
                         sample_result *out) {
    double norm = (double)v->raw_max + sampler_log(v->raw_sum);
    top_entry *top = s->tops + (size_t)row * LIMIT_LOGPROBS;
    uint32_t at[LIMIT_RANKS] = {0};
    for (uint32_t i = 0; i < w->tops;
         i++) { /* merge of sorted lists; ranks in id order, so ties fall to the lowest id */
        uint32_t best = s->size;
        for (uint32_t r = 0; r < s->size; r++) {
            if (at[r] == least(w->tops, share_of(s, r))) continue;
            if (best == s->size || v->tops[r][at[r]].logit > v->tops[best][at[best]].logit) best = r;
        }
        const scored *x = &v->tops[best][at[best]++];
        top[i] = (top_entry){x->token, (float)((double)x->logit - norm)};
    }
    out->has_logprob = true;
    out->logprob = (token_logprob){out->token, (float)((double)raw - norm), w->tops, top};
}

status sampler_finish_row(sampler *s, const run_logits *logits, const sample_row *row, uint32_t index,
                          sample_result *out) {
    const sampling *p = &s->slot[row->slot].params;
    const row_want *w = &s->want[index];
    row_view *v = s->view;
    view_row(s, v, w);
    *out = (sample_result){.token = row->known};
    float raw = 0;
    if (!row->draw) {
        raw = v->head[owner_of(s, row->known)].known_raw;
    } else if (p->temperature == 0) {
        out->token = v->argmax;
        raw = v->head[v->argmax_rank].argmax_raw;
    } else {
        const float *adjusted =
            logits->adjusted + (size_t)(s->device ? index : row->logits_row) * s->share;
        double u = sampler_uniform(p->seed, p->sample_index, row->position);
        if (w->candidates) TRY(pick_filtered(s, adjusted, v, w, p, u, &out->token));
        else TRY(pick_unfiltered(s, adjusted, v, p, u, &out->token));
        if (w->logprob) {
            uint32_t owner = owner_of(s, out->token);
            if (owner == s->rank) {
                if (s->device) TRY(sampler_device_raw(s, logits->given, row, out->token, &raw));
                else raw = sampler_host_raw(s, logits->given, row, index, out->token);
            }
            TRY(comm_broadcast(s->ranks, &raw, sizeof raw, owner));
        }
    }
    if (w->logprob) fill_logprob(s, v, w, index, raw, out);
    if (row->draw && penalties_wanted(p)) penalties_add(&s->slot[row->slot].seen, out->token, true);
    return ST_OK;
}
