#include "ctl/doctor_gather.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/paths.h"
#include "ctl/certificate.h"

/* Files of /proc and /sys say they have 0 bytes, so they are simply read. False: not there. */
static bool read_small(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    if (fd < 0) return false;
    for (ssize_t got = 1; got > 0 && n + 1 < size; n += got > 0 ? (size_t)got : 0)
        got = read(fd, text + n, size - 1 - n);
    close(fd);
    text[n] = 0;
    return true;
}

static void copy_line(const char *text, char *out, size_t size) {
    snprintf(out, size, "%.*s", (int)strcspn(text, "\n"), text);
}

void doctor_read_choice(const char *text, char *out, size_t size) {
    const char *open = strchr(text, '['), *close = open ? strchr(open, ']') : NULL;
    snprintf(out, size, "%.*s", close ? (int)(close - open - 1) : 0, close ? open + 1 : "");
}

double doctor_read_quota(const char *text) {
    double quota, period;
    if (sscanf(text, "%lf %lf", &quota, &period) != 2 || quota <= 0 || period <= 0) return 0;
    return quota / period;
}

static bool has_word(const char *line, size_t n, const char *word) {
    size_t length = strlen(word);
    for (const char *at = line; (at = memmem(at, n - (size_t)(at - line), word, length)); at += length)
        if ((at == line || at[-1] == ' ' || at[-1] == '\t') &&
            (at + length == line + n || at[length] == ' ' || at[length] == '\n'))
            return true;
    return false;
}

const char *doctor_read_isa(const char *cpuinfo) {
    const char *flags = strstr(cpuinfo, "\nflags");
    size_t n = flags ? strcspn(flags + 1, "\n") : 0;
    if (n == 0) return "scalar";
    flags++;
#define HAS(word) has_word(flags, n, word)
    if (!HAS("avx2") || !HAS("fma") || !HAS("f16c")) return "scalar";
    bool wide = HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl");
    if (wide && HAS("amx_tile") && HAS("amx_int8")) return "amx";
    if (wide) return "avx512";
    return HAS("avx_vnni") ? "avxvnni" : "avx2";
#undef HAS
}

/* ---- processors ---- */

/* The least positive bound of our cgroup and those above it; version 2 below the root, version 1 below the controller. */
static double least_of_groups(const char *controller, double (*read)(const char *folder)) {
    char all[8192];
    double least = 0;
    if (!read_small("/proc/self/cgroup", all, sizeof all)) return 0;
    for (char *rest = NULL, *line = strtok_r(all, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL, folder[4400];
        if (!group) continue;
        *group++ = 0;
        bool second = !strcmp(names + 1, "");
        if (!second && !strstr(names + 1, controller)) continue;
        for (;;) {
            char *slash = strrchr(group, '/');
            snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s%s", second ? "" : "/",
                     second ? "" : controller, strcmp(group, "/") ? group : "");
            double bound = read(folder);
            if (bound > 0 && (least == 0 || bound < least)) least = bound;
            if (!slash || !*group) break;
            *slash = 0;
        }
    }
    return least;
}

