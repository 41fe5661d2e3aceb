/* What Python makes of text and values. The expected values are what CPython 3.11 prints. */
#include "daemon/text/python_text.h"

#include <math.h>

#include "tests/test.h"

typedef struct pair {
    const char *from, *to;
} pair;

static void check_text(const strbuf *got, const pair *p) {
    CHECK_THAT(got->size == strlen(p->to) && !strcmp(strbuf_text(got), p->to), "%s: %s, not %s", p->from,
               strbuf_text(got), p->to);
}

/* str(json.loads(from)) */
static void check_values(const pair *v, size_t count) {
    for (size_t i = 0; i < count; i++) {
        json_tree *t;
        strbuf out = {0};
        CHECK_STATUS(json_tree_read(&t, v[i].from, strlen(v[i].from)), ST_OK);
        python_write_str(&out, json_tree_root(t));
        check_text(&out, &v[i]);
        strbuf_close(&out);
        json_tree_close(t);
    }
}
#define CHECK_VALUES(v) check_values(v, sizeof(v) / sizeof *(v))

TEST(numbers) {
    static const pair v[] = {{"0", "0"},
                             {"-0", "0"},
                             {"1", "1"},
                             {"-7", "-7"},
                             {"12345678901234567890123", "12345678901234567890123"},
                             {"0.0", "0.0"},
                             {"-0.0", "-0.0"},
                             {"0e5", "0.0"},
                             {"1.0", "1.0"},
                             {"1E5", "100000.0"},
                             {"1e15", "1000000000000000.0"},
                             {"1e16", "1e+16"},
                             {"1e17", "1e+17"},
                             {"123456789012345680", "123456789012345680"},
                             {"1.5e16", "1.5e+16"},
                             {"9999999999999998.0", "9999999999999998.0"},
                             {"0.1", "0.1"},
                             {"0.0001", "0.0001"},
                             {"0.00012345", "0.00012345"},
                             {"0.00001", "1e-05"},
                             {"1e-7", "1e-07"},
                             {"-1e-7", "-1e-07"},
                             {"3.5", "3.5"},
                             {"100.25", "100.25"},
                             {"1e22", "1e+22"},
                             {"1e23", "1e+23"},
                             {"5e-324", "5e-324"},
                             {"2.2250738585072014e-308", "2.2250738585072014e-308"},
                             {"1.7976931348623157e308", "1.7976931348623157e+308"},
                             {"1e309", "inf"},
                             {"-1e400", "-inf"},
                             {"1e-400", "0.0"},
                             {"5.684341886080801486968994140625e-14", "5.684341886080802e-14"},
                             {"9007199254740993.0", "9007199254740992.0"},
                             {"0.30000000000000004", "0.30000000000000004"},
                             {"2.5E-05", "2.5e-05"},
                             {"1e100", "1e+100"},
                             {"1e+2", "100.0"},
                             {"1234567.125", "1234567.125"},
                             {"4.35", "4.35"},
                             {"1.10", "1.1"},
                             {"7.450580596923828e-09", "7.450580596923828e-09"}};
    CHECK_VALUES(v);
}

TEST(values) {
    static const pair v[] = {{"{\"a\":[1,2.50,null,true,false,\"x'y\"],\"b\":{},\"\":[]}",
                              "{'a': [1, 2.5, None, True, False, \"x'y\"], 'b': {}, '': []}"},
                             {"\"text\"", "text"},
                             {"[]", "[]"},
                             {"null", "None"},
                             {"[[\"a\",{\"k\":1e16}]]", "[['a', {'k': 1e+16}]]"}};
    CHECK_VALUES(v);
    strbuf out = {0};
    python_write_str(&out, NULL);
    CHECK(out.size == 0);
    static const char *const falsy[] = {"null", "false",  "0",    "0.0", "-0",
                                        "0e9",  "1e-999", "\"\"", "[]",  "{}"};
    static const char *const truthy[] = {"true",  "1",     "-0.1", "5e-324",
                                         "1e999", "\" \"", "[0]",  "{\"\":null}"};
    for (size_t i = 0; i < sizeof falsy / sizeof *falsy + sizeof truthy / sizeof *truthy; i++) {
        bool want = i >= sizeof falsy / sizeof *falsy;
        const char *text = want ? truthy[i - sizeof falsy / sizeof *falsy] : falsy[i];
        json_tree *t;
        CHECK_STATUS(json_tree_read(&t, text, strlen(text)), ST_OK);
        CHECK_THAT(python_truth(json_tree_root(t)) == want, "%s", text);
        json_tree_close(t);
    }
    CHECK(!python_truth(NULL));
}

