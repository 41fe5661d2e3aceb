/* What each rank is, and whether these ranks can be one communicator: found out before NCCL could hang over it. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "shard/comm/cuda/cuda_comm_internal.h"

extern char **environ;

/* The boot's id, which containers of one machine share; its name where there is none. */
static void find_host(char *out, size_t size) {
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, size - 1) : 0;
    if (fd >= 0) close(fd);
    if (n <= 0 && gethostname(out, size - 1) != 0) snprintf(out, size, "unknown");
    out[strcspn(out, "\n")] = 0;
}

static uint64_t drawn_number;
static void draw_number(void) { (void)!getrandom(&drawn_number, sizeof drawn_number, 0); }

static void fill_process(rank_card *card) {
    static pthread_once_t drawn = PTHREAD_ONCE_INIT;
    pthread_once(&drawn, draw_number);
    card->pid = (uint64_t)getpid();
    card->drawn = drawn_number;
}

static status fill_device(rank_card *card, int device) {
    int count = 0;
    struct cudaDeviceProp p;
    CUDA_TRY(cudaGetDeviceCount(&count));
    if (device < 0 || device >= count)
        return fail(ST_INVALID, "device %d, this process sees %d GPUs (CUDA_VISIBLE_DEVICES)", device, count);
    CUDA_TRY(cudaSetDevice(device));
    CUDA_TRY(cudaGetDeviceProperties(&p, device));
    memcpy(card->uuid, &p.uuid, sizeof card->uuid);
    CUDA_TRY(cudaDeviceGetPCIBusId(card->bus, sizeof card->bus, device));
    CUDA_TRY(cudaDriverGetVersion(&card->driver));
    CUDA_TRY(cudaRuntimeGetVersion(&card->runtime));
    return ST_OK;
}

/* It is large, so it is loaded only where it may be used. */
static int find_nccl(const cuda_comm_options *o) {
    if (o->staged || o->test_without_nccl || (comm_size(o->ranks) == 1 && !o->test_shared_device)) return 0;
    int version = nccl_part_version();
    if (version == 0) log_warn("%s", status_text());
    return version;
}

void cards_fill(rank_card *card, const cuda_comm_options *o, size_t small_floats, size_t large_bytes) {
    memset(card, 0, sizeof *card);
    card->staged = o->staged;
    card->no_peer = o->no_peer;
    card->small_floats = small_floats;
    card->large_bytes = large_bytes;
    fill_process(card);
    card->nccl = find_nccl(o);
    find_host(card->host, sizeof card->host);
    card->status = fill_device(card, o->device);
    if (card->status != ST_OK) snprintf(card->text, sizeof card->text, "%s", status_text());
}

