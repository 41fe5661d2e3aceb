/* The native chat templates against what transformers makes of the published ones (tests/tokenizer/gemma4/chat.jsonl).
 * With a file's name, against the vectors in it. */
#include "daemon/text/chat_template.h"

#include "base/file.h"
#include "tests/gemma_tokenizer.h"
#include "tests/test.h"
#include "tests/unit/text/chat_vectors.h"

static const char *vectors = TEST_DATA "/tokenizer/gemma4/chat.jsonl";
static tokenizer *gemma;
static uint32_t rendered, refused, encoded;

/* A vector says what a template makes of it under the variant's name; one that does not is the same as for the first template,
 * if such vectors tell of it at all. */
static const struct {
    const char *name, *variant;
    bool openai_names, told_always;
} templates[] = {{"gemma4", NULL, true, false},
                 {"gemma4-small", "small", true, false},
                 {"gemma4-2026-04-10", "2026-04-10", false, false},
                 {"gemma4-small-2026-04-10", "small-2026-04-10", false, true},
                 {"gemma4-2026-04-28", "2026-04-28", false, true},
                 {"gemma4-small-2026-04-28", "small-2026-04-28", false, true}};
enum { TEMPLATES = sizeof templates / sizeof *templates };

static bool same_ids(const json_value *want, const uint32_t *ids, size_t count) {
    size_t n = 0;
    int64_t id;
    if (want->count != count) return false;
    for (const json_value *c = want->first; c; c = c->next, n++)
        if (!json_value_integer(c, &id) || id != ids[n]) return false;
    return true;
}

static void check_ids(const char *id, const json_value *v, const chat_rendering *r) {
    const json_value *all = json_value_get(v, "ids"), *plain = json_value_get(v, "ids_content_plain");
    uint32_t *ids;
    size_t count;
    if (!gemma || !all) return;
    CHECK_STATUS(tokenizer_encode(gemma, strbuf_text(&r->text), r->text.size, true, SIZE_MAX, &ids, &count),
                 ST_OK);
    CHECK_THAT(same_ids(all, ids, count), "%s: ids", id);
    free(ids);
    CHECK_STATUS(tokenizer_encode_marked(gemma, strbuf_text(&r->text), r->text.size, r->plain, r->plain_count,
                                         SIZE_MAX, &ids, &count),
                 ST_OK);
    CHECK_THAT(same_ids(plain ? plain : all, ids, count), "%s: ids of plain content", id);
    free(ids);
    encoded++;
}

/* What the template adds by itself holds no text of strangers: outside of the plain ranges nothing but its own words. */
static void check_ranges(const char *id, const chat_rendering *r) {
    size_t end = 0;
    for (size_t i = 0; i < r->plain_count; i++) {
        CHECK_THAT(r->plain[i].begin >= end && r->plain[i].end > r->plain[i].begin &&
                       r->plain[i].end <= r->text.size,
                   "%s: range %zu", id, i);
        end = r->plain[i].end;
    }
}

static void check(const json_value *v, int k) {
    char id[100];
    const json_value *name = json_value_get(v, "id"), *variants = json_value_get(v, "variants"), *want = NULL;
    snprintf(id, sizeof id, "%s (%s)", name->text, templates[k].name);
    if (templates[k].variant) want = json_value_get(variants, templates[k].variant);
    bool variant = want != NULL;
    bool told = json_value_get(v, "prompt") || json_value_get(v, "error");
    if (!variant && (templates[k].told_always || !told)) return;
    want = variant ? want : v;
    const json_value *prompt = json_value_get(want, "prompt");
    chat_conversation c;
    chat_rendering r;
    bool holds = vector_conversation(v, templates[k].openai_names, &c);
    status st = holds ? chat_template_render(chat_template_named(templates[k].name), &c, &r) : ST_INVALID;
    CHECK_THAT((st == ST_OK) == (prompt != NULL), "%s: %s", id, st == ST_OK ? "rendered" : status_text());
    if (st == ST_OK && prompt) {
        const char *text = strbuf_text(&r.text);
        CHECK_THAT(r.text.size == prompt->bytes && !memcmp(text, prompt->text, prompt->bytes),
                   "%s:\n%s\nnot\n%s", id, text, prompt->text);
        static const char open[] = "<|channel>thought\n";
        bool thought =
            r.text.size >= sizeof open - 1 && !strcmp(text + r.text.size - (sizeof open - 1), open);
        CHECK_THAT(r.starts_in_thought == thought, "%s: starts_in_thought %d", id, r.starts_in_thought);
        check_ranges(id, &r);
        if (!variant && k == 0) check_ids(id, v, &r);
        rendered++;
    } else {
        refused++;
    }
    if (st == ST_OK) chat_rendering_close(&r);
    vector_close(&c);
}

static void check_file(const char *path) {
    char *text;
    size_t size;
    CHECK_STATUS(file_read_all(path, 1 << 30, &text, &size), ST_OK);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_tree *t;
        CHECK_STATUS(json_tree_read(&t, line, strlen(line)), ST_OK);
        for (int k = 0; t && k < TEMPLATES; k++) check(json_tree_root(t), k);
        json_tree_close(t);
    }
    free(text);
    printf("%u rendered, %u refused, %u encoded\n", rendered, refused, encoded);
}

TEST(vectors) { check_file(vectors); }

/* What Jinja 3.1.6, set up as transformers does, makes of the same conversations with the templates of April that are not beside
 * the vectors: their SHA-256 stands in chat_template.c. */
TEST(templates_of_april) { check_file(TEST_DATA "/tokenizer/gemma4/chat_april.jsonl"); }

static void open_gemma(void) {
    strbuf json = {0};
    if (gemma_tokenizer_unpack(GEMMA_TOKENIZER_XZ, &json))
        CHECK_STATUS(tokenizer_parse(&gemma, json.data, json.size), ST_OK);
    else test_skip("there is no xz to unpack the tokenizer with");
    strbuf_close(&json);
}

int main(int argc, char **argv) {
    if (argc > 1) vectors = argv[1];
    else open_gemma();
    RUN(vectors);
    if (argc == 1) RUN(templates_of_april);
    tokenizer_close(gemma);
    return test_result();
}
