// The functions of CUDA's driver API that Numba calls, for one device whose memory is the host's and whose work is
// complete when a call returns. Streams and events are numbers, since there is nothing to wait for.
#include <cuda.h>
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "machine.hpp"
#include "memory.hpp"
#include "module.hpp"

using namespace ptx;

namespace {

constexpr const char* NAME = "PTX interpreter";
constexpr int MULTIPROCESSORS = 8;
constexpr int MOST_SHARED = 227 * 1024;
constexpr size_t MEMORY = size_t(16) << 30;
constexpr size_t ALIGNMENT = 256;

std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

int context_object;
const CUcontext CONTEXT = reinterpret_cast<CUcontext>(&context_object);
thread_local CUcontext current = nullptr;

CUresult failed(CUresult code, const std::string& what) {
    std::fprintf(stderr, "%s: %s\n", NAME, what.c_str());
    return code;
}

template <class T>
uint64_t address_of(T pointer) {
    return uint64_t(pointer);
}

CUresult copy(uint64_t to, uint64_t from, size_t size, bool to_device, bool from_device) {
    const Lock lock(mutex);
    if ((to_device && !global_memory().contains(to, size)) || (from_device && !global_memory().contains(from, size)))
        return failed(CUDA_ERROR_INVALID_VALUE, "copy out of bounds");
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size);
    return CUDA_SUCCESS;
}

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t next_handle() {
    static uint64_t last = 16;  // smaller numbers name the default streams
    return last += 16;
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned) {
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
    *name = error == CUDA_ERROR_LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR";
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult, const char** text) {
    *text = "what the PTX interpreter has printed";
    return CUDA_SUCCESS;
}

// The device

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    *device = 0;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int size, CUdevice) {
    std::snprintf(name, size, "%s", NAME);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice) {
    std::memset(uuid, 1, sizeof *uuid);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
    *bytes = MEMORY;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute asked, CUdevice) {
    switch (asked) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = MULTIPROCESSORS; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = LANES; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 2147483647; break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 * 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = MOST_SHARED; break;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = 2048; break;
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *value = 1; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

// Contexts: there is one

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    *context = CONTEXT;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = current;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    current = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
    current = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
    if (context) *context = current;
    current = nullptr;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
    return CUDA_SUCCESS;
}

// Memory

CUresult cuMemAlloc(CUdeviceptr* pointer, size_t size) {
    const Lock lock(mutex);
    if (size > MEMORY - global_memory().total()) return CUDA_ERROR_OUT_OF_MEMORY;
    const size_t padded = (size / ALIGNMENT + 2) * ALIGNMENT;  // what lies behind belongs to nobody
    void* const memory = std::aligned_alloc(ALIGNMENT, padded);
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(memory, 0xff, padded);  // NaN, if it is read as a number
    *pointer = address_of(memory);
    global_memory().add(*pointer, size);
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr pointer) {
    const Lock lock(mutex);
    if (!global_memory().remove(pointer)) return failed(CUDA_ERROR_INVALID_VALUE, "no such memory to free");
    std::free(reinterpret_cast<void*>(pointer));
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t* free, size_t* total) {
    const Lock lock(mutex);
    *total = MEMORY;
    *free = MEMORY - global_memory().total();
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** pointer, size_t size, unsigned) {
    *pointer = std::aligned_alloc(ALIGNMENT, (size / ALIGNMENT + 1) * ALIGNMENT);
    return *pointer ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void* pointer) {
    std::free(pointer);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t size) {
    return copy(to, address_of(from), size, true, false);
}

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t size) {
    return copy(address_of(to), from, size, false, true);
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t size) {
    return copy(to, from, size, true, true);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream) {
    return copy(to, address_of(from), size, true, false);
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream) {
    return copy(address_of(to), from, size, false, true);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream) {
    return copy(to, from, size, true, true);
}

CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* size, CUdeviceptr pointer) {
    const Lock lock(mutex);
    const auto [begin, bytes] = global_memory().find(pointer);
    if (!bytes) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = begin;
    if (size) *size = bytes;
    return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute asked, CUdeviceptr pointer) {
    const Lock lock(mutex);
    switch (asked) {
        case CU_POINTER_ATTRIBUTE_CONTEXT: *static_cast<CUcontext*>(value) = CONTEXT; break;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *static_cast<CUdeviceptr*>(value) = pointer; break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *static_cast<int*>(value) = 0; break;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED: *static_cast<int*>(value) = 0; break;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            *static_cast<unsigned*>(value) =
                global_memory().contains(pointer, 1) ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
            break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

// Streams and events

CUresult cuStreamCreate(CUstream* stream, unsigned) {
    *stream = reinterpret_cast<CUstream>(next_handle());
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream) {
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream) {
    return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) {
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned) {
    *event = reinterpret_cast<CUevent>(new double(0));
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    delete reinterpret_cast<double*>(event);
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream) {
    *reinterpret_cast<double*>(event) = seconds();
    return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent) {
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end) {
    *milliseconds = float(1e3 * (*reinterpret_cast<double*>(end) - *reinterpret_cast<double*>(begin)));
    return CUDA_SUCCESS;
}

// Modules and kernels

CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned, CUlibraryOption*,
                           void**, unsigned) {
    const Lock lock(mutex);
    try {
        *library = reinterpret_cast<CUlibrary>(read_module(static_cast<const char*>(code)).release());
    } catch (const std::exception& error) {
        return failed(CUDA_ERROR_INVALID_PTX, error.what());
    }
    return CUDA_SUCCESS;
}

CUresult cuLibraryUnload(CUlibrary library) {
    const Lock lock(mutex);
    delete reinterpret_cast<Module*>(library);
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
    const Module& module = *reinterpret_cast<Module*>(library);
    const auto found = module.kernels.find(name);
    if (found == module.kernels.end()) return CUDA_ERROR_NOT_FOUND;
    *kernel = reinterpret_cast<CUkernel>(found->second.get());
    return CUDA_SUCCESS;
}

CUresult cuKernelGetAttribute(int* value, CUfunction_attribute asked, CUkernel handle, CUdevice) {
    const Kernel& kernel = *reinterpret_cast<Kernel*>(handle);
    switch (asked) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = kernel.max_threads; break;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = int(kernel.static_shared); break;
        case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = int(kernel.local_bytes); break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = int(kernel.max_dynamic_shared); break;
        default: *value = 0;  // registers and constant memory are not known here
    }
    return CUDA_SUCCESS;
}

CUresult cuKernelSetAttribute(CUfunction_attribute asked, int value, CUkernel kernel, CUdevice) {
    if (asked == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (value > MOST_SHARED) return failed(CUDA_ERROR_INVALID_VALUE, "more shared memory than a block can have");
        reinterpret_cast<Kernel*>(kernel)->max_dynamic_shared = value;
    }
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments, void**) {
    const Lock lock(mutex);
    const Kernel& kernel = *reinterpret_cast<Kernel*>(function);
    const std::array<uint32_t, 3> grid{config->gridDimX, config->gridDimY, config->gridDimZ};
    const std::array<uint32_t, 3> threads{config->blockDimX, config->blockDimY, config->blockDimZ};
    for (int k = 0; k < 3; k++) {
        if (!grid[k] || !threads[k]) return failed(CUDA_ERROR_INVALID_VALUE, "a launch of nothing");
    }
    std::vector<char> parameters(kernel.parameter_bytes);
    for (size_t k = 0; k < kernel.parameters.size(); k++) {
        const auto [offset, size] = kernel.parameters[k];
        std::memcpy(parameters.data() + offset, arguments[k], size);
    }
    try {
        launch(kernel, grid, threads, config->sharedMemBytes, parameters.data());
    } catch (const Fault&) {  // which has been printed
        return CUDA_ERROR_LAUNCH_FAILED;
    }
    return CUDA_SUCCESS;
}

// cuda.h names some functions with a version behind, which those who ask leave off.
CUresult cuGetProcAddress(const char* name, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult* result) {
    Dl_info self;
    dladdr(&context_object, &self);
    void* const library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *function = nullptr;
    for (const char* version : {"", "_v2", "_v3"}) {
        if (!*function) *function = dlsym(library, (std::string(name) + version).c_str());
    }
    dlclose(library);
    if (result) *result = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

}  // extern "C"
