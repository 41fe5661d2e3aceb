/* Which expert layout makes a decode step shortest. With one token, a rank streams the experts of its group
 * that the token chose; of 8 experts on 2 groups the busier has 5.1 on average, not 4. Ranks that share each
 * expert's width are even, but a width is cut in whole groups of columns, so the widest share may be more than
 * its part. The step waits for the slowest rank: the product of both is what is compared. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "shard/model/layout.h"

enum { START_COLUMNS = 16 /* of an expert's width, as long as a start takes */ };

/* How many of `active` experts, chosen evenly out of groups · of_group, the busiest group has on average: the sum
 * over m of P(busiest > m), where the ways in which no group has more than m are the coefficient of x^active in
 * (Σ_{k ≤ m} C(of_group, k) x^k)^groups. */
static double busiest(uint32_t groups, uint32_t of_group, uint32_t active) {
    double *one = memory_alloc_array(active + 1, sizeof *one),
           *all = memory_alloc_array(active + 1, sizeof *all),
           *next = memory_alloc_array(active + 1, sizeof *next), every = 1, mean = 0;
    for (uint32_t k = 0; k < active; k++) every *= (double)(groups * of_group - k) / (k + 1);
    for (uint32_t m = 0; m < active; m++) {
        memset(one, 0, (active + 1) * sizeof *one);
        memset(all, 0, (active + 1) * sizeof *all);
        one[0] = all[0] = 1;
        for (uint32_t k = 1; k <= m && k <= of_group; k++) one[k] = one[k - 1] * (of_group - k + 1) / k;
        for (uint32_t g = 0; g < groups; g++) {
            memset(next, 0, (active + 1) * sizeof *next);
            for (uint32_t i = 0; i <= active; i++)
                for (uint32_t k = 0; i + k <= active; k++) next[i + k] += all[i] * one[k];
            memcpy(all, next, (active + 1) * sizeof *all);
        }
        mean += 1 - all[active] / every;
    }
    free(one);
    free(all);
    free(next);
    return mean;
}

void layout_choose_experts(const model_config *config, uint32_t ranks, uint32_t ranks_of_host, uint32_t group,
                           uint32_t *expert_degree, uint32_t *width_degree) {
    double least = 0;
    *expert_degree = ranks;
    *width_degree = 1;
    if (config->experts == 0) return;
    for (uint32_t w = 1; w <= ranks_of_host; w++) {
        uint32_t e = ranks / w;
        if (ranks % w || ranks_of_host % w || config->experts % e) continue;
        uint32_t widest = range_count(layout_share(config->expert_width, group, w, w - 1));
        for (uint32_t i = 0; i < w; i++) {
            uint32_t n = range_count(layout_share(config->expert_width, group, w, i));
            if (n > widest) widest = n;
        }
        /* An expert costs its bytes and a start: streams that are a few lines long never reach full speed. */
        double cost = busiest(e, config->experts / e, config->experts_active) * (widest + START_COLUMNS);
        if (least == 0 || cost < least) {
            least = cost;
            *expert_degree = e;
            *width_degree = w;
        }
    }
}
