#include "base/options.h"
#include "base/paths.h"
#include "tests/test.h"

typedef struct sample {
    bool loud;
    const char *name, *colour;
    option_texts file;
    uint32_t ranks, grace;
    uint64_t memory;
} sample;

#define FIELD(f) offsetof(sample, f)
static const option rows[] = {
    {"loud", OPTION_FLAG, 0, FIELD(loud), .help = "shout"},
    {"name", OPTION_TEXT, 0, FIELD(name), .value = "NAME", .preset = "nobody", .help = "who"},
    {"colour", OPTION_WORD, OPTION_OF_SECTION, FIELD(colour), .words = "red green", .words_later = "blue",
     .help = "which"},
    {"file", OPTION_TEXTS, 0, FIELD(file), .value = "FILE", .help = "may repeat"},
    {"ranks", OPTION_U32, OPTION_OF_SECTION, FIELD(ranks), .value = "N", .preset = "1", .least = 1,
     .most = 1024, .help = "how many"},
    {"engine-grace", OPTION_U32, 0, FIELD(grace), .value = "N", .unit = "seconds", .preset = "120",
     .help = "patience"},
    {"memory", OPTION_BYTES, 0, FIELD(memory), .value = "BYTES", .help = "budget"},
    {"http", OPTION_TEXT, OPTION_NOT_BUILT, FIELD(name), .value = "ADDR", .help = "later"},
    {"config", OPTION_TEXT, OPTION_NOT_IN_FILE, FIELD(name), .value = "FILE", .help = "the file"},
    {"help", OPTION_FLAG, OPTION_ARGUMENT_ONLY, FIELD(loud), .help = "this"},
};
enum { ROWS = sizeof rows / sizeof *rows, WORDS_MAX = 100 };

/* Words of a command line, separated by blanks, read over presets alone. */
static status read_line(sample *values, options *o, const char *line) {
    static char text[512];
    static char *word[WORDS_MAX + 1];
    char *rest = NULL;
    int n = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *w = strtok_r(text, " ", &rest); w && n < WORDS_MAX; w = strtok_r(NULL, " ", &rest))
        word[n++] = w;
    *values = (sample){0};
    options_open(o, rows, ROWS, "SAMPLE", values);
    return options_read_arguments(o, n, word);
}

static void check_refused(const char *line, status want, const char *part) {
    sample v;
    options o;
    CHECK_STATUS(read_line(&v, &o, line), want);
    CHECK_SENTENCE(part);
    options_close(&o);
}

TEST(reads_arguments) {
    sample v;
    options o;
    CHECK_STATUS(
        read_line(&v, &o, "--ranks 4 --name=a=b --file x --loud --file y --memory 3GiB --colour green"),
        ST_OK);
    CHECK(v.ranks == 4 && v.loud && v.grace == 120 && v.memory == UINT64_C(3) << 30);
    CHECK(!strcmp(v.name, "a=b") && !strcmp(v.colour, "green"));
    CHECK(v.file.count == 2 && !strcmp(v.file.at[1], "y"));
    CHECK(options_source(&o, "ranks") == OPTION_FROM_ARGUMENT &&
          options_source(&o, "engine-grace") == OPTION_FROM_PRESET);
    options_close(&o);
    CHECK_STATUS(read_line(&v, &o, "--loud=false --ranks 1024 --memory 0"), ST_OK);
    CHECK(!v.loud && v.ranks == 1024 && v.memory == 0 && !strcmp(v.name, "nobody"));
    options_close(&o);
}

