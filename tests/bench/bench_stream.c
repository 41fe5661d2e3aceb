// link: ctl_core shard_link
/* What gemmad costs a token on its way: 64 streams of one event a token through a gemmad whose engine computes nothing,
 * beside the same events from a bare gRPC C core server in the same run. The client and its connection are the same.
 *
 *     bench_stream [--tokens N] [--interval MS] [--repeat N]
 *
 * Each repeat alternates the two servers. First as fast as they can: events a second. Then paced, every stream an event
 * each interval (20 ms, 3,200 events a second): how late an event is at the client. A token's id is the time at which its
 * server made it, in microseconds modulo 2^20, so both clocks are one.
 *
 * This program is the client, the bare server, and, copied beside gemmad as gemmad-shard, the engine that computes
 * nothing. */
#include <fcntl.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "proto/gemmad.pb-c.h"
#include "shard/link/link.h"
#include "shard/link/watchdog.h"

enum {
    STREAMS = 64,
    CLOCK_IDS = 1 << 20,
    REPEATS_MAX = 32,
    FIRST_TOKEN = 16 /* ids below may end an answer */
};

/* Ids below FIRST_TOKEN are spared: 16 microseconds in a second. */
static uint32_t time_id(void) {
    uint32_t id = (uint32_t)(clock_now_ns() / 1000 % CLOCK_IDS);
    return id < FIRST_TOKEN ? FIRST_TOKEN : id;
}

static double late_us(uint32_t id) { return (double)((uint32_t)(clock_now_ns() / 1000 - id) % CLOCK_IDS); }

static void die(const char *what) {
    fprintf(stderr, "bench_stream: %s\n", what);
    exit(1);
}

/* ---- the engine that computes nothing; top_k of a request is its pace in milliseconds, 0 for none ---- */

typedef struct stub_request {
    link_request *request;
    uint32_t emitted;
    bool started;
} stub_request;

static status stub_token(link_connection *l, stub_request *r, bool *done) {
    uint64_t id = r->request->id;
    if (!r->started) TRY(link_send_started(l, id, 0, 0));
    r->started = true;
    uint32_t token = time_id();
    TRY(link_send_tokens(l, id, &token, 1, NULL));
    *done = ++r->emitted == r->request->sampling.max_tokens;
    if (!*done) return ST_OK;
    return link_send_finished(l, id, &(link_finish){.reason = "length"});
}

static void stub_forget(stub_request *r, uint32_t *n, uint32_t i) {
    link_request_free(r[i].request);
    r[i] = r[--*n];
}

static status stub_event(stub_request *r, uint32_t *n, const link_event *e, bool *drained) {
    if (e->kind == LINK_SUBMIT) r[(*n)++] = (stub_request){.request = e->request};
    else if (e->kind == LINK_DRAIN) *drained = true;
    else if (e->kind == LINK_PAUSE && e->paused)
        return fail(ST_INTERNAL, "the client is too slow: a stream is paused");
    for (uint32_t i = 0; e->kind == LINK_CANCEL && i < *n; i++)
        if (r[i].request->id == e->id) stub_forget(r, n, i);
    return ST_OK;
}

/* A step is one token for every stream and one flush, as an engine has it. */
static status stub_serve(link_connection *l) {
    stub_request r[LIMIT_REQUESTS_PER_ENGINE];
    uint32_t n = 0;
    bool drained = false;
    uint64_t next_ns = 0;
    while (!drained || n) {
        link_event e;
        uint64_t now = clock_now_ns();
        bool held = link_backlog_bytes(l) > LINK_BACKLOG_STOP;
        int wait = !n ? -1 : held ? 10 : now >= next_ns ? 0 : (int)((next_ns - now) / 1000000);
        status st = link_poll(l, wait, &e);
        if (st == ST_OK) TRY(stub_event(r, &n, &e, &drained));
        if (st == ST_OK || (st == ST_TIMEOUT && (held || !n || clock_now_ns() < next_ns))) continue;
        if (st != ST_TIMEOUT) return st;
        next_ns = (next_ns ? next_ns : now) + (uint64_t)r[0].request->sampling.top_k * 1000000;
        if (next_ns < now) next_ns = now;
        for (uint32_t i = 0; i < n;) {
            bool done = false;
            TRY(stub_token(l, &r[i], &done));
            if (done) stub_forget(r, &n, i);
            else i++;
        }
        TRY(link_flush(l));
    }
    return ST_OK;
}

