#include "base/paths.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/strbuf.h"

/* A folder that a variable names. The XDG specification wants relative ones to be taken as unset. */
static const char *folder(const char *variable) {
    const char *value = getenv(variable);
    return value && value[0] == '/' ? value : NULL;
}

static char *join(const char *a, const char *b, const char *c) {
    strbuf path = {0};
    strbuf_add_format(&path, "%s%s%s", a, b, c);
    return path.data;
}

status path_default_state(char **out) {
    const char *state = folder("XDG_STATE_HOME"), *home = folder("HOME");
    if (!state && !home) return fail(ST_NOT_FOUND, "neither XDG_STATE_HOME nor HOME names a folder");
    *out = state ? join(state, "/gemmad", "") : join(home, "/.local/state", "/gemmad");
    return ST_OK;
}

status path_default_address(char **out, const char *state) {
    const char *run_time = folder("XDG_RUNTIME_DIR");
    if (run_time) {
        *out = join("unix:", run_time, "/gemmad.sock");
        return ST_OK;
    }
    char *made = NULL;
    if (!state) TRY(path_default_state(&made));
    *out = join("unix:", state ? state : made, "/gemmad.sock");
    free(made);
    return ST_OK;
}