static uint64_t random_bits(void) {
    static uint64_t s = 88172645463325252u;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s;
}

static void check_double(double d) {
    char text[64];
    snprintf(text, sizeof text, "%.17e", d);
    json_tree *t;
    strbuf out = {0};
    CHECK_STATUS(json_tree_read(&t, text, strlen(text)), ST_OK);
    python_write_str(&out, json_tree_root(t));
    CHECK_THAT(strtod(strbuf_text(&out), NULL) == d, "%s: %s", text, strbuf_text(&out));
    /* None of fewer digits is read back to the same. */
    size_t digits = 0;
    for (const char *p = strbuf_text(&out); *p && *p != 'e'; p++)
        digits += *p >= '0' && *p <= '9' && (digits > 0 || *p != '0');
    if (strchr(out.data, 'e') && digits > 1) {
        snprintf(text, sizeof text, "%.*e", (int)digits - 2, d);
        CHECK_THAT(strtod(text, NULL) != d, "%s is shorter than %s", text, strbuf_text(&out));
    }
    strbuf_close(&out);
    json_tree_close(t);
}

TEST(any_double_reads_back) {
    for (int i = -1074; i < 1024; i++) check_double(ldexp(1, i));
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = random_bits();
        double d;
        memcpy(&d, &bits, sizeof d);
        if (isfinite(d)) check_double(d);
    }
}

