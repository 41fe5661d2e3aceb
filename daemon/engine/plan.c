/* engine_plan: asks gemmad-shard what a model needs and says, before anything is loaded. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "daemon/engine/command.h"
#include "daemon/engine/failure.h"
#include "daemon/engine/plan.h"

enum { OUTPUT_BYTES_MAX = 4 << 20, TIMEOUT_MS = 300000, EXIT_REFUSED = 3 };

extern char **environ;

typedef struct output {
    int fd; /* -1: ended */
    strbuf bytes;
} output;

static status read_some(output *o, const char *name) {
    char part[16384];
    ssize_t n = read(o->fd, part, sizeof part);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return ST_OK;
    if (n > 0) {
        strbuf_add(&o->bytes, part, (size_t)n);
        if (o->bytes.full) return fail(ST_FORMAT, "%s prints more than %d bytes", name, OUTPUT_BYTES_MAX);
        return ST_OK;
    }
    close(o->fd);
    o->fd = -1;
    return ST_OK;
}

/* Both pipes to their ends: whoever read one after the other would wait for ever on a full second one. */
static status read_both(output out[2], const char *name) {
    uint64_t deadline = clock_now_ns() + (uint64_t)TIMEOUT_MS * 1000000;
    while (out[0].fd >= 0 || out[1].fd >= 0) {
        uint64_t now = clock_now_ns();
        if (now >= deadline) return fail(ST_TIMEOUT, "%s did not end within %d s", name, TIMEOUT_MS / 1000);
        struct pollfd p[2] = {{.fd = out[0].fd, .events = POLLIN}, {.fd = out[1].fd, .events = POLLIN}};
        int n = poll(p, 2, (int)((deadline - now) / 1000000) + 1);
        if (n < 0 && errno != EINTR) return fail_errno(ST_IO, "poll");
        for (int i = 0; n > 0 && i < 2; i++)
            if (p[i].revents) TRY(read_some(&out[i], name));
    }
    return ST_OK;
}

static status start(char **argv, output out[2], pid_t *child) {
    int ends[2][2] = {{-1, -1}, {-1, -1}};
    status st = ST_OK;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    for (int i = 0; st == ST_OK && i < 2; i++) {
        if (pipe2(ends[i], O_CLOEXEC) != 0) st = fail_errno(ST_IO, "pipe");
        else posix_spawn_file_actions_adddup2(&actions, ends[i][1], i == 0 ? STDOUT_FILENO : STDERR_FILENO);
    }
    /* gemmad's own signal mask and ignored signals are not the child's. */
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int error = st == ST_OK ? posix_spawnp(child, argv[0], &actions, &attributes, argv, environ) : 0;
    if (error) {
        errno = error;
        st = fail_errno(ST_NOT_FOUND, "%s", argv[0]);
    }
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 2; i++) {
        if (ends[i][1] >= 0) close(ends[i][1]);
        out[i] = (output){.fd = ends[i][0], .bytes = {.max = OUTPUT_BYTES_MAX}};
    }
    return st;
}

/* "NOT_FOUND: sentence": the status, and where the sentence begins. */
static status status_of_sentence(const char *sentence, const char **text) {
    for (int s = ST_OK + 1; s < ST_COUNT; s++) {
        const char *name = status_name((status)s);
        size_t n = strlen(name);
        if (strncmp(sentence, name, n) != 0 || strncmp(sentence + n, ": ", 2) != 0) continue;
        *text = sentence + n + 2;
        return (status)s;
    }
    *text = sentence;
    return ST_LAYOUT;
}

status plan_refusal(int how, const char *errors, size_t n, const char *program) {
    char sentence[STATUS_TEXT_MAX], exit_text[128];
    const char *text;
    failure_last_errors(errors, n, sentence, sizeof sentence);
    if (WIFEXITED(how) && WEXITSTATUS(how) == EXIT_REFUSED && sentence[0]) {
        status st = status_of_sentence(sentence, &text);
        return fail(st, "%s", text);
    }
    failure_describe_exit(WIFEXITED(how) ? WEXITSTATUS(how) : 0, WIFSIGNALED(how) ? WTERMSIG(how) : 0,
                          exit_text, sizeof exit_text);
    return fail(ST_INTERNAL, "%s plan: %s%s%s", program, exit_text, sentence[0] ? ": " : "", sentence);
}

static status read_end_tokens(json_t *j, const char *where, model_facts *facts) {
    json_t *list = json_object_get(j, "end_tokens");
    size_t most = sizeof facts->end_token / sizeof *facts->end_token;
    if (!json_is_array(list) || json_array_size(list) > most)
        return fail(ST_FORMAT, "%s: end_tokens is no list of at most %zu ids", where, most);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= facts->vocab)
            return fail(ST_FORMAT, "%s: end_tokens[%zu] is no id below %u", where, i, facts->vocab);
        facts->end_token[facts->end_token_count++] = (uint32_t)json_integer_value(id);
    }
    return ST_OK;
}

