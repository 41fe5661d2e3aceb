#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/shape.h"
#include "daemon/settings.h"
#include "tests/test.h"

enum { WORDS_MAX = 64 };

/* A command line in one string; words are separated by blanks. */
static status read_line(settings *s, const char *line) {
    static char text[1024];
    static char *word[WORDS_MAX + 1];
    char *rest = NULL;
    int n = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *w = strtok_r(text, " ", &rest); w && n < WORDS_MAX; w = strtok_r(NULL, " ", &rest))
        word[n++] = w;
    return settings_read(s, n, word);
}

static void check_refused(const char *line, status want, const char *part) {
    settings s;
    CHECK_STATUS(read_line(&s, line), want);
    CHECK_SENTENCE(part);
    settings_close(&s);
}

static char config_path[] = "/tmp/test_settings-XXXXXX";

static void write_config(const char *text) {
    FILE *f = fopen(config_path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static status read_with_config(settings *s, const char *text, const char *more) {
    char line[512];
    write_config(text);
    snprintf(line, sizeof line, "--config %s %s", config_path, more);
    return read_line(s, line);
}

TEST(names_models) {
    settings s;
    CHECK_STATUS(read_line(&s, "--model /models/tiny/ --model b=/x/y=z --model /p/c=d --model rel"), ST_OK);
    CHECK(s.model_count == 4 && !strcmp(s.model[0].name, "tiny") &&
          !strcmp(s.model[0].path, "/models/tiny/"));
    CHECK(!strcmp(s.model[1].name, "b") && !strcmp(s.model[1].path, "/x/y=z"));
    CHECK(!strcmp(s.model[2].name, "c=d") && !strcmp(s.model[3].name, "rel"));
    CHECK(s.listen_count == 1 && !strncmp(s.listen[0], "unix:/", 6) && s.state_dir);
    settings_close(&s);
    check_refused("--model /m/x.gguf --model /n/x", ST_INVALID, "two models have the name x");
    check_refused("--model a=/x --model a=/y", ST_INVALID, "two models have the name a");
    check_refused("--model =/x", ST_INVALID, "the name \"\" has 0 bytes");
    check_refused("--model a=", ST_INVALID, "the path is missing");
    check_refused("--ranks 2", ST_INVALID, "no model to serve");
}

TEST(refuses_what_is_not_built) {
    static const char *const lines[] = {"--media-root /", "--launcher srun", "--launcher external"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char line[128];
        snprintf(line, sizeof line, "--model m %s", lines[i]);
        check_refused(line, ST_UNSUPPORTED, "is not available in this version");
    }
    check_refused("--model m --device gpu", ST_INVALID, "--device");
}

/* Whether this machine has what they need is the shard's to say. */
TEST(takes_gpu_options) {
    settings s;
    CHECK_STATUS(read_line(&s, "--model m=/x --device cuda --weights fp8 --batch-invariant"), ST_OK);
    engine_options o = settings_engine_options(&s.model[0].options, s.model[0].path);
    CHECK(!strcmp(o.device, "cuda") && !strcmp(o.weights, "fp8") && o.batch_invariant);
    settings_close(&s);
}

TEST(listens_safely) {
    static const char *const safe[] = {"127.0.0.1:80", "127.9.9.9:80", "localhost:80", "[::1]:80", "unix:/a"};
    static const char *const open_to_all[] = {"0.0.0.0:80", "[::]:80", "192.168.0.1:80",
                                              "127.evil.example:80", "host:80"};
    static const char *const unreadable[] = {"80",   ":80",    "a:",     "a:0", "a:65536",
                                             "a:8x", "::1:80", "unix:a", "a:-1"};
    settings s;
    char line[128];
    for (size_t i = 0; i < sizeof safe / sizeof *safe; i++) {
        snprintf(line, sizeof line, "--model m --listen %s", safe[i]);
        CHECK_STATUS(read_line(&s, line), ST_OK);
        settings_close(&s);
    }
    for (size_t i = 0; i < sizeof open_to_all / sizeof *open_to_all; i++) {
        snprintf(line, sizeof line, "--model m --listen %s", open_to_all[i]);
        check_refused(line, ST_INVALID, "is not a loopback address");
        snprintf(line, sizeof line, "--model m --http %s", open_to_all[i]);
        check_refused(line, ST_INVALID, "is not a loopback address");
        snprintf(line, sizeof line, "--model m --insecure --listen %s", open_to_all[i]);
        CHECK_STATUS(read_line(&s, line), ST_OK);
        settings_close(&s);
    }
    for (size_t i = 0; i < sizeof unreadable / sizeof *unreadable; i++) {
        snprintf(line, sizeof line, "--model m --insecure --listen %s", unreadable[i]);
        check_refused(line, ST_INVALID, "--listen");
        snprintf(line, sizeof line, "--model m --insecure --http %s", unreadable[i]);
        check_refused(line, ST_INVALID, "--http");
    }
}

TEST(keys_and_tls_open_addresses) {
    settings s;
    CHECK_STATUS(read_line(&s, "--model m --listen 0.0.0.0:80 --keys k --tls-cert c --tls-key p"), ST_OK);
    settings_close(&s);
    check_refused("--model m --listen 0.0.0.0:80 --keys k", ST_INVALID,
                  "--tls-cert and --tls-key are missing");
    check_refused("--model m --listen 0.0.0.0:80 --tls-cert c --tls-key p", ST_INVALID,
                  "and --keys is missing");
    check_refused("--model m --listen 0.0.0.0:80", ST_INVALID,
                  "--keys and --tls-cert with --tls-key are missing");
    check_refused("--model m --tls-cert c", ST_INVALID, "--tls-key is missing");
    check_refused("--model m --tls-key c", ST_INVALID, "--tls-cert is missing");
    check_refused("--model m --tls-client-ca c", ST_INVALID, "goes with --tls-cert");
    check_refused("--model m --socket-mode 0666", ST_INVALID, "it needs --keys");
    check_refused("--model m --socket-mode 0777 --keys k", ST_INVALID, "socket-mode");
    CHECK_STATUS(read_line(&s, "--model m --socket-mode 0660 --keys k"), ST_OK);
    settings_close(&s);
}

TEST(reads_sections_of_models) {
    settings s;
    static const char two[] = "ranks = 2\nmodel = a=/a\n[model a]\nthreads = 3\nchat-template = "
                              "gemma4-small\n[model b]\nmodel = /some/b\nranks = 4\n";
    CHECK_STATUS(read_with_config(&s, two, ""), ST_OK);
    CHECK(s.model_count == 2 && !strcmp(s.model[1].name, "b") && !strcmp(s.model[1].path, "/some/b"));
    if (s.model_count == 2) {
        CHECK(s.model[0].options.ranks == 2 && s.model[0].options.threads == 3);
        CHECK(!strcmp(s.model[0].options.chat_template, "gemma4-small") && !s.model[1].options.chat_template);
        CHECK(s.model[1].options.ranks == 4 && s.model[1].options.threads == 0);
    }
    settings_close(&s);
    /* The command line wins over a section too, and its models take the place of the file's. */
    CHECK_STATUS(read_with_config(&s, two, "--ranks 8 --model b=/other"), ST_OK);
    CHECK(s.model_count == 1 && s.model[0].options.ranks == 8 && !strcmp(s.model[0].path, "/other"));
    settings_close(&s);
    CHECK_STATUS(read_with_config(&s, "[model x]\nranks = 2\n[model a]\nmodel = /a\n", ""), ST_INVALID);
    CHECK_SENTENCE(":1: [model x]: no model has this name");
    settings_close(&s);
    CHECK_STATUS(read_with_config(&s, "model = /a\n[models]\nranks = 2\n", ""), ST_INVALID);
    CHECK_SENTENCE("unknown section [models]");
    settings_close(&s);
    CHECK_STATUS(read_with_config(&s, "model = /a\n[model a]\nranks = 2\n[model a]\nranks = 2\n", ""),
                 ST_INVALID);
    CHECK_SENTENCE("is already in line 2");
    settings_close(&s);
    CHECK_STATUS(read_with_config(&s, "model = /a\n[model a]\nlisten = unix:/x\n", ""), ST_INVALID);
    CHECK_SENTENCE("option of the whole daemon");
    settings_close(&s);
    check_refused("--config /nonexistent/file", ST_INVALID, "--config: ");
}

TEST(checks_modes) {
    settings s;
    CHECK_STATUS(read_line(&s, "--dry-run --shape 31b --json"), ST_OK);
    settings_close(&s);
    check_refused("--shape 31b", ST_INVALID, "goes with --dry-run");
    check_refused("--model a --json", ST_INVALID, "goes with --dry-run");
    check_refused("--dry-run --shape 31b --model a", ST_INVALID, "--shape 31b and --model a: one of them");
    check_refused("--dry-run --shape 30b", ST_INVALID, "allowed: 31b 26b-a4b e4b e2b");
    check_refused("--model a --expert-layout 2", ST_INVALID, "it is written as 2x1");
    check_refused("--model a --spill /d:5foo", ST_INVALID, "the size \"5foo\" is not a number");
    check_refused("--model a --spill :5GiB", ST_INVALID, "names no folder");
    CHECK_STATUS(read_line(&s, "--model a --verbose --log-level error"), ST_OK);
    CHECK(s.log_level == LOG_DEBUG);
    settings_close(&s);
}

TEST(writes_shapes) {
    static const char *const names[] = {"31b", "26b-a4b", "e4b", "e2b"};
    static const uint32_t layers[] = {60, 30, 42, 35};
    for (int i = 0; i < 4; i++) {
        strbuf text = {0};
        json_t *root = NULL;
        uint32_t n = 0;
        CHECK_STATUS(shape_write_config(names[i], 0, &text), ST_OK);
        CHECK_STATUS(json_read_bytes(strbuf_text(&text), text.size, "config.json", &root), ST_OK);
        if (root) CHECK_STATUS(json_read_u32(root, "c", "num_hidden_layers", 1, 99, &n), ST_OK);
        json_t *types = root ? json_object_get(root, "layer_types") : NULL;
        CHECK(n == layers[i] && json_array_size(types) == n);
        /* Every published model ends with a full layer. */
        const char *last = json_string_value(json_array_get(types, n ? n - 1 : 0));
        CHECK(last && !strcmp(last, "full_attention"));
        json_decref(root);
        strbuf_close(&text);
    }
    strbuf none = {0};
    CHECK_STATUS(shape_write_config("12b", 0, &none), ST_NOT_FOUND);
}

/* The manual has an entry (.TP) ".B --name" or ".BI --name" for each row of the table, and none beside them.
 */
TEST(manual_follows_the_table) {
    char *text = NULL;
    size_t size = 0, entries = 0;
    CHECK_STATUS(file_read_all(TEST_DATA "/../docs/gemmad.1", 1 << 20, &text, &size), ST_OK);
    for (char *at = text; at && (at = strstr(at, "\n.TP\n"));) {
        at += strlen("\n.TP\n");
        const char *name = !strncmp(at, ".B \\-\\-", 7)    ? at + 7
                           : !strncmp(at, ".BI \\-\\-", 8) ? at + 8
                                                           : NULL;
        if (!name) continue;
        char plain[64];
        size_t n = 0;
        for (; *name && !strchr(" \n", *name) && n + 1 < sizeof plain; name++)
            if (*name != '\\') plain[n++] = *name;
        plain[n] = 0;
        bool known = false;
        for (size_t i = 0; i < gemmad_option_count; i++)
            known = known || !strcmp(gemmad_option_table[i].name, plain);
        CHECK_THAT(known, "--%s is in the manual and not in the table", plain);
        entries++;
    }
    CHECK_THAT(entries == gemmad_option_count, "%zu entries, %zu options", entries, gemmad_option_count);
    free(text);
}

/* What is printed is read back, as it is and with every comment mark before an option taken away. */
TEST(example_config_can_be_read) {
    char *text = NULL;
    size_t size = 0;
    config_file f;
    FILE *out = open_memstream(&text, &size);
    settings_print_example(out);
    fclose(out);
    CHECK_STATUS(config_file_parse(&f, "example", text, size), ST_OK);
    CHECK(f.count == 0);
    config_file_close(&f);
    size_t wanted = 0, found = 0;
    for (size_t i = 0; i < gemmad_option_count; i++) {
        const option *o = &gemmad_option_table[i];
        char line[80];
        snprintf(line, sizeof line, "\n#%s = ", o->name);
        bool may = !(o->flags & (OPTION_ARGUMENT_ONLY | OPTION_NOT_IN_FILE | OPTION_NOT_BUILT));
        wanted += may;
        char *at = strstr(text, line);
        CHECK_THAT(!at == !may, "%s", o->name);
        if (!at) continue;
        found++;
        at[1] = ' ';
    }
    CHECK(found == wanted && found > 20);
    CHECK_STATUS(config_file_parse(&f, "example", text, size), ST_OK);
    CHECK_THAT(f.count == found, "%zu of %zu", f.count, found);
    config_file_close(&f);
    free(text);
}

int main(void) {
    int fd = mkstemp(config_path);
    if (fd < 0) return 1;
    close(fd);
    setenv("HOME", "/nonexistent", 1);
    for (size_t i = 0; i < gemmad_option_count; i++) {
        char name[80];
        snprintf(name, sizeof name, "GEMMAD_%s", gemmad_option_table[i].name);
        for (char *p = name; *p; p++) *p = *p == '-' ? '_' : *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
        unsetenv(name); /* of whoever runs the tests */
    }
    RUN(names_models);
    RUN(refuses_what_is_not_built);
    RUN(takes_gpu_options);
    RUN(listens_safely);
    RUN(keys_and_tls_open_addresses);
    RUN(reads_sections_of_models);
    RUN(checks_modes);
    RUN(writes_shapes);
    RUN(manual_follows_the_table);
    RUN(example_config_can_be_read);
    unlink(config_path);
    return test_result();
}
