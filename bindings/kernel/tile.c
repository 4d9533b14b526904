/* The coarse cells of a tile in one call: logits picked, fields made, areas summed. */
#include "cells.h"
#include "kernel.h"
#include "wide.h"

#include <stdlib.h>
#include <string.h>

/* Area and, where asked for, id of each pixel of coarse cell c. */
static void look(const kernel_tile *t, int64_t c, double *restrict area, int64_t *restrict id)
{
    const int32_t *restrict inside = t->inside + t->first[c];
    const int64_t n = t->first[c + 1] - t->first[c];
    for (int64_t m = 0, stop; m < n; m = stop) { /* row by row */
        const int32_t row = inside[m] / t->size, end = (row + 1) * t->size;
        const double of_row = t->area_rows[row];
        const int64_t before = t->id0 + row * (t->nlon - t->size);
        for (stop = m; stop < n && inside[stop] < end; stop++) area[stop] = of_row;
        for (int64_t i = m; id && i < stop; i++) id[i] = before + inside[i];
    }
}

/* picked[k * step + m] of the pixels of coarse cell c. */
static void pick_cell(const kernel_tile *t, int64_t c, int64_t classes, const float *z, int64_t row0, int64_t column0,
                      int64_t columns, float *picked, int64_t step)
{
    const float *from = z;
    for (int64_t i = t->first[c], m = 0, end = 0; i < t->first[c + 1]; i++, m++) {
        const int32_t here = t->inside[i];
        if (here >= end) { /* the first of its row */
            const int64_t y = here / t->size - row0;
            end = (here / t->size + 1) * (int64_t)t->size;
            from = z + (y / 2 * columns * classes) * 4 + (y & 1) * 2;
        }
        const int64_t x = here + t->size - end - column0;
        const float *of = from + (x / 2 * classes) * 4 + (x & 1);
        for (int64_t k = 0; k < classes; k++) picked[k * step + m] = of[4 * k];
    }
}

int kernel_pick(const kernel_tile *tile, int64_t cells, const int64_t *some, int64_t classes, const float *z, int64_t row0,
                int64_t column0, int64_t columns, float *picked, int64_t step, double *mean)
{
    size_t k = (size_t)classes, most = (size_t)most_pixels(tile->cells, tile->first);
    double *memory = malloc((k * most + 3 * most + 1) * sizeof *memory);
    int *order = malloc((k + 1) * sizeof *order);
    const int failed = !memory || !order;
    if (!failed) {
        double *area = memory + k * most + 2 * most;
        cell one = {.k = (int)classes, .e = memory, .total = memory + k * most, .w = memory + k * most + most};
        for (int j = 0; j < (int)classes; j++) order[j] = j;
        if (mean) memset(mean, 0, (size_t)(cells * classes) * sizeof *mean);
        for (int64_t c = 0, m = 0; c < cells; c++, m += one.n) {
            one.n = tile->first[some[c] + 1] - tile->first[some[c]];
            pick_cell(tile, some[c], classes, z, row0, column0, columns, picked + m, step);
            if (!mean || !one.n) continue;
            look(tile, some[c], area, NULL);
            kernel_mean_of_cell(&one, area, picked + m, step, order, mean + c * classes);
        }
    }
    free(memory), free(order);
    return failed ? -1 : 0;
}

/* All pixels of coarse cell c show one class each: `only`, or what the base map has. */
static void show(const kernel_tile *t, int64_t c, int64_t classes, int only, const unsigned char *base, const int64_t *id,
                 double *p, int64_t stride, unsigned char *place)
{
    const int64_t start = t->first[c], n = t->first[c + 1] - start;
    for (int64_t m = 0; m < n; m++) place[start + m] = only ? (unsigned char)only : base[id[m] - 1];
    for (int64_t k = 0; k < classes; k++)
        for (int64_t m = 0; m < n; m++) p[k * stride + start + m] = place[start + m] == k + 1 ? 1.0 : 0.0;
}

