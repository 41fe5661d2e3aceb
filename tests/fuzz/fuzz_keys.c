// link: base
/* Bytes of a file of keys. What is accepted has plain names and digests that differ, and reads back as it was. */
#include <string.h>

#include "base/invariant.h"
#include "base/key_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    key_file f;
    if (key_file_parse(&f, (const char *)data, size, "fuzz") != ST_OK) {
        INVARIANT(status_text()[0] != 0 && f.count == 0);
        return 0;
    }
    for (uint32_t i = 0; i < f.count; i++) {
        const key_entry *e = &f.entry[i];
        char when[KEY_TIME_BYTES + 1];
        int64_t again = 0;
        INVARIANT(key_check_name(e->name) == ST_OK && key_file_find(&f, e->name) == e);
        for (uint32_t k = 0; k < i; k++)
            INVARIANT(memcmp(e->digest, f.entry[k].digest, sizeof e->digest) != 0);
        if (!e->expires) continue;
        key_time_write(e->expires, when);
        INVARIANT(key_time_read(when, &again) == ST_OK && again == e->expires);
    }
    key_file_close(&f);
    return 0;
}
