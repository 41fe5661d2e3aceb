/* Drawing tokens from logits whose vocabulary is split over ranks, and their log-probabilities. Every rank runs the same
 * calls and ends with the same answer; only maxima, candidates and block sums travel, never the logits, unless a nucleus
 * is wider than the candidates.
 *
 * Numbers: docs/numerics.md, "Sampling". The random number is a function of (seed, sample_index, absolute position).
 * Memory:  sampler_open takes all; results point into the sampler until the next sampler_run.
 * Threads: engine thread; collective. */
#ifndef SHARD_SAMPLE_SAMPLER_H
#define SHARD_SAMPLE_SAMPLER_H

#include "base/status.h"
#include "shard/comm/comm.h"
#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/ops.h"
#include "shard/sample/sampling.h"
#include <stdbool.h>
#include <stdint.h>

enum { SAMPLE_NO_TOKEN = 0xFFFFFFFF, SAMPLE_CANDIDATES = 1024, SAMPLE_BLOCK = 1024 };

typedef struct sampler sampler;
typedef struct sampler_options {
    comm *ranks;
    const cpu_kernels *kernels;
    uint32_t vocab;
    const uint32_t
        *share_begin; /* [ranks + 1]: rank r holds ids share_begin[r] … share_begin[r+1]-1; copied */
    uint32_t slots, rows_max;
    backend *device; /* that the logits are on; NULL or one whose memory is the host's: looked at here */
} sampler_options;

STATUS_CHECKED status sampler_open(sampler **out, const sampler_options *options);
void sampler_close(sampler *s);

/* A slot begins to serve a request. history: prompt tokens, then answer tokens so far, for penalties (may be empty when
 * all penalties are off). */
void sampler_begin(sampler *s, uint32_t slot, const sampling *params, const uint32_t *history,
                   uint32_t history_count, uint32_t prompt_count);

/* A set of tokens that rows may refer to, until another comes to its place (below ALLOWED_PLACES). words: [(vocab + 31) / 32],
 * bit id % 32 of word id / 32; ids: n of them. An empty set is never referred to. */
void sampler_allow_bits(sampler *s, uint32_t place, const uint32_t *words);
void sampler_allow_list(sampler *s, uint32_t place, const uint32_t *ids, uint32_t n);
bool sampler_has_allowed(const sampler *s, uint32_t place);

typedef struct sample_row {
    uint32_t slot;
    uint32_t position; /* of the token these logits are for */
    bool draw;         /* draw it; else only log-probabilities of `known` are wanted */
    uint32_t known;    /* SAMPLE_NO_TOKEN when drawing */
    uint32_t allowed;  /* the draw is among the set in this place + 1; 0: among all */
    uint32_t logits_row; /* which row of the logits is its own; no two of a run share one */
} sample_row;

typedef struct sample_result {
    uint32_t token; /* drawn or known */
    bool has_logprob;
    token_logprob logprob;
} sample_result;

/* logits[…, share of this rank], after the softcap, in the memory of `device`; those of the host are overwritten. Drawn tokens
 * count for later penalties. */
STATUS_CHECKED status sampler_run(sampler *s, float *logits, uint32_t n, const sample_row *rows,
                                  sample_result *results);

/* Uniform in [0, 1) with 53 bits: Philox 4x32-10, key seed, counter (position, sample_index). For tests too. */
double sampler_uniform(uint64_t seed, uint32_t sample_index, uint64_t position);
/* Natural logarithm of x > 0, of our own (libm's differs between machines), error below 1e-15. */
double sampler_log(double x);

#endif
