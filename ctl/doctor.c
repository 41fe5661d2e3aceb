/* gemmactl doctor: what is wrong here, how to mend it, and what speed to expect (that part is gemmad-shard's). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "ctl/beside.h"
#include "ctl/child.h"
#include "ctl/ctl.h"
#include "ctl/doctor_gather.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"

enum { MEASURES_MAX = 1 << 20, WORDS_MAX = 20 };

typedef struct doctor_options {
    const char *model, *shape, *weights, *device, *read, *certificate, *key;
    arg_u32 ranks, threads;
    bool quick;
} doctor_options;

#define AT(field) offsetof(doctor_options, field)

static const arg_option own_option[] = {
    {"model", ARG_TEXT, "PATH", AT(model), 0, 0, "also check this model, and say what speed to expect of it"},
    {"shape", ARG_WORD, "31b|26b-a4b|e4b|e2b", AT(shape), 0, 0,
     "speed of this published size alone; default: of all"},
    {"weights", ARG_WORD, "bf16|q8|q4|f32|fp8", AT(weights), 0, 0,
     "type of the matrices; default q4, of --model as stored; fp8 on a GPU"},
    {"device", ARG_WORD, "auto|cpu|cuda", AT(device), 0, 0, "what is measured; auto: GPUs where there are some"},
    {"ranks", ARG_U32, "N", AT(ranks), 1, 1024,
     "ranks on this machine; default: one for each GPU; else 2, or 1 on a single CPU"},
    {"threads", ARG_U32, "N", AT(threads), 1, 512,
     "threads of a rank; default: the CPUs divided by the ranks"},
    {"read", ARG_TEXT, "BYTES", AT(read), 0, 0,
     "memory that the read bandwidth is measured on; default 4GiB, on a GPU 8GiB"},
    {"server-cert", ARG_TEXT, "FILE", AT(certificate), 0, 0, "also check this certificate, of a gemmad here"},
    {"server-key", ARG_TEXT, "FILE", AT(key), 0, 0, "and its private key"},
    {"quick", ARG_FLAG, NULL, AT(quick), 0, 0, "measure nothing: only the checks"},
};

typedef struct words {
    const char *at[WORDS_MAX + 1];
    int count;
    char numbers[2][16];
} words;

static void add(words *w, const char *name, const char *value) {
    if (!value) return;
    w->at[w->count++] = name;
    w->at[w->count++] = value;
}

static void add_number(words *w, int slot, const char *name, arg_u32 n) {
    snprintf(w->numbers[slot], sizeof w->numbers[slot], "%u", n.value);
    if (n.set) add(w, name, w->numbers[slot]);
}

/* gemmad-shard's measurement; with --json its object, less the brackets, goes to *out. */
static status measure(const ctl *c, const doctor_options *o, strbuf *out) {
    char *shard = NULL;
    words w = {.count = 2};
    int code = 0;
    TRY(beside_path(&shard, "gemmad-shard"));
    w.at[0] = shard, w.at[1] = "doctor";
    add(&w, "--model", o->model);
    add(&w, "--shape", o->shape);
    add(&w, "--weights", o->weights);
    add(&w, "--device", o->device);
    add(&w, "--read", o->read);
    add_number(&w, 0, "--ranks", o->ranks);
    add_number(&w, 1, "--threads", o->threads);
    if (c->json) w.at[w.count++] = "--json";
    out->max = MEASURES_MAX;
    status st = child_run(&(child_options){.argv = w.at}, out, &code);
    free(shard);
    if (st == ST_OK && code != 0) st = fail(ST_INTERNAL, "gemmad-shard doctor ended with %d", code);
    return st;
}

/* ---- saying it ---- */

static void write_json(json_writer *w, const doctor_report *r) {
    json_key(w, "verdict"), json_string(w, doctor_level_name(doctor_worst(r)));
    json_key(w, "checks");
    json_begin(w, '[');
    for (uint32_t i = 0; i < r->count; i++) {
        const doctor_line *line = &r->line[i];
        json_begin(w, '{');
        json_key(w, "check"), json_string(w, line->check);
        json_key(w, "level"), json_string(w, doctor_level_name(line->level));
        json_key(w, "said"), json_string(w, line->said);
        json_key(w, "remedy");
        if (line->remedy[0]) json_string(w, line->remedy);
        else json_null(w);
        json_end(w, '}');
    }
    json_end(w, ']');
}

