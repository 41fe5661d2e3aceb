/* What the files of the sampler share. sampler.c runs it; sampler_host.c and sampler_device.c say what this rank sees in its
 * logits, as records; sampler_finish.c draws from the records of all ranks, and then asks one of the two for single logits.
 *
 * Memory:  the sampler's.
 * Threads: engine thread. */
#ifndef SHARD_SAMPLE_SAMPLER_INSIDE_H
#define SHARD_SAMPLE_SAMPLER_INSIDE_H

#include "shard/kernels/ops.h"
#include "shard/sample/allowed_sets.h"
#include "shard/sample/penalties.h"
#include "shard/sample/sampler.h"
#include "shard/sample/select.h"

typedef struct slot_state {
    sampling params;
    penalties seen;
} slot_state;

/* What all ranks know of a row before they look at logits; every rank derives the same. What one rank says of it then, its
 * record, is a scan_head, then `tops` and `candidates` entries, then block sums: ops.h. */
typedef struct row_want {
    uint32_t tops;        /* entries of the top list, at most vocab */
    uint32_t candidates;  /* for top_k, top_p, min_p */
    bool logprob, blocks; /* block sums for an unfiltered draw */
} row_want;

typedef struct row_view { /* one row's records of all ranks */
    scan_head head[LIMIT_RANKS];
    const scored *tops[LIMIT_RANKS], *candidates[LIMIT_RANKS];
    const char *blocks[LIMIT_RANKS];
    float max, raw_max;
    double raw_sum;
    uint32_t argmax, argmax_rank;
} row_view;

struct sampler {
    comm *ranks;
    const cpu_kernels *k;
    backend *device; /* NULL: logits are on the host */
    uint32_t rank, size, vocab, begin, share, slots, rows_max;
    uint32_t *share_begin;
    slot_state *slot;
    scored *merged;         /* [size · SAMPLE_CANDIDATES] */
    scan_change *changes;   /* of all rows of this run; row i's are at changed_begin[i], on the host up to changed_begin[i+1] */
    float *raw;             /* host: what logits were before each of them */
    uint32_t changed_count, changed_cap;
    uint32_t *changed_begin; /* [rows_max + 1] */
    scan_row *scan;          /* [rows_max], device */
    row_want *want;          /* [rows_max] */
    row_view *view;
    float *full; /* [vocab]: all adjusted logits of one row, taken when first needed */
    scored *full_sorted;
    float *fetched;   /* [share]: a row of them from the device, taken when first needed */
    char *mine, *all; /* exchange buffers */
    size_t mine_cap, all_cap;
    size_t *bytes, *at; /* [size]; offset of rank r's record */
    top_entry *tops;    /* [rows_max, LIMIT_LOGPROBS] */
    uint32_t
        *allowed[ALLOWED_PLACES]; /* words from the one of this share's first id on; NULL: none came yet */
    bool allowed_new[ALLOWED_PLACES]; /* the device has not seen it */
};

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t share_of(const sampler *s, uint32_t rank) {
    return s->share_begin[rank + 1] - s->share_begin[rank];
}
static inline uint32_t blocks_of(const sampler *s, uint32_t rank) {
    return (share_of(s, rank) + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK;
}

/* Adds what is done to this rank's logits of a row that is drawn: logit_bias, then the repetition penalty, then presence and
 * frequency. */
void sampler_list_changes(sampler *s, const slot_state *state);
/* Records of all rows, as s->want says, into s->mine; s->changed_begin is theirs to fill. */
void sampler_host_records(sampler *s, float *logits, uint32_t n, const sample_row *rows);
STATUS_CHECKED status sampler_device_records(sampler *s, const float *logits, uint32_t n, const sample_row *rows,
                                             const float **adjusted);
/* The logit of one of this rank's tokens as the model gave it. */
float sampler_host_raw(const sampler *s, const float *logits, const sample_row *row, uint32_t index, uint32_t token);
STATUS_CHECKED status sampler_device_raw(const sampler *s, const float *logits, const sample_row *row, uint32_t token,
                                         float *raw);

/* Logits of a run, as given and as changed and allowed; on the host they are one. */
typedef struct run_logits {
    const float *given, *adjusted;
} run_logits;

/* Bytes of a rank's record of a row. */
size_t sampler_record_bytes(const sampler *s, const row_want *w, uint32_t rank);
/* Row `index` of a run, after the exchange; rows in order, since each goes on in s->all where the one before it ended. */
STATUS_CHECKED status sampler_finish_row(sampler *s, const run_logits *logits, const sample_row *row, uint32_t index,
                                         sample_result *out);

#endif
