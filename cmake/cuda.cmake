# Finds the CUDA compiler and the libraries' headers: sets GEMMAD_CUDA_FOUND and says what came of it. cuBLASLt and NCCL are
# loaded when a GPU wants them, so that what is built starts anywhere. A build without CUDA is complete, for CPUs. Sanitizer and
# fuzz builds have none: their tests run the kernels on the CPU (tests/cuda_sim).
set(GEMMAD_CUDA_FOUND OFF)
set(GEMMAD_NCCL_FOUND OFF)
if(NOT GEMMAD_CUDA OR GEMMAD_SANITIZE OR GEMMAD_FUZZ)
    message(STATUS "CPU only: a build without CUDA was asked for")
    return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
    message(STATUS "CPU only: no CUDA compiler")
    return()
endif()

# A100, H100 and H200, B200, and what comes after those by way of PTX. Set before the language, which would else take its own.
set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;100-real;100-virtual" CACHE STRING "GPUs that kernels are compiled for")
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
foreach(config RELEASE RELWITHDEBINFO DEBUG) # one level of optimisation: nvcc warns of two
    set(CMAKE_CUDA_FLAGS_${config} "-O3 -g")
endforeach()
enable_language(CUDA)
find_package(CUDAToolkit)
find_path(CUBLASLT_INCLUDE_DIR cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(NOT TARGET CUDA::cudart_static OR NOT CUBLASLT_INCLUDE_DIR)
    message(STATUS "CPU only: CUDA's compiler is there, its static run-time library or cublasLt.h is not")
    return()
endif()
set(GEMMAD_CUDA_FOUND ON)
# Programs that are not installed find the toolkit's libraries as well as those of the system.
function(gemmad_cuda_rpath target)
    set_property(TARGET ${target} APPEND PROPERTY BUILD_RPATH ${CUDAToolkit_LIBRARY_DIR})
endfunction()

find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(NCCL_INCLUDE_DIR)
    set(GEMMAD_NCCL_FOUND ON)
    set(nccl_said "with NCCL")
else()
    set(nccl_said "without NCCL")
endif()
message(STATUS "GPU back end: CUDA ${CUDAToolkit_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}, ${nccl_said}")
