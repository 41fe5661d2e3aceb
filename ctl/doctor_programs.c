/* What other programs say: those of this build, mpirun, nvidia-smi; and the daemon. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/library.h"
#include "base/memory.h"
#include "build_id.h"
#include "ctl/beside.h"
#include "ctl/child.h"
#include "ctl/doctor_gather.h"
#include "proto/gemmad.pb-c.h"

enum { PROGRAM_MS = 20000, HELLO_MS = 30000, PLAN_MS = 60000, SAID_MAX = 64 << 10, DAEMON_MS = 5000 };

/* What it printed, without the last line end; NULL when it failed, unless `all` wants it then too. */
static status say(char **out, const char *const *argv, uint32_t ms, bool all) {
    strbuf text = {.max = SAID_MAX};
    int code = 0;
    status st = child_run(&(child_options){.argv = argv, .timeout_ms = ms, .both = true}, &text, &code);
    if (st != ST_OK && st != ST_CANCELLED && all) *out = memory_copy_string(status_text());
    if (st == ST_OK && (code == 0 || all)) {
        while (text.size && text.data[text.size - 1] == '\n') text.data[--text.size] = 0;
        *out = memory_copy_string(strbuf_text(&text));
    }
    strbuf_close(&text);
    return st == ST_CANCELLED ? st : ST_OK;
}

/* "gemmad 0.1.0, build x" → "0.1.0, build x" */
static status ask_version(const char *name, char **out) {
    char *program = NULL, *said = NULL;
    if (beside_path(&program, name) != ST_OK) return ST_OK;
    const char *argv[] = {program, "--version", NULL};
    status st = say(&said, argv, PROGRAM_MS, false);
    const char *space = said ? strchr(said, ' ') : NULL;
    if (space) *out = memory_copy_string(space + 1);
    free(said);
    free(program);
    return st;
}

const char *doctor_read_built(char *version) {
    char *build = strstr(version, ", build "), *end = build ? strstr(build + 2, ", ") : NULL;
    if (!end) return NULL;
    *end = 0;
    return end + 2;
}

/* ---- libraries that gemmad-shard loads for a GPU ---- */

typedef struct gpu_library {
    const char *what, *version_function;
    const char *names[3];
    int major; /* 0: any */
} gpu_library;

/* As gemmad-shard does. This program ends soon: nothing is unloaded. */
static void look_for_library(const gpu_library *l, char **found, char **wrong) {
    void (*version)(void) = NULL;
    char path[512];
    const library_function function = {l->version_function, 0};
    strbuf said = {0};
    if (library_load(&(library_wanted){l->what, l->names, &function, 1}, &version) != ST_OK) {
        *wrong = memory_copy_string(status_text());
        return;
    }
    /* cublasLtGetVersion returns it, ncclGetVersion writes it. */
    int number = 0;
    if (l->major) number = (int)((size_t(*)(void))version)();
    else (void)((int (*)(int *))version)(&number);
    library_path(&version, path, sizeof path);
    strbuf_add_format(&said, "%s %d: %s", l->what, number, path);
    if (l->major && number / 10000 != l->major) strbuf_add_format(&said, "; version %d is wanted", l->major);
    *(l->major && number / 10000 != l->major ? wrong : found) = memory_copy_string(strbuf_text(&said));
    strbuf_close(&said);
}

static void look_for_gpu_libraries(doctor_facts *f) {
    int major = 0;
    char name[32];
    if (!f->shard_built || sscanf(f->shard_built, "CUDA %d.", &major) != 1 || major <= 0) return;
    snprintf(name, sizeof name, "libcublasLt.so.%d", major);
    look_for_library(&(gpu_library){"cuBLASLt", "cublasLtGetVersion", {name, "libcublasLt.so", NULL}, major}, &f->cublaslt,
                     &f->cublaslt_wrong);
    look_for_library(&(gpu_library){"NCCL", "ncclGetVersion", {"libnccl.so.2", NULL, NULL}, 0}, &f->nccl, &f->nccl_wrong);
}

/* ---- MPI ---- */

