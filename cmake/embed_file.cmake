# Writes OUTPUT, a C file that holds the bytes of INPUT as NAME and their number as NAME_bytes; HEADER declares both.
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
file(WRITE ${OUTPUT} "#include \"${HEADER}\"\n
const size_t ${NAME}_bytes = ${bytes};
const unsigned char ${NAME}[] = {\n${hex}\n};\n")
