// link: daemon_core
/* Any bytes as a tokenizer.json. One that is accepted must encode and decode without losing a byte. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "daemon/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] =
        "ab a<bos>\xC3\xA9\n<0x41> \xF0\x9F\x9A\x80 aaaaaaaaaaaaaaaaaaaaabababababababababab";
    tokenizer *t;
    if (tokenizer_parse(&t, (const char *)data, size) != ST_OK) {
        INVARIANT(t == NULL && *status_text() != 0);
        return 0;
    }
    uint32_t *ids, bos;
    size_t count, n;
    for (int special = 0; special < 2; special++) {
        INVARIANT(tokenizer_encode(t, text, sizeof text - 1, special, SIZE_MAX, &ids, &count) == ST_OK);
        for (size_t i = 0; i < count; i++) INVARIANT(tokenizer_bytes(t, ids[i], &n) != NULL);
        strbuf out = {0};
        INVARIANT(tokenizer_decode(t, ids, count, special, &out) == ST_OK);
        strbuf_close(&out);
        free(ids);
    }
    if (tokenizer_bos(t, &bos)) INVARIANT(bos < tokenizer_vocab_size(t) && tokenizer_is_special(t, bos));
    tokenizer_close(t);
    return 0;
}
