/* Devices as they describe themselves, and errors. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim.h"

static __thread int current;
static __thread cudaError_t last_error;
static int failed[SIM_DEVICES_MAX], fail_next[SIM_DEVICES_MAX]; /* atomic; cudaError_t */
static long long synchronised;                                  /* atomic */

unsigned long long sim_setting(const char *name, unsigned long long otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

int sim_device_count(void) {
    unsigned long long n = sim_setting("CUDA_SIM_DEVICES", 1);
    return n > SIM_DEVICES_MAX ? SIM_DEVICES_MAX : (int)n;
}
int sim_device_current(void) { return current; }
static bool is_device(int device) { return device >= 0 && device < sim_device_count(); }
cudaError_t sim_device_failed(int device) { return (cudaError_t)__atomic_load_n(&failed[device], __ATOMIC_SEQ_CST); }

cudaError_t sim_error(cudaError_t e) {
    if (e != cudaSuccess && e != cudaErrorNotReady) last_error = e;
    return e;
}

cudaError_t sim_synchronised(int device) {
    int e = __atomic_exchange_n(&fail_next[device], cudaSuccess, __ATOMIC_SEQ_CST);
    unsigned long long good = sim_setting("CUDA_SIM_FAIL_AFTER", ~0ull);
    if (good != ~0ull && (unsigned long long)__atomic_fetch_add(&synchronised, 1, __ATOMIC_SEQ_CST) == good)
        e = cudaErrorLaunchFailure;
    if (e != cudaSuccess) __atomic_store_n(&failed[device], e, __ATOMIC_SEQ_CST);
    return sim_error(sim_device_failed(device));
}
void cuda_sim_fail_next(cudaError_t e) { __atomic_store_n(&fail_next[current], (int)e, __ATOMIC_SEQ_CST); }

cudaError_t cudaPeekAtLastError(void) {
    cudaError_t e = sim_device_failed(current);
    return e != cudaSuccess ? e : last_error;
}
cudaError_t cudaGetLastError(void) {
    cudaError_t e = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return e;
}

#define ERROR_(e, text) {e, #e, text}
static const struct { cudaError_t e; const char *name, *text; } errors[] = {
    ERROR_(cudaSuccess, "no error"),
    ERROR_(cudaErrorInvalidValue, "invalid argument"),
    ERROR_(cudaErrorMemoryAllocation, "out of memory"),
    ERROR_(cudaErrorInitializationError, "initialization error"),
    ERROR_(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR_(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ERROR_(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR_(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    ERROR_(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    ERROR_(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    ERROR_(cudaErrorNvlinkUncorrectable, "uncorrectable NVLink error detected during the execution"),
    ERROR_(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ERROR_(cudaErrorHardwareStackError, "hardware stack error"),
    ERROR_(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    ERROR_(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR_(cudaErrorSystemNotReady, "system not yet initialized"),
    ERROR_(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR_(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR_(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR_(cudaErrorNotReady, "device not ready"),
    ERROR_(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR_(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
    ERROR_(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"),
    ERROR_(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"),
    ERROR_(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR_(cudaErrorNotSupported, "operation not supported"),
    ERROR_(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR_(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    ERROR_(cudaErrorStreamCaptureUnmatched, "capture was not initiated in this stream"),
    ERROR_(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR_(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    ERROR_(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream"),
    ERROR_(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
    ERROR_(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread"),
};
const char *cudaGetErrorString(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].e == e) return errors[i].text;
    return "unknown error";
}
const char *cudaGetErrorName(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].e == e) return errors[i].name;
    return "cudaErrorUnknown";
}

/* The real thing does not survive fork: whoever used it before gives the child a runtime that works no more. */
static bool is_forked(void) {
    static pid_t owner;
    pid_t none = 0, me = getpid();
    __atomic_compare_exchange_n(&owner, &none, me, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return none != 0 && none != me && sim_setting("CUDA_SIM_FORK", 1) == 0;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (is_forked()) return sim_error(cudaErrorInitializationError);
    *count = sim_device_count();
    return sim_error(*count ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
    if (is_forked()) return sim_error(cudaErrorInitializationError);
    if (sim_device_count() == 0) return sim_error(cudaErrorNoDevice);
    if (!is_device(device)) return sim_error(cudaErrorInvalidDevice);
    current = device;
    return sim_device_failed(device);
}
cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) {
    cudaError_t e = sim_capture_forbids();
    if (e != cudaSuccess) return sim_error(e);
    sim_device_wait(current, true);
    return sim_synchronised(current);
}
cudaError_t cudaDeviceReset(void) {
    sim_device_wait(current, true);
    __atomic_store_n(&failed[current], cudaSuccess, __ATOMIC_SEQ_CST);
    __atomic_store_n(&fail_next[current], cudaSuccess, __ATOMIC_SEQ_CST);
    last_error = cudaSuccess;
    return cudaSuccess;
}

/* Which GPU of the machine a process has as `device`: CUDA_SIM_FIRST is for ranks that are shown one of several each. */
static int first_shown(int device) { return (int)sim_setting("CUDA_SIM_FIRST", 0) + device; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    if (!is_device(device)) return sim_error(cudaErrorInvalidDevice);
    unsigned capability = (unsigned)sim_setting("CUDA_SIM_CAPABILITY", 90);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Simulated GPU");
    memcpy(p->uuid.bytes, "gemmad-simulated", 16);
    p->uuid.bytes[15] = (char)first_shown(device);
    p->totalGlobalMem = sim_setting("CUDA_SIM_MEMORY", 4ull << 30);
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = SIM_SHARED_BYTES_MAX;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->reservedSharedMemPerBlock = 1 << 10;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = SIM_THREADS_MAX;
    p->maxThreadsPerMultiProcessor = 2048;
    p->major = (int)(capability / 10);
    p->minor = (int)(capability % 10);
    p->multiProcessorCount = (int)sim_setting("CUDA_SIM_MULTIPROCESSORS", 6);
    p->l2CacheSize = 60 << 20;
    p->memoryBusWidth = 6144;
    p->pciBusID = 0x10 + first_shown(device);
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int device) {
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess) return e;
    switch (what) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrPciBusId: *value = p.pciBusID; break;
    case cudaDevAttrPciDeviceId: *value = p.pciDeviceID; break;
    case cudaDevAttrPciDomainId: *value = p.pciDomainID; break;
    case cudaDevAttrMemoryClockRate: *value = 3201000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    default: return sim_error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
    if (!is_device(device)) return sim_error(cudaErrorInvalidDevice);
    snprintf(text, (size_t)length, "0000:%02X:00.0", 0x10 + first_shown(device));
    return cudaSuccess;
}
cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *text) {
    char own[32];
    for (*device = 0; *device < sim_device_count(); ++*device) {
        cudaDeviceGetPCIBusId(own, sizeof own, *device);
        if (!strcmp(own, text)) return cudaSuccess;
    }
    return sim_error(cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    if (!is_device(device) || !is_device(peer)) return sim_error(cudaErrorInvalidDevice);
    *can = device != peer;
    return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    static unsigned char enabled[SIM_DEVICES_MAX][SIM_DEVICES_MAX];
    if (flags != 0) return sim_error(cudaErrorInvalidValue);
    if (peer == current || !is_device(peer)) return sim_error(cudaErrorInvalidDevice);
    bool before = __atomic_exchange_n(&enabled[current][peer], 1, __ATOMIC_SEQ_CST);
    return sim_error(before ? cudaErrorPeerAccessAlreadyEnabled : cudaSuccess);
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
