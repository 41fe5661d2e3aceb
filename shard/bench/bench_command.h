/* The command line of `gemmad-shard bench …`.
 *
 * Memory:  borrows argv.
 * Errors:  usage errors are said on standard error and end with 2. */
#ifndef SHARD_BENCH_BENCH_COMMAND_H
#define SHARD_BENCH_BENCH_COMMAND_H

#include "shard/comm/comm.h"
#include "shard/model/gpu.h"

/* Runs the body on ranks that a launcher started; NULL where the build cannot. */
typedef status bench_launched(comm_body *body, void *context, int *argc, char ***argv);

/* argv[0] is "bench"; gpu NULL: this build has none. Returns the process's exit code. */
int bench_command(int argc, char **argv, bench_launched *launched, const gpu_provider *gpu);
/* Runs the body on `ranks` ranks of so many threads each (0: 1), as --comm says: "fork" or "mpi". */
STATUS_CHECKED status bench_run_ranks(const char *comm_name, uint32_t ranks, uint32_t threads, comm_body *body,
                                      void *context, int argc, char **argv, bench_launched *launched);
/* How a failure ends a process: 3 for a model or layout that is refused, else 1. */
int bench_exit_code(status st);

#endif
