/* The doctor's checks, on machines that are not this one; and the dates of a certificate. */
#include "ctl/certificate.h"
#include "ctl/doctor_gather.h"
#include "tests/test.h"

static const char own[] = "0.1.0, build 1";

/* A machine with nothing wrong: each test breaks one thing. Texts are constants, so doctor_facts_close is not called. */
static doctor_facts healthy(void) {
#define TEXT(s) ((char *)(uintptr_t)(s))
    doctor_facts f = {.own_version = own,
                      .gemmad_version = TEXT(own),
                      .shard_version = TEXT(own),
                      .mpirun_version = TEXT("mpirun 4"),
                      .hello_tried = true,
                      .hello_ranks = 2,
                      .hello_s = 0.5,
                      .shm_there = true,
                      .shm_free_bytes = UINT64_C(1) << 30,
                      .huge_pages = "madvise",
                      .memory_free_bytes = UINT64_C(64) << 30,
                      .cpus = 8,
                      .isa = "avx2",
                      .files_max = 20000,
                      .disk_free_bytes = UINT64_C(9) << 30,
                      .state_writable = true,
                      .state_folder = TEXT("/state"),
                      .model = "gemma",
                      .plan_asked = true,
                      .weight_bytes = UINT64_C(16) << 30,
                      .request_bytes = UINT64_C(2) << 30,
                      .need_bytes = UINT64_C(20) << 30,
                      .context_tokens = 1000,
                      .context_model = 1000,
                      .has_tokenizer = true,
                      .server = "unix:/s",
                      .server_is_socket = true,
                      .socket_there = true,
                      .socket_is_socket = true,
                      .socket_mode = 0600,
                      .socket_uid = 1000,
                      .own_uid = 1000,
                      .daemon_version = TEXT(own),
                      .daemon_state = TEXT("ready"),
                      .chat_asked = true,
                      .certificate = "cert.pem",
                      .certificate_from_s = 0,
                      .certificate_until_s = 400 * 86400,
                      .now_s = 86400,
                      .key = "key.pem",
                      .key_mode = 0600};
    return f;
}

/* The one line that is not OK has this level, these words and a remedy; "" for a machine that is well. */
static void check_one(const doctor_facts *f, doctor_level level, const char *check, const char *words) {
    doctor_report r = {0};
    const doctor_line *found = NULL;
    int bad = 0;
    doctor_check_all(&r, f);
    for (uint32_t i = 0; i < r.count; i++) {
        if (r.line[i].level != DOCTOR_OK) bad++, found = &r.line[i];
        CHECK_THAT((r.line[i].level == DOCTOR_OK) == !r.line[i].remedy[0], "%s: \"%s\"", r.line[i].said,
                   r.line[i].remedy);
        CHECK(!strchr(r.line[i].said, '\n'));
    }
    CHECK_THAT(bad == (level != DOCTOR_OK), "%d lines for %s %s", bad, check, words);
    CHECK(doctor_worst(&r) == level);
    if (!found) return;
    CHECK_THAT(found->level == level && !strcmp(found->check, check) && strstr(found->said, words),
               "%s %s: %s", doctor_level_name(found->level), found->check, found->said);
}

#define WRONG(level, check, words, ...)                                                                      \
    do {                                                                                                     \
        doctor_facts f = healthy();                                                                          \
        __VA_ARGS__;                                                                                         \
        check_one(&f, level, check, words);                                                                  \
    } while (0)

TEST(a_healthy_machine_has_nothing_to_mend) { WRONG(DOCTOR_OK, "", "", (void)f); }

