# Writes OUTPUT, a C file that holds the bytes of INPUT as proto_descriptors (proto/descriptors.h).
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
file(WRITE ${OUTPUT} "#include \"proto/descriptors.h\"\n
const size_t proto_descriptors_bytes = ${bytes};
const unsigned char proto_descriptors[] = {\n${hex}\n};\n")
