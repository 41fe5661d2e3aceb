#include <unistd.h>

#include "base/options.h"
#include "tests/test.h"

static const option_row rows[] = {
    {.name = "model", .kind = OPTION_TEXT, .where = OPTION_REPEATS | OPTION_PER_MODEL, .value = "PATH", .help = "a model"},
    {.name = "ranks", .kind = OPTION_NUMBER, .where = OPTION_PER_MODEL, .value = "N", .fallback = "1", .least = 1,
     .most = 1024, .help = "ranks"},
    {.name = "memory", .kind = OPTION_BYTES, .where = OPTION_PER_MODEL, .value = "BYTES", .least = 1,
     .most = UINT64_MAX, .help = "memory"},
    {.name = "expert-layout", .kind = OPTION_TEXT, .where = OPTION_PER_MODEL, .value = "EPxWIDTH", .help = "layout"},
    {.name = "kv", .kind = OPTION_CHOICE, .where = OPTION_PER_MODEL, .value = "TYPE", .fallback = "auto",
     .choices = "auto|bf16|q8", .help = "cache type"},
    {.name = "listen", .kind = OPTION_TEXT, .where = OPTION_REPEATS, .value = "ADDR", .help = "where"},
    {.name = "insecure", .kind = OPTION_FLAG, .help = "no keys"},
    {.name = "replicas", .kind = OPTION_NUMBER, .where = OPTION_UNBUILT, .value = "N", .fallback = "1", .least = 1,
     .most = 8, .help = "replicas"},
    {.name = "dry-run", .kind = OPTION_FLAG, .where = OPTION_COMMAND_LINE, .help = "plan only"},
};
static const option_table table = {.program = "prog", .usage = "--model PATH", .prefix = "PROG", .purpose = "tests",
                                   .row = rows, .count = sizeof rows / sizeof *rows, .arguments_max = 1};

static status arguments(option_set *s, const char *words) {
    static char copy[512];
    char *argv[32], *rest = NULL;
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok_r(copy, " ", &rest); w; w = strtok_r(NULL, " ", &rest)) argv[argc++] = w;
    return options_read_arguments(s, argc, argv);
}

static status refused(const char *words) {
    option_set *s;
    options_open(&s, &table);
    status st = arguments(s, words);
    options_close(s);
    return st;
}

static status file(option_set *s, const char *text) { return options_parse_file(s, "/etc/prog.conf", text, strlen(text)); }

static status file_refused(const char *text) {
    option_set *s;
    options_open(&s, &table);
    status st = file(s, text);
    options_close(s);
    return st;
}

TEST(arguments_are_read) {
    option_set *s;
    options_open(&s, &table);
    CHECK_STATUS(arguments(s, "--model a=/x --ranks=4 --model /y --insecure --memory 3GiB word -- "), ST_OK);
    CHECK(options_count(s, "model") == 2 && !strcmp(options_value(s, "model", 1), "/y"));
    CHECK(options_number(s, "ranks", NULL) == 4);
    CHECK(options_number(s, "memory", NULL) == 3ULL << 30);
    CHECK(options_flag(s, "insecure", NULL) && !options_flag(s, "dry-run", NULL));
    CHECK(!strcmp(options_text(s, "kv", NULL), "auto") && !options_given(s, "kv", NULL));
    CHECK(options_text(s, "expert-layout", NULL) == NULL);
    CHECK(options_argument_count(s) == 1 && !strcmp(options_argument(s, 0), "word"));
    options_close(s);
}

TEST(refusals_name_option_value_and_bound) {
    CHECK_STATUS(refused("--ranks 0"), ST_INVALID);
    CHECK_SENTENCE("--ranks is \"0\", allowed are whole numbers from 1 to 1024");
    CHECK_STATUS(refused("--ranks 99999999999999999999999"), ST_INVALID);
    CHECK_STATUS(refused("--ranks -1"), ST_INVALID);
    CHECK_STATUS(refused("--ranks 4x"), ST_INVALID);
    CHECK_STATUS(refused("--ranks"), ST_INVALID);
    CHECK_SENTENCE("--ranks needs a value");
    CHECK_STATUS(refused("--memory 17000000TiB"), ST_INVALID);
    CHECK_STATUS(refused("--memory 4Gb"), ST_INVALID);
    CHECK_STATUS(refused("--kv q9"), ST_INVALID);
    CHECK_SENTENCE("allowed are auto|bf16|q8");
    CHECK_STATUS(refused("--kv bf1"), ST_INVALID);
    CHECK_STATUS(refused("--insecure=maybe"), ST_INVALID);
    CHECK_STATUS(refused("--model="), ST_INVALID);
    CHECK_STATUS(refused("--rank 4"), ST_INVALID);
    CHECK_SENTENCE("unknown option --rank: do you mean --ranks?");
    CHECK_STATUS(refused("--elephants 4"), ST_INVALID);
    CHECK_SENTENCE("prog --help");
    CHECK_STATUS(refused("-x"), ST_INVALID);
    CHECK_STATUS(refused("one two"), ST_INVALID);
    CHECK_SENTENCE("\"two\" is no option");
}