TEST(refuses_arguments) {
    check_refused("--rnaks 2", ST_INVALID, "unknown option --rnaks; did you mean --ranks?");
    check_refused("--enginegrace 2", ST_INVALID, "did you mean --engine-grace?");
    check_refused("--zzzzzzzzzz", ST_INVALID, "--help lists them");
    check_refused("--ranks", ST_INVALID, "--ranks needs a value: --ranks N");
    check_refused("--ranks 0", ST_INVALID, "--ranks is 0, allowed are 1 to 1024");
    check_refused("--ranks 1025", ST_INVALID, "1 to 1024");
    check_refused("--ranks -1", ST_INVALID, "not a whole number");
    check_refused("--ranks +1", ST_INVALID, "not a whole number");
    check_refused("--ranks 0x2", ST_INVALID, "not a whole number");
    check_refused("--ranks 99999999999999999999", ST_INVALID, "too large");
    check_refused("--engine-grace 4294967296", ST_INVALID, "seconds");
    check_refused("--ranks 2 --ranks 3", ST_INVALID, "--ranks is given twice");
    check_refused("--name=", ST_INVALID, "--name is empty");
    check_refused("--memory 3GB", ST_INVALID, "KiB");
    check_refused("--memory 99999999TiB", ST_INVALID, "too large");
    check_refused("--colour pink", ST_INVALID, "allowed: red green");
    check_refused("--colour blue", ST_UNSUPPORTED, "--colour blue is not available in this version");
    check_refused("--http x", ST_UNSUPPORTED, "--http is not available in this version");
    check_refused("--loud=perhaps", ST_INVALID, "true and false");
    check_refused("word", ST_INVALID, "unexpected argument \"word\"");
    check_refused("-h", ST_INVALID, "unexpected argument");
    check_refused("--", ST_INVALID, "unexpected argument");
}

static void parse(config_file *f, const char *text) {
    CHECK_STATUS(config_file_parse(f, "c", text, strlen(text)), ST_OK);
}

/* Argument over variable over file over preset, whatever is read first. */
TEST(follows_precedence) {
    sample v;
    options o;
    config_file f;
    parse(&f, "ranks = 2\nengine-grace = 2\nmemory = 2\nfile = f1\nfile = f2\n");
    setenv("SAMPLE_RANKS", "3", 1);
    setenv("SAMPLE_ENGINE_GRACE", "3", 1);
    setenv("SAMPLE_FILE", "e1,e2,e3", 1);
    setenv("SAMPLE_NAME", "", 1);
    setenv("SAMPLE_HELP", "true", 1);
    setenv("SAMPLE_ISA", "scalar", 1);
    CHECK_STATUS(read_line(&v, &o, "--ranks 4"), ST_OK);
    CHECK_STATUS(options_read_environment(&o), ST_OK);
    CHECK_STATUS(options_read_section(&o, &f, ""), ST_OK);
    CHECK_THAT(v.ranks == 4 && v.grace == 3 && v.memory == 2, "%u %u %u", v.ranks, v.grace,
               (unsigned)v.memory);
    CHECK(v.file.count == 3 && !strcmp(v.file.at[2], "e3") && !v.loud && !strcmp(v.name, "nobody"));
    setenv("SAMPLE_RANKS", "many", 1);
    sample w = {0};
    options p;
    options_open(&p, rows, ROWS, "SAMPLE", &w);
    CHECK_STATUS(options_read_section(&p, &f, ""), ST_OK);
    CHECK(w.ranks == 2 && w.file.count == 2);
    CHECK_STATUS(options_read_environment(&p), ST_INVALID);
    CHECK_SENTENCE("SAMPLE_RANKS: \"many\"");
    options_close(&o);
    options_close(&p);
    config_file_close(&f);
    unsetenv("SAMPLE_RANKS"), unsetenv("SAMPLE_ENGINE_GRACE"), unsetenv("SAMPLE_FILE");
}

static void check_section(const char *text, const char *section, status want, const char *part) {
    sample v = {0};
    options o;
    config_file f;
    parse(&f, text);
    options_open(&o, rows, ROWS, "SAMPLE", &v);
    CHECK_STATUS(options_read_section(&o, &f, section), want);
    if (want != ST_OK) CHECK_SENTENCE(part);
    options_close(&o);
    config_file_close(&f);
}

TEST(reads_sections) {
    check_section("ranks = 5\n[s]\nranks = 2\ncolour = red\n", "s", ST_OK, "");
    check_section("[s]\nrank = 2\n", "s", ST_INVALID, "c:2: unknown option rank; did you mean ranks?");
    check_section("[s]\nmemory = 2\n", "s", ST_INVALID, "c:2: memory is an option of the whole daemon");
    check_section("\nranks = 0\n", "", ST_INVALID, "c:2: ranks is 0, allowed are 1 to 1024");
    check_section("ranks = 1\nranks = 1\n", "", ST_INVALID, "c:2: ranks is given twice");
    check_section("config = x\n", "", ST_INVALID, "c:1: config is no option of a file");
    check_section("help = true\n", "", ST_INVALID, "c:1: help is no option of a file");
    check_section("http = x\n", "", ST_UNSUPPORTED, "not available in this version");
}

