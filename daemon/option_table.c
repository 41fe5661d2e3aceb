/* The one table of gemmad's options. What the contract names and this version cannot do stands here too, so
 * that it is refused by its name and not as unknown. docs/gemmad.1 tells the same at more length. */
#include "daemon/settings.h"

#define FIELD(name) offsetof(gemmad_options, name)

const option gemmad_option_table[] = {
    {"model", OPTION_TEXTS, OPTION_OF_SECTION, FIELD(model), .value = "[NAME=]PATH",
     .help = "a directory with config.json and *.safetensors, a packed directory or a GGUF file; may repeat, the "
             "first is the default; NAME is what clients call it, default the last part of PATH, without .gguf"},
    {"ranks", OPTION_U32, OPTION_OF_SECTION, FIELD(ranks), .value = "N", .preset = "1", .least = 1,
     .most = LIMIT_RANKS, .help = "processes that hold the model together; N must divide its query heads"},
    {"replicas", OPTION_U32, OPTION_OF_SECTION, FIELD(replicas), .value = "N", .preset = "1", .least = 1,
     .most = LIMIT_REPLICAS,
     .help = "engines of each model, which divide the machine; a prompt goes where its beginning was read lately, unless "
             "that engine is much busier"},
    {"hosts", OPTION_TEXT, OPTION_OF_SECTION, FIELD(hosts), .value = "LIST",
     .help = "where ranks run, as localhost:2; other hosts are not available in this version; default this "
             "machine"},
    {"interface", OPTION_TEXT, OPTION_OF_SECTION, FIELD(interface), .value = "NAME|CIDR",
     .help = "network that ranks use between each other; default the loopback"},
    {"launcher", OPTION_WORD, OPTION_OF_SECTION, FIELD(launcher), .preset = "local", .words = "local",
     .words_later = "srun external", .help = "what starts the ranks"},
    {"launcher-args", OPTION_TEXT, OPTION_OF_SECTION, FIELD(launcher_args), .value = "\"...\"",
     .help = "more words for the launcher's command line"},
    {"device", OPTION_WORD, OPTION_OF_SECTION, FIELD(device), .words = "cpu cuda",
     .help = "what computes, a GPU for each rank with cuda; default cuda when a usable GPU is there"},
    {"weights", OPTION_WORD, OPTION_OF_SECTION, FIELD(weights), .preset = "auto",
     .words = "auto bf16 q8 q4 f32 fp8",
     .help = "type of weights in memory; auto keeps them as stored, q8 and q4 quantise in groups of 32, fp8 (on a GPU) "
             "with a scale a row"},
    {"kv", OPTION_WORD, OPTION_OF_SECTION, FIELD(kv), .preset = "auto", .words = "auto bf16 q8 f32",
     .help = "type of the KV cache; auto is f32 with --weights f32, else bf16; q8: 8 bits and a scale per "
             "token and head"},
    {"threads", OPTION_U32, OPTION_OF_SECTION, FIELD(threads), .value = "N", .least = 1, .most = 512,
     .help = "threads of each rank; default the usable CPUs divided by the ranks"},
    {"context", OPTION_U32, OPTION_OF_SECTION, FIELD(context), .value = "N", .unit = "tokens", .least = 1,
     .most = LIMIT_CONTEXT_TOKENS,
     .help = "prompt and answer of one request together; default the model's own limit, cut to what fits"},
    {"batch-invariant", OPTION_FLAG, OPTION_OF_SECTION, FIELD(batch_invariant),
     .help = "on a GPU: prompts too are computed so that every token has the bits it has alone, which makes them slower; on "
             "a CPU it is always so"},
    {"expert-layout", OPTION_TEXT, OPTION_OF_SECTION, FIELD(expert_layout), .value = "EPxWIDTH",
     .help = "how experts are split, as 2x1; default chosen and printed"},
    {"memory", OPTION_BYTES, OPTION_OF_SECTION, FIELD(memory), .value = "BYTES",
     .unit = "bytes, KiB, MiB, GiB or TiB", .least = 1 << 20, .most = UINT64_C(1) << 50,
     .help = "budget of each rank; default what weights, activations and the KV of 16 requests need, at most "
             "80 % of "
             "what is free"},
    {"prefill-min-share", OPTION_U32, OPTION_OF_SECTION, FIELD(prefill_min_share), .value = "N",
     .unit = "percent", .preset = "10", .least = 1, .most = LIMIT_PREFILL_SHARE,
     .help = "of the time, what prompts get at least while answers are written; if this is not over 50, they "
             "slow answers down to half their speed at most"},
    {"listen", OPTION_TEXTS, 0, FIELD(listen), .value = "ADDR",
     .help =
         "gRPC address, unix:/path, host:port or systemd:NAME, a socket that the service manager hands over; may repeat; "
         "default unix:$XDG_RUNTIME_DIR/gemmad.sock, else "
         "gemmad.sock in the state directory"},
    {"queue", OPTION_U32, 0, FIELD(queue), .value = "N", .unit = "requests", .preset = "1024", .least = 1,
     .most = LIMIT_QUEUE_PER_MODEL,
     .help = "how many may wait for each model; more are answered with RESOURCE_EXHAUSTED and told when to come again"},
    {"queue-per-client", OPTION_U32, 0, FIELD(queue_per_client), .value = "N", .unit = "requests", .preset = "256",
     .least = 1, .most = LIMIT_QUEUE_PER_MODEL, .help = "how many may wait of one user (of a Unix socket) or address (of a network's)"},
    {"http", OPTION_TEXT, 0, FIELD(http), .value = "ADDR",
     .help = "address of OpenAI-compatible HTTP, unix:/path, host:port or systemd:NAME; off unless given"},
    {"keys", OPTION_TEXT, 0, FIELD(keys), .value = "FILE",
     .help = "clients must show one of these keys, made by `gemmactl key`; the daemon's own user and root need none on a "
             "Unix socket; read again on SIGHUP"},
    {"socket-mode", OPTION_WORD, 0, FIELD(socket_mode), .preset = "0600", .words = "0600 0660 0666",
     .help = "of Unix sockets; with more than 0600 other users may connect, and --keys is needed"},
    {"tls-cert", OPTION_TEXT, 0, FIELD(tls_cert), .value = "FILE",
     .help = "certificate chain in PEM: every host:port then speaks TLS, 1.2 or later; read again on SIGHUP"},
    {"tls-key", OPTION_TEXT, 0, FIELD(tls_key), .value = "FILE", .help = "its private key in PEM, which others may not read"},
    {"tls-client-ca", OPTION_TEXT, 0, FIELD(tls_client_ca), .value = "FILE",
     .help = "clients must show a certificate that one of these signed"},
    {"insecure", OPTION_FLAG, 0, FIELD(insecure),
     .help = "listen beyond the loopback without keys and TLS: whoever reaches the port may use the models"},
    {"chat-template", OPTION_WORD, OPTION_OF_SECTION, FIELD(chat_template), .words = "gemma4 gemma4-small",
     .help = "how chats are rendered, for a checkpoint whose own template is missing or not one of Gemma 4's: as for the large "
             "models or as for E2B and E4B; default the checkpoint's own"},
    {"media-root", OPTION_TEXT, OPTION_NOT_BUILT, FIELD(media_root), .value = "DIR",
     .help = "local files that requests may name"},
    {"spill", OPTION_TEXT, OPTION_OF_SECTION, FIELD(spill), .value = "DIR[:SIZE]",
     .help = "folder where the prefix cache keeps pages beyond memory and restarts, with what they were computed "
             "from; may be deleted at any time; SIZE of an engine's files, as 200GiB, default 64GiB"},
    {"engine-grace", OPTION_U32, 0, FIELD(engine_grace), .value = "N", .unit = "seconds", .preset = "120",
     .least = 0, .most = 86400, .help = "how long an engine waits for a coordinator that is gone"},
    {"state", OPTION_TEXT, 0, FIELD(state), .value = "DIR",
     .help = "engine records, logs and sockets; default $XDG_STATE_HOME/gemmad, else ~/.local/state/gemmad"},
    {"config", OPTION_TEXT, OPTION_NOT_IN_FILE, FIELD(config), .value = "FILE",
     .help = "lines of \"option = value\" by the names here; options of one model under [model NAME]"},
    {"dry-run", OPTION_FLAG, 0, FIELD(dry_run),
     .help = "print the plan of layout and memory and end; loads nothing"},
    {"shape", OPTION_WORD, 0, FIELD(shape), .words = "31b 26b-a4b e4b e2b",
     .help = "with --dry-run: plan for a published size instead of a --model"},
    {"json", OPTION_FLAG, 0, FIELD(json), .help = "with --dry-run: print the plan as JSON"},
    {"log-level", OPTION_WORD, 0, FIELD(log_level), .preset = "info", .words = "debug info warn error",
     .help = "the least important lines that are logged, on standard error"},
    {"log-format", OPTION_WORD, 0, FIELD(log_format), .preset = "text", .words = "text json",
     .help = "of the log: lines for people, or one JSON object a line"},
    {"log-prompts", OPTION_FLAG, 0, FIELD(log_prompts),
     .help = "write the first 8 KiB of every prompt into the log; without it no text of a request is logged"},
    {"verbose", OPTION_FLAG, 0, FIELD(verbose), .help = "the same as --log-level debug"},
    {"example-config", OPTION_FLAG, OPTION_ARGUMENT_ONLY, FIELD(example_config),
     .help = "print a file for --config with every option in it, commented out, and end"},
    {"completion", OPTION_WORD, OPTION_ARGUMENT_ONLY, FIELD(completion), .words = "bash zsh fish man",
     .help = "print completion for a shell, or these options for the manual page, and end"},
    {"help", OPTION_FLAG, OPTION_ARGUMENT_ONLY, FIELD(help), .help = "print this and end"},
    {"version", OPTION_FLAG, OPTION_ARGUMENT_ONLY, FIELD(version),
     .help = "print the version and the build and end"},
};
const size_t gemmad_option_count = sizeof gemmad_option_table / sizeof *gemmad_option_table;

_Static_assert(sizeof gemmad_option_table / sizeof *gemmad_option_table <= OPTIONS_MAX,
               "rows of the option table");
