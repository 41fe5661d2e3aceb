/* When a certificate in PEM form is valid: its first two dates, read without a library of TLS.
 *
 * Threads: any.
 * Errors:  ST_FORMAT saying what is no certificate; outputs are then unchanged. */
#ifndef CTL_CERTIFICATE_H
#define CTL_CERTIFICATE_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { CERTIFICATE_FILE_BYTES_MAX = 1 << 20, CERTIFICATE_BYTES_MAX = 64 << 10 };

/* Seconds since 1970 of the first certificate in the text. */
STATUS_CHECKED status certificate_read(const char *pem, size_t n, int64_t *from_s, int64_t *until_s);

#endif
