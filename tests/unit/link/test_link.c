/* The leader's end against a hand-made gemmad that speaks frames over a socket. */
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "proto/engine_check.h"
#include "shard/link/internal.h"
#include "tests/test.h"

typedef struct fake_gemmad {
    char dir[32], address[64];
    int listener, fd;
    frame_reader reader;
    bool refuse;     /* hangs up on the hello */
    bool sees_ready; /* the ready hello follows at once, and is answered too */
    int heartbeats;
    Gemmad__Engine__Heartbeat beat; /* the last */
} fake_gemmad;

static const uint8_t secret[LIMIT_SECRET_BYTES] = "0123456789abcdef0123456789abcde";

static void fake_listen(fake_gemmad *g) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", g->address + 5);
    g->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(g->listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(g->listener, 4) == 0);
    frame_reader_open(&g->reader, LIMIT_MESSAGE_BYTES);
}

static void fake_open(fake_gemmad *g) {
    *g = (fake_gemmad){.fd = -1};
    strcpy(g->dir, "/tmp/gemmad-test-XXXXXX");
    CHECK(mkdtemp(g->dir) != NULL);
    snprintf(g->address, sizeof g->address, "unix:%s/s", g->dir);
    fake_listen(g);
}

static void fake_hang_up(fake_gemmad *g) {
    if (g->fd >= 0) close(g->fd);
    g->fd = -1;
    frame_reader_close(&g->reader);
}

static void fake_close(fake_gemmad *g) {
    fake_hang_up(g);
    if (g->listener >= 0) close(g->listener);
    unlink(g->address + 5);
    rmdir(g->dir);
}

static void fake_send(fake_gemmad *g, const engine_frame *f) {
    uint8_t *bytes;
    size_t n;
    CHECK_STATUS(frame_pack(f, &bytes, &n), ST_OK);
    CHECK(send(g->fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
    free(bytes);
}

/* The next frame that is no heartbeat; those are counted. */
static engine_frame *fake_next(fake_gemmad *g) {
    for (;;) {
        const uint8_t *payload;
        uint32_t n;
        CHECK_STATUS(frame_reader_next(&g->reader, &payload, &n), ST_OK);
        if (payload) {
            engine_frame *f;
            engine_bounds none = {0};
            CHECK_STATUS(frame_unpack(payload, n, &f), ST_OK);
            CHECK_STATUS(engine_check_from_leader(f, &none), ST_OK);
            if (f->kind_case != GEMMAD__ENGINE__FRAME__KIND_HEARTBEAT) return f;
            g->heartbeats++;
            g->beat = *f->heartbeat; /* numbers only */
            g->beat.ranks = NULL;
            frame_free(f);
            continue;
        }
        size_t room;
        uint8_t *at = frame_reader_room(&g->reader, &room);
        struct pollfd p = {.fd = g->fd, .events = POLLIN};
        if (poll(&p, 1, 20000) != 1) return NULL;
        ssize_t got = recv(g->fd, at, room, 0);
        if (got <= 0) return NULL;
        frame_reader_add(&g->reader, (size_t)got);
    }
}

static void fake_welcome(fake_gemmad *g) {
    Gemmad__Engine__Welcome w = GEMMAD__ENGINE__WELCOME__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    w.has_version = w.has_engine_grace_ms = true;
    w.version = ENGINE_LINK_VERSION;
    w.engine_grace_ms = 7000;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_WELCOME;
    f.welcome = &w;
    fake_send(g, &f);
}

static void *fake_accept(void *argument) {
    fake_gemmad *g = argument;
    uint8_t shown[sizeof secret];
    g->fd = accept(g->listener, NULL, NULL);
    CHECK(recv(g->fd, shown, sizeof shown, MSG_WAITALL) == (ssize_t)sizeof shown);
    CHECK(!memcmp(shown, secret, sizeof secret)); /* before any frame */
    engine_frame *f = fake_next(g);
    CHECK(f && f->kind_case == GEMMAD__ENGINE__FRAME__KIND_HELLO && !strcmp(f->hello->state, "loading"));
    frame_free(f);
    if (g->refuse) {
        fake_hang_up(g);
        return NULL;
    }
    fake_welcome(g);
    if (!g->sees_ready) return NULL;
    f = fake_next(g);
    CHECK(f && f->kind_case == GEMMAD__ENGINE__FRAME__KIND_HELLO && engine_hello_is_ready(f->hello));
    frame_free(f);
    fake_welcome(g);
    return NULL;
}

static link_connection *connect_to(fake_gemmad *g, status want) {
    link_connection *l = NULL;
    link_options o = {.address = g->address, .connect_timeout_ms = 5000};
    memcpy(o.secret, secret, sizeof secret);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, fake_accept, g) == 0);
    CHECK_STATUS(link_open(&l, &o), want);
    pthread_join(t, NULL);
    return l;
}

