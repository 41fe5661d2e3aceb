#include <sys/stat.h>
#include <unistd.h>

#include "base/paths.h"
#include "tests/test.h"

static char dir[] = "/tmp/gemmad-test-XXXXXX";

static void check_listen(const char *state, const char *want) {
    char *got = NULL;
    CHECK_STATUS(paths_default_listen(state, &got), ST_OK);
    CHECK_THAT(got && !strcmp(got, want), "%s", got);
    free(got);
}

TEST(state_directory) {
    char *got = NULL;
    setenv("XDG_STATE_HOME", "/x/state", 1);
    CHECK_STATUS(paths_state_dir(&got), ST_OK);
    CHECK(!strcmp(got, "/x/state/gemmad"));
    free(got);
    setenv("XDG_STATE_HOME", "relative", 1);
    setenv("HOME", "/home/someone", 1);
    CHECK_STATUS(paths_state_dir(&got), ST_OK);
    CHECK(!strcmp(got, "/home/someone/.local/state/gemmad"));
    free(got);
}

TEST(default_listen) {
    char want[128];
    setenv("XDG_RUNTIME_DIR", dir, 1);
    snprintf(want, sizeof want, "unix:%s/gemmad.sock", dir);
    check_listen("/s", want);
    setenv("XDG_RUNTIME_DIR", "/tmp/gemmad-test-not-there", 1);
    check_listen("/s", "unix:/s/gemmad.sock");
    unsetenv("XDG_RUNTIME_DIR");
    setenv("XDG_STATE_HOME", "/x", 1);
    check_listen(NULL, "unix:/x/gemmad/gemmad.sock");
}

TEST(private_folders) {
    char path[128], file[160];
    struct stat s;
    snprintf(path, sizeof path, "%s/a/b/c", dir);
    CHECK_STATUS(paths_make_private(path), ST_OK);
    CHECK(stat(path, &s) == 0 && S_ISDIR(s.st_mode) && (s.st_mode & 0777) == 0700);
    CHECK_STATUS(paths_make_private(path), ST_OK);
    CHECK(chmod(path, 0777) == 0);
    CHECK_STATUS(paths_make_private(path), ST_INVALID);
    CHECK_SENTENCE("mode 0777");
    snprintf(file, sizeof file, "%s/f", path);
    FILE *f = fopen(file, "w");
    CHECK(f && fclose(f) == 0);
    CHECK_STATUS(paths_make_private(file), ST_INVALID);
    CHECK_SENTENCE("is not a folder");
    snprintf(file, sizeof file, "%s/f/g", path);
    CHECK_STATUS(paths_make_private(file), ST_IO);
    CHECK_STATUS(paths_make_private("/proc/gemmad-test/x"), ST_IO);
    CHECK_SENTENCE("/proc/gemmad-test");
}

int main(void) {
    if (!mkdtemp(dir)) return 1;
    RUN(state_directory);
    RUN(default_listen);
    RUN(private_folders);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command) == 0 ? test_result() : 1;
}
