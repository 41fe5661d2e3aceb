#include <math.h>
#include <stdbool.h>

#include "base/statistics.h"
#include "tests/test.h"

static bool near(double a, double b) { return fabs(a - b) < 1e-12; }

TEST(a_series) {
    double x[] = {5, 1, 4, 2, 3, 10};
    statistics_sort(x, 6);
    for (int i = 1; i < 6; i++) CHECK(x[i - 1] <= x[i]);
    CHECK(near(statistics_median(x, 6), 3.5) && near(statistics_median(x, 5), 3));
    CHECK(near(statistics_mean(x, 6), 25.0 / 6));
    /* as numpy.percentile and numpy.std give them */
    CHECK(near(statistics_percentile(x, 6, 99), 9.75) && near(statistics_percentile(x, 6, 10), 1.5));
    CHECK(near(statistics_percentile(x, 6, 0), 1) && near(statistics_percentile(x, 6, 100), 10));
    CHECK(near(statistics_deviation(x, 6), sqrt(155.0 / 6 - 625.0 / 36)));
}

TEST(short_series) {
    double one[] = {7};
    CHECK(near(statistics_median(one, 1), 7) && near(statistics_percentile(one, 1, 99), 7));
    CHECK(near(statistics_deviation(one, 1), 0));
    CHECK(statistics_median(one, 0) == 0 && statistics_mean(one, 0) == 0 &&
          statistics_deviation(one, 0) == 0);
}

int main(void) {
    RUN(a_series);
    RUN(short_series);
    return test_result();
}
