/* One rank's share of a checkpoint, in memory of the host or of a device. Every tensor of the checkpoint is used, or known
 * and not needed (logged by kind: vision, audio, redundant k/v of KV-shared layers), or an error that names it; so is a
 * missing one, and one of the wrong shape or dtype.
 *
 * Memory:  one mapping that model_weights_open takes and model_weights_close releases; the checkpoint must stay open as
 *          long (embed_rows and ple_table point into it). Weights of a packed file (weights_pack.h) are its mapping, read-only.
 *          On a device: one block of its memory with those two tables too; the host may not look at any data but
 *          scalars, and the device must be closed later than the weights.
 * Threads: reading is spread over `threads` threads inside open; read-only afterwards. */
#ifndef SHARD_MODEL_WEIGHTS_H
#define SHARD_MODEL_WEIGHTS_H

#include "shard/kernels/device_load.h"
#include "shard/kernels/weight.h"
#include "shard/loader/checkpoint.h"
#include "shard/model/layout.h"

/* --weights. AUTO keeps matrices as the checkpoint stores them. */
typedef enum weights_choice {
    WEIGHTS_AUTO,
    WEIGHTS_F32,
    WEIGHTS_BF16,
    WEIGHTS_Q8,
    WEIGHTS_Q4,
    WEIGHTS_FP8, /* on a GPU */
    WEIGHTS_CHOICES
} weights_choice;

/* The embedding alone is gigabytes: threads share it piece by piece. Two pieces are pinned for each thread that loads a
 * device. */
enum { WEIGHTS_PIECE_BYTES = 4 << 20 };

typedef struct layer_weights {
    const float *input_norm, *post_attention_norm, *pre_mlp_norm, *post_mlp_norm; /* [hidden] */
    weight q;    /* [heads · head_dim, hidden], this rank's query heads */
    weight k, v; /* [kv heads · head_dim, hidden]; v none when k_eq_v; both none when the layer owns no KV */
    weight o;    /* [hidden, heads · head_dim] */
    const float *q_norm, *k_norm; /* [head_dim]; k_norm NULL when the layer owns no KV */
    weight gate, up;              /* [mlp share, hidden] */
    weight down;                  /* [hidden, mlp share] */
    /* mixture of experts; NULL or none otherwise */
    const float *post_mlp_norm_1, *pre_mlp_norm_2, *post_mlp_norm_2; /* [hidden] */
    const float *router_scale;                                       /* [hidden] */
    const float *per_expert_scale;                                   /* [experts] */
    weight router;          /* [experts, hidden], always WEIGHT_F32 */
    expert_weights *expert; /* [owned experts] */
    /* per-layer embeddings; none otherwise */
    weight ple_gate;            /* [ple_width, hidden] */
    weight ple_projection;      /* [hidden, ple_width] */
    const float *post_ple_norm; /* [hidden] */
    float scalar;               /* layer_scalar; 1 when the checkpoint has none */
} layer_weights;

typedef struct model_weights {
    weight embed;            /* [vocab share, hidden]: output head and, without embed_rows, input rows */
    weight embed_rows;       /* [vocab, hidden], in the mapped file: input rows whose values embed has rounded */
    const float *final_norm; /* [hidden] */
    layer_weights *layer;    /* [layers] */
    weight ple_context;      /* [layers · ple_width, hidden] */
    const float *ple_norm;   /* [ple_width] */
    weight ple_table;        /* [ple_vocab, layers · ple_width], in the mapped file, stored type */
    uint64_t bytes;          /* of memory taken */
    uint64_t bytes_read, bytes_skipped; /* as checkpoint.h counts them, while open ran */
    uint32_t layers;
    void *mapping;           /* [bytes], everything above but embed_rows and ple_table: memory, or a packed file; on a
                              * device those as well, of float types alone */
    void *tables_mapping;    /* [tables_bytes], the packed file of those two; NULL: they are in the checkpoint's */
    uint64_t tables_bytes;
    uint64_t bytes_expected; /* what this rank's share comes to by the layout: equal to bytes_read */
    backend *device;         /* whose memory `mapping` is; NULL: the host's */
} model_weights;

typedef struct model_weights_options {
    weights_choice choice;
    bool random; /* the checkpoint has no data: fill in (weights_random.h) */
    uint32_t threads;
    backend *device;             /* where weights go; NULL, or one that is_host: host memory */
    const device_load_ops *load; /* the way there; NULL for host memory */
    uint64_t piece_bytes;        /* what passes to memory at a time; 0: WEIGHTS_PIECE_BYTES */
} model_weights_options;

/* Whether weights for it leave the host's memory. */
static inline bool weights_go_to_device(const backend *device) { return device && !device->is_host; }

STATUS_CHECKED status model_weights_open(model_weights **out, checkpoint *c, const model_config *config,
                                         const layout *l, const model_weights_options *options);
void model_weights_close(model_weights *w);
/* The longest row of any matrix of q8 or q4 outside experts; 0: there is none. */
uint32_t model_weights_columns(const model_weights *w);

/* Bytes of memory that model_weights_open would take, from config, layout and headers (the printed budget, --dry-run).
 * files NULL: every matrix is stored as `stored`. */
uint64_t model_weights_plan_bytes(const model_config *config, const layout *l, const checkpoint *files,
                                  weight_type stored, weights_choice choice, bool on_device);
/* The type in memory of a matrix whose columns from col_begin on this rank holds. Q4_0, Q8_0 and Q5_0 keep their values;
 * other blocks, and Q4_0 that is cut inside a group, become q8. */
weight_type weights_type_in_memory(weights_choice choice, tensor_type stored, uint64_t col_begin);
/* What the checkpoint holds its matrices in, as memory has it when nothing else is asked for. */
weight_type weights_stored_type(const checkpoint *c);
/* The type in memory of a matrix that the checkpoint stores as `stored`. */
weight_type weights_choose(weights_choice choice, weight_type stored);
/* Refuses what this kind of memory does not hold: fp8 on the host. */
STATUS_CHECKED status weights_check_device(weights_choice choice, bool on_device);
/* "auto", "f32", "bf16", "q8", "q4", "fp8". */
const char *weights_choice_name(weights_choice choice);
/* The choice of that name; WEIGHTS_CHOICES: there is none. */
weights_choice weights_choice_of(const char *word);
/* What a layout cuts shares to (layout_options.group): whole groups once anything is quantised. */
uint32_t weights_group(weights_choice choice, weight_type stored);

#endif