static double read_number(const char *folder, const char *name) {
    char path[4500], text[64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return read_small(path, text, sizeof text) ? strtod(text, NULL) : 0; /* "max": 0 */
}

static double cpu_bound(const char *folder) {
    char path[4500], text[64];
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (read_small(path, text, sizeof text)) return doctor_read_quota(text);
    double quota = read_number(folder, "cpu.cfs_quota_us"), period = read_number(folder, "cpu.cfs_period_us");
    return quota > 0 && period > 0 ? quota / period : 0;
}

static double memory_bound(const char *folder) {
    double bytes = read_number(folder, "memory.max");
    if (bytes <= 0) bytes = read_number(folder, "memory.limit_in_bytes");
    return bytes < 0x1p60 ? bytes : 0; /* version 1 writes "none" as nearly 2^63 */
}

static uint32_t usable_cpus(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return (uint32_t)CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

static void look_at_processors(doctor_facts *f) {
    char text[65536];
    const char *cap = getenv("GEMMAD_ISA");
    f->cpus = usable_cpus();
    f->quota_cpus = least_of_groups("cpu", cpu_bound);
    snprintf(f->isa, sizeof f->isa, "%s",
             read_small("/proc/cpuinfo", text, sizeof text) ? doctor_read_isa(text) : "scalar");
    snprintf(f->isa_cap, sizeof f->isa_cap, "%s", cap && strcmp(cap, f->isa) != 0 ? cap : "");
    if (read_small("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text, sizeof text))
        copy_line(text, f->governor, sizeof f->governor);
}

/* ---- memory, limits, disk ---- */

static void look_at_memory(doctor_facts *f) {
    char text[8192];
    struct statvfs shm;
    if (read_small("/proc/meminfo", text, sizeof text)) {
        const char *line = strstr(text, "MemAvailable:");
        if (line) f->memory_free_bytes = strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024;
    }
    f->memory_limit_bytes = (uint64_t)least_of_groups("memory", memory_bound);
    if (read_small("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text))
        doctor_read_choice(text, f->huge_pages, sizeof f->huge_pages);
    f->shm_there = statvfs("/dev/shm", &shm) == 0;
    if (f->shm_there) f->shm_free_bytes = (uint64_t)shm.f_bavail * shm.f_frsize;
}

/* The folder, or the nearest one above it that is there: gemmad makes the rest. */
static void look_at_state(doctor_facts *f) {
    char *folder = NULL;
    struct statvfs disk;
    if (path_default_state(&folder) != ST_OK) return;
    f->state_folder = memory_copy_string(folder);
    for (char *slash; access(folder, F_OK) != 0 && (slash = strrchr(folder, '/')) && slash != folder;)
        *slash = 0;
    f->state_writable = access(folder, W_OK | X_OK) == 0;
    if (statvfs(folder, &disk) == 0) f->disk_free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    free(folder);
}

static void look_at_limits(doctor_facts *f) {
    struct rlimit files, space;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) f->files_max = files.rlim_cur;
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY)
        f->address_space_max = space.rlim_cur;
}

/* ---- graphics processors ---- */

static bool on_bus(void) {
    glob_t found = {0};
    bool there = false;
    if (glob("/sys/bus/pci/devices/*", 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc && !there; i++) {
            char path[512], vendor[16] = "", kind[16] = "";
            snprintf(path, sizeof path, "%s/vendor", found.gl_pathv[i]);
            if (!read_small(path, vendor, sizeof vendor)) continue;
            snprintf(path, sizeof path, "%s/class", found.gl_pathv[i]);
            /* 0x03…: display controllers, 3D ones included. */
            there = !strncmp(vendor, "0x10de", 6) && read_small(path, kind, sizeof kind) &&
                    !strncmp(kind, "0x03", 4);
        }
    globfree(&found);
    return there;
}

static void look_at_gpu(doctor_facts *f) {
    char text[1024], driver[64] = "";
    f->gpu_on_bus = on_bus();
    if (!read_small("/proc/driver/nvidia/version", text, sizeof text)) return;
    /* "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  …" */
    const char *at = strstr(text, "Module");
    if (at) sscanf(at + strcspn(at, " "), "%63s", driver);
    f->gpu_driver = memory_copy_string(*driver ? driver : "of an unknown version");
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    f->gpu_library = library != NULL;
    if (library) dlclose(library);
}

void doctor_gather_machine(doctor_facts *f) {
    look_at_processors(f);
    look_at_memory(f);
    look_at_limits(f);
    look_at_state(f);
    look_at_gpu(f);
}

/* ---- TLS ---- */

void doctor_gather_tls(doctor_facts *f, const doctor_question *q) {
    char *pem = NULL;
    size_t n = 0;
    f->certificate = q->certificate;
    f->key = q->key;
    f->now_s = (int64_t)time(NULL);
    if (q->certificate) {
        status st = file_read_all(q->certificate, CERTIFICATE_FILE_BYTES_MAX, &pem, &n);
        if (st == ST_OK && certificate_read(pem, n, &f->certificate_from_s, &f->certificate_until_s) != ST_OK)
            st = fail_within(ST_FORMAT, "%s", q->certificate);
        if (st != ST_OK) f->certificate_wrong = memory_copy_string(status_text());
        free(pem);
    }
    if (!q->key) return;
    struct stat info;
    status st = stat(q->key, &info) != 0 ? fail_errno(ST_NOT_FOUND, "%s", q->key) : ST_OK;
    pem = NULL;
    if (st == ST_OK)
        f->key_mode = info.st_mode & 07777, st = file_read_all(q->key, CERTIFICATE_FILE_BYTES_MAX, &pem, &n);
    if (st == ST_OK && !memmem(pem, n, "PRIVATE KEY-----", 16))
        st = fail(ST_FORMAT, "%s holds no private key", q->key);
    if (st != ST_OK) f->key_wrong = memory_copy_string(status_text());
    if (pem) explicit_bzero(pem, n);
    free(pem);
}
