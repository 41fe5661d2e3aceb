#include "base/statistics.h"

#include <stdlib.h>

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

void statistics_sort(double *x, size_t n) {
    if (n > 1) qsort(x, n, sizeof *x, rising);
}

double statistics_percentile(const double *sorted, size_t n, double percent) {
    if (n == 0) return 0;
    double at = percent / 100 * (double)(n - 1);
    size_t below = at <= 0 ? 0 : (size_t)at;
    if (below >= n - 1) return sorted[n - 1];
    return sorted[below] + (at - (double)below) * (sorted[below + 1] - sorted[below]);
}

double statistics_median(const double *sorted, size_t n) { return statistics_percentile(sorted, n, 50); }

double statistics_mean(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    return n ? sum / (double)n : 0;
}

double statistics_deviation(const double *x, size_t n) {
    double mean = statistics_mean(x, n), sum = 0;
    for (size_t i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    return n ? __builtin_sqrt(sum / (double)n) : 0;
}
