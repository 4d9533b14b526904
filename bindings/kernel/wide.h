/* What the files of the kernel share: vectors, and places that lie side by side. */
#ifndef AI4LAND_WIDE_H
#define AI4LAND_WIDE_H
#include <stdint.h>

/* Wider vectors where the processor has them: they hold the same lanes in the same order, and nothing is fused, so the
   bits are those of the narrow ones. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

typedef double four __attribute__((vector_size(4 * sizeof(double))));
typedef float four_floats __attribute__((vector_size(4 * sizeof(float))));

/* Lanes of two vectors, counted from 0 in the first and from 4 in the second. */
#if defined(__clang__)
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int64_t four_places __attribute__((vector_size(4 * sizeof(int64_t))));
#define PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (four_places){i, j, k, l})
#endif

/* Whether four places lie side by side, as most do in a row of pixels: what is there is then read at once. */
static inline int run_of_four(const int64_t *at)
{
    return (at[1] - at[0] == 1) & (at[2] - at[0] == 2) & (at[3] - at[0] == 3);
}
#endif
