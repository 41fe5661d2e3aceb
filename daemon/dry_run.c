#include "daemon/dry_run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/shape.h"
#include "daemon/engine/plan.h"

enum { REQUESTS_PLANNED = 16 };
static const uint64_t PLENTY_BYTES = UINT64_C(1) << 44;

static status plan(const engine_options *o, json_t **out) {
    strbuf text = {0};
    status st = plan_run(o, &text);
    if (st == ST_OK) st = json_read_bytes(strbuf_text(&text), text.size, "gemmad-shard plan", out);
    strbuf_close(&text);
    return st;
}

static uint64_t number(const json_t *object, const char *key) {
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 ? (uint64_t)n : 0;
}

/* A size is planned for machines that are not this one, so this one's free memory says nothing: a first plan
 * without a bound tells what weights and one request need, the second has just that for the default number of
 * requests. */
static status plan_shape(engine_options *o, json_t **out) {
    if (o->memory_bytes) return plan(o, out);
    json_t *loose = NULL, *rank;
    size_t i;
    uint64_t need = 0, slab = 0;
    o->memory_bytes = PLENTY_BYTES;
    TRY(plan(o, &loose));
    json_array_foreach(json_object_get(loose, "per_rank"), i, rank) {
        uint64_t n = number(rank, "weight_bytes") + number(rank, "activation_bytes");
        if (n > need) need = n;
        if (number(rank, "kv_slab_bytes") > slab) slab = number(rank, "kv_slab_bytes");
    }
    o->memory_bytes = need + REQUESTS_PLANNED * number(loose, "kv_request_slabs") * slab;
    if (!o->context) o->context = (uint32_t)number(loose, "context_tokens");
    json_decref(loose);
    return plan(o, out);
}

/* Written to a folder of its own: the plan reads a model's directory, as it will for a real one. */
static status plan_published(const gemmad_options *asked, json_t **out) {
    const char *base = getenv("TMPDIR");
    char folder[512];
    int n = snprintf(folder, sizeof folder, "%s/gemmad-shape-XXXXXX", base && *base ? base : "/tmp");
    if (n < 0 || (size_t)n >= sizeof folder) return fail(ST_IO, "TMPDIR is too long a path");
    strbuf text = {0};
    TRY(shape_write_config(asked->shape, 0, &text));
    status st = ST_OK;
    char *file = NULL;
    if (!mkdtemp(folder)) {
        st = fail_errno(ST_IO, "%s", folder);
        goto fail;
    }
    file = file_join(folder, "config.json");
    int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text.data, text.size) != (ssize_t)text.size) st = fail_errno(ST_IO, "%s", file);
    if (fd >= 0) close(fd);
    if (st == ST_OK) {
        engine_options o = settings_engine_options(asked, folder);
        st = plan_shape(&o, out);
    }
    unlink(file);
    rmdir(folder);
fail:
    free(file);
    strbuf_close(&text);
    return st;
}

static double gib(uint64_t bytes) { return (double)bytes / (1024.0 * 1024 * 1024); }

static void print_plan(const char *name, const json_t *p) {
    uint64_t replicas = number(p, "replicas");
    const char *layout = json_string_value(json_object_get(p, "layout"));
    unsigned long long context = number(p, "context_tokens"), limit = number(p, "context_model");
    size_t i;
    json_t *rank;
    printf("%s\n", name);
    if (replicas > 1) printf("  replicas         %llu engines, each:\n", (unsigned long long)replicas);
    printf("  layout           %s\n", layout ? layout : "");
    if (json_object_get(p, "device_free_bytes"))
        printf("  GPUs             %10.3f GiB free\n", gib(number(p, "device_free_bytes")));
    printf("  context          %llu tokens", context);
    if (json_is_true(json_object_get(p, "context_cut")))
        printf(", cut from %llu: memory holds no more", limit);
    printf("\n");
    printf("  weights          %10.3f GiB, all ranks\n", gib(number(p, "weight_bytes")));
    printf("  KV, one request  %10.3f GiB: full layers %.3f, sliding %.3f\n",
           gib(number(p, "kv_bytes_total")), gib(number(p, "kv_bytes_full")),
           gib(number(p, "kv_bytes_sliding")));
    printf("  KV, in all       %10.3f GiB in %s: %llu tokens, %llu requests of the whole context\n",
           gib(number(p, "kv_pool_bytes")), json_string_value(json_object_get(p, "kv_type")),
           (unsigned long long)number(p, "kv_tokens"), (unsigned long long)number(p, "kv_requests"));
    printf("  activations      %10.3f GiB\n", gib(number(p, "activation_bytes")));
    json_array_foreach(json_object_get(p, "per_rank"), i, rank) printf(
        "  rank %-4zu        %10.3f GiB: weights %.3f, KV %.3f, activations %.3f\n", i,
        gib(number(rank, "weight_bytes") + number(rank, "kv_bytes") + number(rank, "activation_bytes")),
        gib(number(rank, "weight_bytes")), gib(number(rank, "kv_bytes")),
        gib(number(rank, "activation_bytes")));
}

/* One object for one model, a list of them for several. */
static status print_all(const settings *s, json_t *plans) {
    size_t i;
    json_t *p;
    if (s->options.json) {
        p = json_array_size(plans) == 1 ? json_array_get(plans, 0) : plans;
        if (json_dumpf(p, stdout, JSON_INDENT(2)) != 0) return fail(ST_IO, "cannot write the plan");
        putchar('\n');
    } else {
        json_array_foreach(plans, i, p) print_plan(json_string_value(json_object_get(p, "model")), p);
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? ST_OK : fail_errno(ST_IO, "cannot write the plan");
}

status dry_run(const settings *s) {
    json_t *plans = json_array();
    uint32_t count = s->options.shape ? 1 : s->model_count;
    status st = ST_OK;
    for (uint32_t i = 0; st == ST_OK && i < count; i++) {
        const char *name = s->options.shape ? s->options.shape : s->model[i].name;
        json_t *p = NULL;
        if (s->options.shape) {
            st = plan_published(&s->options, &p);
        } else {
            engine_options o = settings_engine_options(&s->model[i].options, s->model[i].path);
            st = plan(&o, &p);
        }
        if (st != ST_OK) {
            st = fail_within(st, "model %s", name);
            break;
        }
        json_object_set_new(p, "model", json_string(name));
        json_object_set_new(
            p, "replicas",
            json_integer(s->options.shape ? s->options.replicas : s->model[i].options.replicas));
        json_array_append_new(plans, p);
    }
    if (st == ST_OK) st = print_all(s, plans);
    json_decref(plans);
    return st;
}
