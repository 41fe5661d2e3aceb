# Finds the CUDA compiler and libraries: sets GEMMAD_CUDA_FOUND and says what came of it. A build without them is complete,
# for CPUs. Sanitizer and fuzz builds have none: their tests run the kernels on the CPU (tests/cuda_sim).
set(GEMMAD_CUDA_FOUND OFF)
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
enable_language(CUDA)
find_package(CUDAToolkit)
if(NOT TARGET CUDA::cudart_static OR NOT TARGET CUDA::cublasLt)
    message(STATUS "CPU only: CUDA's compiler is there, cudart and cublasLt are not")
    return()
endif()
set(GEMMAD_CUDA_FOUND ON)
message(STATUS "GPU back end: CUDA ${CUDAToolkit_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")