static void check_file(const char *text, const char *part) {
    config_file f;
    CHECK_STATUS(config_file_parse(&f, "c", text, strlen(text)), ST_FORMAT);
    CHECK_SENTENCE(part);
}

TEST(parses_files) {
    config_file f;
    parse(&f, "# first\n\n  a = 1 # one\r\nb=\"x # y \"\n c = p#q\n[ model x y ]\nd = 2");
    CHECK_THAT(f.count == 5, "%zu", f.count);
    if (f.count == 5) {
        CHECK(!strcmp(f.entry[0].key, "a") && !strcmp(f.entry[0].value, "1") && f.entry[0].line == 3);
        CHECK(!strcmp(f.entry[1].value, "x # y ") && !strcmp(f.entry[2].value, "p#q"));
        CHECK(!*f.entry[3].key && !strcmp(f.entry[3].section, "model x y"));
        CHECK(!strcmp(f.entry[4].section, "model x y") && f.entry[4].line == 7);
    }
    config_file_close(&f);
    parse(&f, "");
    CHECK(f.count == 0);
    config_file_close(&f);
    check_file("a\n", "c:1: \"a\" is neither");
    check_file("\n= 2\n", "c:2:");
    check_file("a =\n", "c:1: a value is missing");
    check_file("a = \"x\n", "a quote is not closed");
    check_file("[x\n", "is not [section]");
    check_file("[ ]\n", "without a name");
    check_file("a = \xff\n", "not UTF-8");
    CHECK_STATUS(config_file_parse(&f, "c", "a = 1\0b", 7), ST_FORMAT);
    CHECK_STATUS(config_file_open(&f, "/nonexistent/file"), ST_NOT_FOUND);
}

/* Every name, bound and default of the table is in the help. */
TEST(prints_help) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    options_print_help(out, rows, ROWS);
    fclose(out);
    for (size_t i = 0; i < ROWS; i++) {
        char name[80];
        snprintf(name, sizeof name, "  --%s ", rows[i].name);
        CHECK_THAT(strstr(text, name), "%s", name);
    }
    CHECK(strstr(text, "1 to 1024; default 1)") && strstr(text, "(seconds; default 120)"));
    CHECK(strstr(text, "--colour red|green") && strstr(text, "later (not available in this version)"));
    free(text);
}

static void check_path(const char *run_time, const char *state, const char *home, const char *given,
                       const char *want) {
    static const char *const names[] = {"XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"};
    const char *const values[] = {run_time, state, home};
    char *got = NULL;
    for (int i = 0; i < 3; i++) values[i] ? setenv(names[i], values[i], 1) : unsetenv(names[i]);
    CHECK_STATUS(path_default_address(&got, given), want ? ST_OK : ST_NOT_FOUND);
    if (want && got) CHECK_THAT(!strcmp(got, want), "%s, not %s", got, want);
    free(got);
}

TEST(finds_default_paths) {
    check_path("/run/1", "/s", "/h", NULL, "unix:/run/1/gemmad.sock");
    check_path("/run/1", "/s", "/h", "/mine", "unix:/run/1/gemmad.sock");
    check_path(NULL, "/s", "/h", NULL, "unix:/s/gemmad/gemmad.sock");
    check_path("", "", "/h", NULL, "unix:/h/.local/state/gemmad/gemmad.sock");
    check_path(NULL, "relative", "/h", NULL, "unix:/h/.local/state/gemmad/gemmad.sock");
    check_path(NULL, "/s", "/h", "/mine", "unix:/mine/gemmad.sock");
    check_path(NULL, NULL, NULL, NULL, NULL);
}

int main(void) {
    RUN(reads_arguments);
    RUN(refuses_arguments);
    RUN(follows_precedence);
    RUN(reads_sections);
    RUN(parses_files);
    RUN(prints_help);
    RUN(finds_default_paths);
    return test_result();
}
