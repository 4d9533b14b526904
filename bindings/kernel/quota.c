/* Class maps with the counts that the totals ask for; constraint.py says how they are drawn. */
#include "cells.h"
#include "kernel.h"
#include "wide.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SWEEPS 8

/* The finaliser of SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t hash(int64_t id)
{
    uint64_t x = (uint64_t)id + UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

static void swap(candidates c, int64_t a, int64_t b)
{
    const double key = c.key[a];
    const int64_t pixel = c.pixel[a];
    c.key[a] = c.key[b], c.pixel[a] = c.pixel[b];
    c.key[b] = key, c.pixel[b] = pixel;
}

/* Moves the `count` smallest of n candidates to the front, in any order (quickselect); draws decide between equals. What
   a comparison finds is added, not branched on: nothing could foresee it. */
static void select_smallest(candidates c, const int64_t *id, int64_t n, int64_t count)
{
    int64_t low = 0, high = n;
    while (low < count && count < high) {
        swap(c, low + (high - low) / 2, high - 1);
        const double pivot = c.key[high - 1];
        int64_t smaller = low;
        for (int64_t m = low; m < high - 1; m++) {
            const double key = c.key[m];
            const int64_t pixel = c.pixel[m];
            int64_t less = key < pivot;
            if (key == pivot) less = hash(id[pixel]) < hash(id[c.pixel[high - 1]]);
            c.key[m] = c.key[smaller], c.pixel[m] = c.pixel[smaller];
            c.key[smaller] = key, c.pixel[smaller] = pixel;
            smaller += less;
        }
        swap(c, smaller, high - 1);
        if (smaller < count) low = smaller + 1;
        else high = smaller;
    }
}

/* Pixels of classes i and j go each to the one it is likelier in, as far as the counts allow; whether any moved. */
static int exchange(shares *s, int i, int j)
{
    int64_t *of_i = s->pixel + s->start[i], *of_j = s->pixel + s->start[j];
    const int64_t n_i = s->start[i + 1] - s->start[i], n_j = s->start[j + 1] - s->start[j];
    const double *pi = s->p[i], *pj = s->p[j];
    double keenest = -INFINITY, least = INFINITY;
    for (int64_t m = 0; m < n_i; m++) {
        double prefers_j = pj[of_i[m]] - pi[of_i[m]];
        keenest = prefers_j > keenest ? prefers_j : keenest;
    }
    for (int64_t m = 0; m < n_j; m++) {
        double prefers_j = pj[of_j[m]] - pi[of_j[m]];
        least = prefers_j < least ? prefers_j : least;
    }
    if (!(keenest > least)) return 0;
    /* Who in i prefers it more than all of j do stays, and the other way round: between the rest it is decided. */
    const candidates open = s->scratch;
    int64_t stay_i = 0, stay_j = 0, n = 0;
    for (int64_t m = 0; m < n_i; m++) {
        const int64_t pixel = of_i[m];
        const double prefers_j = pj[pixel] - pi[pixel];
        const int64_t stays = prefers_j < least;
        of_i[stay_i] = open.pixel[n] = pixel, open.key[n] = prefers_j;
        stay_i += stays, n += 1 - stays;
    }
    const int64_t room = n;
    for (int64_t m = 0; m < n_j; m++) {
        const int64_t pixel = of_j[m];
        const double prefers_j = pj[pixel] - pi[pixel];
        const int64_t stays = prefers_j > keenest;
        of_j[stay_j] = open.pixel[n] = pixel, open.key[n] = prefers_j;
        stay_j += stays, n += 1 - stays;
    }
    select_smallest(open, s->id, n, room);
    for (int64_t m = 0; m < room; m++) of_i[stay_i + m] = open.pixel[m];
    for (int64_t m = room; m < n; m++) of_j[stay_j + m - room] = open.pixel[m];
    return 1;
}

/* Pixels in ascending order of their draws: counted into shares by the upper bits, which are even, then put in order. */
static void by_draw(const uint64_t *draw, int64_t n, int64_t *order)
{
    int64_t until[256] = {0};
    for (int64_t m = 0; m < n; m++) until[draw[m] >> 56]++;
    for (int64_t at = 0, share = 0; share < 256; share++) until[share] = at += until[share];
    for (int64_t m = n - 1; m >= 0; m--) order[--until[draw[m] >> 56]] = m;
    for (int64_t m = 1; m < n; m++) {
        const int64_t pixel = order[m];
        int64_t to = m;
        for (; to > 0 && draw[order[to - 1]] > draw[pixel]; to--) order[to] = order[to - 1];
        order[to] = pixel;
    }
}

/* A map drawn by hash alone: class after class takes its count of what is left, the first keeps the rest. */
static void deal(shares *s, int64_t *order)
{
    by_draw(s->draw, s->n, order);
    for (int j = 1; j < s->k; j++) {
        const int64_t count = s->start[j + 1] - s->start[j];
        memcpy(s->pixel + s->start[j], order, (size_t)count * sizeof *order);
        order += count;
    }
    memcpy(s->pixel, order, (size_t)s->start[1] * sizeof *order);
}

/* A pair of classes that did not move, and neither of which moved since, need not be looked at again. */
static void settle(shares *s, int64_t *moved, int64_t *looked)
{
    int64_t now = 0;
    int k = s->k, any = 1;
    for (int j = 0; j < k; j++) moved[j] = 0;
    for (int pair = 0; pair < k * k; pair++) looked[pair] = -1;
    for (int sweep = 0; any && sweep < MAX_SWEEPS; sweep++) {
        any = 0;
        for (int i = 0; i < k; i++) {
            for (int j = i + 1; j < k; j++) {
                int64_t *last = looked + i * k + j;
                if (*last >= moved[i] && *last >= moved[j]) continue;
                now++;
                if (exchange(s, i, j)) moved[i] = moved[j] = now, any = 1;
                *last = now;
            }
        }
    }
}

