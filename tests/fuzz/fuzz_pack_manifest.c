// link: shard_core
/* Bytes of a pack.json. What is accepted names each rank's file once, and no text is longer than its place. */
#include "base/invariant.h"
#include "shard/pack/pack_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pack_manifest m;
    if (pack_manifest_parse(&m, (const char *)data, size, "fuzz") != ST_OK) {
        INVARIANT(status_text()[0] != 0);
        return 0;
    }
    INVARIANT(m.ranks >= 1 && m.ranks <= LIMIT_RANKS && m.layout[0] && m.weights[0] && m.stored[0] &&
              m.source[0]);
    for (uint32_t r = 0; r < m.ranks; r++) INVARIANT(m.rank[r].bytes >= PACK_HEADER_BYTES);
    return 0;
}