TEST(repr) {
    static const pair v[] = {{"", "''"},
                             {"plain", "'plain'"},
                             {"it's", "\"it's\""},
                             {"say \"x\"", "'say \"x\"'"},
                             {"both ' and \"", "'both \\' and \"'"},
                             {"back\\slash", "'back\\\\slash'"},
                             {"\012\015\011\033\177", "'\\n\\r\\t\\x1b\\x7f'"},
                             {"\302\200\302\237\302\240\302\255", "'\\x80\\x9f\\xa0\\xad'"},
                             {"\303\251 \303\237 \344\275\240 \360\237\232\200",
                              "'\303\251 \303\237 \344\275\240 \360\237\232\200'"},
                             {"\342\200\213\342\200\215\342\200\250\343\200\200\357\273\277",
                              "'\\u200b\\u200d\\u2028\\u3000\\ufeff'"},
                             {"\356\200\200\363\240\200\201\364\217\277\277\360\237\247\277",
                              "'\\ue000\\U000e0001\\U0010ffff\360\237\247\277'"},
                             {"\315\270", "'\\u0378'"},
                             {"\360\237\230\200\360\237\257\277", "'\360\237\230\200\\U0001fbff'"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        strbuf out = {0};
        python_write_repr(&out, v[i].from, strlen(v[i].from));
        check_text(&out, &v[i]);
        strbuf_close(&out);
    }
    strbuf out = {0};
    python_write_repr(&out, "a\0b", 3);
    CHECK(!strcmp(strbuf_text(&out), "'a\\x00b'"));
    strbuf_close(&out);
}

TEST(upper) {
    static const pair v[] = {{"abc", "ABC"},
                             {"stra\303\237e", "STRASSE"},
                             {"\305\211\307\260\316\220", "\312\274NJ\314\214\316\231\314\210\314\201"},
                             {"\357\254\201", "FI"},
                             {"\305\277tring", "STRING"},
                             {"\303\251", "\303\211"},
                             {"\307\206 \307\205", "\307\204 \307\204"},
                             {"\315\205", "\316\231"},
                             {"\303\277", "\305\270"},
                             {"\342\222\266\342\223\220", "\342\222\266\342\222\266"},
                             {"\360\220\220\250", "\360\220\220\200"},
                             {"\341\203\230", "\341\262\230"},
                             {"\303\237", "SS"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        strbuf out = {0};
        python_write_upper(&out, v[i].from, strlen(v[i].from));
        check_text(&out, &v[i]);
        strbuf_close(&out);
    }
}

TEST(strip) {
    static const pair v[] = {{"  a b \012", "a b"},
                             {"\302\240\343\200\200x\342\200\250\342\200\251\302\205", "x"},
                             {"\034\035\036\037 a", "a"},
                             {"\342\200\213 a \342\200\213", "\342\200\213 a \342\200\213"},
                             {"\357\273\277x", "\357\273\277x"},
                             {"\341\240\216x\341\240\216", "\341\240\216x\341\240\216"},
                             {" \011\012", ""},
                             {"", ""},
                             {"\342\200\200\342\200\212\342\200\257\342\201\237\341\232\200y", "y"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        const char *text = v[i].from;
        size_t n = strlen(text);
        python_strip(&text, &n);
        CHECK_THAT(n == strlen(v[i].to) && !memcmp(text, v[i].to, n), "%s", v[i].from);
    }
    const char *text = NULL;
    size_t n = 0;
    python_strip(&text, &n);
    CHECK(n == 0);
}

/* sorted(keys, key=str.lower), which is stable */
TEST(order_of_keys) {
    static const char *const keys[] = {"b",
                                       "A",
                                       "a",
                                       "B",
                                       "_x",
                                       "Z9",
                                       "z10",
                                       "\303\251",
                                       "\303\2112",
                                       "E",
                                       "e",
                                       "\304\260",
                                       "i",
                                       "i\314\207",
                                       "i\314\207x",
                                       "\303\237",
                                       "\341\272\236",
                                       "SS",
                                       "ss",
                                       "",
                                       "1",
                                       "a b",
                                       "a-b",
                                       "a.b",
                                       "\316\251",
                                       "\317\211",
                                       "\316\251",
                                       "K",
                                       "k",
                                       "\307\205",
                                       "\307\206",
                                       "\307\204",
                                       "\360\220\220\200",
                                       "\360\220\220\250",
                                       "\344\275\240"};
    static const char *const want[] = {"",
                                       "1",
                                       "_x",
                                       "A",
                                       "a",
                                       "a b",
                                       "a-b",
                                       "a.b",
                                       "b",
                                       "B",
                                       "E",
                                       "e",
                                       "i",
                                       "\304\260",
                                       "i\314\207",
                                       "i\314\207x",
                                       "K",
                                       "k",
                                       "SS",
                                       "ss",
                                       "z10",
                                       "Z9",
                                       "\303\237",
                                       "\341\272\236",
                                       "\303\251",
                                       "\303\2112",
                                       "\307\205",
                                       "\307\206",
                                       "\307\204",
                                       "\316\251",
                                       "\317\211",
                                       "\316\251",
                                       "\344\275\240",
                                       "\360\220\220\200",
                                       "\360\220\220\250"};
    enum { N = sizeof keys / sizeof *keys };
    const char *sorted[N];
    for (int i = 0; i < N; i++) {
        int k = i;
        for (; k > 0 &&
               python_compare_lower(sorted[k - 1], strlen(sorted[k - 1]), keys[i], strlen(keys[i])) > 0;
             k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = keys[i];
    }
    for (int i = 0; i < N; i++)
        CHECK_THAT(!strcmp(sorted[i], want[i]), "%d: \"%s\", not \"%s\"", i, sorted[i], want[i]);
}

int main(void) {
    RUN(numbers);
    RUN(values);
    RUN(any_double_reads_back);
    RUN(repr);
    RUN(upper);
    RUN(strip);
    RUN(order_of_keys);
    return test_result();
}
