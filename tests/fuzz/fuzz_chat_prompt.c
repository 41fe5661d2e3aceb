// link: daemon_core
/* Any ChatRequest as a prompt, with the tokenizer of a bundled model: it is refused in words, or its ids decode to its text. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "daemon/queue/chat_prompt.h"
#include "proto/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const tokenizer *words(void) {
    static tokenizer *t;
    if (!t) INVARIANT(tokenizer_open(&t, TEST_DATA "/models/tiny-dense/tokenizer.json") == ST_OK);
    return t;
}

/* U+2581 comes back as a space, in the prompt as in what its ids decode to. */
static void check_text(const chat_prompt *p) {
    strbuf once = {0}, twice = {0};
    uint32_t *ids;
    size_t count;
    INVARIANT(tokenizer_decode(words(), p->ids, p->count, false, &once) == ST_OK);
    INVARIANT(tokenizer_encode(words(), p->text, p->text_bytes, true, SIZE_MAX, &ids, &count) == ST_OK);
    INVARIANT(tokenizer_decode(words(), ids, count, false, &twice) == ST_OK);
    INVARIANT(once.size == twice.size && memcmp(once.data, twice.data, once.size) == 0);
    free(ids);
    strbuf_close(&once);
    strbuf_close(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ProtobufCMessage *m;
    chat_prompt p;
    if (message_unpack(&gemmad__v1__chat_request__descriptor, data, size, &m) != ST_OK) return 0;
    const Gemmad__V1__ChatRequest *r = (const Gemmad__V1__ChatRequest *)m;
    (void)chat_prompt_is_tiny(r);
    if (chat_prompt_make(&p, chat_template_named("gemma4"), words(), r) == ST_OK) check_text(&p);
    else INVARIANT(!p.text && !p.ids && *status_text() != 0);
    chat_prompt_close(&p);
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