/* NCCL_DEBUG… only says more; the others name things that each host may have under a name of its own. */
static bool may_differ(const char *setting) {
    static const char *const own[] = {"NCCL_DEBUG",     "NCCL_SOCKET_IFNAME=", "NCCL_OOB_NET_IFNAME=",
                                      "NCCL_IB_HCA=",   "NCCL_HOSTID=",        "NCCL_TOPO_FILE=",
                                      "NCCL_TOPO_DUMP", "NCCL_GRAPH_DUMP"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strncmp(setting, own[i], strlen(own[i])) == 0) return true;
    return false;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

size_t cards_settings(char text[CUDA_COMM_SETTINGS_MAX]) {
    size_t count = 0, at = 0;
    for (char **e = environ; *e; e++) count++;
    const char **found = memory_alloc_array(count + 1, sizeof *found);
    count = 0;
    for (char **e = environ; *e; e++)
        if (strncmp(*e, "NCCL_", 5) == 0 && !may_differ(*e)) found[count++] = *e;
    qsort(found, count, sizeof *found, by_text);
    for (size_t i = 0; i < count; i++) {
        size_t n = strlen(found[i]);
        if (at + n + 2 > CUDA_COMM_SETTINGS_MAX) break; /* what is so long differs in its beginning, or in vain */
        memcpy(text + at, found[i], n);
        at += n;
        text[at++] = '\n';
    }
    text[at++] = 0;
    free(found);
    return at;
}

/* The line "NAME=…" of `text`, or NULL. */
static const char *line_of(const char *text, const char *name, size_t name_bytes) {
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
        if (strncmp(line, name, name_bytes) == 0 && line[name_bytes] == '=') return line;
    return NULL;
}

/* What rank `rank` does otherwise than rank 0 with one of the names in `lines`; `swapped` when those are its own. */
static void add_differences(char *out, size_t size, const char *lines, const char *others, bool swapped, uint32_t rank) {
    for (const char *line = lines; *line; line += strcspn(line, "\n") + 1) {
        size_t name = strcspn(line, "="), n = strcspn(line, "\n"), at = strlen(out);
        const char *other = line_of(others, line, name);
        if (other && (swapped || (strcspn(other, "\n") == n && memcmp(line, other, n) == 0))) continue;
        const char *a = swapped ? other : line, *b = swapped ? line : other;
        snprintf(out + at, size - at, "%s%.*s: rank 0 has %s%.*s%s, rank %u has %s%.*s%s", at ? "; " : "", (int)name, line,
                 a ? "\"" : "none", a ? (int)(strcspn(a, "\n") - name - 1) : 0, a ? a + name + 1 : "", a ? "\"" : "", rank,
                 b ? "\"" : "none", b ? (int)(strcspn(b, "\n") - name - 1) : 0, b ? b + name + 1 : "", b ? "\"" : "");
    }
}

status cards_compare_settings(const char *first, const char *other, uint32_t rank) {
    if (strcmp(first, other) == 0) return ST_OK;
    char text[STATUS_TEXT_MAX / 2] = "";
    add_differences(text, sizeof text, first, other, false, rank);
    add_differences(text, sizeof text, other, first, true, rank);
    return fail(ST_MISMATCH, "NCCL needs the same settings on every rank; %s", text);
}

static status versions_differ(const char *what, uint32_t rank, int first, int other) {
    if (first == 0 || other == 0)
        return fail(ST_MISMATCH, "rank %u has %s %d, rank %u has none (its log says why): all need it, or none may have it",
                    first ? 0 : rank, what, first ? first : other, first ? rank : 0);
    return fail(ST_MISMATCH, "rank 0 has %s %d, rank %u has %d: exchanges between GPUs need one version", what, first, rank,
                other);
}

status cards_compare(const rank_card *cards, uint32_t n) {
    const rank_card *a = &cards[0];
    for (uint32_t r = 0; r < n; r++)
        if (cards[r].status != ST_OK) return fail((status)cards[r].status, "rank %u: %s", r, cards[r].text);
    for (uint32_t r = 1; r < n; r++) {
        const rank_card *b = &cards[r];
        if (a->staged != b->staged || a->no_peer != b->no_peer || a->small_floats != b->small_floats ||
            a->large_bytes != b->large_bytes)
            return fail(ST_MISMATCH, "ranks 0 and %u were started with other options for exchanges between GPUs", r);
        if (a->staged) continue; /* nothing of NCCL's or CUDA's meets */
        if (a->nccl != b->nccl) return versions_differ("NCCL", r, a->nccl, b->nccl);
        if (a->driver != b->driver) return versions_differ("a driver for CUDA", r, a->driver, b->driver);
        if (a->runtime != b->runtime) return versions_differ("the CUDA runtime", r, a->runtime, b->runtime);
    }
    return ST_OK;
}

bool cards_same_process(const rank_card *a, const rank_card *b) {
    return a->pid == b->pid && a->drawn == b->drawn;
}

const char *cards_setting_on(const char *name) {
    const char *value = getenv(name);
    return value && *value && strcmp(value, "0") != 0 ? value : NULL;
}

status cards_check_settings(void) {
    const char *blocking = cards_setting_on("NCCL_COMM_BLOCKING");
    if (!blocking) return ST_OK;
    return fail(ST_INVALID, "NCCL_COMM_BLOCKING is \"%s\": ranks that are gone could not be noticed; unset it", blocking);
}

bool cards_same_device(const rank_card *a, const rank_card *b) {
    static const char none[sizeof a->uuid];
    if (memcmp(a->uuid, none, sizeof none) != 0 && memcmp(a->uuid, b->uuid, sizeof none) == 0) return true;
    return strcmp(a->host, b->host) == 0 && strcmp(a->bus, b->bus) == 0;
}

status cards_check_devices(const rank_card *cards, uint32_t n) {
    for (uint32_t b = 1; b < n; b++)
        for (uint32_t a = 0; a < b; a++)
            if (cards_same_device(&cards[a], &cards[b]))
                return fail(ST_LAYOUT,
                            "ranks %u and %u are both on GPU %s of one host, and NCCL wants a GPU for each rank: start fewer "
                            "ranks, or give each another CUDA_VISIBLE_DEVICES",
                            a, b, cards[b].bus);
    return ST_OK;
}

bool cards_one_host(const rank_card *cards, uint32_t n) {
    for (uint32_t r = 1; r < n; r++)
        if (strcmp(cards[0].host, cards[r].host) != 0) return false;
    return true;
}
