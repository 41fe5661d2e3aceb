/* What `gemmactl doctor` makes of what it found: each check is a pure function of the facts, so that it can be tried on
 * machines that are not there.
 *
 * Memory:  facts own their texts (doctor_facts_close); a report is a plain value.
 * Threads: main thread. */
#ifndef CTL_DOCTOR_CHECK_H
#define CTL_DOCTOR_CHECK_H

#include <stdbool.h>
#include <stdint.h>

enum { DOCTOR_LINES_MAX = 48, DOCTOR_TEXT_MAX = 512 };

typedef enum doctor_level { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL } doctor_level;

typedef struct doctor_line {
    const char *check;
    doctor_level level;
    char said[DOCTOR_TEXT_MAX], remedy[DOCTOR_TEXT_MAX]; /* remedy "": none is needed */
} doctor_line;

typedef struct doctor_report {
    doctor_line line[DOCTOR_LINES_MAX];
    uint32_t count;
} doctor_report;

/* Texts that are NULL, and numbers that are 0, were not found unless it says otherwise. */
typedef struct doctor_facts {
    const char *own_version; /* "0.1.0, build 86ad…", as the other programs print it */
    char *gemmad_version, *shard_version;

    char *mpirun_version;
    bool hello_tried;
    uint32_t hello_ranks; /* of 2 that met each other */
    double hello_s;
    char *hello_said; /* by mpirun, when they did not */

    bool shm_there;
    uint64_t shm_free_bytes;
    char huge_pages[32]; /* always, madvise, never */
    uint64_t memory_free_bytes;
    uint64_t memory_limit_bytes; /* of the cgroup; 0: none */
    uint32_t cpus;               /* that this process may use */
    double quota_cpus;           /* of the cgroup; 0: none */
    char isa[16], isa_cap[16];   /* what the processor has; GEMMAD_ISA */
    char governor[32];
    uint64_t files_max, address_space_max; /* soft limits; address_space_max 0: none */
    uint64_t disk_free_bytes;              /* of the state directory's file system */
    bool state_writable;
    char *state_folder;

    bool gpu_on_bus; /* a graphics processor of NVIDIA's */
    char *gpu_driver, *gpus;
    bool gpu_library;
    char *shard_built;                       /* "CUDA 13.0", "CPU only", as gemmad-shard says */
    char *cublaslt, *cublaslt_wrong, *nccl, *nccl_wrong; /* version and path, or why there is none; NULL: not looked for */

    const char *model;  /* --model; the plan is for it */
    char *plan_refused; /* NULL: there is one */
    bool plan_asked;
    uint64_t weight_bytes, request_bytes,
        need_bytes; /* all ranks: weights; KV of one request; least that is needed */
    uint64_t gpu_free_bytes; /* of the GPUs of the plan's ranks; 0: it is for CPUs */
    uint32_t context_tokens, context_model;
    bool has_tokenizer;
    bool chat_template_looked, has_chat_template; /* of a directory */

    const char *server;
    bool server_given, socket_there, socket_is_socket, server_is_socket;
    uint32_t socket_mode, socket_uid, own_uid;
    char *daemon_refused; /* NULL: it answered */
    char *daemon_version, *daemon_state, *engine_failure, *chat_refused;
    bool chat_asked;

    const char *certificate, *key;
    char *certificate_wrong;                                /* NULL: it was read */
    int64_t certificate_from_s, certificate_until_s, now_s; /* since 1970 */
    char *key_wrong;
    uint32_t key_mode;
} doctor_facts;

void doctor_facts_close(doctor_facts *f);

void doctor_check_programs(doctor_report *r, const doctor_facts *f);
void doctor_check_mpi(doctor_report *r, const doctor_facts *f);
void doctor_check_processor(doctor_report *r, const doctor_facts *f);
void doctor_check_memory(doctor_report *r, const doctor_facts *f);
void doctor_check_limits(doctor_report *r, const doctor_facts *f);
void doctor_check_gpu(doctor_report *r, const doctor_facts *f);
void doctor_check_model(doctor_report *r, const doctor_facts *f);
void doctor_check_daemon(doctor_report *r, const doctor_facts *f);
void doctor_check_tls(doctor_report *r, const doctor_facts *f);
void doctor_check_all(doctor_report *r, const doctor_facts *f);

doctor_level doctor_worst(const doctor_report *r);
const char *doctor_level_name(doctor_level level); /* "OK", "WARN", "FAIL" */

#endif
