#include "daemon/engine/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

typedef struct process_entry {
    pid_t pid, parent;
    char state;
    uint64_t start_time;
    bool below; /* the root whose descendants are looked for */
} process_entry;

static bool read_entry(pid_t pid, process_entry *out) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = 0;
    /* The name stands in parentheses and may hold anything, also ") ". */
    const char *after = strrchr(text, ')');
    int parent;
    unsigned long long start;
    if (!after ||
        sscanf(after + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &out->state, &parent, &start) != 3)
        return false;
    out->pid = pid;
    out->parent = (pid_t)parent;
    out->start_time = start;
    return true;
}

uint64_t process_start_time(pid_t pid) {
    process_entry e;
    if (pid <= 0 || !read_entry(pid, &e) || e.state == 'Z' || e.state == 'X') return 0;
    return e.start_time;
}

bool process_is_alive(pid_t pid, uint64_t start_time) {
    return start_time != 0 && process_start_time(pid) == start_time;
}

static process_entry *list_processes(size_t *count) {
    process_entry *list = NULL;
    size_t n = 0, capacity = 0;
    DIR *dir = opendir("/proc");
    for (struct dirent *d; dir && (d = readdir(dir));) {
        char *end;
        long pid = strtol(d->d_name, &end, 10);
        if (*end || pid <= 0) continue;
        if (n == capacity) {
            capacity = capacity ? capacity * 2 : 256;
            list = memory_grow(list, capacity * sizeof *list);
        }
        list[n] = (process_entry){0};
        if (read_entry((pid_t)pid, &list[n])) n++;
    }
    if (dir) closedir(dir);
    *count = n;
    return list;
}

/* Breadth first; queue[] holds those whose children are still to be found. */
static void mark_descendants(process_entry *list, size_t n, pid_t root) {
    pid_t *queue = memory_alloc_array(n + 1, sizeof *queue);
    size_t filled = 1;
    queue[0] = root;
    for (size_t next = 0; next < filled; next++)
        for (size_t i = 0; i < n; i++)
            if (!list[i].below && list[i].parent == queue[next] && list[i].pid != root) {
                list[i].below = true;
                queue[filled++] = list[i].pid;
            }
    free(queue);
}

uint32_t process_signal_descendants(pid_t root, int number) {
    size_t n;
    uint32_t sent = 0;
    process_entry *list = list_processes(&n);
    if (list) mark_descendants(list, n, root);
    for (size_t i = 0; i < n; i++)
        if (list[i].below && list[i].state != 'Z' && process_is_alive(list[i].pid, list[i].start_time)) {
            kill(list[i].pid, number);
            sent++;
        }
    free(list);
    return sent;
}
