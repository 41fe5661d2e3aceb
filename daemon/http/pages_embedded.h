/* The pages' bytes, as cmake/embed_file.cmake writes them. */
#ifndef DAEMON_HTTP_PAGES_EMBEDDED_H
#define DAEMON_HTTP_PAGES_EMBEDDED_H

#include <stddef.h>

extern const unsigned char page_status[], page_chat[];
extern const size_t page_status_bytes, page_chat_bytes;

#endif