/* The measurement's keys stand beside the checks. */
static status print_json(const doctor_report *r, const strbuf *measures) {
    json_writer w = {0};
    json_begin(&w, '{');
    write_json(&w, r);
    const char *open = strchr(strbuf_text(measures), '{'), *close = strrchr(strbuf_text(measures), '}');
    if (open && close > open) {
        strbuf_add_string(&w.out, ", ");
        strbuf_add(&w.out, open + 1, (size_t)(close - open - 1));
    }
    json_end(&w, '}');
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static void add_line(strbuf *out, const doctor_line *line) {
    static const char *const colour[] = {"\x1b[32m", "\x1b[33m", "\x1b[31m"};
    bool styled = terminal_has_styles();
    strbuf said = {0}, remedy = {0};
    terminal_make_safe(&said, line->said, strlen(line->said));
    terminal_make_safe(&remedy, line->remedy, strlen(line->remedy));
    strbuf_add_format(out, "%s%-4s%s  %-14s %s\n", styled ? colour[line->level] : "",
                      doctor_level_name(line->level), styled ? "\x1b[0m" : "", line->check,
                      strbuf_text(&said));
    if (remedy.size) strbuf_add_format(out, "%22s→ %s\n", "", strbuf_text(&remedy));
    strbuf_close(&said);
    strbuf_close(&remedy);
}

static status print_text(const doctor_report *r) {
    strbuf out = {0};
    for (uint32_t i = 0; i < r->count; i++) add_line(&out, &r->line[i]);
    out.data[--out.size] = 0; /* terminal_write_styled_line adds the last one */
    status st = terminal_write_styled_line(&out);
    strbuf_close(&out);
    return st;
}

static status gather(ctl *c, const doctor_options *o, doctor_facts *f) {
    const doctor_question q = {.model = o->model,
                               .weights = o->weights,
                               .device = o->device,
                               .certificate = o->certificate ? o->certificate : c->access.tls_cert,
                               .key = o->key ? o->key : c->access.tls_key,
                               .ranks = o->ranks.value};
    terminal_progress("looking at this machine");
    doctor_gather_machine(f);
    doctor_gather_tls(f, &q);
    terminal_progress("asking mpirun and the other programs");
    TRY(doctor_gather_programs(f, &q));
    terminal_progress("asking the daemon");
    TRY(doctor_gather_daemon(f, c));
    terminal_progress(NULL);
    return ST_OK;
}

static status examine(ctl *c, const doctor_options *o, doctor_report *r) {
    strbuf measures = {0};
    status st = c->json ? ST_OK : print_text(r);
    if (st == ST_OK && !o->quick) {
        terminal_progress("measuring");
        st = measure(c, o, &measures);
        terminal_progress(NULL);
    }
    if (st == ST_OK && c->json) {
        st = print_json(r, &measures);
    } else if (st == ST_OK && measures.size) {
        st = terminal_write_line(&(strbuf){0});
        if (st == ST_OK) st = terminal_write_text(measures.data, measures.size);
    }
    strbuf_close(&measures);
    return st;
}

static status run(ctl *c, const void *values, const arg_words *rest) {
    const doctor_options *o = values;
    if (rest->count) return ctl_usage(c, "doctor takes no words, and got \"%s\"", rest->at[0]);
    doctor_report *r = memory_alloc(sizeof *r);
    doctor_facts f = {0};
    status st = gather(c, o, &f);
    terminal_progress(NULL);
    if (st == ST_OK) {
        doctor_check_all(r, &f);
        st = examine(c, o, r);
    }
    uint32_t failed = 0;
    for (uint32_t i = 0; i < r->count; i++) failed += r->line[i].level == DOCTOR_FAIL;
    if (st == ST_OK && failed) st = fail(ST_UNAVAILABLE, "%u of %u checks failed", failed, r->count);
    doctor_facts_close(&f);
    free(r);
    return st;
}

const command command_doctor = {
    "doctor",
    "",
    "what is wrong with this machine, model or daemon, how to mend it, and what speed to expect",
    own_option,
    sizeof own_option / sizeof *own_option,
    sizeof(doctor_options),
    false,
    run,
};
