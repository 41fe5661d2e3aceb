/* Records of rows whose logits are on the host. */
#include "shard/sample/sampler_inside.h"

#include <float.h>
#include <string.h>

/* The row's changes, in order; what a logit was before each is kept. */
static void adjust(sampler *s, float *logits, const slot_state *state) {
    uint32_t i = s->changed_count;
    sampler_list_changes(s, state);
    for (; i < s->changed_count; i++) {
        const scan_change *c = &s->changes[i];
        float x = s->raw[i] = logits[c->at];
        if (c->times != 0) x = x > 0 ? x / c->times : x * c->times;
        logits[c->at] = x + c->add;
    }
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
        if (s->changes[i].at == at) return s->raw[i];
    return logits[at];
}

static char *write_row(sampler *s, char *out, float *logits, const sample_row *row, uint32_t index) {
    const row_want *w = &s->want[index];
    const slot_state *state = &s->slot[row->slot];
    scan_head head = {-__builtin_inff(), 0, -__builtin_inff(), SAMPLE_NO_TOKEN, 0, 0};
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

void sampler_host_records(sampler *s, float *logits, uint32_t n, const sample_row *rows) {
    char *out = s->mine;
    s->changed_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->changed_begin[i] = s->changed_begin[i + 1] = s->changed_count;
        out = write_row(s, out, logits + (size_t)rows[i].logits_row * s->share, &rows[i], i);
    }
}

float sampler_host_raw(const sampler *s, const float *logits, const sample_row *row, uint32_t index,
                       uint32_t token) {
    return raw_of(s, logits + (size_t)row->logits_row * s->share, index, token);
}
