#include "shard/sample/sampler.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sample/allowed_sets.h"
#include "shard/sample/penalties.h"
#include "shard/sample/select.h"

typedef struct slot_state {
    sampling params;
    penalties seen;
} slot_state;

typedef struct changed_logit {
    uint32_t at; /* index in this rank's share */
    float raw;
} changed_logit;

/* What one rank says of one row: this head, then `tops` and `candidates` entries, then block sums. */
typedef struct row_head {
    float raw_max, raw_sum; /* Σ exp(raw - raw_max); -inf and 0 for an empty share */
    float max;              /* of the adjusted logits */
    uint32_t argmax;        /* lowest id that has it */
    float argmax_raw, known_raw;
} row_head;

/* What all ranks know of a row before they look at logits; every rank derives the same. */
typedef struct row_want {
    uint32_t tops;        /* entries of the top list, at most vocab */
    uint32_t candidates;  /* for top_k, top_p, min_p */
    bool logprob, blocks; /* block sums for an unfiltered draw */
} row_want;

typedef struct row_view { /* one row's records of all ranks */
    row_head head[LIMIT_RANKS];
    const scored *tops[LIMIT_RANKS], *candidates[LIMIT_RANKS];
    const char *blocks[LIMIT_RANKS];
    float max, raw_max;
    double raw_sum;
    uint32_t argmax, argmax_rank;
} row_view;

struct sampler {
    comm *ranks;
    const cpu_kernels *k;
    uint32_t rank, size, vocab, begin, share, slots, rows_max;
    uint32_t *share_begin;
    slot_state *slot;
    scored *merged;         /* [size · SAMPLE_CANDIDATES] */
    changed_logit *changed; /* of all rows of this run, row i's at changed_begin[i] … changed_begin[i+1] */
    uint32_t changed_count, changed_cap;
    uint32_t *changed_begin; /* [rows_max + 1] */
    row_want *want;          /* [rows_max] */
    row_view *view;
    float *full; /* [vocab]: all adjusted logits of one row, taken when first needed */
    scored *full_sorted;
    char *mine, *all; /* exchange buffers */
    size_t mine_cap, all_cap;
    size_t *bytes, *at; /* [size]; offset of rank r's record */
    top_entry *tops;    /* [rows_max, LIMIT_LOGPROBS] */
    uint32_t
        *allowed[ALLOWED_PLACES]; /* words from the one of this share's first id on; NULL: none came yet */
};