/* Two classes are settled at once, as all pixels are open between them, where none on one side of the cut equals one on
   the other: there the map before would count. Whether they are. */
static int share_out_two(shares *s)
{
    const candidates open = s->scratch;
    const int64_t cut = s->start[1];
    double most = -INFINITY, least = INFINITY;
    for (int64_t m = 0; m < s->n; m++) open.key[m] = s->p[1][m] - s->p[0][m], open.pixel[m] = m;
    select_smallest(open, s->id, s->n, cut);
    for (int64_t m = 0; m < cut; m++) most = open.key[m] > most ? open.key[m] : most;
    for (int64_t m = cut; m < s->n; m++) least = open.key[m] < least ? open.key[m] : least;
    memcpy(s->pixel, open.pixel, (size_t)s->n * sizeof *s->pixel);
    return most < least;
}

/* row = p[from]; `from` ascends. */
static void take(double *row, const double *p, const int64_t *from, int64_t n)
{
    if (together(from, n)) memcpy(row, p + from[0], (size_t)n * sizeof *row);
    else
        for (int64_t i = 0; i < n; i++) row[i] = p[from[i]];
}

void kernel_count_of_cell(int64_t classes, const double *f, double n, double whole, double *rest, int64_t *count)
{
    int64_t left = (int64_t)n;
    for (int64_t k = 0; k < classes; k++) {
        const double exact = f[k] * n, least = floor(exact + whole);
        rest[k] = least - exact, count[k] = (int64_t)least, left -= count[k];
    }
    for (; left > 0; left--) {
        int64_t most = 0;
        for (int64_t k = 1; k < classes; k++)
            if (rest[k] < rest[most]) most = k;
        count[most]++, rest[most] = INFINITY;
    }
}

int kernel_counts(int64_t cells, int64_t classes, const double *f, const int64_t *pixels, double whole, int64_t *count)
{
    double *rest = malloc((size_t)(classes + 1) * sizeof *rest);
    if (!rest) return -1;
    for (int64_t c = 0; c < cells; c++)
        kernel_count_of_cell(classes, f + c * classes, (double)pixels[c], whole, rest, count + c * classes);
    free(rest);
    return 0;
}

void *kernel_furnish_shares(shares *s, size_t k, size_t n)
{
    int64_t *memory = malloc((3 * n + 3 * k + k * k + 3 + n + n + k) * sizeof *memory);
    if (!memory) return NULL;
    int64_t *small = memory + 3 * n;
    *s = (shares){.pixel = memory, .start = small, .moved = small + k + 1, .looked = small + 2 * k + 1,
                  .draw = (uint64_t *)(small + 3 * k + k * k + 3), .p = (const double **)(small + 3 * k + k * k + 3 + n)};
    s->dealt = memory + n, s->scratch = (candidates){(double *)(small + 4 * k + k * k + 3 + n), memory + 2 * n};
    return memory;
}

void kernel_draw_cell(shares *s, int64_t n, int64_t classes, const int64_t *count, const double **of, const int64_t *id,
                      int *order, unsigned char *place)
{
    s->n = n, s->k = 0;
    for (int64_t j = 0; j < classes; j++) { /* the largest first and the lower of equals */
        if (!count[j]) continue;
        int at = s->k++;
        for (; at > 0 && count[order[at - 1]] < count[j]; at--) order[at] = order[at - 1];
        order[at] = (int)j;
    }
    if (s->k == 1) {
        memset(place, order[0] + 1, (size_t)n);
        return;
    }
    s->start[0] = 0, s->id = id;
    for (int j = 0; j < s->k; j++) s->start[j + 1] = s->start[j] + count[order[j]], s->p[j] = of[order[j]];
    if (s->k != 2 || !share_out_two(s)) {
        for (int64_t m = 0; m < n; m++) s->draw[m] = hash(id[m]);
        deal(s, s->dealt);
        settle(s, s->moved, s->looked);
    }
    for (int j = 0; j < s->k; j++)
        for (int64_t m = s->start[j]; m < s->start[j + 1]; m++) place[s->pixel[m]] = (unsigned char)(order[j] + 1);
}

int kernel_quota(int64_t cells, int64_t classes, const int64_t *first, const double *p, const int64_t *to,
                 int64_t stride, const int64_t *id, const int64_t *count, unsigned char *place)
{
    size_t k = (size_t)classes, n = (size_t)most_pixels(cells, first);
    shares s;
    void *memory = kernel_furnish_shares(&s, k, n);
    double *values = malloc((k * n + 1) * sizeof *values);
    const double **of = malloc((k + 1) * sizeof *of);
    int *order = malloc((k + 1) * sizeof *order);
    int failed = !memory || !values || !of || !order;
    for (int64_t c = 0; c < cells && !failed; c++) {
        const int64_t begin = first[c], here = first[c + 1] - begin, *wanted = count + c * classes;
        if (!here) continue;
        for (int64_t j = 0; j < classes; j++) {
            of[j] = values + j * here;
            if (wanted[j]) take(values + j * here, p + j * stride, to + begin, here);
        }
        kernel_draw_cell(&s, here, classes, wanted, of, id + begin, order, place + begin);
    }
    free(memory), free(values), free(of), free(order);
    return failed ? -1 : 0;
}
