/* Static fields on windows of the fine grid, as ai4land_coupler/features.py has them, and what the network's first layer
   makes of them. */
#include "kernel.h"
#include "wide.h"

#include <math.h>
#include <string.h>

WIDE void kernel_bilinear(int64_t rows, int64_t columns, int64_t width, const float *restrict values,
                          const int64_t *restrict row, const float *restrict north, const int64_t *restrict column,
                          const float *restrict east, float *restrict room, float *restrict field)
{
    for (int64_t y = 0; y < rows; y++) {
        const float *restrict low = values + row[y] * width, *restrict high = low + width, up = north[y];
        float *restrict to = field + y * columns;
        for (int64_t x = 0; x < width; x++) room[x] = low[x] + (high[x] - low[x]) * up;
        for (int64_t x = 0; x < columns; x++) {
            const float left = room[column[x]], right = room[column[x] + 1];
            to[x] = left + (right - left) * east[x];
        }
    }
}

WIDE static void normalise(int64_t n, float mean, float std, float limit, float *restrict x)
{
    if (mean != 0.0f || std != 1.0f)
        for (int64_t i = 0; i < n; i++) x[i] = (x[i] - mean) / std;
    for (int64_t i = 0; i < n; i++) {
        const float low = x[i] < -limit ? -limit : x[i];
        x[i] = low > limit ? limit : low;
    }
}

void kernel_normalise(int64_t channels, int64_t n, const float *mean, const float *std, float limit, float *x)
{
    for (int64_t c = 0; c < channels; c++) normalise(n, mean[c], std[c], limit, x + c * n);
}

/* sum [rows + 1][columns + 1] of all values above and to the left. */
static void integrate(int64_t rows, int64_t columns, const int64_t *restrict value, int64_t *restrict sum)
{
    const int64_t width = columns + 1;
    memset(sum, 0, (size_t)width * sizeof *sum);
    for (int64_t y = 0; y < rows; y++) {
        int64_t *restrict to = sum + (y + 1) * width, so_far = to[0] = 0;
        const int64_t *above = to - width;
        for (int64_t x = 0; x < columns; x++) so_far += value[y * columns + x], to[x + 1] = above[x + 1] + so_far;
    }
}

/* Of a row of boxes of `side` cells a side whose upper left corners stand at `sum`. */
WIDE static void boxes(int64_t n, int64_t width, int64_t side, const int64_t *restrict sum, int64_t *restrict total)
{
    const int64_t *restrict below = sum + side * width;
    for (int64_t x = 0; x < n; x++) total[x] = (below[x + side] - sum[x + side]) - (below[x] - sum[x]);
}

WIDE static void share(int64_t n, const int64_t *restrict small, int64_t small_side, const int64_t *restrict large,
                       int64_t large_side, float *restrict out)
{
    for (int64_t x = 0; x < n; x++) {
        const double inner = (double)(small[x] * large_side * large_side);
        out[x] = (float)sqrt(inner / (double)((large[x] + 1) * small_side * small_side));
    }
}

void kernel_settled(int64_t rows, int64_t columns, int64_t rim, const int64_t *value, int64_t radii, const int64_t *radius,
                    int64_t shares, const int64_t *of, double scale, int64_t listed, const float *root, int64_t *room,
                    float *field)
{
    const int64_t width = columns + 2 * rim + 1, n = rows * columns;
    int64_t *total = room + (rows + 2 * rim + 1) * width;
    integrate(rows + 2 * rim, columns + 2 * rim, value, room);
    for (int64_t y = 0; y < rows; y++) {
        for (int64_t r = 0; r < radii; r++) {
            int64_t *of_row = total + r * columns, corner = rim - radius[r];
            float *out = field + r * n + y * columns;
            boxes(columns, width, 2 * radius[r] + 1, room + (y + corner) * width + corner, of_row);
            for (int64_t x = 0; x < columns; x++) {
                const int64_t people = of_row[x];
                const int is_listed = people >= 0 && people < listed; /* a file may hold anything */
                out[x] = is_listed ? root[people] : (float)sqrt(sqrt((double)people * scale));
            }
        }
        for (int64_t s = 0; s < shares; s++) {
            const int64_t small = of[2 * s], large = of[2 * s + 1];
            share(columns, total + small * columns, 2 * radius[small] + 1, total + large * columns,
                  2 * radius[large] + 1, field + (radii + s) * n + y * columns);
        }
    }
}

static void eight_planes(int64_t n, const float *restrict from, int64_t apart, float *restrict to, int64_t each)
{
    for (int64_t x = 0; x < n; x++)
        for (int c = 0; c < 8; c++) to[x * each + c] = from[c * apart + x];
}

void kernel_interleave(int64_t channels, int64_t rows, int64_t columns, const float *planes, int64_t row0, int64_t column0,
                       int64_t side, int64_t width, const float *table, float *cells)
{
    const int64_t plain = width ? channels - 1 : channels, each = plain + width, n = rows * columns;
    for (int64_t y = 0; y < side; y++) {
        const float *from = planes + (row0 + y) * columns + column0;
        float *to = cells + y * side * each;
        int64_t c = 0;
        for (; c + 8 <= plain; c += 8) eight_planes(side, from + c * n, n, to + c, each);
        for (; c < plain; c++)
            for (int64_t x = 0; x < side; x++) to[x * each + c] = from[c * n + x];
        for (int64_t x = 0; width && x < side; x++)
            memcpy(to + x * each + plain, table + (int64_t)from[plain * n + x] * width, (size_t)width * sizeof *to);
    }
}

/* The bits of a float16 that is no subnormal, moved to where float32 has them. */
WIDE static void widened(const uint16_t *restrict near, const float *restrict far, float *restrict out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t half = near[i], magnitude = (half & 0x7fff) << 13, bits;
        float value;
        bits = (magnitude ? magnitude + (112u << 23) : 0) | (half & 0x8000) << 16;
        memcpy(&value, &bits, sizeof value);
        out[i] = value + far[i];
    }
}

void kernel_window(int64_t rows, int64_t columns, int64_t width, int64_t side, const int64_t *block, int64_t across,
                   int64_t row0, int64_t column0, const float *far, int64_t far_columns, const int64_t *of_row,
                   const int64_t *of_column, float *out)
{
    for (int64_t y = 0; y < rows; y++) {
        const int64_t *in_row = block + (row0 + y) / side * across;
        for (int64_t x = 0; x < columns; x++) {
            const uint16_t *from = (const uint16_t *)(intptr_t)in_row[(column0 + x) / side];
            widened(from + ((row0 + y) % side * side + (column0 + x) % side) * width,
                    far + (of_row[y] * far_columns + of_column[x]) * width, out + (y * columns + x) * width, width);
        }
    }
}
