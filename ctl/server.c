#include "ctl/server.h"

#include <stdlib.h>

#include "base/strbuf.h"

status server_default_address(const char **out) {
    static strbuf address;
    static const struct {
        const char *variable, *below;
    } places[] = {
        {"XDG_RUNTIME_DIR", "gemmad.sock"},
        {"XDG_STATE_HOME", "gemmad/gemmad.sock"},
        {"HOME", ".local/state/gemmad/gemmad.sock"},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *folder = getenv(places[i].variable);
        if (!folder || !*folder) continue;
        strbuf_clear(&address);
        strbuf_add_format(&address, "unix:%s/%s", folder, places[i].below);
        *out = strbuf_text(&address);
        return ST_OK;
    }
    return fail(ST_NOT_FOUND, "neither XDG_RUNTIME_DIR nor HOME is set; say --server ADDR");
}
