/* Sparse sums, and the digest of fields. */
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

WIDE static void apply_some(const kernel_rows *m, const double *restrict x, int64_t fields, double *restrict sum)
{
    double held[FIELDS][ROWS] __attribute__((aligned(64)));
    const int64_t rows = m->rows, lead = -(int64_t)((uintptr_t)sum / sizeof *sum) & 7; /* to whole lines of the cache */
    const int64_t *restrict first = m->rest_first;
    for (int64_t start = 0, some, at = 0; start < rows; start += some) {
        some = start || !lead ? ROWS : lead;
        if (some > rows - start) some = rows - start;
        for (int64_t r = 0; r < some; r++) {
            const int64_t i = 2 * (start + r);
            const double *one = x + m->column[i] * (int64_t)FIELDS, *two = x + m->column[i + 1] * (int64_t)FIELDS;
            four low, high, other; /* FIELDS in two */
            memcpy(&low, one, sizeof low), memcpy(&other, two, sizeof other);
            low = m->weight[i] * low + m->weight[i + 1] * other;
            memcpy(&high, one + 4, sizeof high), memcpy(&other, two + 4, sizeof other);
            high = m->weight[i] * high + m->weight[i + 1] * other;
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

/* Each step is one to one in the lane and in the word: a word that differs changes its lane. */
WIDE void kernel_mix(int64_t n, const uint64_t *restrict word, uint64_t *restrict lanes)
{
    for (int64_t i = 0; i < n; i += KERNEL_LANES) {
        const int64_t some = n - i < KERNEL_LANES ? n - i : KERNEL_LANES;
        for (int64_t l = 0; l < some; l++) {
            uint64_t x = lanes[l] ^ word[i + l];
            lanes[l] = (x << 29 | x >> 35) * UINT64_C(0x9E3779B97F4A7C15);
        }
    }
}
