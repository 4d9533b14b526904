/* Sparse sums. */
#include "kernel.h"
#include "wide.h"

#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#define FIELDS KERNEL_FIELDS /* summed at a time */

#define ROWS 32 /* held back, to be written class by class */

/* Stores what is not read soon, without reading first what it overwrites. */
static void past_caches(double *to, const double *from, int64_t n)
{
#if defined(__x86_64__)
    for (; n && (uintptr_t)to % 16; n--) *to++ = *from++;
    if ((uintptr_t)from % 16 == 0)
        for (; n >= 2; n -= 2, to += 2, from += 2) _mm_stream_pd(to, _mm_load_pd(from));
#endif
    memcpy(to, from, (size_t)n * sizeof *to);
}

static void stores_done(void)
{
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

/* The first two entries of row r, FIELDS in two: low and high. */
#define FIRST_TWO(r, low, high)                                                                             \
    four low, high;                                                                                         \
    do {                                                                                                    \
        const double *one = x + m->column[2 * (r)] * (int64_t)FIELDS, u = m->weight[2 * (r)];               \
        const double *two = x + m->column[2 * (r) + 1] * (int64_t)FIELDS, v = m->weight[2 * (r) + 1];       \
        four other;                                                                                         \
        memcpy(&low, one, sizeof low), memcpy(&other, two, sizeof other), low = u * low + v * other;        \
        memcpy(&high, one + 4, sizeof high), memcpy(&other, two + 4, sizeof other), high = u * high + v * other; \
    } while (0)

/* Four rows of four fields, as fields of rows that stand ROWS apart. */
#define TURN(a, b, c, d, to)                                                                                \
    do {                                                                                                    \
        const four ab = PICK(a, b, 0, 4, 2, 6), ba = PICK(a, b, 1, 5, 3, 7);                                \
        const four cd = PICK(c, d, 0, 4, 2, 6), dc = PICK(c, d, 1, 5, 3, 7);                                \
        const four of_0 = PICK(ab, cd, 0, 1, 4, 5), of_1 = PICK(ba, dc, 0, 1, 4, 5);                        \
        const four of_2 = PICK(ab, cd, 2, 3, 6, 7), of_3 = PICK(ba, dc, 2, 3, 6, 7);                        \
        memcpy(to, &of_0, sizeof of_0), memcpy(to + ROWS, &of_1, sizeof of_1);                              \
        memcpy(to + 2 * ROWS, &of_2, sizeof of_2), memcpy(to + 3 * ROWS, &of_3, sizeof of_3);               \
    } while (0)

WIDE static void apply_some(const kernel_rows *m, const double *restrict x, int64_t fields, double *restrict sum)
{
    double held[FIELDS][ROWS] __attribute__((aligned(64)));
    const int64_t rows = m->rows, lead = -(int64_t)((uintptr_t)sum / sizeof *sum) & 7; /* to whole lines of the cache */
    const int64_t *restrict first = m->rest_first;
    for (int64_t start = 0, some, at = 0; start < rows; start += some) {
        some = start || !lead ? ROWS : lead;
        if (some > rows - start) some = rows - start;
        int64_t r = 0;
        for (; r + 4 <= some; r += 4) {
            FIRST_TWO(start + r, a, e);
            FIRST_TWO(start + r + 1, b, f);
            FIRST_TWO(start + r + 2, c, g);
            FIRST_TWO(start + r + 3, d, h);
            TURN(a, b, c, d, held[0] + r);
            TURN(e, f, g, h, held[4] + r);
        }
        for (; r < some; r++) {
            FIRST_TWO(start + r, low, high);
            for (int f = 0; f < 4; f++) held[f][r] = low[f], held[f + 4][r] = high[f];
        }
        for (; at < m->long_rows && m->long_row[at] < start + some; at++) {
            const int64_t r = m->long_row[at] - start;
            double total[FIELDS];
            for (int f = 0; f < FIELDS; f++) total[f] = held[f][r];
            for (int64_t i = first[at]; i < first[at + 1]; i++) {
                const double *of = x + m->rest_column[i] * (int64_t)FIELDS, w = m->rest_weight[i];
                for (int f = 0; f < FIELDS; f++) total[f] += w * of[f];
            }
            for (int f = 0; f < FIELDS; f++) held[f][r] = total[f];
        }
        for (int64_t f = 0; f < fields; f++) past_caches(sum + f * rows + start, held[f], some);
    }
    stores_done();
}

void kernel_apply(const kernel_rows *matrix, int64_t columns, int64_t fields, const double *x, double *room, double *sum)
{
    for (int64_t f = 0; f < FIELDS; f++) room[columns * FIELDS + f] = 0.0;
    for (int64_t start = 0; start < fields; start += FIELDS) {
        int64_t some = fields - start < FIELDS ? fields - start : FIELDS;
        for (int64_t c = 0; c < columns; c++)
            for (int64_t f = 0; f < FIELDS; f++) room[c * FIELDS + f] = f < some ? x[(start + f) * columns + c] : 0.0;
        apply_some(matrix, room, some, sum + start * matrix->rows);
    }
}

/* As many classes as FIELDS at once, so that no sum waits for the one before it. */
WIDE static void gather_some(int64_t count, int64_t n, const int32_t *restrict pixel, const int32_t *restrict host,
                             const double *restrict area, const double *restrict x, int64_t fields, double *restrict sum,
                             int64_t classes)
{
    for (int64_t i = 0; i < count;) {
        const int32_t into = host[i];
        double total[FIELDS] = {0};
        for (int64_t f = 0; f < fields; f++) total[f] = sum[into * classes + f];
        if (fields == FIELDS)
            for (; i < count && host[i] == into; i++)
                for (int f = 0; f < FIELDS; f++) total[f] += x[f * n + pixel[i]] * area[i];
        else
            for (; i < count && host[i] == into; i++)
                for (int64_t f = 0; f < fields; f++) total[f] += x[f * n + pixel[i]] * area[i];
        for (int64_t f = 0; f < fields; f++) sum[into * classes + f] = total[f];
    }
}

void kernel_gather(int64_t count, int64_t classes, int64_t n, const int32_t *pixel, const int32_t *host,
                   const double *area, const double *x, double *sum)
{
    for (int64_t k = 0; k < classes; k += FIELDS)
        gather_some(count, n, pixel, host, area, x + k * n, classes - k < FIELDS ? classes - k : FIELDS, sum + k, classes);
}

