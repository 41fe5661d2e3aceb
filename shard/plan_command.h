/* `gemmad-shard plan`: the layout and memory of an engine as one JSON object on standard output, from config.json or a
 * GGUF file's header alone. A refusal is a sentence on standard error and exit code 3. */
#ifndef SHARD_PLAN_COMMAND_H
#define SHARD_PLAN_COMMAND_H

#include "shard/model/instance.h"

typedef struct plan_command_options {
    const char *model_path;
    uint32_t ranks, expert_degree, width_degree, context;
    uint32_t share, shares; /* as in instance_options, but 1 at least */
    uint64_t memory_bytes;
    weights_choice weights;
    bool kv_given;
    kv_type kv;
    const gpu_provider *gpu; /* NULL: this build has none */
    device_choice device;
} plan_command_options;

STATUS_CHECKED status plan_command(const plan_command_options *options);

#endif
