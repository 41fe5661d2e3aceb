/* A packed directory in place of a checkpoint: what it was packed for, held against what an engine asks for. A pack is cut
 * for one layout and one choice of weights, and whatever else is asked of it is refused with the command that would make the
 * right one.
 *
 * Memory:  model_pack_open allocates, model_pack_close releases; NULL is fine.
 * Threads: any.
 * Errors:  as pack_manifest.h; ST_LAYOUT for other ranks or experts, ST_MISMATCH for other weights or another config.json. */
#ifndef SHARD_MODEL_MODEL_PACK_H
#define SHARD_MODEL_MODEL_PACK_H

#include "shard/model/weights.h"
#include "shard/pack/pack_manifest.h"

typedef struct model_pack {
    pack_manifest manifest;
    weights_choice choice; /* with which it was packed */
    weight_type stored;    /* of the checkpoint that it was packed from */
} model_pack;

/* *out is NULL, and the status ST_OK, where path is no packed directory. */
STATUS_CHECKED status model_pack_open(model_pack **out, const char *path, const model_config *config);
void model_pack_close(model_pack *p);

/* Holds the request against the pack. expert degrees 0: the pack's own. On success *l has everything but the rank. */
STATUS_CHECKED status model_pack_fit(const model_pack *p, const char *path, const model_config *config, uint32_t ranks,
                                     uint32_t expert_degree, uint32_t width_degree, weights_choice choice,
                                     layout_options *l);
/* The rank's share, mapped, or copied to o->device; of o threads, device and load count. */
STATUS_CHECKED status model_pack_weights(const model_pack *p, const char *path, const model_config *config,
                                         const layout *l, const model_weights_options *o, model_weights **out);
/* Bytes that this takes of the memory that it goes to. */
STATUS_CHECKED status model_pack_bytes(const model_pack *p, const char *path, uint32_t rank, bool on_device,
                                       uint64_t *bytes);

/* "f32", "bf16", "f16", "q8", "q4". */
const char *model_pack_type_name(weight_type type);

#endif