TEST(command_line_then_environment_then_section_then_file) {
    static char one[] = "PROG_RANKS=8", two[] = "PROG_DRY_RUN=yes", three[] = "PROG_BUILD=x", four[] = "PROG_KV=",
                five[] = "PROG_EXPERT_LAYOUT=2x1";
    char *environment[] = {one, two, three, four, five, NULL};
    option_set *s;
    options_open(&s, &table);
    CHECK_STATUS(file(s, "# comment\n\nranks = 2\nlisten = unix:/a\nlisten = unix:/b\nkv=bf16\n"
                         "[model big]\n model = /data/big \nkv = q8\nmemory = 1G"), ST_OK);
    CHECK(options_number(s, "ranks", "big") == 2);
    CHECK_STATUS(options_read_environment(s, environment), ST_OK);
    CHECK(options_number(s, "ranks", "big") == 8);
    CHECK(!options_flag(s, "dry-run", NULL));
    CHECK(!strcmp(options_text(s, "expert-layout", NULL), "2x1"));
    CHECK(!strcmp(options_text(s, "kv", NULL), "bf16"));
    CHECK(!strcmp(options_text(s, "kv", "big"), "q8") && !strcmp(options_text(s, "kv", "other"), "bf16"));
    CHECK(options_number(s, "memory", "big") == 1 << 30 && !options_given(s, "memory", NULL));
    CHECK(options_section_count(s) == 1 && !strcmp(options_section_name(s, 0), "big"));
    CHECK(!strcmp(options_section_text(s, "big", "model"), "/data/big") && options_count(s, "model") == 0);
    CHECK_STATUS(arguments(s, "--ranks 3 --ranks 4 --listen unix:/c --kv auto"), ST_OK);
    CHECK(options_number(s, "ranks", "big") == 4);
    CHECK(options_count(s, "listen") == 1 && !strcmp(options_value(s, "listen", 0), "unix:/c"));
    CHECK(!strcmp(options_text(s, "kv", "big"), "auto"));
    options_close(s);
}

TEST(bad_files_name_the_line) {
    CHECK_STATUS(file_refused("ranks = 2\nrank = 3\n"), ST_INVALID);
    CHECK_SENTENCE("prog.conf, line 2: unknown option rank: do you mean ranks?");
    CHECK_STATUS(file_refused("ranks = 2\nranks = 3\n"), ST_INVALID);
    CHECK_SENTENCE("line 2: ranks is given twice");
    CHECK_STATUS(file_refused("\nranks 2"), ST_INVALID);
    CHECK_SENTENCE("is not \"option = value\"");
    CHECK_STATUS(file_refused("[model a]\nlisten = unix:/x"), ST_INVALID);
    CHECK_SENTENCE("above the first section");
    CHECK_STATUS(file_refused("[model a]\n[model a]"), ST_INVALID);
    CHECK_STATUS(file_refused("[models a]"), ST_INVALID);
    CHECK_STATUS(file_refused("[model ]"), ST_INVALID);
    CHECK_STATUS(file_refused("["), ST_INVALID);
    CHECK_STATUS(file_refused("dry-run = yes"), ST_INVALID);
    CHECK_SENTENCE("command line only");
    option_set *s;
    options_open(&s, &table);
    CHECK_STATUS(options_parse_file(s, "x", "a\0b", 3), ST_INVALID);
    CHECK_SENTENCE("NUL");
    CHECK_STATUS(options_read_file(s, "/nowhere/at/all"), ST_NOT_FOUND);
    options_close(s);
}

TEST(what_is_not_built_is_refused_by_name_unless_it_is_the_default) {
    option_set *s;
    options_open(&s, &table);
    CHECK_STATUS(arguments(s, "--replicas 1"), ST_OK);
    CHECK_STATUS(options_check_built(s), ST_OK);
    CHECK_STATUS(arguments(s, "--replicas 2"), ST_OK);
    CHECK_STATUS(options_check_built(s), ST_UNSUPPORTED);
    CHECK_SENTENCE("not available in this version: --replicas");
    options_close(s);
}

TEST(help_and_man_page_hold_every_option) {
    strbuf help = {0}, man = {0};
    options_print_help(&table, &help);
    options_print_man(&table, &man);
    for (uint32_t i = 0; i < table.count; i++) {
        CHECK(strstr(strbuf_text(&help), rows[i].name));
        CHECK(strstr(strbuf_text(&help), rows[i].help) && strstr(strbuf_text(&man), rows[i].help));
    }
    CHECK(strstr(strbuf_text(&help), "  --ranks N                 ranks; 1 to 1024; default 1\n"));
    CHECK(strstr(strbuf_text(&help), "replicas; 1 to 8; default 1; not available in this version"));
    CHECK(strstr(strbuf_text(&man), "\\-\\-expert\\-layout \\fIEPxWIDTH\\fR"));
    strbuf_close(&help);
    strbuf_close(&man);
}

int main(void) {
    RUN(arguments_are_read);
    RUN(refusals_name_option_value_and_bound);
    RUN(command_line_then_environment_then_section_then_file);
    RUN(bad_files_name_the_line);
    RUN(what_is_not_built_is_refused_by_name_unless_it_is_the_default);
    RUN(help_and_man_page_hold_every_option);
    return test_result();
}
