/* Completion and manual entries: what is special in a shell or in roff comes through as text. */
#include "base/describe.h"
#include "base/options.h"
#include "tests/test.h"

static void check_has(const strbuf *out, const char *text) {
    CHECK_THAT(strstr(strbuf_text(out), text), "%s is not in\n%s", text, strbuf_text(out));
}

TEST(kinds_of_values) {
    CHECK(describe_is_choice("on|off") && describe_is_choice("add|list [NAME]") &&
          describe_is_choice("26b-a4b|e2b"));
    CHECK(!describe_is_choice("NAME|CIDR") && !describe_is_choice("N") && !describe_is_choice(NULL) &&
          !describe_is_choice(""));
    CHECK(describe_is_path("FILE") && describe_is_path("[NAME=]PATH") && describe_is_path("DIR[:SIZE]"));
    CHECK(describe_is_path("DOCUMENT... QUESTION") && !describe_is_path("N") && !describe_is_path(NULL));
}

static describe_options list_of(void) {
    describe_options list = {0};
    describe_add(&list, "think", "on|off", "it's \\ a [choice]: 5 \"words\"");
    describe_add(&list, "file", "FILE", "x");
    describe_add(&list, "think", NULL, "again");
    describe_add(&list, "flag", NULL, ".dot");
    return list;
}

TEST(the_first_of_a_name_stays) {
    describe_options list = list_of();
    CHECK(list.count == 3 && !strcmp(list.at[0].value, "on|off") && !list.at[2].value);
    describe_close(&list);
    CHECK(list.count == 0);
}

TEST(special_characters_are_text) {
    describe_options list = list_of();
    const describe_command command = {.name = "chat", .summary = "it's", .words = "a|b", .options = list};
    const describe_program p = {.name = "prog", .command = &command, .count = 1};
    strbuf bash = {0}, zsh = {0}, fish = {0}, manual = {0};
    describe_bash(&bash, &p);
    describe_zsh(&zsh, &p);
    describe_fish(&fish, &p);
    describe_manual(&manual, &list);
    check_has(&bash,
              "chat:--think) mapfile -t COMPREPLY < <(compgen -W \"on off\" -- \"$current\"); return ;;");
    check_has(&bash, "chat:--file) compopt -o filenames;");
    check_has(&bash, "words=\"a b\"");
    check_has(&bash, "complete -F _prog prog");
    check_has(&zsh, "'--think[it'\\''s \\\\ a \\[choice\\]\\: 5 \"words\"]:on|off:(on off)'");
    check_has(&zsh, "'chat:it'\\''s'");
    check_has(&zsh, "'--file[x]:FILE:_files'");
    check_has(&fish, "-l think -d 'it\\'s \\\\ a [choice]: 5 \"words\"' -x -a 'on off'");
    check_has(&fish, "-l file -d 'x' -r -F");
    check_has(&manual, ".TP\n.BI \\-\\-think \" on|off\"\nIt\\(aqs \\e a [choice]: 5 \\(dqwords\\(dq.\n");
    check_has(&manual, ".TP\n.B \\-\\-flag\n\\&.dot.\n");
    strbuf_close(&bash);
    strbuf_close(&zsh);
    strbuf_close(&fish);
    strbuf_close(&manual);
    describe_close(&list);
}

TEST(rows_of_an_option_table) {
    static const option rows[] = {
        {.name = "kind",
         .kind = OPTION_WORD,
         .words = "a b",
         .words_later = "c",
         .preset = "a",
         .help = "which"},
        {.name = "n", .kind = OPTION_U32, .value = "N", .least = 1, .most = 9, .help = "gRPC calls"},
    };
    describe_options list = {0};
    strbuf manual = {0};
    options_describe(&list, rows, 2);
    CHECK(list.count == 2 && !strcmp(list.at[0].value, "a|b"));
    describe_manual(&manual, &list);
    check_has(&manual, "Which (not available in this version: c; default a).\n");
    check_has(&manual, "gRPC calls (1 to 9).\n");
    strbuf_close(&manual);
    describe_close(&list);
}

int main(void) {
    RUN(kinds_of_values);
    RUN(the_first_of_a_name_stays);
    RUN(special_characters_are_text);
    RUN(rows_of_an_option_table);
    return test_result();
}
