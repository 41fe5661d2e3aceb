#include "ctl/doctor_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t GIB = UINT64_C(1) << 30;
enum { DAY_S = 86400, SOON_DAYS = 30, FILES_WANTED = 4096, HELLO_SLOW_S = 5 };

void doctor_facts_close(doctor_facts *f) {
    char *owned[] = {f->gemmad_version, f->shard_version,     f->mpirun_version, f->hello_said,
                     f->state_folder,   f->gpu_driver,        f->gpus,           f->plan_refused,
                     f->daemon_refused, f->daemon_version,    f->daemon_state,   f->engine_failure,
                     f->chat_refused,   f->certificate_wrong, f->key_wrong,      f->shard_built,
                     f->cublaslt,       f->cublaslt_wrong,    f->nccl,           f->nccl_wrong};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

const char *doctor_level_name(doctor_level level) {
    static const char *const names[] = {"OK", "WARN", "FAIL"};
    return names[level];
}

doctor_level doctor_worst(const doctor_report *r) {
    doctor_level worst = DOCTOR_OK;
    for (uint32_t i = 0; i < r->count; i++)
        if (r->line[i].level > worst) worst = r->line[i].level;
    return worst;
}

/* The line, so that a remedy can be added; said in one line whatever was found. */
static doctor_line *add(doctor_report *r, const char *check, doctor_level level, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static doctor_line *add(doctor_report *r, const char *check, doctor_level level, const char *format, ...) {
    doctor_line *line = &r->line[r->count < DOCTOR_LINES_MAX - 1 ? r->count++ : r->count];
    *line = (doctor_line){.check = check, .level = level};
    va_list args;
    va_start(args, format);
    vsnprintf(line->said, sizeof line->said, format, args);
    va_end(args);
    for (char *at = line->said; *at; at++)
        if (*at == '\n') *at = ' ';
    return line;
}

static void mend(doctor_line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void mend(doctor_line *line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(line->remedy, sizeof line->remedy, format, args);
    va_end(args);
}

/* ---- programs and MPI ---- */

static void check_program(doctor_report *r, const char *name, const char *version, const char *own) {
    if (!version)
        mend(add(r, "programs", DOCTOR_FAIL, "%s is not beside gemmactl, or does not start", name),
             "build or install all three programs together: gemmad, gemmad-shard, gemmactl");
    else if (strcmp(version, own) != 0)
        mend(add(r, "programs", DOCTOR_FAIL, "%s is %s, gemmactl is %s", name, version, own),
             "build or install all three programs together");
}

void doctor_check_programs(doctor_report *r, const doctor_facts *f) {
    uint32_t before = r->count;
    check_program(r, "gemmad", f->gemmad_version, f->own_version);
    check_program(r, "gemmad-shard", f->shard_version, f->own_version);
    if (r->count == before)
        add(r, "programs", DOCTOR_OK, "gemmad, gemmad-shard and gemmactl are all %s", f->own_version);
}

void doctor_check_mpi(doctor_report *r, const doctor_facts *f) {
    if (!f->mpirun_version) {
        mend(
            add(r, "mpi", DOCTOR_WARN, "there is no mpirun in PATH: engines of one rank work, others do not"),
            "install Open MPI (Debian: apt install openmpi-bin)");
        return;
    }
    add(r, "mpi", DOCTOR_OK, "%s", f->mpirun_version);
    if (!f->hello_tried) return;
    if (f->hello_ranks != 2)
        mend(add(r, "mpi hello", DOCTOR_FAIL, "two ranks did not meet: %s",
                 f->hello_said ? f->hello_said : "nothing was said"),
             "try by hand: mpirun --host localhost:2 -np 2 hostname; the loopback interface must be up, and "
             "TMPDIR writable");
    else if (f->hello_s > HELLO_SLOW_S)
        mend(add(r, "mpi hello", DOCTOR_WARN, "two ranks met after %.1f s", f->hello_s),
             "a start this slow is often a host name that does not resolve: add it to /etc/hosts");
    else add(r, "mpi hello", DOCTOR_OK, "two ranks met after %.1f s", f->hello_s);
}

/* ---- the machine ---- */

void doctor_check_processor(doctor_report *r, const doctor_facts *f) {
    if (!strcmp(f->isa, "scalar"))
        mend(add(r, "instructions", DOCTOR_WARN,
                 "the processor has no AVX2: plain C computes, many times slower"),
             "use a processor with AVX2 or later; a virtual machine must pass its processor on (qemu: -cpu "
             "host)");
    else if (f->isa_cap[0])
        mend(add(r, "instructions", DOCTOR_WARN, "%s, but GEMMAD_ISA=%s caps it", f->isa, f->isa_cap),
             "unset GEMMAD_ISA");
    else add(r, "instructions", DOCTOR_OK, "%s", f->isa);
    if (f->quota_cpus > 0 && f->quota_cpus < f->cpus)
        mend(add(r, "processors", DOCTOR_WARN, "%u CPUs, of which the cgroup's quota gives the time of %.4g",
                 f->cpus, f->quota_cpus),
             "raise the quota (docker --cpus, systemd CPUQuota=), or pin to whole CPUs (--cpuset-cpus, "
             "AllowedCPUs=)");
    else add(r, "processors", DOCTOR_OK, "%u CPUs", f->cpus);
    if (!strcmp(f->governor, "powersave") || !strcmp(f->governor, "conservative"))
        mend(add(r, "governor", DOCTOR_WARN, "the CPU frequency governor is %s", f->governor),
             "cpupower frequency-set -g performance (as root), if speed matters more than power");
    else if (f->governor[0]) add(r, "governor", DOCTOR_OK, "%s", f->governor);
}

void doctor_check_memory(doctor_report *r, const doctor_facts *f) {
    double gib = (double)f->memory_free_bytes / (double)GIB;
    if (f->memory_limit_bytes && f->memory_limit_bytes < f->memory_free_bytes)
        mend(add(r, "memory", DOCTOR_WARN, "%.1f GiB are free, and the cgroup allows %.1f GiB", gib,
                 (double)f->memory_limit_bytes / (double)GIB),
             "raise the limit (docker --memory, systemd MemoryMax=)");
    else add(r, "memory", DOCTOR_OK, "%.1f GiB free", gib);
    if (!strcmp(f->huge_pages, "never"))
        mend(add(r, "huge pages", DOCTOR_WARN,
                 "transparent huge pages are off: large weights are read more slowly"),
             "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root)");
    else if (f->huge_pages[0]) add(r, "huge pages", DOCTOR_OK, "%s", f->huge_pages);
    if (!f->shm_there)
        mend(add(r, "shared memory", DOCTOR_WARN, "/dev/shm is not there"),
             "mount -t tmpfs tmpfs /dev/shm (as root)");
    else if (f->shm_free_bytes < GIB / 16)
        mend(add(r, "shared memory", DOCTOR_WARN, "/dev/shm has %.0f MiB free",
                 (double)f->shm_free_bytes / 0x1p20),
             "free some, or make it larger (docker --shm-size 1g)");
    else
        add(r, "shared memory", DOCTOR_OK, "/dev/shm has %.1f GiB free",
            (double)f->shm_free_bytes / (double)GIB);
}

void doctor_check_limits(doctor_report *r, const doctor_facts *f) {
    if (f->files_max < FILES_WANTED)
        mend(add(r, "limits", DOCTOR_WARN, "a process may open %llu files: not enough for 1024 connections",
                 (unsigned long long)f->files_max),
             "ulimit -n %d, or LimitNOFILE=%d in the unit", FILES_WANTED, FILES_WANTED);
    else add(r, "limits", DOCTOR_OK, "a process may open %llu files", (unsigned long long)f->files_max);
    if (f->address_space_max)
        mend(add(r, "limits", DOCTOR_WARN, "a process may map %.1f GiB",
                 (double)f->address_space_max / (double)GIB),
             "ulimit -v unlimited: weights and the KV cache are mapped whole");
    if (!f->state_writable)
        mend(add(r, "state", DOCTOR_FAIL, "%s cannot be written",
                 f->state_folder ? f->state_folder : "the state directory"),
             "make it writable for this user, or name another with gemmad --state DIR or XDG_STATE_HOME");
    else if (f->disk_free_bytes < GIB)
        mend(add(r, "state", DOCTOR_WARN, "%s has %.0f MiB free", f->state_folder,
                 (double)f->disk_free_bytes / 0x1p20),
             "free some space: logs, and messages between ranks, lie there");
    else
        add(r, "state", DOCTOR_OK, "%s, %.1f GiB free", f->state_folder,
            (double)f->disk_free_bytes / (double)GIB);
}

static void check_gpu_libraries(doctor_report *r, const doctor_facts *f) {
    static const char install[] = "install it (CUDA's packages have it), or name its folder in LD_LIBRARY_PATH of gemmad";
    if (strncmp(f->shard_built, "CUDA", 4) != 0) {
        mend(add(r, "gpu build", DOCTOR_WARN, "gemmad-shard is built for CPUs: GPUs stay idle"),
             "build it where nvcc is: cmake then says \"GPU back end: CUDA …\"");
        return;
    }
    add(r, "gpu build", DOCTOR_OK, "gemmad-shard is built with %s", f->shard_built);
    if (f->cublaslt) add(r, "cublaslt", DOCTOR_OK, "%s", f->cublaslt);
    else if (f->cublaslt_wrong)
        mend(add(r, "cublaslt", DOCTOR_WARN, "prompts are read more slowly: %s", f->cublaslt_wrong), "%s", install);
    if (strstr(f->shard_built, "without NCCL"))
        mend(add(r, "nccl", DOCTOR_WARN, "gemmad-shard is built without NCCL: ranks exchange through host memory"),
             "install nccl.h and build again, if more than one GPU is to be used");
    else if (f->nccl) add(r, "nccl", DOCTOR_OK, "%s", f->nccl);
    else if (f->nccl_wrong)
        mend(add(r, "nccl", DOCTOR_WARN, "ranks exchange through host memory: %s", f->nccl_wrong), "%s", install);
}

void doctor_check_gpu(doctor_report *r, const doctor_facts *f) {
    if (f->gpu_driver && !f->gpu_library)
        mend(add(r, "gpu", DOCTOR_WARN, "NVIDIA driver %s, but no libcuda.so.1", f->gpu_driver),
             "install the driver's library (Debian: libcuda1; containers: the NVIDIA container toolkit)");
    else if (f->gpu_driver)
        add(r, "gpu", DOCTOR_OK, "NVIDIA driver %s%s%s", f->gpu_driver, f->gpus ? ": " : "",
            f->gpus ? f->gpus : "");
    else if (f->gpu_on_bus)
        mend(add(r, "gpu", DOCTOR_WARN, "there is an NVIDIA GPU and no driver: CPU ranks"),
             "install NVIDIA's driver, if the GPU is to be used");
    else add(r, "gpu", DOCTOR_OK, "no GPU: CPU ranks");
    if (f->gpu_driver && f->shard_built) check_gpu_libraries(r, f);
}

/* ---- the model ---- */

void doctor_check_model(doctor_report *r, const doctor_facts *f) {
    uint64_t room = f->memory_free_bytes;
    if (!f->plan_asked) return;
    if (f->plan_refused) {
        mend(add(r, "model", DOCTOR_FAIL, "%s: %s", f->model, f->plan_refused),
             "the sentence names the file, the key or the rank counts that work");
        return;
    }
    if (f->gpu_free_bytes) room = f->gpu_free_bytes;
    else if (f->memory_limit_bytes && f->memory_limit_bytes < room) room = f->memory_limit_bytes;
    double weights = (double)f->weight_bytes / (double)GIB, need = (double)f->need_bytes / (double)GIB;
    if (f->need_bytes > room)
        mend(add(r, "model", DOCTOR_FAIL,
                 "%s needs %.1f GiB (weights %.1f, one request %.1f); there are %.1f%s", f->model, need,
                 weights, (double)f->request_bytes / (double)GIB, (double)room / (double)GIB,
                 f->gpu_free_bytes ? " on the GPUs" : ""),
             "quantise (--weights q4), shorten --context, or use %s",
             f->gpu_free_bytes ? "more GPUs (--ranks)" : "a machine with more memory");
    else if (f->context_tokens < f->context_model)
        mend(add(r, "model", DOCTOR_WARN, "%s: weights %.1f GiB; memory cuts the context to %u of %u tokens",
                 f->model, weights, f->context_tokens, f->context_model),
             "--kv q8 or --weights q4 leave room for more");
    else
        add(r, "model", DOCTOR_OK, "%s: weights %.1f GiB, context %u tokens", f->model, weights,
            f->context_tokens);
    if (!f->has_tokenizer)
        mend(
            add(r, "tokenizer", DOCTOR_WARN, "%s has no tokenizer.json: prompts of token ids only", f->model),
            "copy tokenizer.json of the published checkpoint beside config.json");
    if (f->chat_template_looked && !f->has_chat_template)
        mend(add(r, "chat template", DOCTOR_WARN, "%s has no chat_template.jinja: no chat", f->model),
             "copy it from the published checkpoint, or say gemmad --chat-template gemma4 (gemma4-small for "
             "the E models)");
}

/* ---- the daemon ---- */

static bool check_socket(doctor_report *r, const doctor_facts *f) {
    if (!f->server_is_socket) return true;
    if (!f->socket_there) {
        mend(add(r, "socket", f->server_given ? DOCTOR_FAIL : DOCTOR_WARN, "no daemon listens at %s",
                 f->server),
             "start one: gemmad --model PATH%s%s", f->server_given ? " --listen " : "",
             f->server_given ? f->server : "");
        return false;
    }
    if (!f->socket_is_socket) {
        mend(add(r, "socket", DOCTOR_FAIL, "%s is a file, and no socket", f->server),
             "name the daemon's socket: --server ADDR");
        return false;
    }
    if (f->socket_uid != f->own_uid && f->own_uid != 0)
        mend(add(r, "socket", DOCTOR_WARN, "%s belongs to user %u, you are %u", f->server, f->socket_uid,
                 f->own_uid),
             "ask as that user, or have the daemon listen for others too (gemmad --listen)");
    else if (f->socket_mode & 0007)
        mend(add(r, "socket", DOCTOR_WARN, "%s has mode %04o: every user of this machine may ask", f->server,
                 f->socket_mode),
             "without keys, mode 0600 is meant (gemmad's default)");
    else add(r, "socket", DOCTOR_OK, "%s, mode %04o", f->server, f->socket_mode);
    return true;
}

void doctor_check_daemon(doctor_report *r, const doctor_facts *f) {
    if (!check_socket(r, f)) return;
    if (f->daemon_refused) {
        mend(add(r, "daemon", f->server_given || f->socket_there ? DOCTOR_FAIL : DOCTOR_WARN, "%s",
                 f->daemon_refused),
             "look at the daemon's log, and start it again if it is gone: gemmad --model PATH");
        return;
    }
    const char *state = f->daemon_state ? f->daemon_state : "";
    if (!strcmp(state, "failed"))
        mend(add(r, "daemon", DOCTOR_FAIL, "failed%s%s", f->engine_failure ? ": " : "",
                 f->engine_failure ? f->engine_failure : ""),
             "the engine's log lies in the state directory");
    else if (f->engine_failure)
        mend(add(r, "daemon", DOCTOR_WARN, "%s, but an engine failed: %s", state, f->engine_failure),
             "the engine's log lies in the state directory");
    else if (strcmp(state, "ready") != 0)
        mend(add(r, "daemon", DOCTOR_WARN, "%s", *state ? state : "says no state"),
             "gemmactl status --wait 600");
    else add(r, "daemon", DOCTOR_OK, "ready");
    if (f->daemon_version && strcmp(f->daemon_version, f->own_version) != 0)
        mend(add(r, "version", DOCTOR_WARN, "the daemon is %s, gemmactl is %s", f->daemon_version,
                 f->own_version),
             "start the daemon again after an upgrade: gemmactl drain, then gemmad");
    if (f->chat_asked && f->chat_refused)
        mend(add(r, "chat", DOCTOR_WARN, "%s", f->chat_refused),
             "prompts of text and token ids work: gemmactl generate");
    else if (f->chat_asked) add(r, "chat", DOCTOR_OK, "the model's chat template is known");
}

/* ---- TLS ---- */

static void check_certificate(doctor_report *r, const doctor_facts *f) {
    static const char renew[] = "have a new one made, and send gemmad SIGHUP";
    if (f->certificate_wrong) {
        mend(add(r, "certificate", DOCTOR_FAIL, "%s", f->certificate_wrong),
             "a certificate in PEM form is wanted");
        return;
    }
    long long left = (long long)(f->certificate_until_s - f->now_s);
    if (f->now_s < f->certificate_from_s)
        mend(add(r, "certificate", DOCTOR_FAIL, "%s is not valid yet, for %lld days", f->certificate,
                 (long long)(f->certificate_from_s - f->now_s + DAY_S - 1) / DAY_S),
             "look at this machine's clock");
    else if (left <= 0)
        mend(add(r, "certificate", DOCTOR_FAIL, "%s expired %lld days ago", f->certificate, -left / DAY_S),
             "%s", renew);
    else if (left < (long long)SOON_DAYS * DAY_S)
        mend(add(r, "certificate", DOCTOR_WARN, "%s expires in %lld days", f->certificate, left / DAY_S),
             "%s", renew);
    else add(r, "certificate", DOCTOR_OK, "%s is valid for %lld days more", f->certificate, left / DAY_S);
}

void doctor_check_tls(doctor_report *r, const doctor_facts *f) {
    if (f->certificate) check_certificate(r, f);
    if (!f->key) return;
    if (f->key_wrong)
        mend(add(r, "key", DOCTOR_FAIL, "%s", f->key_wrong), "a private key in PEM form, readable by gemmad");
    else if (f->key_mode & 0077)
        mend(add(r, "key", DOCTOR_FAIL, "%s has mode %04o: others can read the private key", f->key,
                 f->key_mode),
             "chmod 600 %s", f->key);
    else add(r, "key", DOCTOR_OK, "%s, mode %04o", f->key, f->key_mode);
}

void doctor_check_all(doctor_report *r, const doctor_facts *f) {
    doctor_check_programs(r, f);
    doctor_check_mpi(r, f);
    doctor_check_processor(r, f);
    doctor_check_memory(r, f);
    doctor_check_limits(r, f);
    doctor_check_gpu(r, f);
    doctor_check_model(r, f);
    doctor_check_daemon(r, f);
    doctor_check_tls(r, f);
}
