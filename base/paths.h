/* Where gemmad keeps its state and listens when nobody says otherwise. gemmad and gemmactl ask here, so that the client
 * looks where the daemon is.
 *
 * Memory:  results are the caller's to free().
 * Threads: start-up only: they read the environment.
 * Errors:  the path and the system's reason. */
#ifndef BASE_PATHS_H
#define BASE_PATHS_H

#include "base/status.h"

/* $XDG_STATE_HOME/gemmad; without that variable ~/.local/state/gemmad. ST_NOT_FOUND when there is no home either.
 * Nothing is created. */
STATUS_CHECKED status paths_state_dir(char **out);
/* "unix:$XDG_RUNTIME_DIR/gemmad.sock" when that variable names a folder, else "unix:STATE/gemmad.sock".
 * state_dir NULL: paths_state_dir. */
STATUS_CHECKED status paths_default_listen(const char *state_dir, char **out);
/* The folder and what is missing above it, mode 0700. One that exists must be a folder of this user that nobody else
 * may write to: ST_INVALID. */
STATUS_CHECKED status paths_make_private(const char *dir);

#endif
