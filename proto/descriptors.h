/* The files that clients may ask for by reflection, as protoc wrote them: one serialised google.protobuf.FileDescriptorSet
 * of gemmad.proto and of the published health and reflection protos. Made at build time; gemmad.proto is the one that
 * clients have, not the copy that the C code is made from. */
#ifndef PROTO_DESCRIPTORS_H
#define PROTO_DESCRIPTORS_H

#include <stddef.h>

extern const size_t proto_descriptors_bytes;
extern const unsigned char proto_descriptors[];

#endif