TEST(programs_and_mpi) {
    WRONG(DOCTOR_FAIL, "programs", "gemmad is not beside", f.gemmad_version = NULL);
    WRONG(DOCTOR_FAIL, "programs", "gemmad-shard is 0.1.0, build 2",
          f.shard_version = TEXT("0.1.0, build 2"));
    WRONG(DOCTOR_WARN, "mpi", "no mpirun", f.mpirun_version = NULL);
    WRONG(DOCTOR_FAIL, "mpi hello", "no route to lo", f.hello_ranks = 0,
          f.hello_said = TEXT("no route\nto lo"));
    WRONG(DOCTOR_FAIL, "mpi hello", "nothing was said", f.hello_ranks = 1);
    WRONG(DOCTOR_WARN, "mpi hello", "after 12.0 s", f.hello_s = 12);
    WRONG(DOCTOR_OK, "", "", f.hello_tried = false, f.hello_ranks = 0);
}

TEST(the_machine) {
    WRONG(DOCTOR_WARN, "instructions", "no AVX2", strcpy(f.isa, "scalar"));
    WRONG(DOCTOR_WARN, "instructions", "GEMMAD_ISA=avx2", strcpy(f.isa, "amx"), strcpy(f.isa_cap, "avx2"));
    WRONG(DOCTOR_WARN, "processors", "the time of 1.5", f.quota_cpus = 1.5);
    WRONG(DOCTOR_OK, "", "", f.quota_cpus = 8);
    WRONG(DOCTOR_WARN, "governor", "powersave", strcpy(f.governor, "powersave"));
    WRONG(DOCTOR_OK, "", "", strcpy(f.governor, "performance"));
    WRONG(DOCTOR_WARN, "memory", "allows 32.0 GiB", f.memory_limit_bytes = UINT64_C(32) << 30);
    WRONG(DOCTOR_OK, "", "", f.memory_limit_bytes = UINT64_C(99) << 30);
    WRONG(DOCTOR_WARN, "huge pages", "off", strcpy(f.huge_pages, "never"));
    WRONG(DOCTOR_WARN, "shared memory", "not there", f.shm_there = false);
    WRONG(DOCTOR_WARN, "shared memory", "63 MiB", f.shm_free_bytes = 63 << 20);
    WRONG(DOCTOR_WARN, "limits", "1024 files", f.files_max = 1024);
    WRONG(DOCTOR_WARN, "limits", "map 2.0 GiB", f.address_space_max = UINT64_C(2) << 30);
    WRONG(DOCTOR_FAIL, "state", "/state cannot", f.state_writable = false);
    WRONG(DOCTOR_WARN, "state", "5 MiB", f.disk_free_bytes = 5 << 20);
}

static void on_gpu(doctor_facts *f) {
    f->gpu_on_bus = f->gpu_library = true;
    f->gpu_driver = TEXT("580.1");
    f->gpus = TEXT("H200");
    f->shard_built = TEXT("CUDA 13.0");
    f->cublaslt = TEXT("cuBLASLt 130100: /lib/libcublasLt.so.13");
    f->nccl = TEXT("NCCL 22809: /lib/libnccl.so.2");
}

TEST(graphics_processors) {
    WRONG(DOCTOR_WARN, "gpu", "no driver", f.gpu_on_bus = true);
    WRONG(DOCTOR_WARN, "gpu", "550.1, but no libcuda", f.gpu_on_bus = true, f.gpu_driver = TEXT("550.1"));
    WRONG(DOCTOR_OK, "", "", f.gpu_on_bus = f.gpu_library = true, f.gpu_driver = TEXT("550.1"),
          f.gpus = TEXT("H200"));
    WRONG(DOCTOR_WARN, "gpu build", "built for CPUs", on_gpu(&f), f.shard_built = TEXT("CPU only"));
    WRONG(DOCTOR_WARN, "cublaslt", "prompts are read more slowly: there is no cuBLASLt", on_gpu(&f), f.cublaslt = NULL,
          f.cublaslt_wrong = TEXT("there is no cuBLASLt: libcublasLt.so.13: cannot open"));
    WRONG(DOCTOR_WARN, "nccl", "host memory: there is no NCCL", on_gpu(&f), f.nccl = NULL,
          f.nccl_wrong = TEXT("there is no NCCL: libnccl.so.2: cannot open"));
    WRONG(DOCTOR_WARN, "nccl", "built without NCCL", on_gpu(&f), f.shard_built = TEXT("CUDA 13.0 without NCCL"));
    WRONG(DOCTOR_OK, "", "", on_gpu(&f));
    /* A build without CUDA is what a machine without a driver wants. */
    WRONG(DOCTOR_OK, "", "", f.shard_built = TEXT("CPU only"));
}

