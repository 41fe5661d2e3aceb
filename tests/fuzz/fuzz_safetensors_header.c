// link: shard_core
/* The first 8 bytes are the length that the file claims to have, the rest is the header. Whatever is accepted
 * must be sound: every tensor inside the file, none overlapping the one before, bytes equal to shape times
 * size. */
#include <stdint.h>
#include <string.h>

#include "base/invariant.h"
#include "shard/loader/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct cover {
    uint64_t end, file_bytes;
} cover;

static status check(void *context, const tensor *t) {
    cover *c = context;
    INVARIANT(t->name && t->dtype && t->dims <= 8);
    INVARIANT(t->offset == c->end && t->bytes <= c->file_bytes - t->offset);
    c->end += t->bytes;
    if (t->type == TENSOR_OTHER) return ST_OK;
    uint64_t elements = 1;
    for (uint32_t i = 0; i < t->dims; i++) elements *= t->shape[i];
    INVARIANT(t->dims <= 4 && elements * (t->type == TENSOR_F32 ? 4 : 2) == t->bytes);
    return ST_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8) return 0;
    cover c;
    memcpy(&c.file_bytes, data, 8);
    c.end = size; /* 8 for the length that a file begins with, and the header itself */
    status st = safetensors_parse_header((const char *)data + 8, size - 8, c.file_bytes, "fuzz", check, &c);
    if (st == ST_OK) INVARIANT(c.end == c.file_bytes);
    else INVARIANT(status_text()[0] != 0);
    return 0;
}
