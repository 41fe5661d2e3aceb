#include "shard/kernels/cuda/lt_library.h"

#include <stdbool.h>

#ifdef GEMMAD_CUDA_SIM

#define LT_FUNCTION(name) .name = cublasLt##name,
lt_functions lt = {LT_FUNCTIONS(LT_FUNCTION)};

static _Atomic bool pretended;
void lt_library_pretend_missing(bool missing) { pretended = missing; }
status lt_library_open(void) {
    return pretended ? fail(ST_NOT_FOUND, "there is no cuBLASLt: a test says so") : ST_OK;
}

#else

#include <pthread.h>
#include <stdio.h>

#include "base/library.h"
#include "base/log.h"

lt_functions lt;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static status outcome;
static char said[STATUS_TEXT_MAX];

#define TEXT_OF(number) #number
#define NAME_OF(major) "libcublasLt.so." TEXT_OF(major)

/* The unversioned name is that of a machine which also compiles; it may be any version. */
static status look(void) {
    static const char *const names[] = {NAME_OF(CUBLAS_VER_MAJOR), "libcublasLt.so", NULL};
#define LT_FUNCTION(name) {"cublasLt" #name, offsetof(lt_functions, name)},
    static const library_function functions[] = {LT_FUNCTIONS(LT_FUNCTION)};
    char path[512];
    TRY(library_load(&(library_wanted){"cuBLASLt", names, functions, sizeof functions / sizeof *functions}, &lt));
    library_path(&lt.GetVersion, path, sizeof path);
    size_t version = lt.GetVersion();
    if (version / 10000 != CUBLAS_VER_MAJOR)
        return fail(ST_UNSUPPORTED, "%s is cuBLASLt %zu, this build wants version %d", path, version, CUBLAS_VER_MAJOR);
    log_info("cuBLASLt %zu: %s", version, path);
    return ST_OK;
}

static void load(void) {
    outcome = look();
    if (outcome != ST_OK) snprintf(said, sizeof said, "%s", status_text());
}

status lt_library_open(void) {
    (void)pthread_once(&once, load);
    return outcome == ST_OK ? ST_OK : fail(outcome, "%s", said);
}

#endif
