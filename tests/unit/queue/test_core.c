/* The rest of the request core: admission, cancellation, engine states, text and status calls. */
#include "base/log.h"
#include "tests/unit/queue/fake.h"

static uv_loop_t loop;
static core *c;
static fake_engine dense, ids_only;
static tokenizer words;
static uint32_t hello[] = {HELLO};

static void open_core(void) {
    log_open("test", LOG_WARN); /* a line for each request is too many */
    uv_loop_init(&loop);
    CHECK_STATUS(core_open(&c, &loop), ST_OK);
    fake_engine_open(&dense, "dense/0");
    fake_engine_open(&ids_only, "ids/0");
    CHECK_STATUS(core_add_model(c, "dense", &words, &dense.base), ST_OK);
    CHECK_STATUS(core_add_model(c, "ids", NULL, &ids_only.base), ST_OK);
}

static void close_core(void) {
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(dense.live == 0 && ids_only.live == 0);
    core_close(c);
    CHECK(uv_loop_close(&loop) == 0);
}

static void generate_as(fake_call *f, const char *peer, const char *request_id, uint64_t deadline_ms) {
    Gemmad__V1__GenerateRequest r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    Gemmad__V1__TokenIds ids = GEMMAD__V1__TOKEN_IDS__INIT;
    ids.n_ids = 1;
    ids.ids = hello;
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    r.token_ids = &ids;
    r.request_id = (char *)request_id;
    fake_call_open(f, peer);
    f->base.deadline_ms = deadline_ms;
    fake_handle(c, f, "Generate", &r.base);
}

static void generate_text(fake_call *f, size_t n) {
    Gemmad__V1__GenerateRequest r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    char *text = memory_alloc(n);
    memset(text, 'x', n);
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r.text = (ProtobufCBinaryData){n, (uint8_t *)text};
    fake_call_open(f, "p");
    fake_handle(c, f, "Generate", &r.base);
    free(text);
}

static void check_end(fake_call *f, status st, const char *part) {
    CHECK_THAT(f->finished == 1 && f->st == st && strstr(f->text, part), "%u × %s: %s, want %s: %s",
               f->finished, status_name(f->st), f->text, status_name(st), part);
    fake_call_close(f);
}

TEST(models) {
    fake_engine e;
    fake_engine_open(&e, "x/0");
    CHECK_STATUS(core_add_model(c, "dense", NULL, &e.base), ST_INVALID);
    CHECK_SENTENCE("two models have the name dense");
    CHECK_STATUS(core_add_model(c, "", NULL, &e.base), ST_INVALID);
    char name[LIMIT_MODEL_NAME_BYTES + 2];
    memset(name, 'n', sizeof name);
    name[LIMIT_MODEL_NAME_BYTES + 1] = 0;
    CHECK_STATUS(core_add_model(c, name, NULL, &e.base), ST_INVALID);
    CHECK_SENTENCE("129 bytes");
}

TEST(request_ids) {
    fake_call f[4];
    generate_as(&f[0], "alice", "one", 0);
    generate_as(&f[1], "alice", "one", 0);
    CHECK(f[1].finished == 1);
    check_end(&f[1], ST_EXISTS, "request_id \"one\"");
    generate_as(&f[1], "bob", "one", 0);
    generate_as(&f[2], "alice", "", 0);
    generate_as(&f[3], "alice", "", 0);
    CHECK(dense.live == 4);
    while (dense.first) fake_finish(&dense, dense.first, "length");
    for (int i = 0; i < 4; i++) check_end(&f[i], ST_OK, "");
    generate_as(&f[0], "alice", "one", 0);
    fake_finish(&dense, dense.first, "length");
    check_end(&f[0], ST_OK, "");
}

static const Gemmad__V1__GetStatusResponse *get_status(fake_call *f) {
    Gemmad__V1__GetStatusRequest q = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    fake_call_open(f, "p");
    fake_handle(c, f, "GetStatus", &q.base);
    return (Gemmad__V1__GetStatusResponse *)f->sent[0];
}

