// link: daemon_core
/* Any bytes as a text for the tiny model's tokenizer, with any plain ranges: invalid UTF-8 is refused where
 * it is wrong, everything else comes back, whole and streamed; and any bytes as token ids. The first three
 * bytes choose. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "daemon/text/tokenizer.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The one loss: U+2581 comes back as a space. */
static void expected(const char *text, size_t n, strbuf *out) {
    for (size_t i = 0; i < n;) {
        bool mark = n - i >= 3 && memcmp(text + i, "\xE2\x96\x81", 3) == 0;
        strbuf_add(out, mark ? " " : text + i, 1);
        i += mark ? 3 : 1;
    }
}

static void stream(const tokenizer *t, const uint32_t *ids, size_t count, bool skip, strbuf *out) {
    detokenizer d;
    detokenizer_open(&d, t, skip);
    for (size_t i = 0; i < count; i++) {
        size_t before = out->size;
        INVARIANT(detokenizer_add(&d, ids[i], out) == ST_OK);
        size_t n = out->size - before;
        INVARIANT(n == 0 || utf8_check(out->data + before, n) == n);
    }
    detokenizer_flush(&d, out);
    INVARIANT(!detokenizer_waits(&d));
}

static bool equal(const strbuf *a, const strbuf *b) {
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

static void check_text(const tokenizer *t, const char *text, size_t n, const text_range *plain,
                       size_t ranges) {
    uint32_t *ids;
    size_t count, valid = n > 0 ? utf8_check(text, n) : 0;
    status st = tokenizer_encode_marked(t, text, n, plain, ranges, SIZE_MAX, &ids, &count);
    INVARIANT(st == (valid == n ? ST_OK : ST_INVALID));
    if (st != ST_OK) return;
    strbuf want = {0}, whole = {0}, streamed = {0};
    expected(text, n, &want);
    INVARIANT(tokenizer_decode(t, ids, count, false, &whole) == ST_OK);
    stream(t, ids, count, false, &streamed);
    INVARIANT(equal(&want, &whole) && equal(&whole, &streamed));
    strbuf_close(&want);
    strbuf_close(&whole);
    strbuf_close(&streamed);
    free(ids);
}

static void check_ids(const tokenizer *t, const uint8_t *data, size_t size, bool skip) {
    size_t count = size / 2;
    uint32_t *ids = malloc(count * sizeof *ids + 1);
    INVARIANT(ids);
    for (size_t i = 0; i < count; i++)
        ids[i] = (data[2 * i] | (uint32_t)data[2 * i + 1] << 8) % tokenizer_vocab_size(t);
    strbuf whole = {0}, streamed = {0};
    INVARIANT(tokenizer_decode(t, ids, count, skip, &whole) == ST_OK);
    stream(t, ids, count, skip, &streamed);
    INVARIANT(equal(&whole, &streamed));
    strbuf_close(&whole);
    strbuf_close(&streamed);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tokenizer *t;
    if (!t) INVARIANT(tokenizer_open(&t, TEST_DATA "/models/tiny-dense/tokenizer.json") == ST_OK);
    if (size < 3) return 0;
    const char *text = (const char *)data + 3;
    size_t n = size - 3;
    if (data[0] & 0x80) {
        check_ids(t, data + 3, n, data[0] & 1);
        return 0;
    }
    text_range plain[2];
    plain[0].begin = data[1] % (n + 1);
    plain[0].end = plain[0].begin + data[2] % (n + 1 - plain[0].begin);
    plain[1].begin = plain[0].end + (n - plain[0].end) / 2;
    plain[1].end = n;
    check_text(t, text, n, plain, data[0] % 3);
    return 0;
}
