/* Schemas against documents, for tests/python/test_json_schema.py. The grammar is read naively (tests/grammar_network.h).
 *
 * A line of input: {"schema": "text", "documents": ["text", …], "samples": 10, "seed": 1}.
 * A line of output: {"refused": "sentence"}, or {"verdicts": [true, …], "samples": ["random document", …]}. */
#include <stdio.h>

#include "daemon/text/grammar_schema.h"
#include "tests/grammar_network.h"

static grammar *build(const json_value *text) {
    schema *s;
    value_notation n;
    uint32_t rule;
    if (schema_open(&s, text->text, text->bytes) != ST_OK) return NULL;
    grammar *g = grammar_open();
    value_notation_open(&n, g);
    status st = grammar_write_schema(&n, s, SCHEMA_KINDS, &rule);
    schema_close(s);
    if (st == ST_OK) {
        grammar_edge_call(g, grammar_rule_start(g, 0), rule, grammar_rule_end(g, 0));
        return g;
    }
    grammar_close(g);
    return NULL;
}

static void add_sample(grammar *g, uint64_t seed, uint32_t budget, strbuf *out) {
    uint32_t count;
    uint32_t *symbols = network_random_text(g, seed, budget, &count);
    char *text = memory_alloc(count + 1);
    for (uint32_t i = 0; i < count; i++) text[i] = (char)symbols[i];
    json_write_string(out, text, count);
    free(text);
    free(symbols);
}

static void answer(const json_value *request, strbuf *out) {
    const json_value *documents = json_value_get(request, "documents");
    int64_t samples = 0, seed = 1;
    grammar *g = build(json_value_get(request, "schema"));
    if (!g) {
        strbuf_add_string(out, "{\"refused\":");
        json_write_string(out, status_text(), strlen(status_text()));
        strbuf_add_string(out, "}\n");
        return;
    }
    json_value_integer(json_value_get(request, "samples"), &samples);
    json_value_integer(json_value_get(request, "seed"), &seed);
    strbuf_add_string(out, "{\"verdicts\":[");
    for (const json_value *d = documents->first; d; d = d->next) {
        strbuf_add_string(out, network_matches_bytes(g, d->text, d->bytes) ? "true" : "false");
        if (d->next) strbuf_add_string(out, ",");
    }
    strbuf_add_string(out, "],\"samples\":[");
    for (int64_t i = 0; i < samples; i++) {
        if (i > 0) strbuf_add_string(out, ",");
        add_sample(g, (uint64_t)(seed + i), 8u << (i % 6), out);
    }
    strbuf_add_string(out, "]}\n");
    grammar_close(g);
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    for (ssize_t n; (n = getline(&line, &room, stdin)) > 0;) {
        json_tree *t;
        strbuf out = {0};
        if (json_tree_read(&t, line, (size_t)n) != ST_OK) {
            fprintf(stderr, "schema_check: %s\n", status_text());
            return 1;
        }
        answer(json_tree_root(t), &out);
        json_tree_close(t);
        fwrite(out.data, 1, out.size, stdout);
        fflush(stdout);
        strbuf_close(&out);
    }
    free(line);
    return 0;
}
