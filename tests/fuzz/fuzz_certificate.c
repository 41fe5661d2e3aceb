// link: ctl_core
/* A certificate in PEM form, as a user names one to the doctor. */
#include <stdint.h>

#include "base/invariant.h"
#include "ctl/certificate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int64_t from = 7, until = 7;
    status st = certificate_read((const char *)data, size, &from, &until);
    INVARIANT(st == ST_OK || (st == ST_FORMAT && from == 7 && until == 7));
    INVARIANT(from > -70000000000 && until < 260000000000);
    return 0;
}