static const char *argument(int argc, char **argv, const char *name) {
    for (int i = 2; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    return "";
}

static int stub_main(int argc, char **argv) {
    static link_progress progress;
    if (!strcmp(argv[1], "plan")) {
        printf(
            "{\"vocab\": %d, \"context_tokens\": 1000000, \"bos_token\": 2, \"pad_token\": 0, "
            "\"end_tokens\": [1], "
            "\"default_temperature\": 1.0, \"default_top_p\": 1.0, \"default_top_k\": 0, \"layout\": \"tp "
            "1\", "
            "\"checkpoint_hash\": \"stub\", \"weight_bytes\": 0, \"kv_bytes_total\": 0, \"kv_type\": "
            "\"bf16\", "
            "\"context_model\": 1000000, \"kv_requests\": 64, \"kv_bytes_full\": 0, \"kv_bytes_sliding\": 0, "
            "\"kv_pool_bytes\": 0, \"activation_bytes\": 0, \"kv_tokens\": 64000000}\n",
            CLOCK_IDS);
        return 0;
    }
    log_open("stub", LOG_WARN);
    link_options o = {.address = argument(argc, argv, "--link")};
    link_connection *l = NULL;
    link_rank_info rank = {
        .pid = (uint32_t)getpid(), .threads = 1, .state = "ready", .isa = "none", .host = "here"};
    link_hello hello = {.build_id = "stub",
                        .layout = "tp 1",
                        .context_tokens = 1000000,
                        .vocab = CLOCK_IDS,
                        .checkpoint_hash = "stub",
                        .requests_max = LIMIT_REQUESTS_PER_ENGINE,
                        .ranks = &rank,
                        .rank_count = 1};
    status st = watchdog_follow_parent();
    if (st == ST_OK) st = link_read_secret(argument(argc, argv, "--secret-file"), o.secret);
    if (st == ST_OK) st = link_open(&l, &o);
    if (st == ST_OK) st = link_start_heartbeat(l, &progress, NULL, 0);
    if (st == ST_OK) st = link_say_hello(l, &hello, NULL);
    if (st == ST_OK) st = stub_serve(l);
    if (st != ST_OK) log_error("%s", status_text());
    link_close(l);
    return st == ST_OK ? 0 : 1;
}

/* ---- messages ---- */

static grpc_byte_buffer *pack(const ProtobufCMessage *m) {
    size_t n = protobuf_c_message_get_packed_size(m);
    grpc_slice slice = grpc_slice_malloc(n);
    protobuf_c_message_pack(m, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *b = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return b;
}

static void *unpack(const ProtobufCMessageDescriptor *d, grpc_byte_buffer *b) {
    grpc_byte_buffer_reader reader;
    INVARIANT(grpc_byte_buffer_reader_init(&reader, b));
    grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
    void *m = protobuf_c_message_unpack(d, NULL, GRPC_SLICE_LENGTH(whole), GRPC_SLICE_START_PTR(whole));
    grpc_slice_unref(whole);
    grpc_byte_buffer_reader_destroy(&reader);
    INVARIANT(m);
    return m;
}

static grpc_byte_buffer *token_event(uint32_t id) {
    Gemmad__V1__GenerateEvent e = GEMMAD__V1__GENERATE_EVENT__INIT;
    Gemmad__V1__GenerateDelta d = GEMMAD__V1__GENERATE_DELTA__INIT;
    d.has_index = 1;
    d.n_token_ids = 1;
    d.token_ids = &id;
    e.event_case = GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA;
    e.delta = &d;
    return pack(&e.base);
}

static gpr_timespec in_ms(uint64_t ms) {
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis((int64_t)ms, GPR_TIMESPAN));
}

/* ---- the bare server ---- */

typedef struct bare_call {
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *received, *sending;
    uint32_t left, interval_ms, waiting; /* waiting: events due and not sent */
    bool busy, asked, ended;
    grpc_slice text;
} bare_call;

typedef struct bare_server {
    grpc_server *server;
    grpc_completion_queue *queue;
    bare_call *call[STREAMS];
    uint32_t count;
} bare_server;

static void bare_accept(bare_server *s) {
    bare_call *c = memory_alloc(sizeof *c);
    grpc_call_details_init(&c->details);
    grpc_metadata_array_init(&c->metadata);
    grpc_call_error error =
        grpc_server_request_call(s->server, &c->call, &c->details, &c->metadata, s->queue, s->queue, c);
    INVARIANT(error == GRPC_CALL_OK);
}

static void bare_start(bare_call *c, const grpc_op *ops, size_t n) {
    c->busy = true;
    INVARIANT(grpc_call_start_batch(c->call, ops, n, c, NULL) == GRPC_CALL_OK);
}

static void bare_send(bare_call *c) {
    c->sending = token_event(time_id());
    c->left--;
    if (c->waiting) c->waiting--;
    grpc_op ops[2] = {{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = c->sending}};
    size_t n = 1;
    if (c->left == 0) {
        c->text = grpc_empty_slice();
        ops[n++] =
            (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
                      .data.send_status_from_server = {.status = GRPC_STATUS_OK, .status_details = &c->text}};
        c->ended = true;
    }
    bare_start(c, ops, n);
}

static void bare_begin(bare_server *s, bare_call *c) {
    grpc_op ops[] = {{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->received},
                     {.op = GRPC_OP_SEND_INITIAL_METADATA}};
    INVARIANT(s->count < STREAMS);
    s->call[s->count++] = c;
    c->asked = true;
    bare_start(c, ops, 2);
    bare_accept(s);
}

static void bare_end(bare_server *s, bare_call *c) {
    for (uint32_t i = 0; i < s->count; i++)
        if (s->call[i] == c) s->call[i] = s->call[--s->count];
    grpc_call_unref(c->call);
    grpc_call_details_destroy(&c->details);
    grpc_metadata_array_destroy(&c->metadata);
    free(c);
}

static void bare_event(bare_server *s, bare_call *c) {
    c->busy = false;
    if (!c->asked) {
        bare_begin(s, c);
        return;
    }
    if (c->received) {
        Gemmad__V1__GenerateRequest *r = unpack(&gemmad__v1__generate_request__descriptor, c->received);
        c->left = r->sampling->max_tokens;
        c->interval_ms = r->sampling->top_k;
        protobuf_c_message_free_unpacked(&r->base, NULL);
        grpc_byte_buffer_destroy(c->received);
        c->received = NULL;
    }
    if (c->sending) grpc_byte_buffer_destroy(c->sending);
    c->sending = NULL;
    if (c->ended) bare_end(s, c);
    else if (!c->interval_ms || c->waiting) bare_send(c);
}

static void bare_tick(bare_server *s) {
    for (uint32_t i = 0; i < s->count; i++) {
        bare_call *c = s->call[i];
        if (!c->interval_ms || c->left == 0 || c->received) continue;
        c->waiting++;
        if (!c->busy) bare_send(c);
    }
}

static int bare_main(const char *address, uint64_t interval_ms) {
    bare_server s = {0};
    gpr_timespec tick;
    grpc_init();
    s.queue = grpc_completion_queue_create_for_next(NULL);
    s.server = grpc_server_create(NULL, NULL);
    grpc_server_register_completion_queue(s.server, s.queue, NULL);
    grpc_server_credentials *plain = grpc_insecure_server_credentials_create();
    if (!grpc_server_add_http2_port(s.server, address, plain)) die("the bare server cannot listen");
    grpc_server_start(s.server);
    bare_accept(&s);
    for (tick = in_ms(interval_ms);;) {
        grpc_event e = grpc_completion_queue_next(s.queue, tick, NULL);
        if (e.type == GRPC_OP_COMPLETE && e.success) bare_event(&s, e.tag);
        else if (e.type == GRPC_OP_COMPLETE) return 0;
        if (gpr_time_cmp(gpr_now(GPR_CLOCK_MONOTONIC), tick) < 0) continue;
        bare_tick(&s);
        tick = gpr_time_add(tick, gpr_time_from_millis((int64_t)interval_ms, GPR_TIMESPAN));
    }
}

/* ---- the client ---- */

typedef struct stream {
    grpc_call *call;
    grpc_byte_buffer *request, *message;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice details;
    uint32_t pending;
    bool ended;
} stream;

typedef struct measured {
    double events_per_s, late_us_median, late_us_p99;
} measured;

enum { TAG_OPEN, TAG_STATUS, TAG_MESSAGE, TAGS };

static void receive(stream *s, uintptr_t index) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->message};
    s->pending++;
    INVARIANT(grpc_call_start_batch(s->call, &op, 1, (void *)(index * TAGS + TAG_MESSAGE), NULL) ==
              GRPC_CALL_OK);
}

