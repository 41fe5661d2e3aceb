// link: shard_core
/* A whole packed file, whose hashes are made right first. Whatever is accepted must be sound: every part inside the file, on
 * its alignment, behind the one before, and as long as its type and shape say. */
#include <stdlib.h>

#include "base/invariant.h"
#include "tests/pack_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const pack_file *f, uint64_t size) {
    uint64_t end = PACK_HEADER_BYTES + (uint64_t)f->parts * PACK_PART_BYTES;
    for (uint32_t i = 0; i < f->parts; i++) {
        const pack_part *p = &f->part[i];
        INVARIANT(p->name[0] && strlen(p->name) < PACK_NAME_BYTES && p->form < PACK_FORMS);
        INVARIANT(p->bytes == pack_part_bytes(&p->matrix) && !p->bytes == !p->matrix.data);
        if (!p->bytes) continue;
        INVARIANT(p->offset % PACK_ALIGN == 0 && p->offset >= end && p->bytes <= size - p->offset);
        end = p->offset + p->bytes;
        if (p->form == PACK_VECTOR || p->form == PACK_NUMBER)
            INVARIANT(p->bytes == 4 * (uint64_t)p->matrix.cols);
    }
    status st = pack_file_verify(f, 1, NULL);
    if (st != ST_OK) INVARIANT(status_text()[0] != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pack_file *f;
    uint8_t *bytes = NULL;
    if (posix_memalign((void **)&bytes, PACK_ALIGN, size + 1) != 0) return 0;
    if (size) memcpy(bytes, data, size);
    pack_bytes_seal(bytes, size);
    status st = pack_file_parse(&f, bytes, size, "fuzz");
    if (st == ST_OK) check(f, size);
    else INVARIANT(status_text()[0] != 0);
    pack_file_close(f);
    free(bytes);
    return 0;
}
