/* The tables of gemmactl's command line: its commands, and the options that all of them have. */
#ifndef CTL_COMMANDS_H
#define CTL_COMMANDS_H

#include "ctl/ctl.h"

extern const command *const ctl_commands[];
extern const size_t ctl_command_count;
extern const arg_option ctl_common_option[];
extern const size_t ctl_common_count;

/* What gemmad-shard does under gemmactl's name. */
#define CTL_PACK_WORDS ""
#define CTL_PACK_SUMMARY "write a model's weights so that a start maps them in place of reading them"

#endif
