#include "ctl/eval_math.h"

#include <math.h>

static bool find(const eval_position *p, uint32_t token, float *logprob) {
    if (p->actual.token == token) {
        *logprob = p->actual.logprob;
        return true;
    }
    for (uint32_t i = 0; i < p->top_count; i++)
        if (p->top[i].token == token) {
            *logprob = p->top[i].logprob;
            return true;
        }
    return false;
}

typedef struct sums {
    double divergence, named_p, named_q;
} sums;

static void add(sums *s, float p, float q) {
    double probability = exp(p);
    s->named_p += probability;
    s->named_q += exp(q);
    if (probability > 0) s->divergence += probability * ((double)p - (double)q);
}

double eval_divergence(const eval_position *p, const eval_position *q) {
    enum { SMALLEST_REST = 40 }; /* as a power of 1/2: below it the rest is rounding of what is named */
    sums s = {0};
    float other;
    add(&s, p->actual.logprob, q->actual.logprob);
    for (uint32_t i = 0; i < p->top_count; i++)
        if (p->top[i].token != p->actual.token && find(q, p->top[i].token, &other))
            add(&s, p->top[i].logprob, other);
    double least = ldexp(1, -SMALLEST_REST), rest_p = 1 - s.named_p, rest_q = 1 - s.named_q;
    if (rest_p < least) return s.divergence > 0 ? s.divergence : 0;
    if (rest_q < least) rest_q = least;
    s.divergence += rest_p * log(rest_p / rest_q);
    return s.divergence > 0 ? s.divergence
                            : 0; /* float32 log-probabilities of equal models differ in their last bits */
}

bool eval_agrees(const eval_position *p, const eval_position *q) {
    return p->top_count > 0 && q->top_count > 0 && p->top[0].token == q->top[0].token;
}

bool eval_next_window(eval_window *w, size_t tokens, size_t size, size_t stride) {
    bool first = w->end == 0;
    if (size < 2 || stride < 1 || w->end >= tokens || tokens < 2) return false;
    w->score = first ? 1 : w->end;
    w->begin = first ? 0 : w->begin + stride;
    w->end = w->begin + size < tokens ? w->begin + size : tokens;
    return true;
}
