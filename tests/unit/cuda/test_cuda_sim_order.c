/* The simulator's own test, of the runtime's API: order of work, memory, recorded work, errors. On a GPU it shows that the
 * simulator is right about what is allowed; "as late as may be" is the simulator's alone. */
#include <signal.h>

#include "tests/unit/cuda/cuda_test.h"
#include "tests/unit/cuda/test_cuda_sim.h"
#ifdef GEMMAD_CUDA_SIM
#include "cuda_sim.h"
#endif

static cudaStream_t stream;

static uint32_t *word_of(uint32_t value) {
    void *p = NULL;
    OK(cudaMalloc(&p, 64));
    OK(cudaMemcpy(p, &value, sizeof value, cudaMemcpyHostToDevice));
    OK(cudaDeviceSynchronize());
    return p;
}
static uint32_t value_of(const uint32_t *p) {
    uint32_t value = 0;
    OK(cudaMemcpy(&value, p, sizeof value, cudaMemcpyDeviceToHost));
    return value;
}

TEST(work_keeps_its_order) {
    uint32_t *x = word_of(1), want = 1;
    for (uint32_t i = 0; i < 100; i++) {
        sim_step(stream, x, 3, i);
        want = want * 3 + i;
    }
    OK(cudaStreamSynchronize(stream));
    CHECK(value_of(x) == want);
    OK(cudaMemsetAsync(x, 1, 4, stream));
    sim_step(stream, x, 2, 0);
    OK(cudaStreamSynchronize(stream));
    CHECK(value_of(x) == 0x02020202);
    OK(cudaFree(x));
}

/* A stream that waits for an event of another; and the NULL stream, which blocking streams are in order with. */
TEST(streams_wait_for_each_other) {
    cudaStream_t other, blocking;
    cudaEvent_t event, timed[2];
    float ms = -1;
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    OK(cudaStreamCreate(&blocking));
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    OK(cudaEventCreate(&timed[0]));
    OK(cudaEventCreate(&timed[1]));
    uint32_t *x = word_of(1);
    OK(cudaEventRecord(timed[0], stream));
    for (int i = 0; i < 20; i++) sim_step(stream, x, 1, 1);
    OK(cudaEventRecord(event, stream));
    OK(cudaStreamWaitEvent(other, event, 0));
    sim_step(other, x, 2, 0);
    OK(cudaEventRecord(event, other)); /* again: waits name what was recorded before them */
    OK(cudaStreamWaitEvent(stream, event, 0));
    sim_step(stream, x, 1, 5);
    OK(cudaEventRecord(timed[1], stream));
    OK(cudaEventSynchronize(timed[1]));
    OK(cudaEventElapsedTime(&ms, timed[0], timed[1]));
    CHECK(value_of(x) == 47 && ms >= 0);
    OK(cudaEventQuery(event));
    sim_step(blocking, x, 1, 1);
    sim_step(NULL, x, 2, 0);
    sim_step(blocking, x, 1, 3);
    OK(cudaStreamSynchronize(blocking));
    CHECK(value_of(x) == 99);
    OK(cudaEventDestroy(event));
    OK(cudaEventDestroy(timed[0]));
    OK(cudaEventDestroy(timed[1]));
    OK(cudaStreamDestroy(other));
    OK(cudaStreamDestroy(blocking));
    OK(cudaFree(x));
}

static void note(void *argument) { ++*(int *)argument; }

/* Pageable memory is read when the copy is asked for; pinned memory when it runs. */
TEST(copies) {
    uint32_t *x = word_of(0), *pinned = NULL, pageable = 7;
    int noted = 0;
    OK(cudaMallocHost((void **)&pinned, 8));
    OK(cudaMemcpyAsync(x, &pageable, 4, cudaMemcpyHostToDevice, stream));
    pageable = 8;
    OK(cudaStreamSynchronize(stream));
    CHECK(value_of(x) == 7);
    pinned[0] = 9;
    OK(cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, stream));
    sim_step(stream, x, 2, 0);
    OK(cudaMemcpyAsync(&pinned[1], x, 4, cudaMemcpyDeviceToHost, stream));
    OK(cudaLaunchHostFunc(stream, note, &noted));
    OK(cudaStreamSynchronize(stream));
    CHECK(pinned[1] == 18 && noted == 1);
#ifdef GEMMAD_CUDA_SIM
    pinned[0] = 10;
    OK(cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, stream));
    OK(cudaMemcpyAsync(&pinned[1], x, 4, cudaMemcpyDeviceToHost, stream));
    CHECK(pinned[1] == 18);
    pinned[0] = 11; /* too early, and it shows */
    OK(cudaStreamSynchronize(stream));
    CHECK(pinned[1] == 11);