status sampler_open(sampler **out, const sampler_options *o) {
    sampler *s = memory_alloc(sizeof *s);
    s->ranks = o->ranks;
    s->k = o->kernels;
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
    free(s->changed);
    free(s->changed_begin);
    free(s->want);
    free(s->view);
    free(s->full);
    free(s->full_sorted);
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

/* ---- one row of this rank ---- */

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

static uint32_t share_of(const sampler *s, uint32_t rank) {
    return s->share_begin[rank + 1] - s->share_begin[rank];
}
static uint32_t blocks_of(const sampler *s, uint32_t rank) {
    return (share_of(s, rank) + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK;
}
static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static size_t record_bytes(const sampler *s, const row_want *w, uint32_t rank) {
    uint32_t share = share_of(s, rank);
    return sizeof(row_head) + (least(w->tops, share) + (size_t)least(w->candidates, share)) * sizeof(scored) +
           (w->blocks ? blocks_of(s, rank) * sizeof(float) : 0);
}

static void change(sampler *s, float *logits, uint32_t token, float value) {
    uint32_t at = token - s->begin;
    if (s->changed_count == s->changed_cap) {
        s->changed_cap = s->changed_cap ? s->changed_cap * 2 : 256;
        s->changed = memory_grow(s->changed, s->changed_cap * sizeof *s->changed);
    }
    s->changed[s->changed_count++] = (changed_logit){at, logits[at]};
    logits[at] = value;
}

/* logit_bias, then the repetition penalty, then presence and frequency; the raw values are kept aside. */
static void adjust(sampler *s, float *logits, const slot_state *state) {
    const sampling *p = &state->params;
    for (uint32_t i = 0; i < p->bias_count; i++)
        if (p->bias[i].token - s->begin < s->share)
            change(s, logits, p->bias[i].token, logits[p->bias[i].token - s->begin] + p->bias[i].bias);
    if (!penalties_wanted(p)) return;
    for (uint32_t i = 0; i < state->seen.capacity; i++) {
        const seen_token *t = &state->seen.place[i];
        if (t->token == SAMPLE_NO_TOKEN || t->token - s->begin >= s->share) continue;
        float x = logits[t->token - s->begin];
        x = x > 0 ? x / p->repetition_penalty : x * p->repetition_penalty;
        if (t->in_answer) x = x - p->presence_penalty - p->frequency_penalty * (float)t->in_answer;
        change(s, logits, t->token, x);
    }
}

static uint32_t share_words(const sampler *s) {
    return s->share ? (s->begin + s->share + 31) / 32 - s->begin / 32 : 0;
}

static uint32_t *allowed_at(sampler *s, uint32_t place) {
    INVARIANT(place < ALLOWED_PLACES);
    if (!s->allowed[place])
        s->allowed[place] = memory_alloc_array(share_words(s) + 1, sizeof *s->allowed[place]);
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

/* n ≤ 32 logits, of which the bits of word are allowed. What is rarer among them is gone through, since most words of a wide
 * set lack a few tokens, and most of a narrow one have none. */
static void forbid_word(float *x, uint32_t word, uint32_t n) {
    float kept[32];
    uint32_t count = 0;
    if (__builtin_popcount(word) * 2u > n) {
        for (uint32_t left = ~word & (UINT32_MAX >> (32 - n)); left; left &= left - 1)
            x[__builtin_ctz(left)] = -__builtin_inff();
        return;
    }
    for (uint32_t left = word; left; left &= left - 1) kept[count++] = x[__builtin_ctz(left)];
    if (n == 32)
        for (uint32_t i = 0; i < 32; i++) x[i] = -__builtin_inff();
    else
        for (uint32_t i = 0; i < n; i++) x[i] = -__builtin_inff();
    count = 0;
    for (uint32_t left = word; left; left &= left - 1) x[__builtin_ctz(left)] = kept[count++];
}

/* Takes what is not allowed out of the share, and finds the best of what is; false: none of the share is allowed. Where biases
 * and penalties have sent all that is allowed here out of reach, the first of it remains, with less than any other rank's. */
static bool forbid(const sampler *s, float *logits, const uint32_t *allowed, scored *best) {
    uint32_t first = SAMPLE_NO_TOKEN;
    *best = (scored){-__builtin_inff(), SAMPLE_NO_TOKEN};
    for (uint32_t i = 0, n; i < s->share; i += n) {
        uint32_t bit = (s->begin + i) % 32;
        n = least(32 - bit, s->share - i);
        uint32_t word = *allowed++ >> bit & (UINT32_MAX >> (32 - n));
        forbid_word(logits + i, word, n);
        if (word && first == SAMPLE_NO_TOKEN) first = i + (uint32_t)__builtin_ctz(word);
        for (; word; word &= word - 1) {
            uint32_t at = i + (uint32_t)__builtin_ctz(word);
            if (logits[at] > best->logit) *best = (scored){logits[at], s->begin + at};
        }
    }
    if (first == SAMPLE_NO_TOKEN || best->token != SAMPLE_NO_TOKEN) return first != SAMPLE_NO_TOKEN;
    *best = (scored){logits[first] = -FLT_MAX, s->begin + first};
    return true;
}

/* Σ exp((l - max) / T) of a block. Of a set that is sparse there only its tokens are looked at: the others add 0, and slowly,
 * since their terms are the smallest that a float can be. */
static float block_sum(const sampler *s, const float *logits, const uint32_t *allowed, uint32_t block,
                       float max, float factor) {
    uint32_t from = block * SAMPLE_BLOCK, n = least(SAMPLE_BLOCK, s->share - from), count = 0;
    float x[SAMPLE_BLOCK / 2];
    for (uint32_t i = from, step; allowed && i < from + n && count < SAMPLE_BLOCK / 2; i += step) {
        uint32_t bit = (s->begin + i) % 32;
        step = least(32 - bit, from + n - i);
        uint32_t word = allowed[(s->begin + i) / 32 - s->begin / 32] >> bit & (UINT32_MAX >> (32 - step));
        for (; word && count < SAMPLE_BLOCK / 2; word &= word - 1)
            x[count++] = logits[i + (uint32_t)__builtin_ctz(word)];
    }
    if (!allowed || count == SAMPLE_BLOCK / 2) return s->k->exp_sum(NULL, logits + from, max, factor, n);
    return count ? s->k->exp_sum(NULL, x, max, factor, count) : 0;
}

/* The first change of an entry holds its raw value; later ones hold values between. */
static float raw_of(const sampler *s, const float *logits, uint32_t row, uint32_t token) {
    uint32_t at = token - s->begin;
    for (uint32_t i = s->changed_begin[row]; i < s->changed_begin[row + 1]; i++)
        if (s->changed[i].at == at) return s->changed[i].raw;
    return logits[at];
}

static char *write_row(sampler *s, char *out, float *logits, const sample_row *row, uint32_t index) {
    const row_want *w = &s->want[index];
    const slot_state *state = &s->slot[row->slot];
    row_head head = {-__builtin_inff(), 0, -__builtin_inff(), SAMPLE_NO_TOKEN, 0, 0};
    char *head_at = out;
    out += sizeof head;
    if (w->logprob && s->share) {
        head.raw_max = s->k->max(logits, s->share);
        head.raw_sum = s->k->exp_sum(NULL, logits, head.raw_max, 1.0f, s->share);
    }
    if (row->known != SAMPLE_NO_TOKEN && row->known - s->begin < s->share)
        head.known_raw = logits[row->known - s->begin];
    uint32_t tops = least(w->tops, s->share), candidates = least(w->candidates, s->share);
    if (tops) select_top((scored *)out, tops, logits, s->share, s->begin);
    out += tops * sizeof(scored);
    if (row->draw) {
        adjust(s, logits, state);
        s->changed_begin[index + 1] = s->changed_count;
        const uint32_t *allowed = row->allowed ? s->allowed[row->allowed - 1] : NULL;
        scored best;
        bool some = s->share > 0; /* a share whose tokens are all forbidden takes part as if it were empty */
        if (allowed) some = forbid(s, logits, allowed, &best);
        else if (some) select_top(&best, 1, logits, s->share, s->begin);
        if (some) {
            head.max = best.logit;
            head.argmax = best.token;
            head.argmax_raw = raw_of(s, logits, index, best.token);
        }
        if (candidates) select_top((scored *)out, candidates, logits, s->share, s->begin);
        out += candidates * sizeof(scored);
        for (uint32_t b = 0; w->blocks && b < blocks_of(s, s->rank); b++) {
            float sum =
                some ? block_sum(s, logits, allowed, b, head.max, 1.0f / state->params.temperature) : 0;
            memcpy(out, &sum, sizeof sum);
            out += sizeof sum;
        }
    }
    memcpy(head_at, &head, sizeof head);
    return out;
}

/* ---- what all ranks make of the records ---- */

static float exp_of(const sampler *s, float x, float shift, float factor) {
    float y;
    s->k->exp_sum(&y, &x, shift, factor, 1);
    return y;
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
        s->at[r] += record_bytes(s, w, r);
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

static status pick_unfiltered(sampler *s, const float *logits, const row_view *v, const sampling *p, double u,
                              uint32_t *token) {
    uint32_t rank = v->argmax_rank, block = 0, last = SAMPLE_NO_TOKEN;
    double inside = 0;
    float factor = 1.0f / p->temperature;
    block_walk(s, v, factor, u, &rank, &block, &inside);
    if (rank == s->rank) {
        float e[SAMPLE_BLOCK];
        uint32_t n = least(SAMPLE_BLOCK, s->share - block * SAMPLE_BLOCK);
        s->k->exp_sum(e, logits + (size_t)block * SAMPLE_BLOCK, v->head[rank].max, factor, n);
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
static status gather_all(sampler *s, const float *logits) {
    if (!s->full) {
        s->full = memory_alloc_array(s->vocab, sizeof *s->full);
        s->full_sorted = memory_alloc_array(s->vocab, sizeof *s->full_sorted);
    }
    for (uint32_t r = 0; r < s->size; r++) s->bytes[r] = share_of(s, r) * sizeof(float);
    TRY(comm_all_gather_v(s->ranks, logits, s->bytes, s->full));
    for (uint32_t i = 0; i < s->vocab; i++) s->full_sorted[i] = (scored){s->full[i], i};
    select_sort(s->full_sorted, s->vocab);
    return ST_OK;
}

static status pick_filtered(sampler *s, const float *logits, const row_view *v, const row_want *w,
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
        TRY(gather_all(s, logits));
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

static status finish_row(sampler *s, const float *logits, const sample_row *row, uint32_t index,
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
        double u = sampler_uniform(p->seed, p->sample_index, row->position);
        if (w->candidates) TRY(pick_filtered(s, logits, v, w, p, u, &out->token));
        else TRY(pick_unfiltered(s, logits, v, p, u, &out->token));
        if (w->logprob) {
            uint32_t owner = owner_of(s, out->token);
            if (owner == s->rank) raw = raw_of(s, logits, index, out->token);
            TRY(comm_broadcast(s->ranks, &raw, sizeof raw, owner));
        }
    }
    if (w->logprob) fill_logprob(s, v, w, index, raw, out);
    if (row->draw && penalties_wanted(p)) penalties_add(&s->slot[row->slot].seen, out->token, true);
    return ST_OK;
}

static status exchange(sampler *s, size_t mine) {
    size_t total = 0;
    INVARIANT(s->bytes[s->rank] == mine);
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
        for (uint32_t r = 0; r < s->size; r++) s->bytes[r] += record_bytes(s, &s->want[i], r);
    }
    if (s->bytes[s->rank] > s->mine_cap) {
        s->mine = memory_grow(s->mine, s->bytes[s->rank]);
        s->mine_cap = s->bytes[s->rank];
    }
    char *out = s->mine;
    s->changed_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->changed_begin[i] = s->changed_begin[i + 1] = s->changed_count;
        out = write_row(s, out, logits + (size_t)rows[i].logits_row * s->share, &rows[i], i);
    }
    TRY(exchange(s, (size_t)(out - s->mine)));
    for (uint32_t i = 0; i < n; i++)
        TRY(finish_row(s, logits + (size_t)rows[i].logits_row * s->share, &rows[i], i, &results[i]));
    return ST_OK;
}