int64_t kernel_fields(const kernel_tile *tile, int64_t classes, const unsigned char *kind, const float *z, int64_t step,
                      const double *f, double whole, const unsigned char *base, double *p, unsigned char *place,
                      double *left)
{
    size_t k = (size_t)classes, n = (size_t)most_pixels(tile->cells, tile->first);
    const int64_t stride = tile->first[tile->cells];
    cell c;
    shares s;
    void *of_cell = kernel_furnish(&c, k, n), *of_shares = kernel_furnish_shares(&s, k, n);
    double *area = malloc((n + k + 1) * sizeof *area);
    int64_t *id = malloc((n + k + 1) * sizeof *id), *count = id ? id + n : NULL;
    const double **of = malloc((k + 1) * sizeof *of);
    int *order = malloc((k + 1) * sizeof *order);
    int64_t bad = of_cell && of_shares && area && id && of && order ? 0 : -1;
    memset(left, 0, (size_t)(tile->cells * classes) * sizeof *left);
    for (int64_t i = 0; i < tile->cells && !bad; i++) {
        const double *wanted = f + i * classes;
        const int64_t start = tile->first[i];
        c.n = tile->first[i + 1] - start;
        look(tile, i, area, id);
        if (kind[i] != KERNEL_RUN) {
            int most = 0;
            for (int j = 1; j < classes; j++)
                if (wanted[j] > wanted[most]) most = j;
            show(tile, i, classes, kind[i] == KERNEL_BASE ? 0 : most + 1, base, id, p, stride, place);
            continue;
        }
        if (!kernel_close_cell(&c, classes, area, z, NULL, step, NULL, wanted, left + i * classes, order)) {
            bad = i + 1;
            continue;
        }
        for (int64_t j = 0; j < classes; j++) {
            of[j] = NULL;
            if (!(wanted[j] > 0)) memset(p + j * stride + start, 0, (size_t)c.n * sizeof *p);
        }
        for (int j = 0; j < c.k; j++) {
            of[order[j]] = c.p + j * c.n;
            memcpy(p + order[j] * stride + start, c.p + j * c.n, (size_t)c.n * sizeof *p);
        }
        kernel_count_of_cell(classes, wanted, (double)c.n, whole, area + n, count);
        kernel_draw_cell(&s, c.n, classes, count, of, id, order, place + start);
        z += c.n;
    }
    free(of_cell), free(of_shares), free(area), free(id), free(of), free(order);
    return bad;
}

/* Sum of the words of n fractions, each mixed, one to one, with its place in the tile, counted from `place` + 1. */
WIDE static uint64_t mixed(const double *restrict p, int64_t n, int64_t place)
{
    const uint64_t step = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t sum = 0, at = (uint64_t)(place + 1) * step;
    for (int64_t i = 0; i < n; i++, at += step) {
        uint64_t x;
        memcpy(&x, p + i, sizeof x);
        x += at;
        x = (x ^ x >> 32) * UINT64_C(0xBF58476D1CE4E5B9);
        sum += x ^ x >> 29;
    }
    return sum;
}

int kernel_tally(const kernel_tile *tile, int64_t classes, const double *p, const unsigned char *some,
                 const uint16_t *host, double *total, double *part, double *by_host, uint64_t *mark)
{
    const int64_t n = tile->first[tile->cells];
    const size_t most = (size_t)most_pixels(tile->cells, tile->first);
    double *sum = malloc((most + (size_t)classes) * sizeof *sum), *area = sum ? sum + classes : NULL;
    if (!sum) return -1;
    for (int64_t k = 0; k < classes; k++) total[k] = part[k] = 0.0;
    *mark = 0;
    for (int64_t c = 0; c < tile->cells; c++) {
        const int64_t start = tile->first[c], stop = tile->first[c + 1];
        const double *of = area;
        for (int64_t k = 0; k < classes; k++) *mark += mixed(p + k * n + start, stop - start, k * n + start);
        look(tile, c, area, NULL);
        for (int64_t i = tile->first[c], next; i < stop; of += next - i, i = next) { /* pixels of one host cell */
            for (next = host ? i + 1 : stop; next < stop && host[next] == host[i];) next++;
            kernel_dots(of, p + i, next - i, n, (int)classes, sum);
            for (int64_t k = 0; k < classes; k++) {
                total[k] += sum[k];
                if (some[c]) part[k] += sum[k];
                if (host) by_host[host[i] * classes + k] += sum[k];
            }
        }
    }
    free(sum);
    return 0;
}