TEST(a_full_queue) {
    enum { N = CORE_QUEUE };
    fake_call *f = memory_alloc_array(N + 2, sizeof *f), more;
    char peer[32];
    for (int i = 0; i < N; i++) {
        snprintf(peer, sizeof peer, "uid %d", i / CORE_QUEUE_PER_CLIENT);
        generate_as(&f[i], peer, "", 0);
    }
    CHECK(dense.live == N);
    generate_as(&more, "another", "", 0);
    CHECK(more.retry_after_ms > 0);
    check_end(&more, ST_BUSY, "1024 requests wait for model dense, at most 1024");
    /* One begins: there is a place. */
    dense.first->listener.started(dense.first->context, 0);
    generate_as(&f[N], "another", "", 0);
    CHECK(f[N].finished == 0);
    generate_as(&more, "another", "", 0);
    check_end(&more, ST_BUSY, "");
    const Gemmad__V1__GetStatusResponse *s = get_status(&more);
    CHECK(s->requests_running == 1 && s->requests_waiting == N && s->requests_paused == 0);
    fake_call_close(&more);
    while (dense.first) fake_finish(&dense, dense.first, "length");
    for (int i = 0; i <= N; i++) check_end(&f[i], ST_OK, "");
    free(f);
}

TEST(a_client_with_many_does_not_fill_the_queue) {
    enum { N = 4 };
    fake_call f[N + 2], more;
    core_set_limits(c, (core_limits){.queue = 100, .queue_per_client = N});
    for (int i = 0; i < N; i++) generate_as(&f[i], "alice", "", 0);
    CHECK(dense.first->client != 0 && dense.first->client == dense.first->next->client &&
          dense.first->group == 0);
    generate_as(&more, "alice", "", 0);
    CHECK(more.retry_after_ms > 0);
    check_end(&more, ST_BUSY, "4 requests of client alice wait, at most 4");
    generate_as(&f[N], "bob", "", 0);
    CHECK(f[N].finished == 0 && dense.first->client != dense.first->next->client);
    fake_request *q = dense.first->next; /* the last of alice */
    q->listener.started(q->context, 0);
    generate_as(&f[N + 1], "alice", "", 0);
    CHECK(f[N + 1].finished == 0);
    generate_as(&more, "alice", "", 0);
    check_end(&more, ST_BUSY, "4 requests of client alice");
    while (dense.first) fake_finish(&dense, dense.first, "length");
    for (int i = 0; i < N + 2; i++) check_end(&f[i], ST_OK, "");
    core_set_limits(c, (core_limits){CORE_QUEUE, CORE_QUEUE_PER_CLIENT});
}

TEST(watching_the_status) {
    fake_call f[2];
    Gemmad__V1__GetStatusRequest q = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    q.has_interval_ms = 1;
    q.interval_ms = 99;
    fake_call_open(&f[0], "p");
    fake_handle(c, &f[0], "WatchStatus", &q.base);
    check_end(&f[0], ST_INVALID, "interval_ms is 99, and must be 100 to 60000");
    q.interval_ms = 100;
    for (int i = 0; i < 2; i++) {
        fake_call_open(&f[i], "p");
        fake_handle(c, &f[i], "WatchStatus", &q.base);
        CHECK(f[i].sent_count == 1 && f[i].finished == 0);
    }
    f[1].backlog = 1; /* has not read the first yet */
    while (f[0].sent_count < 3) uv_run(&loop, UV_RUN_ONCE);
    CHECK(f[1].sent_count == 1 && !strcmp(((Gemmad__V1__GetStatusResponse *)f[0].sent[2])->state, "ready"));
    f[1].base.cancelled(&f[1].base, f[1].base.context, ST_CANCELLED);
    check_end(&f[1], ST_CANCELLED, "");
    core_end_watches(c);
    check_end(&f[0], ST_UNAVAILABLE, "gemmad is stopping");
}