#endif
    uint32_t table[4][3] = {{0}}, back[2][3] = {{0}};
    for (uint32_t i = 0; i < 12; i++) table[i / 3][i % 3] = i;
    OK(cudaMemcpy2DAsync(x, 8, &table[1][1], 12, 8, 2, cudaMemcpyHostToDevice, stream));
    OK(cudaMemcpy2DAsync(back, 12, x, 8, 8, 2, cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
    CHECK(back[0][0] == 4 && back[0][1] == 5 && back[0][2] == 0 && back[1][0] == 7 && back[1][1] == 8);
    OK(cudaHostRegister(table, sizeof table, cudaHostRegisterDefault));
    CHECK(cudaHostRegister(table, 4, cudaHostRegisterDefault) == cudaErrorHostMemoryAlreadyRegistered);
    OK(cudaHostUnregister(table));
    CHECK(cudaMemcpy(&pageable, x, 4, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(x, table, sizeof table * 1000, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    (void)cudaGetLastError();
    OK(cudaFreeHost(pinned));
    OK(cudaFree(x));
}

TEST(recorded_work_is_done_again) {
    uint32_t *x = word_of(1), *pinned = NULL, add = 5;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    enum cudaStreamCaptureStatus capturing;
    cudaStream_t other;
    cudaEvent_t event;
    OK(cudaMallocHost((void **)&pinned, 4));
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    sim_step(stream, x, 2, add);
    add = 100;
    OK(cudaStreamIsCapturing(stream, &capturing));
    CHECK(capturing == cudaStreamCaptureStatusActive);
    OK(cudaEventRecord(event, stream));
    OK(cudaStreamWaitEvent(other, event, 0));
    sim_step(other, x, 3, 0);
    OK(cudaEventRecord(event, other));
    OK(cudaStreamWaitEvent(stream, event, 0));
    OK(cudaMemcpyAsync(pinned, x, 4, cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaStreamSynchronize(stream));
    CHECK(value_of(x) == 1);
    size_t nodes = 0;
    OK(cudaGraphGetNodes(graph, NULL, &nodes));
    CHECK(nodes == 3);
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    uint32_t want = 1;
    for (int i = 0; i < 3; i++) {
        OK(cudaGraphLaunch(exec, stream));
        want = (want * 2 + 5) * 3;
    }
    OK(cudaStreamSynchronize(stream));
    CHECK_THAT(value_of(x) == want && *pinned == want, "%u for %u", value_of(x), want);
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaGraphExecDestroy(exec)); /* what runs is kept */
    OK(cudaStreamSynchronize(stream));
    CHECK(value_of(x) == (want * 2 + 5) * 3);
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(other));
    OK(cudaFreeHost(pinned));
    OK(cudaFree(x));
}

/* What would wait, or take memory, ends a recording. Of copies of pageable memory the simulator is sure to say it. */
#ifdef GEMMAD_CUDA_SIM
enum { RECORDING_FAULTS = 6 };
#else
enum { RECORDING_FAULTS = 4 };
#endif
TEST(recordings_forbid_waiting) {
    uint32_t *x = word_of(1);
    void *p = NULL;
    for (int how = 0; how < RECORDING_FAULTS; how++) {
        cudaGraph_t graph = NULL;
        enum cudaStreamCaptureStatus capturing;
        cudaError_t e = cudaSuccess;
        OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        sim_step(stream, x, 2, 1);
        switch (how) {
        case 0: e = cudaStreamSynchronize(stream); break;
        case 1: e = cudaDeviceSynchronize(); break;
        case 2: e = cudaMalloc(&p, 64); break;
        case 3: e = cudaStreamQuery(stream); break;
        case 4: e = cudaMemcpy(x, &how, 4, cudaMemcpyHostToDevice); break;
        default: e = cudaMemcpyAsync(x, &how, 4, cudaMemcpyHostToDevice, stream); break;
        }
        CHECK_THAT(e == cudaErrorStreamCaptureUnsupported, "%d: %s", how, cudaGetErrorName(e));
        OK(cudaStreamIsCapturing(stream, &capturing));
        CHECK_THAT(capturing == cudaStreamCaptureStatusInvalidated, "%d", how);
        CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
        (void)cudaGetLastError();
    }
    sim_step(stream, x, 2, 1);
    OK(cudaStreamSynchronize(stream));
    CHECK(value_of(x) == 3);
    OK(cudaFree(x));
}

TEST(devices_are_described) {
    struct cudaDeviceProp p;
    size_t available = 0, total = 0;
    char place[32];
    int device = -1, count = 0, value = 0;
    OK(cudaGetDevice(&device));
    OK(cudaGetDeviceCount(&count));
    OK(cudaGetDeviceProperties(&p, device));
    OK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device));
    CHECK(device == 0 && count >= 1 && value == p.multiProcessorCount && value > 0 && p.major >= 8);
    OK(cudaDeviceGetPCIBusId(place, sizeof place, device));
    OK(cudaDeviceGetByPCIBusId(&value, place));
    CHECK(value == device);
    OK(cudaMemGetInfo(&available, &total));
    CHECK(available > 0 && available <= total && total <= p.totalGlobalMem);
    CHECK(cudaSetDevice(count) == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice && cudaGetLastError() == cudaSuccess);
}

#ifdef GEMMAD_CUDA_SIM
TEST(memory_ends) {
    size_t before = cuda_sim_bytes_taken(), available = 0, total = 0;
    void *p[6] = {0};
    OK(cudaMemGetInfo(&available, &total));
    CHECK(cudaMalloc(&p[0], total + 1) == cudaErrorMemoryAllocation && !p[0]);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    OK(cudaGetLastError());
    for (size_t i = 0; i < 6; i++) OK(cudaMalloc(&p[i], 1000 + 300 * i));
    OK(cudaFree(p[2]));
    OK(cudaFree(p[4]));
    OK(cudaMalloc(&p[2], 900));
    OK(cudaMalloc(&p[4], 2000));
    for (int i = 0; i < 6; i++) OK(cudaMemset(p[i], i, 900));
    for (int i = 0; i < 6; i++) CHECK(value_of(p[i]) == 0x01010101u * (unsigned)i);
    for (int i = 0; i < 6; i++) OK(cudaFree(p[i]));
    CHECK(cudaFree(&before) == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue);
    CHECK(cuda_sim_bytes_taken() == before);
}

static void touch(void *x) {
    signal(SIGSEGV, SIG_DFL);
    _exit(*(volatile uint32_t *)x == 77);
}

/* The host cannot touch what is the device's, unless it asks. */
TEST(device_memory_is_the_devices) {
    volatile uint32_t *x = word_of(77);
    if (!TEST_SANITIZED) { /* there it lies in the host's memory, for the sake of the sanitizer */
        char said[64];
        int how = run_apart(touch, (void *)(uintptr_t)x, said, sizeof said);
        CHECK_THAT(WIFSIGNALED(how) && WTERMSIG(how) == SIGSEGV, "%x", (unsigned)how);
    }
    cuda_sim_open_memory(1);
    CHECK(*x == 77);
    cuda_sim_open_memory(0);
    OK(cudaFree((void *)(uintptr_t)x));
}

/* Nothing runs before it is waited for, or a while has passed. */
TEST(work_is_done_late) {
    uint32_t *x = word_of(1);
    unsigned long long before = cuda_sim_launches();
    setenv("CUDA_SIM_LATE_MS", "60000", 1);
    sim_step(stream, x, 2, 1);
    usleep(2000);
    CHECK(cuda_sim_launches() == before);
    OK(cudaStreamSynchronize(stream));
    CHECK(cuda_sim_launches() == before + 1);
    setenv("CUDA_SIM_LATE_MS", "1", 1);
    sim_step(stream, x, 2, 1);
    for (int i = 0; i < 5000 && cuda_sim_launches() < before + 2; i++) usleep(1000);
    CHECK(cuda_sim_launches() == before + 2);
    unsetenv("CUDA_SIM_LATE_MS");
    setenv("CUDA_SIM_LAZY", "0", 1);
    sim_step(stream, x, 2, 1);
    CHECK(cuda_sim_launches() == before + 3);
    unsetenv("CUDA_SIM_LAZY");
    OK(cudaStreamSynchronize(stream));
    OK(cudaFree(x));
}

/* A fault of the device stays, and is said by everything that follows. */
TEST(faults_stay) {
    uint32_t *x = word_of(1), y = 0;
    void *p = NULL;
    cuda_sim_fail_next(cudaErrorIllegalAddress);
    sim_step(stream, x, 2, 1);
    OK(cudaGetLastError());
    CHECK(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaErrorIllegalAddress);
    CHECK(cudaMalloc(&p, 64) == cudaErrorIllegalAddress);
    CHECK(cudaMemcpy(&y, x, 4, cudaMemcpyDeviceToHost) == cudaErrorIllegalAddress);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
    sim_step(stream, x, 2, 1);
    OK(cudaDeviceReset());
    OK(cudaStreamSynchronize(stream));
    CHECK(value_of(x) == 3);
    OK(cudaFree(x));
}
#endif

int main(void) {
    device_needed();
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RUN(work_keeps_its_order);
    RUN(streams_wait_for_each_other);
    RUN(copies);
    RUN(recorded_work_is_done_again);
    RUN(recordings_forbid_waiting);
    RUN(devices_are_described);
#ifdef GEMMAD_CUDA_SIM
    RUN(memory_ends);
    RUN(device_memory_is_the_devices);
    RUN(work_is_done_late);
    RUN(faults_stay);
#endif
    OK(cudaStreamDestroy(stream));
    return test_result();
}
