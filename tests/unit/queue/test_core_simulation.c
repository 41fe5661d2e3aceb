/* Hundreds of requests at once from one seed: prompts of both kinds, stop strings, stop tokens, pieces of characters,
 * clients that leave at any moment, slow readers, engines that refuse, fail or answer from inside engine_cancel. Each
 * call finishes exactly once, each stream is what the definition says of the tokens that the engine gave, and the
 * sanitizers see to the memory. */
#include "tests/unit/queue/fake.h"

enum { CALLS = 400, STOPS_MAX = 3, ROUNDS = 6 };

typedef struct sim_call {
    fake_call fake;
    bool begun, cancelled, handled;
    uint32_t emitted[512], emitted_count;
    char stop[STOPS_MAX][4];
    ProtobufCBinaryData stops[STOPS_MAX];
    uint32_t stop_count, max_tokens, stop_token;
    bool ignore_eos;
} sim_call;

static uv_loop_t loop;
static uv_idle_t idler;
static core *c;
static fake_engine engine_;
static tokenizer words;
static sim_call *calls;
static uint32_t begun;
static uint64_t random_state;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}
static bool one_in(uint32_t n) { return random_below(n) == 0; }

/* Letters that stop strings are made of are likely, and so are bytes that make, begin and break characters. */
static uint32_t random_token(void) {
    static const uint32_t some[] = {A, B, C, AB, A, B, C, HELLO, WORLD, E_ACUTE, BOS, BYTE + 0xC3, BYTE + 0xA9,
                                    BYTE + 0xE2, BYTE + 0x82, BYTE + 0xAC, BYTE, BYTE + 'b', BYTE + 0xFF, FAKE_VOCAB};
    return one_in(40) ? EOS : some[random_below(sizeof some / sizeof *some)];
}

static void begin_one(void) {
    uint32_t k = begun++;
    sim_call *s = &calls[k];
    Gemmad__V1__GenerateRequest r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    Gemmad__V1__Sampling p = GEMMAD__V1__SAMPLING__INIT;
    Gemmad__V1__TokenIds ids = GEMMAD__V1__TOKEN_IDS__INIT;
    uint32_t prompt[5] = {BOS, HELLO, A, B, C};
    char text[9000];
    s->begun = true;
    fake_call_open(&s->fake, one_in(2) ? "alice" : "bob");
    r.sampling = &p;
    r.has_priority = 1;
    r.priority = (int32_t)k; /* by which the engine's request is known again */
    if (one_in(2)) {
        size_t n = one_in(3) ? sizeof text : 1 + random_below(40);
        memset(text, 't', sizeof text);
        r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
        r.text = (ProtobufCBinaryData){n, (uint8_t *)text};
        if (one_in(10)) text[n - 1] = (char)0xC3;
    } else {
        r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        ids.n_ids = 1 + random_below(5);
        ids.ids = prompt;
        r.token_ids = &ids;
    }
    s->max_tokens = 1 + random_below(100);
    p.has_max_tokens = 1;
    p.max_tokens = s->max_tokens;
    s->stop_count = random_below(STOPS_MAX + 1);
    for (uint32_t i = 0; i < s->stop_count; i++) {
        size_t n = 1 + random_below(3);
        for (size_t b = 0; b < n; b++) s->stop[i][b] = (char)('a' + random_below(3));
        s->stops[i] = (ProtobufCBinaryData){n, (uint8_t *)s->stop[i]};
    }
    p.n_stop = s->stop_count;
    p.stop = s->stops;
    s->stop_token = one_in(3) ? WORLD : UINT32_MAX;
    p.n_stop_token_ids = s->stop_token == WORLD;
    p.stop_token_ids = &s->stop_token;
    s->ignore_eos = one_in(4);
    p.has_ignore_eos = 1;
    p.ignore_eos = s->ignore_eos;
    if (one_in(3)) {
        p.has_logprobs = 1;
        p.logprobs = random_below(6);
    }
    engine_.refuse = one_in(50) ? ST_UNAVAILABLE : ST_OK;
    fake_handle(c, &s->fake, "Generate", &r.base);
    engine_.refuse = ST_OK;
}

static bool is_ending(const sim_call *s, uint32_t id) {
    return (id == EOS && !s->ignore_eos) || id == s->stop_token;
}

static void engine_step(fake_request *r) {
    sim_call *s = &calls[r->priority];
    if (r->paused && !r->cancelled) return; /* until its reader has gone on, or nothing ends any more */
    uint32_t step = r->steps++;
    if (step == 0) {
        r->listener.started(r->context, 0);
    } else if (one_in(300)) {
        fake_fail(&engine_, r, ST_UNAVAILABLE, "an injected fault");
    } else if (r->cancelled && one_in(3)) {
        fake_finish(&engine_, r, "cancelled");
    } else if (step == 1) {
        r->listener.progress(r->context, r->token_count);
    } else {
        uint32_t n = 1 + random_below(3);
        bool ended = false;
        uint64_t id = r->id;
        for (uint32_t i = 0; i < n && !ended && s->emitted_count < s->max_tokens; i++) {
            uint32_t token = random_token();
            s->emitted[s->emitted_count++] = token;
            ended = is_ending(s, token);
            fake_token(r, token);
            if (!fake_find(&engine_, id)) return; /* it was cancelled at once */
        }
        if (ended) fake_finish(&engine_, r, "stop");
        else if (s->emitted_count == s->max_tokens) fake_finish(&engine_, r, "length");
    }
}

