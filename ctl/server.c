#include "ctl/server.h"

#include <stddef.h>

#include "base/paths.h"

status server_default_address(const char **out) {
    static char *address;
    if (!address && path_default_address(&address, NULL) != ST_OK)
        return fail(ST_NOT_FOUND, "neither XDG_RUNTIME_DIR nor HOME is set; say --server ADDR");
    *out = address;
    return ST_OK;
}
