#include "shard/sample/select.h"

#include <stdbool.h>
#include <stdlib.h>

static bool worse(scored a, scored b) {
    return a.logit < b.logit || (a.logit == b.logit && a.token > b.token);
}

/* A heap whose root is the worst entry kept. */
static void sift_down(scored *heap, uint32_t n, uint32_t at) {
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n) return;
        if (child + 1 < n && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], heap[at])) return;
        scored t = heap[at];
        heap[at] = heap[child];
        heap[child] = t;
        at = child;
    }
}

static int falling(const void *a, const void *b) {
    const scored *x = a, *y = b;
    return worse(*x, *y) ? 1 : worse(*y, *x) ? -1 : 0;
}

void select_sort(scored *list, uint32_t n) { qsort(list, n, sizeof *list, falling); }

void select_top(scored *out, uint32_t k, const float *x, uint32_t n, uint32_t first_id) {
    if (k == 0) return;
    for (uint32_t i = 0; i < n; i++) {
        scored s = {x[i] == x[i] ? x[i] : -__builtin_inff(), first_id + i};
        if (i < k) {
            out[i] = s;
            if (i + 1 == k)
                for (uint32_t at = k / 2; at-- > 0;) sift_down(out, k, at);
        } else if (worse(out[0], s)) {
            out[0] = s;
            sift_down(out, k, 0);
        }
    }
    select_sort(out, k);
}