static void on_idle(uv_idle_t *handle) {
    for (uint32_t i = random_below(20); i > 0 && begun < CALLS; i--) begin_one();
    engine_.cancels_at_once = one_in(4);
    /* Ids, because a step may end any request. */
    uint64_t ids[CALLS];
    uint32_t n = 0;
    for (fake_request *r = engine_.first; r; r = r->next) ids[n++] = r->id;
    for (uint32_t i = 0; i < n; i++) {
        fake_request *r = fake_find(&engine_, ids[i]);
        if (r && one_in(2)) engine_step(r);
    }
    uint32_t unfinished = 0;
    for (uint32_t i = 0; i < begun; i++) {
        fake_call *f = &calls[i].fake;
        if (f->finished) continue;
        unfinished++;
        if (one_in(10)) f->backlog = one_in(3) ? LIMIT_BACKLOG_BYTES : 0;
        if (f->backlog == 0 && f->base.drained) f->base.drained(&f->base, f->base.context);
        if (one_in(400)) {
            calls[i].cancelled = true;
            void (*cancelled)(call *, void *, status) = f->base.cancelled;
            f->base.cancelled = NULL; /* once */
            if (cancelled) cancelled(&f->base, f->base.context, one_in(2) ? ST_CANCELLED : ST_TIMEOUT);
        }
    }
    if (begun == CALLS && unfinished == 0) uv_idle_stop(handle);
}

/* The whole answer by definition: text, and how many of the emitted tokens it took. */
static void by_definition(const sim_call *s, strbuf *text, uint32_t *count, const char **reason) {
    detokenizer d;
    detokenizer_open(&d, &words, false);
    *reason = "length";
    size_t scanned = 0;
    for (*count = 0; *count <= s->emitted_count; (*count)++) {
        bool last = *count == s->emitted_count || is_ending(s, s->emitted[*count]);
        if (!last && detokenizer_add(&d, s->emitted[*count], text) != ST_OK) {
            detokenizer_flush(&d, text);
            strbuf_add_string(text, "\xEF\xBF\xBD");
        }
        if (last) detokenizer_flush(&d, text);
        if (last && *count < s->emitted_count) *reason = "stop";
        for (; scanned < text->size; scanned++) {
            size_t longest = 0;
            for (uint32_t i = 0; i < s->stop_count; i++) {
                size_t n = s->stops[i].len;
                if (n <= scanned + 1 && n > longest && !memcmp(text->data + scanned + 1 - n, s->stop[i], n)) longest = n;
            }
            if (longest == 0) continue;
            text->size = scanned + 1 - longest;
            *reason = "stop";
            if (*count < s->emitted_count) (*count)++;
            return;
        }
        if (last) {
            if (*count < s->emitted_count) (*count)++;
            return;
        }
    }
}

static uint32_t whole, cut;

static void check_call(const sim_call *s) {
    const fake_call *f = &s->fake;
    fake_stream got;
    strbuf text = {0};
    uint32_t count;
    const char *reason;
    CHECK_THAT(f->finished == 1, "%u", f->finished);
    fake_read(f, &got);
    by_definition(s, &text, &count, &reason);
    CHECK((got.finished != NULL) == (f->st == ST_OK));
    CHECK(got.id_count <= count && !memcmp(got.ids, s->emitted, got.id_count * sizeof *got.ids));
    CHECK(got.logprobs == 0 || got.logprobs == got.id_count);
    if (f->st == ST_OK) {
        whole++;
        CHECK_THAT(got.text.size == text.size && !memcmp(strbuf_text(&got.text), strbuf_text(&text), text.size),
                   "\"%s\", not \"%s\"", strbuf_text(&got.text), strbuf_text(&text));
        CHECK_THAT(got.id_count == count && got.finished->usage->completion_tokens == count, "%u ids, not %u",
                   got.id_count, count);
        CHECK_THAT(!strcmp(got.finished->finish_reason, reason), "%s, not %s", got.finished->finish_reason, reason);
    } else {
        cut++;
        CHECK(got.text.size <= text.size && !memcmp(strbuf_text(&got.text), strbuf_text(&text), got.text.size));
        CHECK(s->cancelled || f->st == ST_UNAVAILABLE || (f->st == ST_INVALID && strstr(f->text, "UTF-8")));
    }
    strbuf_close(&text);
    strbuf_close(&got.text);
}

static void simulate(uint64_t seed) {
    random_state = seed * 0x9E3779B97F4A7C15u + 1;
    begun = 0;
    calls = memory_alloc_array(CALLS, sizeof *calls);
    uv_loop_init(&loop);
    CHECK_STATUS(core_open(&c, &loop), ST_OK);
    fake_engine_open(&engine_, "sim/0");
    engine_.base.facts.context_tokens = 20000;
    engine_.base.facts.vocab = FAKE_VOCAB + 1;
    CHECK_STATUS(core_add_model(c, "sim", &words, &engine_.base), ST_OK);
    uv_idle_init(&loop, &idler);
    uv_idle_start(&idler, on_idle);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(engine_.live == 0);
    for (uint32_t i = 0; i < CALLS; i++) {
        check_call(&calls[i]);
        fake_call_close(&calls[i].fake);
    }
    core_close(c);
    uv_close((uv_handle_t *)&idler, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&loop) == 0);
    free(calls);
}

TEST(every_call_ends_once_and_right) {
    for (uint64_t seed = 1; seed <= ROUNDS; seed++) simulate(seed);
    CHECK_THAT(whole > CALLS * ROUNDS / 2 && cut > CALLS * ROUNDS / 20, "%u whole, %u cut", whole, cut);
}

int main(void) {
    RUN(every_call_ends_once_and_right);
    return test_result();
}