static void say_ready(fake_gemmad *g, link_connection *l) {
    link_rank_info rank = {
        .rank = 0, .pid = (uint32_t)getpid(), .threads = 1, .host = "h", .state = "ready", .isa = "x"};
    link_hello hello = {.build_id = "b",
                        .layout = "tp 1",
                        .checkpoint_hash = "c",
                        .context_tokens = 100,
                        .vocab = 50,
                        .requests_max = 4,
                        .ranks = &rank,
                        .rank_count = 1};
    uint64_t grace = 0;
    fake_welcome(g); /* may come before the hello: it is the answer that counts */
    CHECK_STATUS(link_say_hello(l, &hello, &grace), ST_OK);
    CHECK(grace == 7000);
    engine_frame *f = fake_next(g);
    CHECK(f && f->kind_case == GEMMAD__ENGINE__FRAME__KIND_HELLO && engine_hello_is_ready(f->hello));
    CHECK(f && f->hello->vocab == 50 && f->hello->n_ranks == 1 &&
          f->hello->ranks[0]->pid == (uint32_t)getpid());
    frame_free(f);
}

static void fake_submit(fake_gemmad *g, uint64_t id, uint32_t *tokens, size_t n) {
    Gemmad__Engine__Submit m = GEMMAD__ENGINE__SUBMIT__INIT;
    Gemmad__Engine__Sampling s = GEMMAD__ENGINE__SAMPLING__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    uint32_t stop[2] = {1, 106 % 50};
    m.has_id = m.has_prompt_count = m.has_sample_index = m.has_priority = m.has_deadline_ms = true;
    m.id = id;
    m.tokens = tokens;
    m.n_tokens = n;
    m.prompt_count = 2;
    m.sample_index = 3;
    m.priority = -100;
    m.deadline_ms = 9000;
    m.has_client = m.has_group = true;
    m.client = UINT64_MAX;
    m.group = 12;
    m.sampling = &s;
    m.has_grammar = true;
    m.grammar = (ProtobufCBinaryData){7, (uint8_t *)"grammar"};
    s.has_max_tokens = s.has_temperature = s.has_top_p = s.has_top_k = s.has_min_p = s.has_seed = true;
    s.has_repetition_penalty = s.has_presence_penalty = s.has_frequency_penalty = true;
    s.has_logprobs = s.has_prompt_logprobs = true;
    s.max_tokens = 10;
    s.temperature = 0.5F;
    s.top_p = 0.25F;
    s.top_k = 64;
    s.seed = UINT64_MAX;
    s.repetition_penalty = 1;
    s.logprobs = 2;
    s.prompt_logprobs = -1;
    s.n_stop_token_ids = 2;
    s.stop_token_ids = stop;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_SUBMIT;
    f.submit = &m;
    fake_send(g, &f);
}

static void fake_vocabulary(fake_gemmad *g) {
    Gemmad__Engine__Vocabulary v = GEMMAD__ENGINE__VOCABULARY__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    v.has_data = true;
    v.data = (ProtobufCBinaryData){5, (uint8_t *)"words"};
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_VOCABULARY;
    f.vocabulary = &v;
    fake_send(g, &f);
}

static void fake_cancel(fake_gemmad *g, uint64_t id) {
    Gemmad__Engine__Cancel c = GEMMAD__ENGINE__CANCEL__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    c.has_id = true;
    c.id = id;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_CANCEL;
    f.cancel = &c;
    fake_send(g, &f);
}

static void fake_pause(fake_gemmad *g, uint64_t id, bool paused) {
    Gemmad__Engine__Pause p = GEMMAD__ENGINE__PAUSE__INIT;
    engine_frame f = GEMMAD__ENGINE__FRAME__INIT;
    p.has_id = p.has_paused = true;
    p.id = id;
    p.paused = paused;
    f.kind_case = GEMMAD__ENGINE__FRAME__KIND_PAUSE;
    f.pause = &p;
    fake_send(g, &f);
}