static status try_hello(doctor_facts *f) {
    char *shard = NULL;
    if (beside_path(&shard, "gemmad-shard") != ST_OK) return ST_OK;
    /* As gemmad starts ranks of its own machine: without a remote shell, a batch system or a network. */
    const char *argv[] = {"mpirun",
                          "--allow-run-as-root",
                          "--quiet",
                          "--bind-to",
                          "none",
                          "-np",
                          "2",
                          "--host",
                          "localhost:2",
                          "--mca",
                          "plm",
                          "isolated",
                          "--mca",
                          "ras",
                          "^slurm,gridengine",
                          "--mca",
                          "oob_tcp_if_include",
                          "lo",
                          "--mca",
                          "pml",
                          "ob1",
                          "--mca",
                          "btl",
                          "self,vader,tcp",
                          "--mca",
                          "opal_if_do_not_resolve",
                          "1",
                          "--mca",
                          "btl_tcp_if_include",
                          "lo",
                          "--mca",
                          "btl_vader_single_copy_mechanism",
                          "none",
                          "--mca",
                          "mpi_yield_when_idle",
                          "1",
                          shard,
                          "doctor",
                          "--comm",
                          "mpi",
                          "--hello",
                          NULL};
    uint64_t begin_ns = clock_now_ns();
    f->hello_tried = true;
    status st = say(&f->hello_said, argv, HELLO_MS, true);
    f->hello_s = (double)(clock_now_ns() - begin_ns) / 1e9;
    if (f->hello_said && strstr(f->hello_said, "2 ranks met")) f->hello_ranks = 2;
    free(shard);
    return st;
}

static status look_for_mpi(doctor_facts *f) {
    const char *argv[] = {"mpirun", "--allow-run-as-root", "--version", NULL};
    TRY(say(&f->mpirun_version, argv, PROGRAM_MS, false));
    if (!f->mpirun_version) return ST_OK;
    f->mpirun_version[strcspn(f->mpirun_version, "\n")] = 0;
    return f->shard_version ? try_hello(f) : ST_OK;
}

/* ---- the plan of a model ---- */

static uint64_t number(const json_t *object, const char *key) {
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 ? (uint64_t)n : 0;
}

/* Least: weights, activations, and the KV of one request. */
static void take_plan(doctor_facts *f, const json_t *plan) {
    json_t *rank;
    size_t i;
    f->weight_bytes = number(plan, "weight_bytes");
    f->request_bytes = number(plan, "kv_bytes_total");
    f->context_tokens = (uint32_t)number(plan, "context_tokens");
    f->context_model = (uint32_t)number(plan, "context_model");
    f->gpu_free_bytes = number(plan, "device_free_bytes");
    f->need_bytes = f->request_bytes;
    json_array_foreach(json_object_get(plan, "per_rank"), i, rank) {
        f->need_bytes += number(rank, "weight_bytes") + number(rank, "activation_bytes");
    }
}

static bool has_file(const char *folder, const char *name) {
    char *path = file_join(folder, name);
    bool there = access(path, R_OK) == 0;
    free(path);
    return there;
}

static void look_at_text(doctor_facts *f) {
    struct stat info;
    bool folder = stat(f->model, &info) == 0 && S_ISDIR(info.st_mode),
         gguf = folder && has_file(f->model, "metadata.gguf");
    f->has_tokenizer = !folder || gguf || has_file(f->model, "tokenizer.json");
    f->chat_template_looked = folder && !gguf;
    f->has_chat_template = f->chat_template_looked && has_file(f->model, "chat_template.jinja");
}

static status ask_plan(doctor_facts *f, const doctor_question *q) {
    char *program = NULL, ranks[16];
    if (beside_path(&program, "gemmad") != ST_OK) return ST_OK;
    const char *argv[16] = {program, "--dry-run", "--json", "--model", q->model};
    int n = 5;
    snprintf(ranks, sizeof ranks, "%u", q->ranks);
    if (q->ranks) argv[n++] = "--ranks", argv[n++] = ranks;
    if (q->weights) argv[n++] = "--weights", argv[n++] = q->weights;
    if (q->device) argv[n++] = "--device", argv[n++] = q->device;
    char *said = NULL;
    f->plan_asked = true;
    status st = say(&said, argv, PLAN_MS, true);
    json_t *plan = said ? json_loads(said, 0, NULL) : NULL;
    if (json_is_object(plan)) take_plan(f, plan);
    else f->plan_refused = memory_copy_string(said && *said ? said : "gemmad --dry-run said nothing");
    if (json_is_object(plan)) look_at_text(f);
    json_decref(plan);
    free(said);
    free(program);
    return st;
}