TEST(what_a_program_is_built_for) {
    char with[] = "0.1.0, build 1, CUDA 13.0", cpu[] = "0.1.0, build 1, CPU only", older[] = "0.1.0, build 1", none[] = "?";
    const char *built = doctor_read_built(with);
    CHECK(built && !strcmp(built, "CUDA 13.0") && !strcmp(with, own));
    built = doctor_read_built(cpu);
    CHECK(built && !strcmp(built, "CPU only") && !strcmp(cpu, own));
    CHECK(!doctor_read_built(older) && !strcmp(older, own));
    CHECK(!doctor_read_built(none) && !strcmp(none, "?"));
}

TEST(the_model) {
    WRONG(DOCTOR_FAIL, "model", "3 ranks do not", f.plan_refused = TEXT("3 ranks do not"));
    WRONG(DOCTOR_FAIL, "model", "needs 65.0 GiB (weights 16.0, one request 2.0); there are 64.0",
          f.need_bytes = UINT64_C(65) << 30);
    WRONG(DOCTOR_OK, "", "", f.need_bytes = UINT64_C(65) << 30, f.gpu_free_bytes = UINT64_C(66) << 30);
    WRONG(DOCTOR_FAIL, "model", "needs 20.0 GiB (weights 16.0, one request 2.0); there are 8.0 on the GPUs",
          f.gpu_free_bytes = UINT64_C(8) << 30);
    WRONG(DOCTOR_WARN, "model", "900 of 1000 tokens", f.context_tokens = 900);
    WRONG(DOCTOR_WARN, "tokenizer", "token ids only", f.has_tokenizer = false);
    WRONG(DOCTOR_WARN, "chat template", "no chat", f.chat_template_looked = true);
    WRONG(DOCTOR_OK, "", "", f.chat_template_looked = f.has_chat_template = true);
    WRONG(DOCTOR_OK, "", "", f.plan_asked = false, f.has_tokenizer = false);
}

TEST(the_daemon) {
    WRONG(DOCTOR_WARN, "socket", "no daemon listens at unix:/s", f.socket_there = false);
    WRONG(DOCTOR_FAIL, "socket", "no daemon listens", f.socket_there = false, f.server_given = true);
    WRONG(DOCTOR_FAIL, "socket", "no socket", f.socket_is_socket = false);
    WRONG(DOCTOR_WARN, "socket", "user 1000, you are 5", f.own_uid = 5);
    WRONG(DOCTOR_OK, "", "", f.own_uid = 0);
    WRONG(DOCTOR_WARN, "socket", "mode 0666", f.socket_mode = 0666);
    WRONG(DOCTOR_FAIL, "daemon", "nobody", f.daemon_refused = TEXT("nobody answers"));
    WRONG(DOCTOR_FAIL, "daemon", "failed: rank 1", f.daemon_state = TEXT("failed"),
          f.engine_failure = TEXT("rank 1"));
    WRONG(DOCTOR_WARN, "daemon", "ready, but an engine failed: rank 1", f.engine_failure = TEXT("rank 1"));
    WRONG(DOCTOR_WARN, "daemon", "starting", f.daemon_state = TEXT("starting"));
    WRONG(DOCTOR_WARN, "version", "0.0.9", f.daemon_version = TEXT("0.0.9, build 0"));
    WRONG(DOCTOR_WARN, "chat", "unknown template", f.chat_refused = TEXT("unknown template"));
}

