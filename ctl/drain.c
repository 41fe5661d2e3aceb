/* gemmactl drain [--keep-engines] [--wait SECONDS] */
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "ctl/ctl.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"

enum { LOOK_MS = 200, LOOK_CALL_MS = 5000 };

typedef struct drain_options {
    bool keep_engines;
    arg_u32 wait_s;
} drain_options;

#define AT(field) offsetof(drain_options, field)

static const arg_option own_option[] = {
    {"keep-engines", ARG_FLAG, NULL, AT(keep_engines), 0, 0,
     "leave the engines to the next gemmad, for an upgrade; default: they end too"},
    {"wait", ARG_U32, "SECONDS", AT(wait_s), 0, 604800, "until the daemon is gone; 1 when it is not by then"},
};

static status begin(const ctl *c, bool keep_engines) {
    Gemmad__V1__DrainRequest request = GEMMAD__V1__DRAIN_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    client *server;
    TRY(ctl_connect(c, &server));
    request.has_keep_engines = keep_engines;
    request.keep_engines = keep_engines;
    status st = client_call(server, "/gemmad.v1.Control/Drain", &request.base,
                            &gemmad__v1__drain_response__descriptor, CTL_CALL_MS, &m);
    if (m) protobuf_c_message_free_unpacked(m, NULL);
    client_close(server);
    return st;
}

/* ST_UNAVAILABLE when nobody answers any more. */
static status look(const ctl *c, uint32_t *running) {
    Gemmad__V1__GetStatusRequest request = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    client *server;
    TRY(client_open(&server, c->server, LOOK_CALL_MS));
    status st = client_call(server, "/gemmad.v1.Control/GetStatus", &request.base,
                            &gemmad__v1__get_status_response__descriptor, LOOK_CALL_MS, &m);
    client_close(server);
    TRY(st);
    const Gemmad__V1__GetStatusResponse *s = (void *)m;
    *running = s->requests_running + s->requests_waiting;
    protobuf_c_message_free_unpacked(m, NULL);
    return ST_OK;
}

static status wait_until_gone(const ctl *c, uint32_t seconds) {
    uint64_t end_ns = clock_now_ns() + (uint64_t)seconds * 1000000000u;
    for (;;) {
        uint32_t running = 0;
        char line[96];
        status st = look(c, &running);
        if (st == ST_UNAVAILABLE) return ST_OK;
        if (client_interrupt()) return fail(ST_CANCELLED, "interrupted; the daemon goes on draining");
        if (clock_now_ns() >= end_ns)
            return fail(ST_TIMEOUT, "%s is still there after %u s, with %u requests", c->server, seconds,
                        running);
        snprintf(line, sizeof line, "draining, %u requests left", running);
        terminal_progress(line);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
}

static status print(const ctl *c, const drain_options *o, bool gone) {
    json_writer w = {0};
    if (c->json) {
        json_begin(&w, '{');
        json_key(&w, "state"), json_string(&w, gone ? "gone" : "draining");
        json_key(&w, "keep_engines"), json_bool(&w, o->keep_engines);
        json_end(&w, '}');
    } else {
        strbuf_add_format(&w.out, "%s %s%s", c->server,
                          gone ? "is gone" : "finishes what runs and takes no new requests",
                          o->keep_engines ? "; its engines wait for the next gemmad" : "");
    }
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static status run(ctl *c, const void *values, const arg_words *words) {
    const drain_options *o = values;
    if (words->count) return ctl_usage(c, "drain takes no words, and got \"%s\"", words->at[0]);
    TRY(begin(c, o->keep_engines));
    status st = o->wait_s.set ? wait_until_gone(c, o->wait_s.value) : ST_OK;
    terminal_progress(NULL);
    return st == ST_OK ? print(c, o, o->wait_s.set) : st;
}

const command command_drain = {
    "drain",
    "",
    "finish what runs, refuse what is new, and end",
    own_option,
    sizeof own_option / sizeof *own_option,
    sizeof(drain_options),
    false,
    run,
};
