/* Other processes, as /proc tells of them. A pid alone names nobody, since it is used again: a process is its
 * pid and its start time.
 * Threads: any. */
#ifndef DAEMON_ENGINE_PROCESS_H
#define DAEMON_ENGINE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Clock ticks since boot at which it started; 0: there is no such process, or only its remains. */
uint64_t process_start_time(pid_t pid);
bool process_is_alive(pid_t pid, uint64_t start_time);
/* Sends the signal to every descendant of root, not to root; returns how many there were. Only one that
 * became the reaper of its orphans (PR_SET_CHILD_SUBREAPER) has all of them below it. */
uint32_t process_signal_descendants(pid_t root, int number);

#endif