static void open_stream(stream *s, grpc_channel *channel, grpc_completion_queue *q, uintptr_t index,
                        const Gemmad__V1__GenerateRequest *r) {
    *s = (stream){.request = pack(&r->base), .pending = 2, .details = grpc_empty_slice()};
    s->call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, q,
                                       grpc_slice_from_static_string("/gemmad.v1.Inference/Generate"), NULL,
                                       gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    grpc_op open[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = s->request},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA,
                       .data.recv_initial_metadata.recv_initial_metadata = &s->initial}};
    grpc_op end = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                   .data.recv_status_on_client = {
                       .trailing_metadata = &s->trailing, .status = &s->code, .status_details = &s->details}};
    INVARIANT(grpc_call_start_batch(s->call, open, 4, (void *)(index * TAGS + TAG_OPEN), NULL) ==
              GRPC_CALL_OK);
    INVARIANT(grpc_call_start_batch(s->call, &end, 1, (void *)(index * TAGS + TAG_STATUS), NULL) ==
              GRPC_CALL_OK);
    receive(s, index);
}

static void close_stream(stream *s) {
    if (s->code != GRPC_STATUS_OK) {
        fprintf(stderr, "bench_stream: a stream ended with status %d: %.*s\n", (int)s->code,
                (int)GRPC_SLICE_LENGTH(s->details), (const char *)GRPC_SLICE_START_PTR(s->details));
        exit(1);
    }
    grpc_byte_buffer_destroy(s->request);
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_slice_unref(s->details);
    grpc_call_unref(s->call);
}