TEST(a_client_that_leaves) {
    fake_call f;
    /* While the engine works: it is told, and the call ends when it has let go. */
    for (int at_once = 0; at_once < 2; at_once++) {
        dense.cancels_at_once = at_once;
        generate_as(&f, "p", "x", 0);
        fake_request *q = dense.first;
        q->listener.started(q->context, 0);
        fake_token(q, HELLO);
        f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
        CHECK(f.finished == (uint32_t)at_once && (f.base.cancelled == NULL) == at_once);
        if (!at_once) {
            fake_call second;
            fake_token(q, HELLO);
            generate_as(&second, "p", "x", 0); /* its id lives until then */
            check_end(&second, ST_EXISTS, "");
            fake_finish(&dense, q, "cancelled");
        }
        CHECK(f.sent_count == 2);
        check_end(&f, ST_CANCELLED, "cancelled");
    }
    dense.cancels_at_once = false;
    /* The engine finished at the same moment. */
    generate_as(&f, "p", "", 0);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    fake_finish(&dense, dense.first, "stop");
    CHECK(f.sent_count == 0);
    check_end(&f, ST_CANCELLED, "");
    /* The engine was lost instead. */
    generate_as(&f, "p", "", 0);
    f.base.cancelled(&f.base, f.base.context, ST_TIMEOUT);
    fake_fail(&dense, dense.first, ST_UNAVAILABLE, "gone");
    check_end(&f, ST_TIMEOUT, "deadline");
    /* While the prompt is tokenised. */
    uint32_t submitted = dense.submitted;
    generate_text(&f, 1 << 20);
    CHECK(f.finished == 0);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(dense.submitted == submitted);
    check_end(&f, ST_CANCELLED, "");
}

TEST(deadlines) {
    fake_call f;
    generate_as(&f, "p", "", 60000);
    fake_request *q = dense.first;
    CHECK(q->deadline_ms > 50000 && q->deadline_ms <= 60000);
    fake_finish(&dense, q, "cancelled"); /* for reasons of the engine's own */
    const Gemmad__V1__GenerateEvent *e = (Gemmad__V1__GenerateEvent *)f.sent[0];
    CHECK(!strcmp(e->finished->finish_reason, "cancelled"));
    check_end(&f, ST_OK, "");
    generate_as(&f, "p", "", 5);
    CHECK(dense.first->deadline_ms > 0 && dense.first->deadline_ms <= 5);
    uv_sleep(20);
    fake_finish(&dense, dense.first, "cancelled"); /* the engine saw it before the transport did */
    check_end(&f, ST_TIMEOUT, "deadline");
}

TEST(an_engine_that_is_lost) {
    fake_call f;
    generate_as(&f, "p", "", 0);
    fake_request *q = dense.first;
    q->listener.started(q->context, 0);
    fake_token(q, HELLO);
    fake_fail(&dense, q, ST_UNAVAILABLE, "rank 1 was killed by signal 9");
    CHECK(f.sent_count == 2);
    check_end(&f, ST_UNAVAILABLE, "rank 1 was killed by signal 9");
    dense.refuse = ST_BUSY;
    generate_as(&f, "p", "", 0);
    CHECK(f.retry_after_ms > 0);
    check_end(&f, ST_BUSY, "the fake engine refuses");
    generate_text(&f, 9);
    check_end(&f, ST_BUSY, "the fake engine refuses");
    dense.refuse = ST_OK;
}

