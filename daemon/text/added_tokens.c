#include "daemon/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void added_tokens_add(added_tokens *a, const char *text, size_t n, uint32_t id, bool special) {
    if (a->count == a->capacity) {
        a->capacity = a->capacity ? a->capacity * 2 : 32;
        a->list = memory_grow(a->list, a->capacity * sizeof *a->list);
    }
    char *copy = memory_alloc(n);
    memcpy(copy, text, n);
    a->list[a->count++] = (added_token){.text = copy, .size = n, .id = id, .special = special};
}

static int by_bytes(const void *x, const void *y) {
    const added_token *a = x, *b = y;
    int order = memcmp(a->text, b->text, a->size < b->size ? a->size : b->size);
    if (order != 0) return order;
    return a->size < b->size ? -1 : a->size > b->size;
}

void added_tokens_build(added_tokens *a) {
    if (a->count > 0) qsort(a->list, a->count, sizeof *a->list, by_bytes);
    size_t i = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        a->first[byte] = (uint32_t)i;
        while (i < a->count && (uint8_t)a->list[i].text[0] == byte) i++;
    }
    a->first[256] = (uint32_t)i;
}

/* The first of list[low … high), which share their bytes before `depth`, whose byte there is not below
 * `byte`. */
static size_t lower_bound(const added_tokens *a, size_t low, size_t high, size_t depth, unsigned byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)a->list[middle].text[depth] < byte) low = middle + 1;
        else high = middle;
    }
    return low;
}

const added_token *added_tokens_match(const added_tokens *a, const char *text, size_t n,
                                      size_t special_bytes) {
    const added_token *longest = NULL;
    if (n == 0) return NULL;
    size_t low = a->first[(uint8_t)text[0]], high = a->first[(uint8_t)text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        /* A text that ends here sorts before those that go on. */
        const added_token *candidate = &a->list[low];
        if (candidate->size == depth) {
            if (!candidate->special || depth <= special_bytes) longest = candidate;
            low++;
        }
        if (depth == n) break;
        unsigned byte = (uint8_t)text[depth];
        low = lower_bound(a, low, high, depth, byte);
        high = lower_bound(a, low, high, depth, byte + 1);
    }
    return longest;
}

void added_tokens_close(added_tokens *a) {
    for (size_t i = 0; i < a->count; i++) free(a->list[i].text);
    free(a->list);
    *a = (added_tokens){0};
}
