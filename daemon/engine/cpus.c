#include "daemon/engine/cpus.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t from_affinity(void) {
    /* The kernel refuses a set smaller than its own; 1024 CPUs is not the largest machine. */
    for (int most = 1024; most <= 1 << 20; most *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)most);
        if (!set) break;
        size_t bytes = CPU_ALLOC_SIZE((size_t)most);
        int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0) return (uint32_t)n;
    }
    return 1;
}

/* Files of /proc and cgroupfs say they have 0 bytes, so they are simply read. */
static bool read_small(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    if (n < 0) return false;
    text[n] = 0;
    return true;
}

static uint32_t whole_cpus(double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return UINT32_MAX;
    double n = quota / period;
    /* Half a CPU more than the quota would be throttled, so the share is rounded down. */
    return n < 1 ? 1 : n > 1e6 ? UINT32_MAX : (uint32_t)n;
}

uint32_t cpus_of_quota(const char *cpu_max) {
    double quota, period;
    if (sscanf(cpu_max, "%lf %lf", &quota, &period) != 2) return UINT32_MAX; /* "max 100000" */
    return whole_cpus(quota, period);
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Every group from ours up to the root may have a quota of its own. */
static uint32_t from_cgroup2(char *group) {
    uint32_t cpus = UINT32_MAX;
    for (;;) {
        char path[4352], text[128];
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        if (read_small(path, text, sizeof text)) cpus = least(cpus, cpus_of_quota(text));
        char *slash = strrchr(group, '/');
        if (!slash) return cpus;
        *slash = 0;
    }
}

static uint32_t from_cgroup1(char *group) {
    uint32_t cpus = UINT32_MAX;
    for (;;) {
        char path[4352], quota[128], period[128];
        snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_quota_us", group);
        bool found = read_small(path, quota, sizeof quota);
        snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_period_us", group);
        if (found && read_small(path, period, sizeof period))
            cpus = least(cpus, whole_cpus(atof(quota), atof(period)));
        char *slash = strrchr(group, '/');
        if (!slash) return cpus;
        *slash = 0;
    }
}

/* Lines "0::/path" (version 2) and "4:cpu,cpuacct:/path" (version 1). */
static uint32_t from_cgroups(void) {
    char text[16384];
    uint32_t cpus = UINT32_MAX;
    if (!read_small("/proc/self/cgroup", text, sizeof text)) return cpus;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group || strlen(group) > 4096) continue;
        *group++ = 0;
        names++;
        if (*names == 0) cpus = least(cpus, from_cgroup2(group));
        else if (!strcmp(names, "cpu") || !strncmp(names, "cpu,", 4) || strstr(names, ",cpu,") ||
                 (strlen(names) > 4 && !strcmp(names + strlen(names) - 4, ",cpu")))
            cpus = least(cpus, from_cgroup1(group));
    }
    return cpus;
}

uint32_t cpus_usable(void) { return least(from_affinity(), from_cgroups()); }

uint32_t cpus_threads_per_rank(uint32_t cpus, uint32_t ranks) {
    uint32_t n = ranks ? cpus / ranks : cpus;
    return n ? n : 1;
}
