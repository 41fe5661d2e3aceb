// link: ctl_core
/* Tools of a chat: pieces of a JSON text lie inside it, whatever the text; and of what jansson reads, a piece is the value
 * that jansson finds. (jansson's tree is compared by reading the piece again.) */
#include <jansson.h>
#include <stdint.h>

#include "base/invariant.h"
#include "ctl/json_slice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(json_slice all, json_slice piece) {
    INVARIANT(piece.at >= all.at && piece.n <= all.n && piece.at + piece.n <= all.at + all.n);
}

static void check_same(json_slice piece, json_t *want) {
    json_t *got = json_loadb(piece.at, piece.n, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    INVARIANT(got && json_equal(got, want));
    json_decref(got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_slice all = {(const char *)data, size}, piece;
    if (json_slice_member(all, "a", &piece)) check_inside(all, piece);
    for (size_t i = 0; i < 4 && json_slice_element(all, i, &piece); i++) check_inside(all, piece);
    json_t *root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!root) return 0;
    /* A key that is written with escapes is another spelling, which member does not look for. */
    json_t *a = json_object_get(root, "a");
    if (json_slice_member(all, "a", &piece)) check_same(piece, a);
    for (size_t i = 0; i < json_array_size(root); i++) {
        INVARIANT(json_slice_element(all, i, &piece));
        check_same(piece, json_array_get(root, i));
    }
    INVARIANT(!json_is_array(root) || !json_slice_element(all, json_array_size(root), &piece));
    json_decref(root);
    return 0;
}
