# Writes OUTPUT, the copy of gemmad.proto that protoc-c compiles: fields that carry text of users and models are `bytes`
# instead of `string`. The two are the same on the wire. protobuf-c holds a string as char *, which would cut a text at
# its first NUL without a word, and the token <0x00> is one that a model may write. (Its own option string_as_bytes needs
# an import that clients compiling gemmad.proto with stock protoc do not have.)
file(READ ${INPUT} text)
foreach(field text stop content reasoning malformed truncated_call)
    string(REGEX REPLACE "string ${field} = " "bytes ${field} = " text "${text}")
endforeach()
file(WRITE ${OUTPUT} "${text}")
