#include "base/paths.h"

#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

/* The XDG rules: a relative path in one of these variables is as good as none. */
static const char *absolute_variable(const char *name) {
    const char *value = getenv(name);
    return value && value[0] == '/' ? value : NULL;
}

static const char *home(void) {
    const char *value = absolute_variable("HOME");
    if (value) return value;
    const struct passwd *user = getpwuid(geteuid());
    return user && user->pw_dir && user->pw_dir[0] == '/' ? user->pw_dir : NULL;
}

status paths_state_dir(char **out) {
    const char *state = absolute_variable("XDG_STATE_HOME");
    if (state) {
        *out = file_join(state, "gemmad");
        return ST_OK;
    }
    const char *dir = home();
    if (!dir) return fail(ST_NOT_FOUND, "no state directory: neither XDG_STATE_HOME nor HOME is set; give --state DIR");
    *out = file_join(dir, ".local/state/gemmad");
    return ST_OK;
}

static bool is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

status paths_default_listen(const char *state_dir, char **out) {
    const char *runtime = absolute_variable("XDG_RUNTIME_DIR");
    char *own = NULL;
    if (runtime && is_folder(runtime)) state_dir = runtime;
    if (!state_dir) {
        TRY(paths_state_dir(&own));
        state_dir = own;
    }
    static const char name[] = "/gemmad.sock";
    size_t n = strlen(state_dir);
    *out = memory_alloc(5 + n + sizeof name);
    memcpy(*out, "unix:", 5);
    memcpy(*out + 5, state_dir, n);
    memcpy(*out + 5 + n, name, sizeof name);
    free(own);
    return ST_OK;
}

static status make_with_parents(char *path) {
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash) *slash = 0;
        if (mkdir(path, 0700) != 0 && errno != EEXIST) return fail_errno(ST_IO, "cannot create the folder %s", path);
        if (!slash) return ST_OK;
        *slash = '/';
    }
}

status paths_make_private(const char *dir) {
    struct stat s;
    if (!dir[0]) return fail(ST_INVALID, "a folder's path is empty");
    char *path = memory_copy_string(dir);
    status st = make_with_parents(path);
    free(path);
    TRY(st);
    if (stat(dir, &s) != 0) return fail_errno(ST_IO, "%s", dir);
    if (!S_ISDIR(s.st_mode)) return fail(ST_INVALID, "%s is not a folder", dir);
    if (s.st_uid != geteuid())
        return fail(ST_INVALID, "the folder %s belongs to user %u, not to %u", dir, s.st_uid, geteuid());
    if (s.st_mode & 022)
        return fail(ST_INVALID, "others may write to the folder %s (mode %04o): chmod go-w it", dir, s.st_mode & 07777);
    return ST_OK;
}
