/* docs/openapi.json, written into the program by the build. */
#ifndef DAEMON_HTTP_OPENAPI_EMBEDDED_H
#define DAEMON_HTTP_OPENAPI_EMBEDDED_H

#include <stddef.h>

extern const size_t openapi_json_bytes;
extern const unsigned char openapi_json[];

#endif
