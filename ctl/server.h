/* Where gemmactl looks for a daemon when it is not told.
 * Memory:  *out lives until the process ends.
 * Errors:  ST_NOT_FOUND when the environment names neither a run-time nor a home directory. */
#ifndef CTL_SERVER_H
#define CTL_SERVER_H

#include "base/status.h"

STATUS_CHECKED status server_default_address(const char **out);

#endif
