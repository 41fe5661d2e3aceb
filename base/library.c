#include "base/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static void *open_first(const library_wanted *w, char *said, size_t size) {
    size_t at = 0;
    said[0] = 0;
    for (const char *const *name = w->names; *name; name++) {
        /* At once: what is missing shows here, and not at a call in the middle of a step. */
        void *handle = dlopen(*name, RTLD_NOW | RTLD_LOCAL);
        if (handle) return handle;
        const char *why = dlerror();
        int n = snprintf(said + at, size - at, "%s%s", at ? "; " : "", why ? why : *name);
        if (n > 0) at = at + (size_t)n < size ? at + (size_t)n : size - 1;
    }
    return NULL;
}

status library_load(const library_wanted *w, void *table) {
    char said[STATUS_TEXT_MAX / 2];
    void *handle = open_first(w, said, sizeof said);
    if (!handle) return fail(ST_NOT_FOUND, "there is no %s: %s", w->what, said);
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < w->count; i++) {
            void *function = dlsym(handle, w->functions[i].name);
            const char *why = function ? NULL : dlerror();
            if (!function)
                return fail(ST_UNSUPPORTED, "this %s lacks %s: %s", w->what, w->functions[i].name, why ? why : "it is empty");
            /* C has no cast from an object's pointer to a function's; POSIX says that they are alike. */
            if (pass == 1) memcpy((char *)table + w->functions[i].at, &function, sizeof function);
        }
    return ST_OK;
}

void library_path(const void *function, char *out, size_t size) {
    Dl_info info;
    void *at;
    memcpy(&at, function, sizeof at);
    snprintf(out, size, "%s", dladdr(at, &info) && info.dli_fname ? info.dli_fname : "");
}
