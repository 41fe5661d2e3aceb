#include "ctl/commands.h"

const command *const ctl_commands[] = {
    &command_ask,    &command_chat, &command_generate, &command_tokenize,   &command_detokenize,
    &command_status, &command_top,  &command_models,   &command_bench,      &command_eval,
    &command_drain,  &command_key,  &command_doctor,   &command_completion,
};
const size_t ctl_command_count = sizeof ctl_commands / sizeof *ctl_commands;

const arg_option ctl_common_option[] = {
    {"server", ARG_TEXT, "ADDR", offsetof(ctl, server), 0, 0,
     "unix:PATH or HOST:PORT; default $GEMMACTL_SERVER, else gemmad's own default"},
    {"key-file", ARG_TEXT, "FILE", offsetof(ctl, access.key_file), 0, 0,
     "the key to show, which others may not read; default $GEMMACTL_KEY"},
    {"tls", ARG_FLAG, NULL, offsetof(ctl, access.tls), 0, 0, "encrypt, with the system's authorities"},
    {"tls-ca", ARG_TEXT, "FILE", offsetof(ctl, access.tls_ca), 0, 0,
     "encrypt, and trust the certificates in FILE"},
    {"tls-cert", ARG_TEXT, "FILE", offsetof(ctl, access.tls_cert), 0, 0,
     "certificate to show, where the daemon asks for one"},
    {"tls-key", ARG_TEXT, "FILE", offsetof(ctl, access.tls_key), 0, 0, "its private key"},
    {"insecure", ARG_FLAG, NULL, offsetof(ctl, access.insecure), 0, 0,
     "send a key to another machine without TLS"},
    {"json", ARG_FLAG, NULL, offsetof(ctl, json), 0, 0, "print one JSON object"},
    {"verbose", ARG_FLAG, NULL, offsetof(ctl, verbose), 0, 0, "print the speed, without a terminal too"},
    {"help", ARG_FLAG, NULL, offsetof(ctl, help), 0, 0, "print this and end"},
    {"version", ARG_FLAG, NULL, offsetof(ctl, version), 0, 0, "print the version and end"},
};
const size_t ctl_common_count = sizeof ctl_common_option / sizeof *ctl_common_option;
