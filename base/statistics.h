/* Figures of a series of measurements.
 *
 * Memory:  the caller's; statistics_sort reorders it, the others take it sorted.
 * Threads: pure functions.
 * Errors:  a series without values has 0 for every figure. */
#ifndef BASE_STATISTICS_H
#define BASE_STATISTICS_H

#include <stddef.h>

void statistics_sort(double *x, size_t n);
/* percent 0 … 100; between two values by linear interpolation, as numpy's default. sorted[n] */
double statistics_percentile(const double *sorted, size_t n, double percent);
double statistics_median(const double *sorted, size_t n);
double statistics_mean(const double *x, size_t n);
/* Of the population: divided by n. */
double statistics_deviation(const double *x, size_t n);

#endif
