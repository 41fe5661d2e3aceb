/* Weights that go to a device, with a device that is none: memory that the host cannot touch and a loader that writes
 * behind its back, so that whoever looks at data there is found out. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/invariant.h"
#include "base/log.h"
#include "tests/device_weights.h"

/* ---- the device ---- */

typedef struct fake {
    backend base;
    char *there, *behind; /* pages nobody may touch, and what they hold */
    size_t bytes;
    uint32_t open_loaders, sends_until_failure; /* 0: never */
} fake;

struct device_loader {
    fake *f;
    uint32_t threads;
    size_t stage_bytes;
    char *stages; /* [threads] */
    atomic_bool busy[64];
    atomic_uint sends;
    bool finished;
};

static status fake_alloc(backend *b, size_t bytes, const char *what, void **out) {
    fake *f = (fake *)b;
    (void)what;
    *out = NULL;
    if (f->there) return fail(ST_INTERNAL, "a second allocation");
    f->there = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    f->behind = memory_alloc(bytes);
    f->bytes = bytes;
    *out = f->there;
    return ST_OK;
}

static void fake_release(backend *b, void *p, size_t bytes) {
    fake *f = (fake *)b;
    CHECK(p == f->there && bytes == f->bytes);
    munmap(f->there, bytes);
    free(f->behind);
    f->there = NULL;
}

static status no_memory(backend *b, size_t bytes, const char *what, void **out) {
    (void)b;
    *out = NULL;
    return fail(ST_NO_MEMORY, "%s: %zu bytes are too many", what, bytes);
}

static fake device;

static void fake_read(void *host, const void *at, size_t bytes) {
    size_t offset = (size_t)((const char *)at - device.there);
    INVARIANT(offset <= device.bytes && bytes <= device.bytes - offset);
    memcpy(host, device.behind + offset, bytes);
}

static status fake_open(device_loader **out, backend *b, uint32_t threads, size_t stage_bytes) {
    device_loader *l = memory_alloc(sizeof *l);
    CHECK(threads > 0 && threads <= 64 && stage_bytes > 0);
    *l = (device_loader){.f = (fake *)b, .threads = threads, .stage_bytes = stage_bytes};
    l->stages = memory_alloc_array(threads, stage_bytes);
    l->f->open_loaders++;
    *out = l;
    return ST_OK;
}

/* Anything may be in it. */
static void *fake_stage(device_loader *l, uint32_t thread) {
    INVARIANT(thread < l->threads);
    CHECK(!atomic_exchange(&l->busy[thread], true)); /* two threads never have one number */
    return memset(l->stages + thread * l->stage_bytes, 0xA5, l->stage_bytes);
}

static status fake_send(device_loader *l, uint32_t thread, void *to, size_t bytes) {
    fake *f = l->f;
    size_t offset = (size_t)((char *)to - f->there);
    INVARIANT(thread < l->threads && bytes <= l->stage_bytes && offset <= f->bytes && bytes <= f->bytes - offset);
    memcpy(f->behind + offset, l->stages + thread * l->stage_bytes, bytes);
    CHECK(atomic_exchange(&l->busy[thread], false));
    if (f->sends_until_failure && atomic_fetch_add(&l->sends, 1) + 1 == f->sends_until_failure)
        return fail(ST_INTERNAL, "the bus is gone");
    return ST_OK;
}

static status fake_finish(device_loader *l) {
    l->finished = true;
    return ST_OK;
}

static void fake_close(device_loader *l) {
    CHECK(l->finished || l->f->sends_until_failure);
    l->f->open_loaders--;
    free(l->stages);
    free(l);
}

static const backend_ops ops = {.alloc = fake_alloc, .release = fake_release};
static const backend_ops ops_without_memory = {.alloc = no_memory};
static const device_load_ops load = {fake_open, fake_stage, fake_send, fake_finish, fake_close};
static fake device = {.base = {.ops = &ops, .name = "fake"}};
static const weights_device under_test = {&device.base, &load, fake_read};

/* ---- tests ---- */

TEST(every_kind_of_weights) {
    device_check_all(&under_test, TEST_SANITIZED);
    CHECK(!device.there && device.open_loaders == 0);
}

TEST(a_back_end_on_the_host_is_no_device) {
    static const backend host = {.is_host = true};
    device_case k = {.model = "golden/e2b", .ranks = 1, .threads = 2};
    device_model m = device_open_model(&k);
    model_weights_options o = device_options(NULL, &k);
    model_weights *w = NULL;
    o.device = (backend *)&host;
    CHECK_STATUS(model_weights_open(&w, m.files, m.config, m.l, &o), ST_OK);
    CHECK(w && !w->device && w->ple_table.data && ((const float *)w->final_norm)[0] != 0);
    model_weights_close(w);
    device_close_model(m);
}

static void check_failure(fake *f, status st, const char *sentence) {
    device_case k = {.model = "golden/e2b", .ranks = 1, .threads = 3};
    device_model m = device_open_model(&k);
    model_weights_options o = device_options(&under_test, &k);
    model_weights *w = (void *)&w;
    o.device = &f->base;
    CHECK_STATUS(model_weights_open(&w, m.files, m.config, m.l, &o), st);
    CHECK_SENTENCE(sentence);
    CHECK(w == NULL && !f->there && f->open_loaders == 0);
    device_close_model(m);
}

TEST(failures_leave_nothing_behind) {
    fake poor = {.base = {.ops = &ops_without_memory}};
    check_failure(&poor, ST_NO_MEMORY, "weights: ");
    device.sends_until_failure = 9;
    check_failure(&device, ST_INTERNAL, "the bus is gone");
    device.sends_until_failure = 0;
}

TEST(fp8_is_for_devices) {
    CHECK_STATUS(weights_check_device(WEIGHTS_FP8, true), ST_OK);
    CHECK_STATUS(weights_check_device(WEIGHTS_Q8, false), ST_OK);
    CHECK_STATUS(weights_check_device(WEIGHTS_FP8, false), ST_UNSUPPORTED);
    CHECK_SENTENCE("--weights fp8 runs on a GPU");
    CHECK(weights_choice_of("fp8") == WEIGHTS_FP8 && weights_group(WEIGHTS_FP8, WEIGHT_Q8) == 1);
}

int main(void) {
    log_open("test", LOG_ERROR);
    RUN(every_kind_of_weights);
    RUN(a_back_end_on_the_host_is_no_device);
    RUN(failures_leave_nothing_behind);
    RUN(fp8_is_for_devices);
    return test_result();
}
