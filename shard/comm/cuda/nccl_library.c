#ifdef GEMMAD_WITH_NCCL
#include "shard/comm/cuda/nccl_library.h"

#ifdef GEMMAD_CUDA_SIM

#define NCCL_FUNCTION(name) .name = nccl##name,
nccl_functions nccl = {NCCL_FUNCTIONS(NCCL_FUNCTION)};

static _Atomic bool pretended;
void nccl_library_pretend_missing(bool missing) { pretended = missing; }
status nccl_library_open(void) {
    return pretended ? fail(ST_NOT_FOUND, "there is no NCCL: a test says so") : ST_OK;
}

#else

#include <pthread.h>
#include <stdio.h>

#include "base/library.h"
#include "base/log.h"

nccl_functions nccl;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static status outcome;
static char said[STATUS_TEXT_MAX];

/* Versions since 2.9 are major · 10000 + minor · 100 + patch; earlier ones have not the functions. An older minor version than
 * the header's is fine: the configuration says which it was made for. */
static status look(void) {
    static const char *const names[] = {"libnccl.so.2", NULL};
#define NCCL_FUNCTION(name) {"nccl" #name, offsetof(nccl_functions, name)},
    static const library_function functions[] = {NCCL_FUNCTIONS(NCCL_FUNCTION)};
    char path[512];
    int version = 0;
    TRY(library_load(&(library_wanted){"NCCL", names, functions, sizeof functions / sizeof *functions}, &nccl));
    library_path(&nccl.GetVersion, path, sizeof path);
    if (nccl.GetVersion(&version) != ncclSuccess || version / 10000 != NCCL_MAJOR)
        return fail(ST_UNSUPPORTED, "%s is NCCL %d, this build wants version %d", path, version, NCCL_MAJOR);
    log_info("NCCL %d: %s", version, path);
    return ST_OK;
}

static void load(void) {
    outcome = look();
    if (outcome != ST_OK) snprintf(said, sizeof said, "%s", status_text());
}

status nccl_library_open(void) {
    (void)pthread_once(&once, load);
    return outcome == ST_OK ? ST_OK : fail(outcome, "%s", said);
}

#endif
#endif
