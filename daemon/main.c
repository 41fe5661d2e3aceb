/* gemmad: the coordinator. Options, and which of its lives this process leads: keeper, dry run or service. */
#include <stdio.h>
#include <string.h>

#include "build_id.h"
#include "daemon/dry_run.h"
#include "daemon/engine/engine.h"
#include "daemon/service.h"
#include "daemon/settings.h"

static int run(const settings *s) {
    if (s->options.help) {
        settings_print_help(stdout);
        return fflush(stdout) == 0 ? EXIT_STOPPED : EXIT_FAILED;
    }
    if (s->options.example_config) {
        settings_print_example(stdout);
        return fflush(stdout) == 0 ? EXIT_STOPPED : EXIT_FAILED;
    }
    if (s->options.completion) return settings_print_completion(s, stdout) == ST_OK ? EXIT_STOPPED : EXIT_FAILED;
    if (s->options.version) {
        printf("gemmad %s, build %s\n", GEMMAD_VERSION, GEMMAD_BUILD_ID);
        return fflush(stdout) == 0 ? EXIT_STOPPED : EXIT_FAILED;
    }
    log_open("gemmad", s->log_level);
    log_set_format(s->log_format);
    if (!s->options.dry_run) return service_run(s);
    status st = dry_run(s);
    if (st != ST_OK) fprintf(stderr, "gemmad: %s\n", status_text());
    return service_exit_code(st);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--keeper")) return keeper_main(argc, argv);
    settings s;
    status st = settings_read(&s, argc, argv);
    int code = EXIT_USAGE;
    if (st == ST_OK) code = run(&s);
    else fprintf(stderr, "gemmad: %s\n", status_text());
    settings_close(&s);
    return code;
}
