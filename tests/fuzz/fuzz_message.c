// link: proto
/* Any bytes as each request of gemmad.v1: refused with a sentence, or unpacked so that packing it again works. */
#include <stdlib.h>

#include "base/memory.h"
#include "proto/gemmad.pb-c.h"
#include "proto/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const ProtobufCMessageDescriptor *const all[] = {
        &gemmad__v1__generate_request__descriptor,   &gemmad__v1__chat_request__descriptor,
        &gemmad__v1__tokenize_request__descriptor,   &gemmad__v1__detokenize_request__descriptor,
        &gemmad__v1__parse_chat_request__descriptor, &gemmad__v1__submit_job_request__descriptor,
    };
    if (n == 0) return 0;
    ProtobufCMessage *m;
    if (message_unpack(all[data[0] % (sizeof all / sizeof *all)], data + 1, n - 1, &m) != ST_OK)
        return status_text()[0] && !m ? 0 : (abort(), 0);
    uint8_t *again = memory_alloc(protobuf_c_message_get_packed_size(m));
    protobuf_c_message_pack(m, again);
    free(again);
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
