/* Pieces of a JSON text with their spelling kept, which a tree of jansson's would not keep. The text must be known to be
 * JSON: what is no JSON gives wrong pieces, never ones outside it.
 *
 * Threads: any. Nothing is allocated. */
#ifndef CTL_JSON_SLICE_H
#define CTL_JSON_SLICE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct json_slice {
    const char *at;
    size_t n;
} json_slice;

/* The value of the object's last member of this name, which has no escapes; false: there is none, or no object. */
bool json_slice_member(json_slice object, const char *name, json_slice *out);
/* The array's element of this number; false: there is none, or no array. */
bool json_slice_element(json_slice array, size_t number, json_slice *out);

#endif
