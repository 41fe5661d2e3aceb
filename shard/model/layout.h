/* Which part of a model one rank holds: tensor parallelism for attention, dense MLP and vocabulary, expert parallelism
 * (EP degree × width degree) for the mixture. Everything is a half-open range, so a share may be empty.
 *
 * Rules:   N ranks are accepted if and only if N divides the query heads. A rank holds every KV head that its query
 *          heads read, so some are held twice when ranks outnumber KV heads. MLP width, expert width and vocabulary are
 *          split as evenly as possible in whole groups of `group` (1 for float weights, 32 for quantised); rank r of N
 *          takes groups [G·r/N, G·(r+1)/N).
 * Memory:  layout_open allocates, layout_close releases.
 * Errors:  ST_LAYOUT names the rank counts that work; raised before any weight is read. */
#ifndef SHARD_MODEL_LAYOUT_H
#define SHARD_MODEL_LAYOUT_H

#include "shard/model/config.h"

typedef struct range {
    uint32_t begin, end;
} range;

static inline uint32_t range_count(range r) { return r.end - r.begin; }

typedef struct layer_layout {
    range kv_heads;
    range mlp;          /* rows of gate and up, columns of down */
} layer_layout;

typedef struct layout_options {
    uint32_t ranks, rank;
    uint32_t group;                     /* 1 or 32 */
    uint32_t expert_degree, width_degree; /* 0, 0: ranks × 1; else their product must be ranks */
} layout_options;

typedef struct layout {
    uint32_t ranks, rank, group;
    uint32_t expert_degree, width_degree;
    range heads;        /* query heads */
    range vocab;        /* rows of the embedding and of the output head */
    range experts;      /* owned experts */
    range expert_width; /* rows of an owned expert's gate and up, columns of its down */
    layer_layout *layer; /* [layers] */
} layout;

STATUS_CHECKED status layout_open(layout **out, const model_config *config, const layout_options *options);
void layout_close(layout *l);

/* The expert layout of the shortest decode step; ranks_of_host ranks, which may share an expert's width, are on each host.
 * ranks x 1 for a model without experts. */
void layout_choose_experts(const model_config *config, uint32_t ranks, uint32_t ranks_of_host, uint32_t group,
                           uint32_t *expert_degree, uint32_t *width_degree);

range layout_share(uint32_t total, uint32_t group, uint32_t parts, uint32_t part);
/* "tp 2" or "tp 2 ep 2x1": equal text on two engines means that equal requests give equal tokens. */
void layout_describe(const model_config *config, const layout *l, char *text, uint32_t text_bytes);

#endif
