/* What tests that touch a device share: its errors, its memory, random numbers, and processes that are meant to die. */
#ifndef TESTS_UNIT_CUDA_CUDA_TEST_H
#define TESTS_UNIT_CUDA_CUDA_TEST_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/test.h"

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        cudaError_t e_ = (call);                                                                                       \
        CHECK_THAT(e_ == cudaSuccess, "%s", cudaGetErrorString(e_));                                                   \
    } while (0)

/* Without a device there is nothing to test. */
static inline void device_needed(void) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) test_skip("no GPU is here");
}

/* ---- memory ---- */

/* Device memory that holds the bytes, or NaN. */
static inline void *device_of(const void *host, size_t bytes) {
    void *p = NULL;
    OK(cudaMalloc(&p, bytes ? bytes : 16));
    if (host && bytes) OK(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    else OK(cudaMemset(p, 0xFF, bytes ? bytes : 16));
    OK(cudaDeviceSynchronize()); /* cudaMemset may return before it is done, and a test's stream does not wait for it */
    return p;
}
static inline void device_free(void *p) { OK(cudaFree(p)); }
/* What is there once the stream has done its work, and that all of it went well. */
static inline void device_fetch(cudaStream_t stream, void *host, const void *device, size_t bytes) {
    OK(cudaStreamSynchronize(stream));
    OK(cudaGetLastError());
    OK(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

/* ---- numbers ---- */

static uint64_t random_state = 88172645463325252u;
static inline uint32_t random_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
/* -1 … 1 */
static inline float random_float(void) { return (float)(int32_t)random_word() * 0x1p-31f; }

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* ---- processes that are meant to die ---- */

/* Runs work in a process of its own, which ends 0 when it returns. Gives back how it ended, as waitpid does, and in `said` what it
 * printed. It has none of the test's threads: work on the device begins there, or there is none. */
static inline int run_apart(void (*work)(void *context), void *context, char *said, size_t size) {
    int to[2], how = 0;
    if (pipe(to)) abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(to[1], STDOUT_FILENO);
        dup2(to[1], STDERR_FILENO);
        work(context);
        _exit(0);
    }
    close(to[1]);
    size_t length = 0;
    for (ssize_t n; length < size - 1 && (n = read(to[0], said + length, size - 1 - length)) > 0;) length += (size_t)n;
    said[length] = 0;
    close(to[0]);
    waitpid(child, &how, 0);
    return how;
}
static inline bool ended_well(int how) { return WIFEXITED(how) && WEXITSTATUS(how) == 0; }

#endif
