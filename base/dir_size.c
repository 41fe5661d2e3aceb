#include "base/dir_size.h"

#include <stdbool.h>
#include <string.h>

#include "base/byte_size.h"
#include "base/memory.h"

status dir_size_read(const char *option, const char *text, char **dir, uint64_t *bytes) {
    const char *colon = strrchr(text, ':');
    bool sized = colon && colon[1] >= '0' && colon[1] <= '9';
    size_t n = sized ? (size_t)(colon - text) : strlen(text);
    *bytes = 0;
    if (n == 0) return fail(ST_INVALID, "%s: \"%.64s\" names no folder", option, text);
    if (sized && (byte_size_read(colon + 1, bytes) != BYTE_SIZE_READ || *bytes == 0))
        return fail(ST_INVALID, "%s: the size \"%.64s\" is not a number of bytes, KiB, MiB, GiB or TiB",
                    option, colon + 1);
    *dir = memory_alloc(n + 1);
    memcpy(*dir, text, n);
    return ST_OK;
}