TEST(certificates_and_keys) {
    WRONG(DOCTOR_FAIL, "certificate", "expired 9 days ago", f.now_s = (400 + 9) * 86400);
    WRONG(DOCTOR_WARN, "certificate", "expires in 29 days", f.now_s = (400 - 29) * 86400);
    WRONG(DOCTOR_OK, "", "", f.now_s = (400 - 30) * 86400);
    WRONG(DOCTOR_FAIL, "certificate", "not valid yet, for 1 days", f.certificate_from_s = 2 * 86400);
    WRONG(DOCTOR_FAIL, "certificate", "no dates", f.certificate_wrong = TEXT("no dates"));
    WRONG(DOCTOR_FAIL, "key", "mode 0640", f.key_mode = 0640);
    WRONG(DOCTOR_FAIL, "key", "no such", f.key_wrong = TEXT("no such"));
}

TEST(text_of_the_system) {
    char word[16];
    doctor_read_choice("always [madvise] never\n", word, sizeof word);
    CHECK(!strcmp(word, "madvise"));
    doctor_read_choice("always madvise never\n", word, sizeof word);
    CHECK(!strcmp(word, ""));
    CHECK(doctor_read_quota("150000 100000\n") == 1.5 && doctor_read_quota("max 100000") == 0 &&
          doctor_read_quota("") == 0);
    CHECK(!strcmp(doctor_read_isa("x\nflags\t\t: fpu avx2 fma f16c avx512\n"), "avx2"));
    CHECK(!strcmp(doctor_read_isa("x\nflags\t\t: avx2 fma f16c avx_vnni\nflags: amx_tile\n"), "avxvnni"));
    CHECK(!strcmp(doctor_read_isa("\nflags: f16c avx2 fma avx512f avx512bw avx512dq avx512vl"), "avx512"));
    CHECK(!strcmp(
        doctor_read_isa("\nflags: f16c avx2 fma avx512f avx512bw avx512dq avx512vl amx_tile amx_int8\n"),
        "amx"));
    CHECK(!strcmp(doctor_read_isa("\nflags: xavx2 fma f16c\n"), "scalar") &&
          !strcmp(doctor_read_isa(""), "scalar"));
}

/* tests/unit/ctl/certificate.pem was made with openssl: from 2024-02-29 12:00:00 until 2051-01-01 00:00:00, so that one
 * date is a UTCTime and the other a GeneralizedTime. */
TEST(dates_of_a_certificate) {
    char pem[8192];
    int64_t from = 0, until = 0;
    FILE *in = fopen(TEST_DATA "/unit/ctl/certificate.pem", "rb");
    CHECK(in != NULL);
    size_t n = in ? fread(pem, 1, sizeof pem, in) : 0;
    if (in) fclose(in);
    CHECK_STATUS(certificate_read(pem, n, &from, &until), ST_OK);
    CHECK_THAT(from == 1709208000 && until == 2556144000, "%lld %lld", (long long)from, (long long)until);
    for (size_t cut = 0; cut < n - 2; cut++) {
        int64_t a = -1, b = -1;
        status st = certificate_read(pem, cut, &a, &b);
        CHECK(st == ST_FORMAT && a == -1 && b == -1);
    }
    CHECK_STATUS(
        certificate_read("-----BEGIN CERTIFICATE-----\nMA!=\n-----END CERTIFICATE-----", 58, &from, &until),
        ST_FORMAT);
}

int main(void) {
    RUN(a_healthy_machine_has_nothing_to_mend);
    RUN(programs_and_mpi);
    RUN(the_machine);
    RUN(graphics_processors);
    RUN(what_a_program_is_built_for);
    RUN(the_model);
    RUN(the_daemon);
    RUN(certificates_and_keys);
    RUN(text_of_the_system);
    RUN(dates_of_a_certificate);
    return test_result();
}
