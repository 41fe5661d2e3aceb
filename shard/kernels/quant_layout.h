/* Rows into and out of the strips of quantised weights (weight.h).
 *
 * Memory:  callers'; strips as weight_rows_bytes counts them, zeroed before the first row is stored.
 * Threads: any; rows of different strips may be stored at the same time.
 * Source:  the scales and roundings are those of GGUF's quantiser, so that a checkpoint quantised here and one quantised
 *          to Q4_0 or Q8_0 elsewhere hold the same values. Of FP8: scale = max|x| / 448 of the row, value = x / scale to the
 *          nearest e4m3, halves to even. */
#ifndef SHARD_KERNELS_QUANT_LAYOUT_H
#define SHARD_KERNELS_QUANT_LAYOUT_H

#include "shard/kernels/weight.h"

/* Quantises row `row` of a matrix whose first strip is at `strips`: x[cols]. */
void quant_store_floats(weight_type type, void *strips, uint32_t cols, uint32_t row, const float *x);
/* The same from blocks of a GGUF row that need no rounding: Q4_0 to Q4; Q8_0 and Q5_0 to Q8. */
void quant_store_q4_0(void *strips, uint32_t cols, uint32_t row, const void *blocks);
void quant_store_q8_0(void *strips, uint32_t cols, uint32_t row, const void *blocks);
void quant_store_q5_0(void *strips, uint32_t cols, uint32_t row, const void *blocks);
/* y[w->cols] = row `row` of a matrix in strips: exact, of FP8 rounded once. */
void quant_row(const weight *w, uint32_t row, float *y);

#endif