static status read_bytes(json_t *j, const char *where, const char *key, uint64_t *out) {
    json_t *n = json_object_get(j, key);
    if (!json_is_integer(n) || json_integer_value(n) < 0)
        return fail(ST_FORMAT, "%s: %s is no count of bytes", where, key);
    *out = (uint64_t)json_integer_value(n);
    return ST_OK;
}

static status read_word(json_t *j, const char *where, const char *key, char *out, size_t size) {
    const char *text = NULL;
    TRY(json_read_string_optional(j, where, key, &text));
    if (!text || strlen(text) >= size) return fail(ST_FORMAT, "%s: %s is missing or too long", where, key);
    memcpy(out, text, strlen(text) + 1);
    return ST_OK;
}

static status read_budget(json_t *j, const char *where, model_facts *f) {
    TRY(read_word(j, where, "kv_type", f->kv_type, sizeof f->kv_type));
    TRY(json_read_u32(j, where, "context_model", 1, UINT32_MAX, &f->context_model));
    TRY(json_read_u32(j, where, "kv_requests", 0, UINT32_MAX, &f->kv_requests));
    TRY(read_bytes(j, where, "kv_bytes_full", &f->kv_bytes_full));
    TRY(read_bytes(j, where, "kv_bytes_sliding", &f->kv_bytes_sliding));
    TRY(read_bytes(j, where, "kv_pool_bytes", &f->kv_pool_bytes));
    TRY(read_bytes(j, where, "activation_bytes", &f->activation_bytes));
    return read_bytes(j, where, "kv_tokens", &f->kv_tokens);
}

status plan_read_facts(const char *text, size_t n, const char *where, model_facts *facts) {
    json_t *j;
    TRY(json_read_bytes(text, n, where, &j));
    status st;
    model_facts f = {.default_temperature = 1, .default_top_p = 1};
    memcpy(f.path, facts->path, sizeof f.path);
    TRY_OR_FAIL(json_read_u32(j, where, "vocab", 1, LIMIT_VOCAB, &f.vocab));
    TRY_OR_FAIL(json_read_u32(j, where, "context_tokens", 1, LIMIT_CONTEXT_TOKENS, &f.context_tokens));
    TRY_OR_FAIL(json_read_u32_optional(j, where, "bos_token", 0, f.vocab - 1, &f.bos_token));
    TRY_OR_FAIL(json_read_u32_optional(j, where, "pad_token", 0, f.vocab - 1, &f.pad_token));
    TRY_OR_FAIL(read_end_tokens(j, where, &f));
    TRY_OR_FAIL(json_read_double_optional(j, where, "default_temperature", 0, 2, &f.default_temperature));
    TRY_OR_FAIL(json_read_double_optional(j, where, "default_top_p", 0, 1, &f.default_top_p));
    TRY_OR_FAIL(json_read_u32_optional(j, where, "default_top_k", 0, UINT32_MAX, &f.default_top_k));
    TRY_OR_FAIL(read_word(j, where, "layout", f.layout, sizeof f.layout));
    TRY_OR_FAIL(read_word(j, where, "checkpoint_hash", f.checkpoint_hash, sizeof f.checkpoint_hash));
    TRY_OR_FAIL(read_bytes(j, where, "weight_bytes", &f.weight_bytes));
    TRY_OR_FAIL(read_bytes(j, where, "kv_bytes_total", &f.kv_bytes_total));
    TRY_OR_FAIL(read_budget(j, where, &f));
    *facts = f;
fail:
    json_decref(j);
    return st;
}

status plan_run(const engine_options *options, strbuf *json) {
    command c = {0};
    output out[2] = {{.fd = -1}, {.fd = -1}};
    pid_t child = 0;
    int how = 0;
    status st;
    TRY_OR_FAIL(command_plan(&c, options));
    TRY_OR_FAIL(start(c.word, out, &child));
    TRY_OR_FAIL(read_both(out, c.word[0]));
    while (waitpid(child, &how, 0) < 0 && errno == EINTR) continue;
    child = 0;
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 0)
        st = plan_refusal(how, strbuf_text(&out[1].bytes), out[1].bytes.size, c.word[0]);
    else strbuf_add(json, strbuf_text(&out[0].bytes), out[0].bytes.size);
fail:
    if (child > 0) {
        kill(child, SIGKILL);
        while (waitpid(child, &how, 0) < 0 && errno == EINTR) continue;
    }
    for (int i = 0; i < 2; i++) {
        if (out[i].fd >= 0) close(out[i].fd);
        strbuf_close(&out[i].bytes);
    }
    command_close(&c);
    return st;
}

status engine_plan(const engine_options *options, model_facts *facts) {
    strbuf json = {0};
    TRY(plan_run(options, &json));
    *facts = (model_facts){0};
    status st = realpath(options->model_path, facts->path)
                    ? plan_read_facts(strbuf_text(&json), json.size, "gemmad-shard plan", facts)
                    : fail_errno(ST_NOT_FOUND, "%s", options->model_path);
    strbuf_close(&json);
    return st;
}
