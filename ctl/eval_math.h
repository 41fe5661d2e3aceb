/* The figures of `gemmactl eval`, from log-probabilities alone.
 *
 * Memory:  the caller's.
 * Threads: pure functions. */
#ifndef CTL_EVAL_MATH_H
#define CTL_EVAL_MATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct eval_entry {
    uint32_t token;
    float logprob;
} eval_entry;

/* What one model says of one position: of the token that stands there, and its best ones, best first. */
typedef struct eval_position {
    eval_entry actual;
    const eval_entry *top;
    uint32_t top_count;
} eval_position;

/* Kullback-Leibler divergence of q from p in nats, over the tokens that both name and all others as one. Lumping only
 * takes away, so the true one is as great or greater; with most of the probability named it is close. */
double eval_divergence(const eval_position *p, const eval_position *q);
/* Both hold the same token for the most likely. Positions without best ones never agree. */
bool eval_agrees(const eval_position *p, const eval_position *q);

/* A window of a text: tokens [begin, end) of it, of which [score, end) count. */
typedef struct eval_window {
    size_t begin, score, end;
} eval_window;

/* The next window behind *w (zeroed: the first): `size` tokens long, `stride` tokens further, each token counted once,
 * false when all are. The text's first token is not counted: nothing stands before it but the beginning. */
bool eval_next_window(eval_window *w, size_t tokens, size_t size, size_t stride);

#endif
