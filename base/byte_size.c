#include "base/byte_size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

byte_size byte_size_read(const char *text, uint64_t *bytes) {
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    /* strtoull alone takes "-1", " 1" and "+1". */
    if (text[0] < '0' || text[0] > '9') return BYTE_SIZE_NOT_ONE;
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno) return BYTE_SIZE_TOO_LARGE;
    for (unsigned i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i]) != 0) continue;
        if (n > UINT64_MAX >> (10 * i)) return BYTE_SIZE_TOO_LARGE;
        *bytes = (uint64_t)n << (10 * i);
        return BYTE_SIZE_READ;
    }
    return BYTE_SIZE_NOT_ONE;
}
