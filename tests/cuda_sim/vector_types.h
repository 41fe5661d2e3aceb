/* CUDA's short vectors, with its names and alignments, and dim3. */
#ifndef TESTS_CUDA_SIM_VECTOR_TYPES_H
#define TESTS_CUDA_SIM_VECTOR_TYPES_H

#define SIM_VECTORS_(type, name, size)                                                                       \
    typedef struct name##1 { type x; } name##1;                                                              \
    typedef struct __attribute__((aligned(2 * size))) name##2 { type x, y; } name##2;                        \
    typedef struct name##3 { type x, y, z; } name##3;                                                        \
    typedef struct __attribute__((aligned(4 * size > 16 ? 16 : 4 * size))) name##4 { type x, y, z, w; } name##4; \
    static inline name##2 make_##name##2(type x, type y) { name##2 v = {x, y}; return v; }                   \
    static inline name##3 make_##name##3(type x, type y, type z) { name##3 v = {x, y, z}; return v; }        \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { name##4 v = {x, y, z, w}; return v; }

SIM_VECTORS_(signed char, char, 1)
SIM_VECTORS_(unsigned char, uchar, 1)
SIM_VECTORS_(short, short, 2)
SIM_VECTORS_(unsigned short, ushort, 2)
SIM_VECTORS_(int, int, 4)
SIM_VECTORS_(unsigned, uint, 4)
SIM_VECTORS_(float, float, 4)
SIM_VECTORS_(long long, longlong, 8)
SIM_VECTORS_(unsigned long long, ulonglong, 8)
SIM_VECTORS_(double, double, 8)

typedef struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
#endif
} dim3;

#endif
