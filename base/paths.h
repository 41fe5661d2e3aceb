/* Where gemmad keeps its state and listens when it is not told, and where gemmactl therefore looks.
 * Memory:  *out is the caller's to free().
 * Threads: any that do not change the environment.
 * Errors:  ST_NOT_FOUND when the environment names no place. */
#ifndef BASE_PATHS_H
#define BASE_PATHS_H

#include "base/status.h"

/* $XDG_STATE_HOME/gemmad, else ~/.local/state/gemmad. */
STATUS_CHECKED status path_default_state(char **out);
/* "unix:$XDG_RUNTIME_DIR/gemmad.sock", else "unix:<state>/gemmad.sock". state NULL: the default one. */
STATUS_CHECKED status path_default_address(char **out, const char *state);

#endif
