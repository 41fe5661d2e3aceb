/* How many CPUs this process may really use: affinity and cgroup quota, not what the machine has.
 * Threads: any. */
#ifndef DAEMON_ENGINE_CPUS_H
#define DAEMON_ENGINE_CPUS_H

#include <stdint.h>

uint32_t cpus_usable(void); /* at least 1 */
/* CPUs that the text of a cgroup v2 cpu.max allows, at least 1; UINT32_MAX: no bound, or not understood. */
uint32_t cpus_of_quota(const char *cpu_max);
/* Threads for each of `ranks` ranks on one host: 1 when ranks outnumber CPUs. */
uint32_t cpus_threads_per_rank(uint32_t cpus, uint32_t ranks);

#endif