status doctor_gather_programs(doctor_facts *f, const doctor_question *q) {
    f->own_version = GEMMAD_VERSION ", build " GEMMAD_BUILD_ID;
    f->model = q->model;
    TRY(ask_version("gemmad", &f->gemmad_version));
    TRY(ask_version("gemmad-shard", &f->shard_version));
    const char *built = f->shard_version ? doctor_read_built(f->shard_version) : NULL;
    if (built) f->shard_built = memory_copy_string(built);
    TRY(look_for_mpi(f));
    if (f->gpu_driver) {
        look_for_gpu_libraries(f);
        const char *argv[] = {"nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader", NULL};
        TRY(say(&f->gpus, argv, PROGRAM_MS, false));
    }
    return q->model ? ask_plan(f, q) : ST_OK;
}

/* ---- the daemon ---- */

static void take_status(doctor_facts *f, const Gemmad__V1__GetStatusResponse *s) {
    strbuf version = {0};
    strbuf_add_format(&version, "%s, build %s", s->version ? s->version : "?",
                      s->build_id ? s->build_id : "?");
    f->daemon_version = memory_copy_string(strbuf_text(&version));
    strbuf_close(&version);
    f->daemon_state = memory_copy_string(s->state ? s->state : "");
    for (size_t i = 0; i < s->n_models; i++)
        for (size_t k = 0; k < s->models[i]->n_engines && !f->engine_failure; k++) {
            const char *why = s->models[i]->engines[k]->failure;
            if (why && *why) f->engine_failure = memory_copy_string(why);
        }
}

/* Whether the first model has chat: one word is rendered. */
static status ask_chat(doctor_facts *f, client *server) {
    static char role[] = "user";
    Gemmad__V1__ChatRequest request = GEMMAD__V1__CHAT_REQUEST__INIT;
    Gemmad__V1__Message message = GEMMAD__V1__MESSAGE__INIT, *messages[] = {&message};
    Gemmad__V1__Part part = GEMMAD__V1__PART__INIT, *parts[] = {&part};
    ProtobufCMessage *m = NULL;
    part.part_case = GEMMAD__V1__PART__PART_TEXT;
    part.text = (ProtobufCBinaryData){4, (uint8_t *)role};
    message.role = role;
    message.content = parts, message.n_content = 1;
    request.messages = messages, request.n_messages = 1;
    status st = client_call(server, "/gemmad.v1.Inference/RenderChat", &request.base,
                            &gemmad__v1__render_chat_response__descriptor, DAEMON_MS, &m);
    if (m) protobuf_c_message_free_unpacked(m, NULL);
    f->chat_asked = true;
    if (st != ST_OK) f->chat_refused = memory_copy_string(status_text());
    return st == ST_CANCELLED ? st : ST_OK;
}

static status ask_daemon(doctor_facts *f, client *server) {
    Gemmad__V1__GetStatusRequest request = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    TRY(client_call(server, "/gemmad.v1.Control/GetStatus", &request.base,
                    &gemmad__v1__get_status_response__descriptor, DAEMON_MS, &m));
    take_status(f, (void *)m);
    protobuf_c_message_free_unpacked(m, NULL);
    return !strcmp(f->daemon_state, "ready") ? ask_chat(f, server) : ST_OK;
}

status doctor_gather_daemon(doctor_facts *f, const ctl *c) {
    struct stat info;
    client *server = NULL;
    f->server = c->server;
    f->server_given = !c->default_server;
    f->server_is_socket = !strncmp(c->server, "unix:", 5);
    f->own_uid = (uint32_t)geteuid();
    if (f->server_is_socket && stat(c->server + 5, &info) == 0) {
        f->socket_there = true;
        f->socket_is_socket = S_ISSOCK(info.st_mode);
        f->socket_mode = info.st_mode & 07777;
        f->socket_uid = (uint32_t)info.st_uid;
    }
    if (f->server_is_socket && !f->socket_is_socket) return ST_OK;
    status st = client_open(&server, c->server, DAEMON_MS);
    if (st == ST_OK) st = ask_daemon(f, server);
    client_close(server);
    if (st != ST_OK && st != ST_CANCELLED) f->daemon_refused = memory_copy_string(status_text());
    return st == ST_CANCELLED ? st : ST_OK;
}