/* One event's tokens into late[]; how many. */
static size_t take_event(grpc_byte_buffer *message, double *late, size_t room) {
    Gemmad__V1__GenerateEvent *e = unpack(&gemmad__v1__generate_event__descriptor, message);
    size_t n = 0;
    if (e->event_case == GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA)
        for (; n < e->delta->n_token_ids && n < room; n++) late[n] = late_us(e->delta->token_ids[n]);
    protobuf_c_message_free_unpacked(&e->base, NULL);
    return n;
}

/* All streams at once, each of so many tokens; every token must come. */
static measured run_streams(grpc_channel *channel, grpc_completion_queue *q, uint32_t tokens,
                            uint32_t interval_ms) {
    stream s[STREAMS];
    Gemmad__V1__GenerateRequest r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    Gemmad__V1__TokenIds ids = GEMMAD__V1__TOKEN_IDS__INIT;
    Gemmad__V1__Sampling how = GEMMAD__V1__SAMPLING__INIT;
    uint32_t prompt = 5;
    size_t all = (size_t)STREAMS * tokens, got = 0, events = 0;
    double *late = memory_alloc_array(all, sizeof *late);
    ids.n_ids = 1, ids.ids = &prompt;
    how.has_max_tokens = how.has_top_k = 1;
    how.max_tokens = tokens, how.top_k = interval_ms;
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    r.token_ids = &ids, r.sampling = &how;
    uint64_t start = clock_now_ns();
    for (uintptr_t i = 0; i < STREAMS; i++) open_stream(&s[i], channel, q, i, &r);
    for (uint32_t live = STREAMS; live;) {
        grpc_event e = grpc_completion_queue_next(q, in_ms(30000), NULL);
        if (e.type != GRPC_OP_COMPLETE) die("nothing came for 30 s");
        uintptr_t index = (uintptr_t)e.tag / TAGS;
        stream *at = &s[index];
        at->pending--;
        if ((uintptr_t)e.tag % TAGS == TAG_MESSAGE && at->message) {
            size_t n = take_event(at->message, late + got, all - got);
            got += n, events += n > 0;
            grpc_byte_buffer_destroy(at->message);
            at->message = NULL;
            receive(at, index);
        }
        if (at->pending == 0) close_stream(at), live--;
    }
    double seconds = (double)(clock_now_ns() - start) / 1e9;
    if (got != all || events != all) die("tokens are missing, or came together in one event");
    statistics_sort(late, got);
    measured m = {(double)got / seconds, statistics_median(late, got), statistics_percentile(late, got, 99)};
    free(late);
    return m;
}