TEST(requests_come_in_as_structs) {
    fake_gemmad g;
    fake_open(&g);
    link_connection *l = connect_to(&g, ST_OK);
    say_ready(&g, l);
    link_event e;
    CHECK_STATUS(link_poll(l, 0, &e), ST_TIMEOUT);
    CHECK_STATUS(link_poll(l, 10, &e), ST_TIMEOUT);
    uint32_t tokens[3] = {2, 49, 7};
    fake_vocabulary(&g);
    fake_submit(&g, 5, tokens, 3);
    fake_cancel(&g, 4);
    CHECK_STATUS(link_poll(l, -1, &e), ST_OK);
    CHECK(e.kind == LINK_VOCABULARY && e.data_bytes == 5 && !memcmp(e.data, "words", 5));
    free(e.data);
    CHECK_STATUS(link_poll(l, -1, &e), ST_OK);
    CHECK(e.kind == LINK_SUBMIT && e.id == 5 && e.request->id == 5);
    const link_request *r = e.request;
    CHECK(r->token_count == 3 && r->tokens[1] == 49 && r->prompt_count == 2 && r->priority == -100);
    CHECK(r->client == UINT64_MAX && r->group == 12);
    CHECK(r->deadline_ms == 9000 && r->sampling.sample_index == 3 && r->sampling.seed == UINT64_MAX);
    CHECK(r->sampling.max_tokens == 10 && r->sampling.temperature == 0.5F && r->sampling.top_p == 0.25F);
    CHECK(r->sampling.top_k == 64 && r->sampling.logprobs == 2 && r->sampling.prompt_logprobs == -1);
    CHECK(!r->same_grammar && r->grammar_bytes == 7 && !memcmp(r->grammar, "grammar", 7));
    CHECK(r->sampling.stop_token_count == 2 && r->sampling.stop_token[1] == 6 && r->sampling.bias_count == 0);
    link_request_free(e.request);
    CHECK_STATUS(link_poll(l, 1000, &e), ST_OK);
    CHECK(e.kind == LINK_CANCEL && e.id == 4);
    for (int paused = 1; paused >= 0; paused--) {
        fake_pause(&g, 5, paused);
        CHECK_STATUS(link_poll(l, 1000, &e), ST_OK);
        CHECK(e.kind == LINK_PAUSE && e.id == 5 && e.paused == paused);
    }
    fake_hang_up(&g);
    CHECK_STATUS(link_poll(l, 1000, &e), ST_UNAVAILABLE);
    CHECK_STATUS(link_send_started(l, 5, 0, 0), ST_UNAVAILABLE);
    link_close(l);
    fake_close(&g);
}

