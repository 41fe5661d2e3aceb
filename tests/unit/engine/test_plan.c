/* What is read from other programs' output, and how their command lines are written. */
#include <signal.h>
#include <unistd.h>

#include "daemon/engine/command.h"
#include "daemon/engine/cpus.h"
#include "daemon/engine/failure.h"
#include "daemon/engine/plan.h"
#include "tests/test.h"

TEST(clean_text_is_utf8_and_cut_between_characters) {
    static const struct {
        const char *in, *want;
    } v[] = {
        {"plain", "plain"},
        {"tab\tnew\nline", "tab?new?line"},
        {"\xc3\xbc\xe2\x82\xac", "\xc3\xbc\xe2\x82\xac"},
        {"\xff\xfe", "??"},
        {"\xc3", "?"},
        {"\xc0\xaf", "??"},
        {"\xed\xa0\x80", "???"},
        {"\xf4\x90\x80\x80", "????"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
        {"123456789012345", "123456789012345"},
        {"1234567890123456", "123456789012\xe2\x80\xa6"},
        {"12345678901\xc3\xbc\xc3\xbc\xc3\xbc", "12345678901\xe2\x80\xa6"},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        char out[16];
        failure_clean_text(out, sizeof out, v[i].in);
        CHECK_THAT(!strcmp(out, v[i].want), "%zu: %s", i, out);
    }
}

static const char *errors_of(const char *text) {
    static char out[256];
    failure_last_errors(text, strlen(text), out, sizeof out);
    return out;
}

TEST(the_last_errors_of_a_log_are_found) {
    CHECK(!strcmp(errors_of(""), ""));
    CHECK(!strcmp(errors_of("\n\n"), ""));
    CHECK(!strcmp(errors_of("one\ntwo\n\n"), "two"));
    CHECK(!strcmp(errors_of("2026-01-31T12:00:00.123Z error shard[1] no tensor x\n"
                            "2026-01-31T12:00:00.123Z info  shard[1] bye\n------\nmpirun noise\n"),
                  "no tensor x"));
    CHECK(!strcmp(
        errors_of("2026-01-31T12:00:00.123Z error shard[1] a\n2026-01-31T12:00:00.124Z error shard[0] b\n"
                  "2026-01-31T12:00:00.125Z error shard[1] b\n2026-01-31T12:00:00.126Z error shard[1] c\n"
                  "2026-01-31T12:00:00.127Z error shard[1] d"),
        "b; c; d"));
    CHECK(!strcmp(errors_of("2026-01-31T12:00:00.123Z error  unnamed component\n"), "unnamed component"));
    char text[128];
    failure_describe_exit(137, 0, text, sizeof text);
    CHECK(!strcmp(text, "killed by signal 9 (Killed)"));
    failure_describe_exit(86, 0, text, sizeof text);
    CHECK(strstr(text, "watchdog"));
    failure_from_log("/nonexistent", text, sizeof text);
    CHECK(!strcmp(text, ""));
}

TEST(quotas) {
    CHECK(cpus_of_quota("max 100000\n") == UINT32_MAX);
    CHECK(cpus_of_quota("200000 100000\n") == 2);
    CHECK(cpus_of_quota("250000 100000\n") == 2);
    CHECK(cpus_of_quota("50000 100000\n") == 1);
    CHECK(cpus_of_quota("nonsense") == UINT32_MAX && cpus_of_quota("") == UINT32_MAX);
    CHECK(cpus_of_quota("-1 100000") == UINT32_MAX && cpus_of_quota("1 0") == UINT32_MAX);
    CHECK(cpus_threads_per_rank(16, 3) == 5 && cpus_threads_per_rank(2, 4) == 1 &&
          cpus_threads_per_rank(2, 2) == 1);
    CHECK(cpus_usable() >= 1 && cpus_usable() <= (uint32_t)sysconf(_SC_NPROCESSORS_CONF));
}

static bool has(const command *c, const char *a, const char *b) {
    for (uint32_t i = 0; i < c->count; i++)
        if (!strcmp(c->word[i], a) && (!b || (i + 1 < c->count && !strcmp(c->word[i + 1], b)))) return true;
    return false;
}

TEST(command_lines) {
    const command_paths paths = {
        .link_address = "unix:/s", .secret_file = "/k", .scratch = "/dev/shm/gemmad-x"};
    engine_options o = {.id = "m/0",
                        .model_path = TEST_DATA,
                        .shard_program = "/bin/true",
                        .ranks = 1,
                        .threads = 3,
                        .weights = "f32",
                        .memory_bytes = UINT64_C(1) << 40,
                        .prefill_min_share = 25,
                        .grace_seconds = 120};
    command c = {0};
    CHECK_STATUS(command_serve(&c, &o, &paths), ST_OK);
    CHECK(c.count > 2 && strstr(c.word[0], "true") && !strcmp(c.word[1], "serve") && !c.word[c.count]);
    CHECK(has(&c, "--comm", "self") && has(&c, "--link", "unix:/s") && has(&c, "--secret-file", "/k"));
    CHECK(has(&c, "--threads", "3") && has(&c, "--weights", "f32") && has(&c, "--memory", "1099511627776"));
    CHECK(has(&c, "--prefill-min-share", "25"));
    CHECK(has(&c, "--engine-grace", "120") && !has(&c, "--kv", NULL) && !has(&c, "--context", NULL));
    command_close(&c);

    o.ranks = 2;
    o.launcher_args = "--mca a 'b c'  -x \"D\"";
    CHECK_STATUS(command_serve(&c, &o, &paths), ST_OK);
    CHECK(!strcmp(c.word[0], "mpirun") && has(&c, "-np", "2") && has(&c, "--host", "localhost:2"));
    CHECK(has(&c, "--bind-to", "none") && has(&c, "--comm", "mpi") && has(&c, "a", "b c") &&
          has(&c, "-x", "D"));
    CHECK(has(&c, "orte_tmpdir_base", "/dev/shm/gemmad-x"));
    CHECK(has(&c, "--allow-run-as-root", NULL) == (geteuid() == 0));
    command_close(&c);
    o.launcher_args = "'open";
    CHECK_STATUS(command_serve(&c, &o, &paths), ST_INVALID);
    command_close(&c);

    o.launcher_args = NULL;
    o.threads = 0;
    o.replicas = 2;
    o.replica = 1;
    o.ranks = 1024;
    CHECK_STATUS(command_plan(&c, &o), ST_OK);
    CHECK(has(&c, "plan", NULL) && has(&c, "--threads", "1") && has(&c, "--ranks", "1024") &&
          has(&c, "--share", "1/2"));
    command_close(&c);
    o.ranks = 1025;
    CHECK_STATUS(command_plan(&c, &o), ST_INVALID);
    o.ranks = 2;
    o.hosts = "localhost:1,localhost:1";
    CHECK_STATUS(command_check_options(&o), ST_OK);
    o.hosts = "localhost,node9:4";
    CHECK_STATUS(command_check_options(&o), ST_UNSUPPORTED);
    CHECK_SENTENCE("--hosts localhost,node9:4");
    o.hosts = NULL;
    o.launcher = "srun";
    CHECK_STATUS(command_plan(&c, &o), ST_UNSUPPORTED);
    CHECK_SENTENCE("--launcher srun");
    o.launcher = "local";
    o.model_path = "/nonexistent";
    CHECK_STATUS(command_plan(&c, &o), ST_NOT_FOUND);
    CHECK_SENTENCE("/nonexistent");
    command_close(&c);
}

TEST(plans) {
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 16);
    CHECK(n > 0);
    program[n > 0 ? n : 0] = 0;
    strcpy(strrchr(program, '/') + 1, "fake_shard");
    engine_options o = {.id = "m/0", .model_path = TEST_DATA, .shard_program = program, .ranks = 2};
    static model_facts f;
    setenv("FAKE_SHARD", "", 1);
    CHECK_STATUS(engine_plan(&o, &f), ST_OK);
    CHECK(f.vocab == 1000 && f.context_tokens == 4096 && f.bos_token == 2 && f.end_token_count == 2);
    CHECK(f.end_token[1] == 106 && f.default_top_p == 0.95 && f.default_top_k == 64);
    CHECK(!strcmp(f.layout, "tp 2") && !strcmp(f.checkpoint_hash, "c0ffee"));
    CHECK(f.weight_bytes == UINT64_C(123456789012) && f.kv_bytes_total == 77 && f.path[0] == '/');
    CHECK(f.context_model == 8192 && f.kv_requests == 3 && f.kv_bytes_full == 70 && f.kv_bytes_sliding == 7);
    CHECK(f.kv_pool_bytes == 250 && f.activation_bytes == 5 && f.kv_tokens == 12345);
    CHECK(!strcmp(f.kv_type, "q8"));
    setenv("FAKE_SHARD", "refuse", 1);
    CHECK_STATUS(engine_plan(&o, &f), ST_NOT_FOUND);
    CHECK_SENTENCE("no tensor model.norm.weight");
    CHECK(!strstr(status_text(), "NOT_FOUND"));
    setenv("FAKE_SHARD", "untold", 1);
    CHECK_STATUS(engine_plan(&o, &f), ST_LAYOUT);
    CHECK_SENTENCE("5 ranks do not divide 8 query heads; 1, 2, 4, 8 do");
    setenv("FAKE_SHARD", "crash", 1);
    CHECK_STATUS(engine_plan(&o, &f), ST_INTERNAL);
    CHECK_SENTENCE("killed by signal 9");
    setenv("FAKE_SHARD", "garbage", 1);
    CHECK_STATUS(engine_plan(&o, &f), ST_FORMAT);
    CHECK_SENTENCE("vocab is -4");
    o.shard_program = "/nonexistent/gemmad-shard";
    CHECK_STATUS(engine_plan(&o, &f), ST_NOT_FOUND);
    o.shard_program = NULL; /* beside this executable, where there is none */
    CHECK_STATUS(engine_plan(&o, &f), ST_NOT_FOUND);
    CHECK_SENTENCE("gemmad-shard");
}

int main(void) {
    RUN(clean_text_is_utf8_and_cut_between_characters);
    RUN(the_last_errors_of_a_log_are_found);
    RUN(quotas);
    RUN(command_lines);
    RUN(plans);
    return test_result();
}