TEST(engine_states) {
    static const struct {
        engine_state state;
        const char *word, *sentence;
    } v[] = {
        {ENGINE_STARTING, "starting", "model dense is starting"},
        {ENGINE_DRAINING, "draining", "the engine of model dense is draining"},
        {ENGINE_FAILED, "failed", "the engine of model dense is failed: rank 1 was killed"},
        {ENGINE_STOPPED, "failed", "the engine of model dense is stopped"},
        {ENGINE_READY, "ready", NULL},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        fake_call f;
        dense.state = v[i].state;
        core_engine_changed(c, &dense.base, v[i].state);
        CHECK_THAT(!strcmp(core_state(c), v[i].word), "%s", core_state(c));
        if (!v[i].sentence) continue;
        generate_as(&f, "p", "", 0);
        check_end(&f, ST_UNAVAILABLE, v[i].sentence);
    }
    ids_only.state = ENGINE_FAILED; /* one that is lost is heard of, though the other serves */
    dense.state = ENGINE_STARTING;
    CHECK(!strcmp(core_state(c), "failed"));
    ids_only.state = dense.state = ENGINE_READY;
}

TEST(unbuilt) {
    static const struct { const char *method, *name; } v[] = {
        {"Submit", "Jobs.Submit"}, {"Get", "Jobs.Get"}, {"List", "Jobs.List"}, {"Cancel", "Jobs.Cancel"},
        {"Results", "Jobs.Results"},
    };
    uint32_t n;
    const call_method *m = core_methods(&n);
    CHECK(n == 15);
    for (uint32_t i = 0; i < n; i++)
        CHECK(m[i].client_streams == !strcmp(m[i].path, "/gemmad.v1.Jobs/Submit"));
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        fake_call f;
        fake_call_open(&f, "p");
        ProtobufCMessage *empty;
        CHECK_STATUS(message_unpack(fake_method(v[i].method)->request, NULL, 0, &empty), ST_OK);
        fake_handle(c, &f, v[i].method, empty);
        protobuf_c_message_free_unpacked(empty, NULL);
        check_end(&f, ST_UNSUPPORTED, v[i].name);
    }
}

static void render_chat(fake_call *f, const char *model, const char *text, size_t n) {
    Gemmad__V1__ChatRequest r = GEMMAD__V1__CHAT_REQUEST__INIT;
    Gemmad__V1__Message message = GEMMAD__V1__MESSAGE__INIT, *messages[] = {&message};
    Gemmad__V1__Part part = GEMMAD__V1__PART__INIT, *parts[] = {&part};
    part.part_case = GEMMAD__V1__PART__PART_TEXT;
    part.text = (ProtobufCBinaryData){n, (uint8_t *)text};
    message.role = (char *)"user";
    message.n_content = 1;
    message.content = parts;
    r.model = (char *)model;
    r.n_messages = 1;
    r.messages = messages;
    fake_call_open(f, "p");
    fake_handle(c, f, "RenderChat", &r.base);
}