TEST(bad_frames_close_the_link) {
    static const struct {
        uint64_t id;
        uint32_t token;
        size_t n;
        const char *part;
    } v[] = {{5, 3, 3, "id 5 comes after 5"},
             {6, 50, 3, "tokens[2] is 50, the vocabulary has 50"},
             {6, 3, 12, "10 tokens were emitted already"},
             {0, 0, 0, "cancel: id 77 was never submitted"},
             {0, 0, 1, "pause: id 77 was never submitted"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        fake_gemmad g;
        fake_open(&g);
        link_connection *l = connect_to(&g, ST_OK);
        say_ready(&g, l);
        uint32_t tokens[128] = {0};
        link_event e;
        fake_submit(&g, 5, tokens, 3);
        CHECK_STATUS(link_poll(l, 1000, &e), ST_OK);
        link_request_free(e.request);
        tokens[2] = v[i].token;
        if (v[i].id == 0 && v[i].n) fake_pause(&g, 77, true);
        else if (v[i].id == 0) fake_cancel(&g, 77);
        else fake_submit(&g, v[i].id, tokens, v[i].n);
        CHECK_STATUS(link_poll(l, 1000, &e), ST_FORMAT);
        CHECK_SENTENCE(v[i].part);
        CHECK_STATUS(link_poll(l, 0, &e), ST_UNAVAILABLE);
        CHECK(fake_next(&g) == NULL);
        link_close(l);
        fake_close(&g);
    }
}

TEST(long_lists_come_in_parts_and_in_order) {
    enum { N = 3000, TOP = 100 };
    fake_gemmad g;
    fake_open(&g);
    link_connection *l = connect_to(&g, ST_OK);
    say_ready(&g, l);
    static top_entry top[TOP];
    static token_logprob p[N];
    static uint32_t tokens[N];
    for (uint32_t k = 0; k < TOP; k++) top[k] = (top_entry){.token = k % 50, .logprob = -(float)k};
    for (uint32_t i = 0; i < N; i++) {
        tokens[i] = i % 50;
        p[i] = (token_logprob){.token = i % 50, .logprob = -1, .top_count = TOP, .top = top};
    }
    CHECK_STATUS(link_send_prompt_logprobs(l, 9, 1, p, N), ST_OK);
    CHECK_STATUS(link_send_tokens(l, 9, tokens, N, p), ST_OK);
    CHECK(link_backlog_bytes(l) > 1000000); /* no socket takes it all at once, and no call waited */
    uint32_t position = 1, got = 0, frames = 0;
    while (got < N) {
        for (;;) { /* writes go on inside polls */
            link_event e;
            CHECK_STATUS(link_poll(l, 0, &e), ST_TIMEOUT);
            CHECK_STATUS(link_flush(l), ST_OK);
            struct pollfd ready = {.fd = g.fd, .events = POLLIN};
            if (poll(&ready, 1, 0) == 1 || link_backlog_bytes(l) == 0) break;
        }
        size_t room;
        uint8_t *at = frame_reader_room(&g.reader, &room);
        ssize_t n = recv(g.fd, at, room, MSG_DONTWAIT);
        if (n > 0) frame_reader_add(&g.reader, (size_t)n);
        for (;;) {
            const uint8_t *payload;
            uint32_t size;
            CHECK_STATUS(frame_reader_next(&g.reader, &payload, &size), ST_OK);
            if (!payload) break;
            engine_frame *f;
            CHECK_STATUS(frame_unpack(payload, size, &f), ST_OK);
            frames++;
            if (f->kind_case == GEMMAD__ENGINE__FRAME__KIND_PROMPT_LOGPROBS) {
                CHECK(f->prompt_logprobs->first_position == position);
                position += (uint32_t)f->prompt_logprobs->n_logprobs;
                CHECK(f->prompt_logprobs->logprobs[0]->n_top == TOP);
            } else {
                CHECK(f->tokens->n_logprobs == f->tokens->n_token_ids && f->tokens->token_ids[0] == got % 50);
                CHECK(f->tokens->logprobs[0]->top[99]->logprob == -99.0F);
                got += (uint32_t)f->tokens->n_token_ids;
            }
            frame_free(f);
        }
    }
    CHECK_THAT(position == N + 1 && frames > 4, "%u %u", position, frames);
    fake_hang_up(&g);
    link_close(l);
    fake_close(&g);
}

TEST(a_gemmad_that_reads_nothing_stops_the_engine_not_the_memory) {
    enum { N = 1000, TOP = 1024 };
    fake_gemmad g;
    fake_open(&g);
    link_connection *l = connect_to(&g, ST_OK);
    say_ready(&g, l);
    static top_entry top[TOP];
    static token_logprob p[N];
    for (uint32_t i = 0; i < N; i++) p[i] = (token_logprob){.top_count = TOP, .top = top};
    status st = ST_OK;
    size_t before = 0;
    for (int i = 0; i < 40 && st == ST_OK; i++) {
        before = link_backlog_bytes(l);
        st = link_send_prompt_logprobs(l, 9, 1, p, N);
    }
    CHECK_STATUS(st, ST_BUSY);
    CHECK(link_backlog_bytes(l) == before && before <= LINK_QUEUE_BYTES && before > LINK_QUEUE_BYTES / 2);
    fake_hang_up(&g); /* or link_close would wait its second */
    link_close(l);
    fake_close(&g);
}

TEST(a_refused_secret_and_an_absent_gemmad_are_told_apart) {
    fake_gemmad g;
    fake_open(&g);
    g.refuse = true;
    CHECK(connect_to(&g, ST_AUTH) == NULL);
    CHECK_SENTENCE("the secret is not its own");
    close(g.listener);
    g.listener = -1;
    link_connection *l = NULL;
    link_options o = {.address = g.address};
    CHECK_STATUS(link_open(&l, &o), ST_UNAVAILABLE);
    o.address = "nonsense";
    CHECK_STATUS(link_open(&l, &o), ST_INVALID);
    o.address = "127.0.0.1:1";
    CHECK_STATUS(link_open(&l, &o), ST_UNAVAILABLE);
    uint8_t read_back[LIMIT_SECRET_BYTES];
    CHECK_STATUS(link_read_secret("/dev/null/none", read_back), ST_IO);
    char path[] = "/tmp/gemmad-test-XXXXXX";
    int fd = mkstemp(path);
    CHECK(write(fd, secret, sizeof secret) == (ssize_t)sizeof secret);
    CHECK_STATUS(link_read_secret(path, read_back), ST_OK);
    CHECK(!memcmp(read_back, secret, sizeof secret));
    CHECK(fchmod(fd, 0640) == 0);
    CHECK_STATUS(link_read_secret(path, read_back), ST_DENIED);
    CHECK_SENTENCE("this user's alone");
    CHECK(fchmod(fd, 0600) == 0 && ftruncate(fd, 31) == 0);
    CHECK_STATUS(link_read_secret(path, read_back), ST_FORMAT);
    close(fd);
    unlink(path);
    fake_close(&g);
}

TEST(hearts_beat_and_a_lost_gemmad_is_found_again) {
    fake_gemmad g;
    fake_open(&g);
    link_connection *l = connect_to(&g, ST_OK);
    static link_progress progress;
    atomic_store(&progress.steps, 41);
    atomic_store(&progress.prefix_query_tokens, 100);
    atomic_store(&progress.prefix_hit_tokens, 64);
    atomic_store(&progress.preemptions, 3);
    atomic_store(&progress.step_us, 2500);
    atomic_store(&progress.cached_pages, 9);
    atomic_store(&progress.imbalance, 1.25F);
    atomic_store(&progress.paused, 2);
    atomic_store(&progress.spilled_bytes, UINT64_C(1) << 40);
    CHECK_STATUS(link_start_heartbeat(l, &progress, NULL, 0), ST_OK);
    say_ready(&g, l);
    link_event e;
    atomic_store(&progress.steps, 42);
    CHECK_STATUS(link_poll(l, 1300, &e), ST_TIMEOUT);
    CHECK_STATUS(link_send_started(l, 1, 0, 0), ST_OK);
    engine_frame *started = fake_next(&g);
    CHECK(started && started->kind_case == GEMMAD__ENGINE__FRAME__KIND_STARTED);
    frame_free(started);
    CHECK_THAT(g.heartbeats >= 2 && g.heartbeats <= 3, "%d", g.heartbeats);
    CHECK(g.beat.prefix_query_tokens == 100 && g.beat.prefix_hit_tokens == 64 && g.beat.preemptions == 3);
    CHECK(g.beat.step_us == 2500 && g.beat.cached_pages == 9 && g.beat.imbalance == 1.25F);
    CHECK(g.beat.paused == 2 && g.beat.spilled_bytes == UINT64_C(1) << 40);
    fake_hang_up(&g);
    CHECK_STATUS(link_poll(l, 1000, &e), ST_UNAVAILABLE);
    uint64_t begin = clock_now_ns();
    close(g.listener);
    CHECK_STATUS(link_reconnect(l, 700), ST_TIMEOUT);
    CHECK_SENTENCE("no gemmad came back within 700 ms");
    CHECK(clock_now_ns() - begin >= UINT64_C(690000000));

    /* A new gemmad at the old address: both hellos come again, and heartbeats only after them. */
    unlink(g.address + 5);
    fake_listen(&g);
    g.sees_ready = true;
    g.heartbeats = 0;
    pthread_t t;
    CHECK(pthread_create(&t, NULL, fake_accept, &g) == 0);
    CHECK_STATUS(link_reconnect(l, 5000), ST_OK);
    pthread_join(t, NULL);
    fake_cancel(&g, 1); /* not of this connection: ids begin anew */
    CHECK_STATUS(link_poll(l, 1500, &e), ST_FORMAT);
    CHECK(fake_next(&g) == NULL);
    CHECK(g.heartbeats <= 2);
    link_close(l);
    fake_close(&g);
}

int main(void) {
    RUN(requests_come_in_as_structs);
    RUN(bad_frames_close_the_link);
    RUN(long_lists_come_in_parts_and_in_order);
    RUN(a_gemmad_that_reads_nothing_stops_the_engine_not_the_memory);
    RUN(a_refused_secret_and_an_absent_gemmad_are_told_apart);
    RUN(hearts_beat_and_a_lost_gemmad_is_found_again);
    return test_result();
}
