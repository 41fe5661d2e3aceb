#include "daemon/http/fault.h"

#include <string.h>

#include "daemon/text/json_tree.h"

int fault_code(status st) {
    switch (st) {
    case ST_OK: return 200;
    case ST_INVALID:
    case ST_FORMAT:
    case ST_UNSUPPORTED: return 400;
    case ST_AUTH: return 401;
    case ST_DENIED: return 403;
    case ST_NOT_FOUND: return 404;
    case ST_TIMEOUT: return 408;
    case ST_EXISTS: return 409;
    case ST_BUSY: return 429;
    case ST_CANCELLED: return 499;
    case ST_UNAVAILABLE:
    case ST_PEER: return 503;
    default: return 500;
    }
}

const char *fault_word(status st) {
    switch (st) {
    case ST_UNSUPPORTED: return "unsupported";
    case ST_AUTH: return "invalid_api_key";
    case ST_DENIED: return "permission_denied";
    case ST_NOT_FOUND: return "not_found";
    case ST_EXISTS: return "already_exists";
    case ST_BUSY: return "rate_limit_exceeded";
    case ST_UNAVAILABLE:
    case ST_PEER: return "unavailable";
    default: return NULL;
    }
}

static const char *type_of(int code) {
    switch (code) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return code < 500 ? "invalid_request_error" : "server_error";
    }
}

static void add_string(strbuf *out, const char *text) {
    if (text) json_write_string(out, text, strlen(text));
    else strbuf_add_string(out, "null");
}

void fault_write(int code, const char *param, const char *word, const char *text, strbuf *out) {
    strbuf_add_string(out, "{\"error\":{\"message\":");
    add_string(out, text);
    strbuf_add_format(out, ",\"type\":\"%s\",\"param\":", type_of(code));
    add_string(out, param);
    strbuf_add_string(out, ",\"code\":");
    add_string(out, word);
    strbuf_add_string(out, "}}");
}
