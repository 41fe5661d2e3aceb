#include "ctl/beside.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/strbuf.h"

status beside_path(char **out, const char *program) {
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return fail_errno(ST_IO, "/proc/self/exe");
    self[n] = 0;
    char *slash = strrchr(self, '/');
    strbuf path = {0};
    strbuf_add_format(&path, "%.*s/%s", (int)(slash ? slash - self : 0), self, program);
    if (access(path.data, X_OK) != 0) {
        status st = fail_errno(ST_NOT_FOUND, "%s, which lies beside gemmactl in a build", path.data);
        strbuf_close(&path);
        return st;
    }
    *out = path.data;
    return ST_OK;
}

bool beside_is_measurement(int argc, char **argv, int at) {
    if (!strcmp(argv[at], "pack")) return true;
    if (strcmp(argv[at], "bench") != 0 || at + 1 >= argc) return false;
    if (!strcmp(argv[at + 1], "prefill") || !strcmp(argv[at + 1], "decode")) return true;
    for (int i = at + 1; argv[at + 1][0] == '-' && i < argc; i++)
        if (!strcmp(argv[i], "--write") || !strncmp(argv[i], "--write=", 8)) return true;
    return false;
}

status beside_measure(int argc, char **argv, int at, bool json) {
    char *program = NULL, json_word[] = "--json";
    TRY(beside_path(&program, "gemmad-shard"));
    char **words = memory_alloc_array((size_t)(argc - at) + 3, sizeof *words);
    int n = 0;
    words[n++] = program;
    for (int i = at; i < argc; i++) words[n++] = argv[i];
    if (json) words[n++] = json_word;
    fflush(NULL);
    execv(program, words);
    status st = fail_errno(ST_IO, "%s", program);
    free(words);
    free(program);
    return st;
}
