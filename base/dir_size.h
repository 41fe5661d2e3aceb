/* "DIR[:SIZE]": a folder and how much may lie there. What follows the last colon is a size where it begins with a digit.
 * Memory:  *dir is the caller's to free().
 * Errors:  ST_INVALID naming the option. */
#ifndef BASE_DIR_SIZE_H
#define BASE_DIR_SIZE_H

#include <stdint.h>
#include "base/status.h"

/* bytes: 0 without a size. */
STATUS_CHECKED status dir_size_read(const char *option, const char *text, char **dir, uint64_t *bytes);

#endif
