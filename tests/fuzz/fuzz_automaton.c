// link: base
/* Any bytes as a vocabulary and an automaton: refused with a sentence, or followed without harm. The first two bytes say where
 * one ends and the other begins; the hash that names the vocabulary is put right, so that mutations get behind it. */
#include <stdlib.h>
#include <string.h>

#include "base/automaton_parts.h"
#include "base/memory.h"

enum { HASH_AT = 8, HASH_BYTES = 32, VOCABULARY_MAX = 2048 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void follow(automaton *a, const vocabulary *v, const uint8_t *letters, size_t n) {
    uint32_t *words = memory_alloc_array(vocabulary_count(v) / 32 + 1, sizeof *words);
    automaton_cursor *c = automaton_cursor_open(a);
    for (size_t i = 0; i < n && i < 8; i++) {
        status st = automaton_mask(c, words);
        if (st == ST_OK)
            st = letters[i] & 1 ? automaton_take_byte(c, letters[i])
                                : automaton_take_token(c, letters[i] >> 1);
        if (st != ST_OK && !status_text()[0]) abort();
    }
    automaton_cursor_close(c);
    free(words);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    size_t split = data[0] | (size_t)data[1] << 8;
    data += 2;
    n -= 2;
    if (split > n) split = n;
    if (split > VOCABULARY_MAX) split = VOCABULARY_MAX;
    vocabulary *v;
    if (vocabulary_read(&v, data, split) != ST_OK) return status_text()[0] ? 0 : (abort(), 0);
    uint8_t *bytes = memory_alloc(n - split + 1);
    memcpy(bytes, data + split, n - split);
    if (n - split >= HASH_AT + HASH_BYTES) memcpy(bytes + HASH_AT, vocabulary_hash(v), HASH_BYTES);
    automaton *a;
    if (automaton_read(&a, bytes, n - split, v) == ST_OK) {
        follow(a, v, data, n);
        automaton_drop(a);
    } else if (!status_text()[0]) {
        abort();
    }
    free(bytes);
    vocabulary_close(v);
    return 0;
}