TEST(chats_are_rendered) {
    static const char want[] = "<bos><|turn>user\nhi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>";
    fake_call f;
    render_chat(&f, "ids", "hi", 2);
    check_end(&f, ST_INVALID, "model ids has no tokenizer");
    render_chat(&f, "dense", "hi", 2);
    check_end(&f, ST_UNSUPPORTED, "model dense serves no chat: it has no chat template");
    chat_choice choice = {.why = "its chat template is unknown"};
    CHECK_STATUS(core_set_chat(c, "dense", &choice), ST_OK);
    render_chat(&f, "dense", "hi", 2);
    check_end(&f, ST_UNSUPPORTED, "model dense serves no chat: its chat template is unknown");
    CHECK_STATUS(core_set_chat(c, "nobody", &choice), ST_NOT_FOUND);
    choice.template = chat_template_named("gemma4");
    CHECK_STATUS(core_set_chat(c, "dense", &choice), ST_OK);
    render_chat(&f, "dense", "hi", 2);
    CHECK_THAT(f.finished == 1 && f.st == ST_OK && f.sent_count == 1, "%s", f.text);
    const Gemmad__V1__RenderChatResponse *r = (Gemmad__V1__RenderChatResponse *)f.sent[0];
    CHECK(r->text.len == sizeof want - 1 && !memcmp(r->text.data, want, r->text.len));
    CHECK(r->n_token_ids > 20 && r->token_ids[0] == BOS && r->has_starts_in_thought && !r->starts_in_thought);
    fake_call_close(&f);
    /* Long ones are a worker's; their clients may go away. */
    char *text = memory_alloc(100000);
    memset(text, 'x', 100000);
    render_chat(&f, "dense", text, 100000);
    CHECK(f.finished == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK_THAT(f.finished == 1 && f.st == ST_OK && f.sent_count == 1, "%s", f.text);
    fake_call_close(&f);
    render_chat(&f, "dense", text, 100000);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    uv_run(&loop, UV_RUN_DEFAULT);
    check_end(&f, ST_CANCELLED, "no longer waits");
    text[70000] = (char)0xFF;
    render_chat(&f, "dense", text, 100000);
    uv_run(&loop, UV_RUN_DEFAULT);
    check_end(&f, ST_INVALID, "messages[0] (user): content[0]: text: not UTF-8 at byte 70000");
    free(text);
}

static void tokenize(fake_call *f, const char *model, const char *text, size_t n, bool bos, bool special) {
    Gemmad__V1__TokenizeRequest r = GEMMAD__V1__TOKENIZE_REQUEST__INIT;
    r.model = (char *)model;
    r.has_text = n > 0;
    r.text = (ProtobufCBinaryData){n, (uint8_t *)text};
    r.has_add_bos = r.has_parse_special = 1;
    r.add_bos = bos;
    r.parse_special = special;
    fake_call_open(f, "p");
    fake_handle(c, f, "Tokenize", &r.base);
}

static void check_ids(fake_call *f, const uint32_t *ids, size_t n) {
    CHECK_THAT(f->finished == 1 && f->st == ST_OK && f->sent_count == 1, "%s", f->text);
    const Gemmad__V1__TokenizeResponse *r = (Gemmad__V1__TokenizeResponse *)f->sent[0];
    CHECK_THAT(r->n_token_ids == n && !memcmp(r->token_ids ? r->token_ids : ids, ids, n * sizeof *ids),
               "%zu ids", r->n_token_ids);
    fake_call_close(f);
}

TEST(tokenize_texts) {
    fake_call f;
    static const uint32_t want[] = {BOS, BYTE + 'a', BYTE, EOS};
    tokenize(&f, "dense", "a\0<eos>", 7, true, true);
    check_ids(&f, want, 4);
    tokenize(&f, NULL, "a\0<eos>", 2, false, false);
    check_ids(&f, want + 1, 2);
    tokenize(&f, NULL, "", 0, false, true);
    check_ids(&f, want, 0);
    tokenize(&f, NULL, "", 0, true, true);
    check_ids(&f, want, 1);
    tokenize(&f, "ids", "a", 1, true, true);
    check_end(&f, ST_INVALID, "model ids has no tokenizer");
    tokenize(&f, "x", "a", 1, true, true);
    check_end(&f, ST_NOT_FOUND, "dense, ids");
    tokenize(&f, NULL, "ab\xFF", 3, true, true);
    check_end(&f, ST_INVALID, "text: not UTF-8 at byte 2");
    size_t n = (size_t)LIMIT_PROMPT_BYTES + 1;
    char *text = memory_alloc(n);
    memset(text, 'q', n);
    tokenize(&f, NULL, text, n, true, true);
    check_end(&f, ST_INVALID, "text has 8388609 bytes, at most 8388608");
    /* On a worker thread, its errors too. */
    tokenize(&f, NULL, text, 1 << 20, false, true);
    CHECK(f.finished == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(f.st == ST_OK && ((Gemmad__V1__TokenizeResponse *)f.sent[0])->n_token_ids == 1 << 20);
    fake_call_close(&f);
    text[70000] = (char)0x80;
    tokenize(&f, NULL, text, 1 << 20, false, true);
    uv_run(&loop, UV_RUN_DEFAULT);
    check_end(&f, ST_INVALID, "text: not UTF-8 at byte 70000");
    tokenize(&f, NULL, text, 1 << 20, false, true);
    f.base.cancelled(&f.base, f.base.context, ST_CANCELLED);
    uv_run(&loop, UV_RUN_DEFAULT);
    check_end(&f, ST_CANCELLED, "");
    free(text);
}

static void detokenize(fake_call *f, const char *model, const uint32_t *ids, size_t n, bool skip) {
    Gemmad__V1__DetokenizeRequest r = GEMMAD__V1__DETOKENIZE_REQUEST__INIT;
    r.model = (char *)model;
    r.n_token_ids = n;
    r.token_ids = (uint32_t *)ids;
    r.has_skip_special = 1;
    r.skip_special = skip;
    fake_call_open(f, "p");
    fake_handle(c, f, "Detokenize", &r.base);
    uv_run(&loop, UV_RUN_DEFAULT);
}

static void check_text(fake_call *f, const char *text, size_t n) {
    CHECK_THAT(f->finished == 1 && f->st == ST_OK && f->sent_count == 1, "%s", f->text);
    const Gemmad__V1__DetokenizeResponse *r = (Gemmad__V1__DetokenizeResponse *)f->sent[0];
    CHECK_THAT(r->text.len == n && (n == 0 || !memcmp(r->text.data, text, n)), "%zu bytes", r->text.len);
    fake_call_close(f);
}

TEST(detokenize_ids) {
    fake_call f;
    static const uint32_t ids[] = {BOS, HELLO, BYTE, WORLD, BYTE + 0xC3, FAKE_VOCAB};
    detokenize(&f, NULL, ids, 5, false);
    check_text(&f, "<bos>hello\0 world\xEF\xBF\xBD", 20);
    detokenize(&f, NULL, ids, 5, true);
    check_text(&f, "hello\0 world\xEF\xBF\xBD", 15);
    detokenize(&f, NULL, ids, 0, false);
    check_text(&f, "", 0);
    detokenize(&f, NULL, ids, 6, false);
    check_end(&f, ST_INVALID, "token_ids[5] is 274, and the vocabulary has 274");
    detokenize(&f, "ids", ids, 1, false);
    check_end(&f, ST_INVALID, "model ids has no tokenizer");
    size_t n = 14000000; /* of five letters: over the message limit */
    uint32_t *many = memory_alloc_array(n, sizeof *many);
    for (size_t i = 0; i < n; i++) many[i] = HELLO;
    detokenize(&f, NULL, many, n, false);
    check_end(&f, ST_INVALID, "the text of these 14000000 tokens");
    many[99999] = UINT32_MAX;
    detokenize(&f, NULL, many, 100000, false);
    check_end(&f, ST_INVALID, "token_ids[99999] is 4294967295");
    free(many);
}

TEST(models_and_status) {
    fake_call f;
    fake_call_open(&f, "p");
    Gemmad__V1__ListModelsRequest l = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    fake_handle(c, &f, "ListModels", &l.base);
    const Gemmad__V1__ListModelsResponse *m = (Gemmad__V1__ListModelsResponse *)f.sent[0];
    CHECK(m->n_models == 2 && !strcmp(m->models[0]->name, "dense") && m->models[0]->has_tokenizer);
    CHECK(!strcmp(m->models[1]->name, "ids") && !m->models[1]->has_tokenizer &&
          m->models[1]->vocab_size == FAKE_VOCAB);
    CHECK(m->models[0]->context_tokens == 100 && m->models[0]->n_end_token_ids == 1);
    CHECK(m->models[0]->end_token_ids[0] == EOS && !strcmp(m->models[0]->checkpoint_hash, "abcd"));
    check_end(&f, ST_OK, "");

    fake_call_open(&f, "p");
    Gemmad__V1__GetStatusRequest q = GEMMAD__V1__GET_STATUS_REQUEST__INIT;
    fake_handle(c, &f, "GetStatus", &q.base);
    const Gemmad__V1__GetStatusResponse *s = (Gemmad__V1__GetStatusResponse *)f.sent[0];
    CHECK(!strcmp(s->state, "ready") && s->n_models == 2 && s->has_requests_running &&
          s->requests_waiting == 0);
    CHECK(!strcmp(s->version, GEMMAD_VERSION) && strlen(s->build_id) == 16);
    const Gemmad__V1__EngineStatus *e = s->models[1]->engines[0];
    CHECK(!strcmp(e->id, "ids/0") && !strcmp(e->state, "ready") && e->restarts == 2 && e->n_ranks == 2 &&
          !e->failure);
    CHECK(!strcmp(e->layout, "tp 2") && e->steps == 9);
    CHECK(e->ranks[0]->pid == 41 && !strcmp(e->ranks[0]->isa, "avx2") && e->ranks[0]->weight_bytes_read == 7);
    CHECK(e->ranks[1]->rank == 1 && !strcmp(e->ranks[1]->host, "there"));
    check_end(&f, ST_OK, "");
}

static int idle_told;
static void on_idle(void *context) {
    CHECK(context == &idle_told);
    idle_told++;
}

static int drain_asked;
static void on_drain(void *context) { drain_asked += context == &drain_asked; }

TEST(a_client_asks_to_drain) {
    fake_call f;
    Gemmad__V1__DrainRequest r = GEMMAD__V1__DRAIN_REQUEST__INIT;
    fake_call_open(&f, "p");
    fake_handle(c, &f, "Drain", &r.base);
    check_end(&f, ST_UNSUPPORTED, "Control.Drain");
    core_on_drain(c, on_drain, &drain_asked);
    r.has_keep_engines = r.keep_engines = 1;
    fake_call_open(&f, "p");
    fake_handle(c, &f, "Drain", &r.base);
    CHECK(drain_asked == 0 && f.sent_count == 0);
    check_end(&f, ST_UNSUPPORTED, "keep_engines");
    r.keep_engines = 0;
    for (int i = 1; i <= 2; i++) {
        fake_call_open(&f, "p");
        fake_handle(c, &f, "Drain", &r.base);
        CHECK(drain_asked == i && f.sent_count == 1);
        check_end(&f, ST_OK, "");
    }
}

TEST(draining) { /* the last: a core does not come back from it */
    fake_call f[2];
    generate_as(&f[0], "p", "", 0);
    core_drain(c, on_idle, &idle_told);
    CHECK(!strcmp(core_state(c), "draining") && idle_told == 0);
    generate_as(&f[1], "p", "", 0);
    check_end(&f[1], ST_UNAVAILABLE, "draining");
    uint32_t a = HELLO;
    detokenize(&f[1], NULL, &a, 1, false);
    check_text(&f[1], "hello", 5);
    fake_token(dense.first, HELLO);
    fake_finish(&dense, dense.first, "length");
    CHECK(idle_told == 1);
    check_end(&f[0], ST_OK, "");
    core_drain(c, on_idle, &idle_told);
    CHECK(idle_told == 2);
}

int main(void) {
    open_core();
    RUN(models);
    RUN(request_ids);
    RUN(a_full_queue);
    RUN(a_client_with_many_does_not_fill_the_queue);
    RUN(watching_the_status);
    RUN(a_client_that_leaves);
    RUN(deadlines);
    RUN(an_engine_that_is_lost);
    RUN(engine_states);
    RUN(unbuilt);
    RUN(chats_are_rendered);
    RUN(tokenize_texts);
    RUN(detokenize_ids);
    RUN(models_and_status);
    RUN(a_client_asks_to_drain);
    RUN(draining);
    close_core();
    return test_result();
}