static measured run_at(const char *address, uint32_t tokens, uint32_t interval_ms) {
    grpc_completion_queue *q = grpc_completion_queue_create_for_next(NULL);
    grpc_channel_credentials *plain = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, plain, NULL);
    grpc_channel_credentials_release(plain);
    measured m = run_streams(channel, q, tokens, interval_ms);
    grpc_channel_destroy(channel);
    grpc_completion_queue_shutdown(q);
    while (grpc_completion_queue_next(q, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(q);
    return m;
}

/* ---- both ---- */

static pid_t start(char *const argv[], const char *log) {
    pid_t pid = fork();
    if (pid) return pid;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(fd, 2);
    execv(argv[0], argv);
    _exit(127);
}

static void copy_program(const char *from, const char *to) {
    char command[9000];
    snprintf(command, sizeof command, "cp '%s' '%s'", from, to);
    if (system(command) != 0) die("cannot copy a program");
}

static void print_row(const char *name, double *bare, double *ours, size_t n, bool more_is_better) {
    statistics_sort(bare, n);
    statistics_sort(ours, n);
    double a = statistics_median(bare, n), b = statistics_median(ours, n);
    printf("%-28s %12.0f %12.0f %10.2f x  (%s)\n", name, a, b, b / a,
           more_is_better ? "at least 0.50" : "at most 2.00");
}

static void compare(const char *bare, const char *ours, uint32_t tokens, uint32_t interval_ms,
                    uint32_t repeats) {
    double fast[2][REPEATS_MAX], median[2][REPEATS_MAX], p99[2][REPEATS_MAX];
    const char *address[2] = {bare, ours};
    for (uint32_t i = 0; i < repeats; i++)
        for (int k = 0; k < 2; k++) {
            fast[k][i] = run_at(address[k], tokens, 0).events_per_s;
            measured m = run_at(address[k], 200, interval_ms);
            median[k][i] = m.late_us_median, p99[k][i] = m.late_us_p99;
        }
    printf("%d streams, medians of %u alternating runs\n%-28s %12s %12s\n", STREAMS, repeats, "", "bare gRPC",
           "gemmad");
    print_row("events a second", fast[0], fast[1], repeats, true);
    print_row("median lateness, us", median[0], median[1], repeats, false);
    statistics_sort(p99[0], repeats), statistics_sort(p99[1], repeats);
    printf("%-28s %12.0f %12.0f\n", "p99 lateness, us", statistics_median(p99[0], repeats),
           statistics_median(p99[1], repeats));
}

static void wait_for_socket(const char *path, pid_t pid) {
    for (int i = 0; i < 300 && access(path, F_OK) != 0; i++) {
        if (waitpid(pid, NULL, WNOHANG) != 0)
            die("a server ended at its start; see the log beside its socket");
        usleep(100000);
    }
}

int main(int argc, char **argv) {
    const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    uint32_t tokens = 2000, interval_ms = 20, repeats = 5;
    if (!strcmp(name, "gemmad-shard") && argc > 1) return stub_main(argc, argv);
    if (argc > 3 && !strcmp(argv[1], "bare")) return bare_main(argv[2], (uint64_t)atoi(argv[3]));
    for (int i = 1; i + 1 < argc; i += 2) {
        uint32_t value = (uint32_t)atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--tokens")) tokens = value;
        else if (!strcmp(argv[i], "--interval")) interval_ms = value;
        else if (!strcmp(argv[i], "--repeat")) repeats = value < REPEATS_MAX ? value : REPEATS_MAX;
        else die("options are --tokens N, --interval MS, --repeat N");
    }
    char dir[] = "/tmp/bench_stream-XXXXXX", self[4096], path[6][4200], interval[16];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0 || !mkdtemp(dir)) die("cannot make a folder in /tmp");
    self[n] = 0;
    char *slash = strrchr(self, '/');
    snprintf(path[0], sizeof path[0], "%.*s/../gemmad", (int)(slash - self), self);
    snprintf(path[1], sizeof path[1], "%s/gemmad", dir);
    snprintf(path[2], sizeof path[2], "%s/gemmad-shard", dir);
    snprintf(path[3], sizeof path[3], "unix:%s/bare.sock", dir);
    snprintf(path[4], sizeof path[4], "unix:%s/gemmad.sock", dir);
    snprintf(path[5], sizeof path[5], "%s/log", dir);
    snprintf(interval, sizeof interval, "%u", interval_ms);
    copy_program(path[0], path[1]);
    copy_program(self, path[2]);
    pid_t ours = start((char *[]){path[1], "--model", dir, "--state", dir, "--listen", path[4],
                                  "--queue-per-client", "256", NULL},
                       path[5]);
    pid_t bare = start((char *[]){self, "bare", path[3], interval, NULL}, path[5]);
    grpc_init();
    wait_for_socket(path[3] + strlen("unix:"), bare);
    wait_for_socket(path[4] + strlen("unix:"), ours);
    sleep(3); /* the engine says that it is ready */
    compare(path[3], path[4], tokens, interval_ms, repeats);
    kill(ours, SIGTERM);
    kill(bare, SIGKILL);
    waitpid(ours, NULL, 0);
    waitpid(bare, NULL, 0);
    char command[4300];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command) == 0 ? 0 : 1;
}
