/* Inside of `scan`: what scan.c asks of its kernels (scan.cu, scan_select.cu), and the memory they share.
 *
 * A row of logits is worked on in parts of SCAN_PART ids, one block each, so that many multiprocessors share it; what parts
 * find is put together in their order. Both follow from the share alone: no sum depends on which rows run together.
 * The best k are found exactly, by three digits of an integer that orders as the floats do: the k-th best has a key; all
 * above it are taken, of those equal to it the lowest ids, and a last kernel sorts the k. Everything counted is an
 * integer, and so the order in which blocks run is no part of the answer.
 *
 * Memory:  taken at open (cuda_scan_bytes). Device memory unless "host" is said.
 * Threads: the engine thread. */
#ifndef SHARD_KERNELS_CUDA_SCAN_H
#define SHARD_KERNELS_CUDA_SCAN_H

#include "shard/kernels/cuda/cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SCAN_PART = 4096,         /* ids of one block of threads */
    SCAN_THREADS = 512,
    SCAN_BLOCK = 1024,        /* ids of a block sum: as SAMPLE_BLOCK */
    SCAN_BEST = 1024,         /* of tops and of candidates, at most */
    SCAN_ROWS = 32,           /* at once; more go in turns */
    SCAN_EDITS = 1 << 16,     /* changes of one launch; more go in turns */
    SCAN_SETS = 256 + 32,     /* sets of allowed tokens that stay on the device: more than sequences in a step */
    SCAN_DIGITS = 3,
    SCAN_BINS = 2048,         /* of the first two digits; the last has half */
    SCAN_LAST_BINS = 1024,
    SCAN_HEAD_WORDS = sizeof(scan_head) / 4,
    SCAN_ALL = 0xFFFFFFFF     /* no set: everything is allowed */
};

/* A row as kernels see it; by value, since scans are not replayed. */
typedef struct scan_item {
    uint32_t row;             /* of the logits */
    uint32_t record;          /* where its record begins, in words of 4 bytes */
    uint32_t tops, candidates, blocks, known;
    uint32_t set;             /* of allowed tokens, or SCAN_ALL */
    float factor;
    uint32_t raw, draw, changed; /* flags; changed: edits have been made */
} scan_item;
typedef struct scan_items {
    scan_item row[SCAN_ROWS];
} scan_items;

/* A scan_change; those of one place in a row are a list, which one thread goes through. */
typedef struct scan_edit {
    uint32_t row, at;
    float add, times;
    uint32_t next;            /* UINT32_MAX: none */
    uint32_t first;           /* flag */
} scan_edit;

/* What the block of one part found. Indices are in the share. */
typedef struct scan_part {
    float raw_max, raw_sum;   /* Σ exp(raw - raw_max) */
    uint32_t best_key, best;  /* of adjusted logits; ties: lowest */
    uint32_t first_allowed;   /* UINT32_MAX: none */
} scan_part;

/* The digits that the k-th best is known to begin with, and how many of the k lie among those that begin so. */
typedef struct scan_chosen {
    uint32_t prefix, need;
} scan_chosen;

/* A selection is tops (2 · row) or candidates (2 · row + 1) of a row. */
typedef struct scan_memory {
    const float *logits;      /* [rows, share] */
    float *adjusted;          /* [rows, share] */
    uint32_t share, first_id, parts;
    uint32_t changed_words, set_words; /* of one row, of one set */
    uint32_t *changed;        /* [rows, changed_words]: bit at % 32 where edits have made an adjusted logit; zero between calls */
    scan_edit *edits;         /* [SCAN_EDITS] */
    uint32_t *sets;           /* [SCAN_SETS, set_words] */
    scan_part *part;          /* [SCAN_ROWS, parts] */
    float *max;               /* [SCAN_ROWS]: of the adjusted logits */
    uint32_t *some;           /* [SCAN_ROWS]: whether any token is allowed */
    uint32_t *counts;         /* [2 · SCAN_ROWS, SCAN_DIGITS, SCAN_BINS] */
    uint32_t *part_counts;    /* [2 · SCAN_ROWS, parts, SCAN_LAST_BINS / 2]: of the last digit; two 16-bit counts a word */
    scan_chosen *chosen;      /* [2 · SCAN_ROWS, SCAN_DIGITS] */
    uint32_t *taken;          /* [2 · SCAN_ROWS]: entries above the k-th that have a place in `best` */
    uint64_t *best;           /* [2 · SCAN_ROWS, SCAN_BEST]: key << 32 | ~index */
    uint32_t *records;
} scan_memory;

/* Device memory that cuda_scan_open takes. */
uint64_t cuda_scan_bytes(const cuda_backend_options *o);

/* ---- launchers; n rows ---- */
/* Applies edits[count] to the logits or, where earlier edits have been, to what they made. */
void scan_launch_edits(cudaStream_t stream, const scan_memory *m, const scan_items *items, uint32_t count);
/* Adjusted rows, what parts find, and the head of each record. */
void scan_launch_heads(cudaStream_t stream, const scan_memory *m, const scan_items *items, uint32_t n);
/* Block sums, tops and candidates of records. select: some row has tops or candidates. */
void scan_launch_lists(cudaStream_t stream, const scan_memory *m, const scan_items *items, uint32_t n, bool select);

#ifdef __cplusplus
}
#endif
#endif
