#include "shard/kernels/cuda/devices.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

uint32_t cuda_device_count(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return n > 0 ? (uint32_t)n : 0;
}

/* Where the kernel says that a PCI device is; -1: on a machine of one node, or not told. */
static int node_of(const char *bus_id) {
    char path[96], lower[32];
    size_t i = 0;
    for (; bus_id[i] && i + 1 < sizeof lower; i++) lower[i] = (char)tolower((unsigned char)bus_id[i]);
    lower[i] = 0;
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/numa_node", lower);
    int node = -1;
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%d", &node) != 1) node = -1;
    if (f) fclose(f);
    return node;
}

status cuda_device_look(uint32_t number, cuda_device *out) {
    struct cudaDeviceProp p;
    uint32_t n = cuda_device_count();
    *out = (cuda_device){.numa_node = -1};
    if (n == 0) return fail(ST_NOT_FOUND, "there is no GPU that CUDA can use: no driver, or none is visible");
    if (number >= n) return fail(ST_NOT_FOUND, "GPU %u is asked for, there are %u (from 0)", number, n);
    cudaError_t e = cudaGetDeviceProperties(&p, (int)number);
    if (e != cudaSuccess) return fail(cuda_status_of(e), "GPU %u: %s", number, cuda_cause_of(e));
    snprintf(out->name, sizeof out->name, "%.63s", p.name);
    if (cudaDeviceGetPCIBusId(out->bus_id, sizeof out->bus_id, (int)number) != cudaSuccess) out->bus_id[0] = 0;
    memcpy(out->uuid, &p.uuid, sizeof out->uuid);
    out->capability = p.major * 10 + p.minor;
    out->multiprocessors = (uint32_t)p.multiProcessorCount;
    out->shared_bytes_max = p.sharedMemPerBlockOptin;
    out->numa_node = node_of(out->bus_id);
    if (out->capability < CUDA_CAPABILITY_LEAST)
        return fail(ST_UNSUPPORTED, "GPU %u, %s, has compute capability %d.%d; %d.%d is the least", number, out->name,
                    p.major, p.minor, CUDA_CAPABILITY_LEAST / 10, CUDA_CAPABILITY_LEAST % 10);
    return ST_OK;
}

status cuda_device_free_bytes(uint32_t number, uint64_t *out) {
    size_t left = 0, total = 0;
    cudaError_t e = cudaSetDevice((int)number);
    if (e == cudaSuccess) e = cudaMemGetInfo(&left, &total);
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        return fail(cuda_status_of(e), "GPU %u: asking for its free memory: %s (%s)", number, cuda_cause_of(e),
                    cudaGetErrorName(e));
    }
    *out = left;
    return ST_OK;
}

status cuda_status_of(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return ST_OK;
    case cudaErrorMemoryAllocation: return ST_NO_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver: return ST_NOT_FOUND;
    case cudaErrorNoKernelImageForDevice: return ST_UNSUPPORTED;
    case cudaErrorDevicesUnavailable: return ST_IN_USE;
    default: return ST_INTERNAL;
    }
}

const char *cuda_cause_of(cudaError_t e) {
    switch (e) {
    case cudaErrorMemoryAllocation: return "the GPU is out of memory";
    case cudaErrorNoDevice: return "there is no GPU";
    case cudaErrorInsufficientDriver: return "the GPU's driver is older than this build's CUDA, or there is none";
    case cudaErrorDevicesUnavailable: return "the GPU is taken by another process (compute mode)";
    case cudaErrorNoKernelImageForDevice: return "this build has no kernels for this GPU";
    case cudaErrorECCUncorrectable: return "an error of the GPU's memory that ECC could not correct";
    case cudaErrorNvlinkUncorrectable: return "an error of NVLink that could not be corrected";
    case cudaErrorHardwareStackError: return "the GPU reports a fault of its hardware (stack)";
    case cudaErrorIllegalInstruction: return "a kernel met an instruction that the GPU does not have";
    case cudaErrorIllegalAddress: return "a kernel reached memory that is not its own";
    case cudaErrorMisalignedAddress: return "a kernel reached a misaligned address";
    case cudaErrorLaunchTimeout: return "a kernel took longer than the driver allows (a display's watchdog)";
    case cudaErrorLaunchFailure: return "a kernel failed; the kernel log (dmesg) may have an Xid for it";
    case cudaErrorUnknown: return "the driver does not say why; if the GPU fell off the bus, dmesg has an Xid 79";
    case cudaErrorSystemNotReady: return "the system's GPU services are not ready (fabric manager)";
    default: return cudaGetErrorString(e);
    }
}
