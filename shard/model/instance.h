/* Everything one rank needs to run steps of one model: config, layout, checkpoint, weights, device, runner. Opened by all
 * ranks together: they agree on build, config and checkpoint before weights are read, and on the size of the KV pool.
 *
 * Memory:  instance_open takes all; instance_close releases. The comm stays the caller's.
 * Threads: engine thread; collective.
 * Errors:  a refusal of the layout or budget comes before weights are read; ST_MISMATCH names both sides. */
#ifndef SHARD_MODEL_INSTANCE_H
#define SHARD_MODEL_INSTANCE_H

#include "shard/kernels/placement.h"
#include "shard/model/budget.h"
#include "shard/model/gpu.h"
#include "shard/model/model_pack.h"

typedef struct instance_options {
    const char *model_path;       /* a checkpoint, or a packed directory */
    const char *config_name;      /* NULL: config.json */
    const char *random_config;    /* the text of a config.json, whose weights are filled in: model_path is not read */
    bool timed;                   /* device counts time and bytes of operators (kernels/timed.h) */
    comm *ranks;
    const gpu_provider *gpu;      /* NULL: this build has none */
    device_choice device;
    bool batch_invariant;         /* on a GPU */
    bool no_recording;            /* on a GPU: every step is started kernel by kernel */
    bool whole_memory;            /* KV takes all that may be had */
    weights_choice weights;       /* BF16 is refused when the checkpoint stores something else; AUTO: a pack's own */
    bool kv_given;                /* else f32 with WEIGHTS_F32, bf16 otherwise */
    kv_type kv;
    uint32_t threads, spin_us;
    bool pin;                     /* binds this rank to CPUs of its own, and each thread to one if they are as many */
    const placement *placed;      /* the caller bound this rank already; NULL: not */
    uint32_t share, shares;       /* this engine is one of so many on its machine, which divide CPUs and memory; 0: 1 */
    uint32_t expert_degree, width_degree;
    uint32_t context, slots, rows_max, chunk_max;
    uint64_t memory_bytes;
    const char *spill_dir;        /* where cached pages are kept; NULL: nowhere */
    uint64_t spill_bytes;         /* of all ranks; 0: INSTANCE_SPILL_BYTES */
    expert_exchange exchange;     /* EXCHANGE_AUTO but in tests */
    runner_tap *tap;
    void *tap_context;
    void (*alive)(void *context); /* see runner_options */
    void *alive_context;
    void (*meanwhile)(void *context);
    void *meanwhile_context;
} instance_options;

typedef struct instance {
    model_config *config;
    layout *split;
    checkpoint *files;            /* NULL: the model is packed, … */
    model_pack *pack;             /* … else this is */
    weights_choice choice;
    weight_type stored;
    kv_type kv;
    model_weights *weights;
    bool on_gpu;
    gpu_place gpu_place;          /* with on_gpu */
    backend *device, *untimed;    /* untimed: what `timed` is around; else the same */
    comm *activations;            /* of the GPU's memory; NULL: the ranks' comm */
    runner *run;
    spill_store *spill;           /* NULL: none */
    spill_page *spilled;          /* rank 0: [spilled_count] on every rank's disk at the start, oldest use first */
    uint32_t spilled_count;
    uint64_t spill_bytes, spill_file_bytes[KV_KINDS]; /* the limit, and one page's files; of all ranks */
    placement place;
    budget plan;                  /* slabs and context are the agreed ones */
    char checkpoint_hash[65], layout_text[64];
    uint64_t load_ns;
} instance;

#define INSTANCE_SPILL_BYTES (UINT64_C(64) << 30)

STATUS_CHECKED status instance_open(instance *out, const instance_options *options);
void instance_close(instance *i);

/* Parts of instance_open: this rank's folder, and what all ranks have in theirs. */
STATUS_CHECKED status instance_open_spill(instance *i, const instance_options *options);
STATUS_CHECKED status instance_agree_spill(instance *i, comm *ranks);

#endif
