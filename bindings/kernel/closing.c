/* Closing of the totals of coarse cells, and of host cells larger than they are; constraint.py says what and why. */
#include "cells.h"
#include "kernel.h"
#include "wide.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ITERATIONS 100
#define PATIENCE 20
#define TOLERANCE 1e-13
#define DEEPEST_LOGIT -20.0
#define LEAST_LOGIT -700.0 /* of which `exponentials` still gives the power */
#define LONGEST_STEP 4.0
#define DAMPING 1e-14
#define SLACK 4e-15

WIDE double kernel_dot(const double *restrict a, const double *restrict b, int64_t n)
{
    double lane[4] = {0, 0, 0, 0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int l = 0; l < 4; l++) lane[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += a[i] * b[i];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/* Four at a time so that none waits for another; the lanes are those of kernel_dot. */
WIDE void kernel_dots(const double *restrict a, const double *restrict b, int64_t n, int64_t apart, int count,
                      double *restrict out)
{
    for (int first = 0; first < count; first += 4) {
        const double *from[4];
        four lane[4] = {{0}};
        for (int v = 0; v < 4; v++) from[v] = b + (first + v < count ? first + v : first) * apart;
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
            four x, y;
            memcpy(&x, a + i, sizeof x);
            memcpy(&y, from[0] + i, sizeof y), lane[0] += x * y;
            memcpy(&y, from[1] + i, sizeof y), lane[1] += x * y;
            memcpy(&y, from[2] + i, sizeof y), lane[2] += x * y;
            memcpy(&y, from[3] + i, sizeof y), lane[3] += x * y;
        }
        double sum[4][4];
        memcpy(sum, lane, sizeof sum);
        for (int l = 0; i < n; i++, l++)
            for (int v = 0; v < 4; v++) sum[v][l] += a[i] * from[v][i];
        for (int v = 0; v < 4 && first + v < count; v++)
            out[first + v] = (sum[v][0] + sum[v][1]) + (sum[v][2] + sum[v][3]);
    }
}

/* e = exp(max(e - top, deepest)), above -700, to one unit in the last place: 2^k from the exponent's bits, the rest by
   Taylor's series, in which even and odd powers do not wait for each other. */
WIDE static void exponentials(double *restrict e, const double *restrict top, double deepest, int64_t n)
{
    const double whole = 0x1.8p52; /* added and taken away again it leaves the nearest integer */
    for (int64_t i = 0; i < n; i++) {
        const double below = e[i] - top[i], x = below > deepest ? below : deepest;
        double shifted = x * 0x1.71547652b82fep0 + whole, k = shifted - whole, power;
        double r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33, rr = r * r;
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (bits + 1023) << 52;
        memcpy(&power, &bits, sizeof power);
        double even = 1.0 / 479001600.0, odd = 1.0 / 6227020800.0;
        even = even * rr + 1.0 / 3628800.0, odd = odd * rr + 1.0 / 39916800.0;
        even = even * rr + 1.0 / 40320.0, odd = odd * rr + 1.0 / 362880.0;
        even = even * rr + 1.0 / 720.0, odd = odd * rr + 1.0 / 5040.0;
        even = even * rr + 1.0 / 24.0, odd = odd * rr + 1.0 / 120.0;
        even = even * rr + 0.5, odd = odd * rr + 1.0 / 6.0;
        e[i] = (1.0 + (r + (even * rr + odd * (rr * r)))) * power;
    }
}

/* Solves the positive definite h x = r of size k, in place, by Cholesky; h [k][k] is destroyed. */
static void solve(int k, double *h, double *x)
{
    for (int j = 0; j < k; j++) {
        for (int i = j; i < k; i++) {
            double sum = h[i * k + j];
            for (int m = 0; m < j; m++) sum -= h[i * k + m] * h[j * k + m];
            h[i * k + j] = i == j ? sqrt(sum > 1e-300 ? sum : 1e-300) : sum / h[j * k + j];
        }
    }
    for (int i = 0; i < k; i++) {
        for (int m = 0; m < i; m++) x[i] -= h[i * k + m] * x[m];
        x[i] /= h[i * k + i];
    }
    for (int i = k - 1; i >= 0; i--) {
        for (int m = i + 1; m < k; m++) x[i] -= h[m * k + i] * x[m];
        x[i] /= h[i * k + i];
    }
}

/* p = a e / sum a e with a = exp(b), and what its area means miss of the totals: the gradient of the dual. Four pixels at
   a time, class after class; the lanes are those of `dot`. */
WIDE static void judge(cell *c)
{
    const int64_t n = c->n, k = c->k;
    const double *restrict e = c->e, *restrict w = c->w;
    double *restrict p = c->p, *restrict a = c->a, *restrict lane = c->lane;
    int64_t i = 0;
    for (int64_t j = 0; j < k; j++) a[j] = exp(c->b[j]);
    for (int64_t j = 0; j < 4 * k; j++) lane[j] = 0.0;
    for (; i + 8 <= n; i += 8) { /* two at a time, so that neither waits for its quotient */
        four total = {0}, other = {0}, x, y, u, v;
        memcpy(&u, w + i, sizeof u), memcpy(&v, w + i + 4, sizeof v);
        for (int64_t j = 0; j < k; j++) {
            memcpy(&x, e + j * n + i, sizeof x), memcpy(&y, e + j * n + i + 4, sizeof y);
            x *= a[j], y *= a[j], total += x, other += y;
            memcpy(p + j * n + i, &x, sizeof x), memcpy(p + j * n + i + 4, &y, sizeof y);
        }
        total = 1.0 / total, other = 1.0 / other;
        for (int64_t j = 0; j < k; j++) {
            four sum;
            memcpy(&x, p + j * n + i, sizeof x), memcpy(&y, p + j * n + i + 4, sizeof y);
            x *= total, y *= other;
            memcpy(p + j * n + i, &x, sizeof x), memcpy(p + j * n + i + 4, &y, sizeof y);
            memcpy(&sum, lane + 4 * j, sizeof sum);
            sum += u * x, sum += v * y;
            memcpy(lane + 4 * j, &sum, sizeof sum);
        }
    }
    for (; i + 4 <= n; i += 4) {
        four total = {0}, weight, x, sum;
        memcpy(&weight, w + i, sizeof weight);
        for (int64_t j = 0; j < k; j++) {
            memcpy(&x, e + j * n + i, sizeof x);
            x *= a[j], total += x;
            memcpy(p + j * n + i, &x, sizeof x);
        }
        total = 1.0 / total;
        for (int64_t j = 0; j < k; j++) {
            memcpy(&x, p + j * n + i, sizeof x);
            x *= total;
            memcpy(p + j * n + i, &x, sizeof x);
            memcpy(&sum, lane + 4 * j, sizeof sum);
            sum += weight * x;
            memcpy(lane + 4 * j, &sum, sizeof sum);
        }
    }
    for (int l = 0; i < n; i++, l++) {
        double total = 0.0;
        for (int64_t j = 0; j < k; j++) total += p[j * n + i] = a[j] * e[j * n + i];
        total = 1.0 / total;
        for (int64_t j = 0; j < k; j++) {
            p[j * n + i] *= total;
            lane[4 * j + l] += w[i] * p[j * n + i];
        }
    }
    for (int64_t j = 0; j < k; j++) {
        const double *of = lane + 4 * j;
        c->left[j] = (of[0] + of[1]) + (of[2] + of[3]) - c->f[j];
    }
}

/* sum w log sum a e - sum f b, which the closed fractions minimise. */
static double dual(const cell *c, const double *b)
{
    for (int64_t i = 0; i < c->n; i++) c->total[i] = 0.0;
    double value = 0.0;
    for (int j = 0; j < c->k; j++) {
        const double a = exp(b[j]), *restrict e = c->e + j * c->n;
        for (int64_t i = 0; i < c->n; i++) c->total[i] += a * e[i];
        value -= c->f[j] * b[j];
    }
    for (int64_t i = 0; i < c->n; i++) value += c->w[i] * log(c->total[i]);
    return value;
}

WIDE static void newton_step(cell *c)
{
    const int64_t n = c->n;
    int k = c->k - 1;
    for (int i = 0; i < k; i++) {
        const double *restrict p = c->p + (1 + i) * n, *restrict w = c->w;
        double *restrict weighted = c->total; /* free until the next trial */
        for (int64_t m = 0; m < n; m++) weighted[m] = w[m] * p[m];
        kernel_dots(weighted, c->p + n, n, n, i + 1, c->hessian + i * k);
        for (int j = 0; j <= i; j++) c->hessian[i * k + j] *= -1.0;
        c->hessian[i * k + i] += c->left[1 + i] + c->f[1 + i] * (1 + DAMPING);
        c->step[1 + i] = -c->left[1 + i];
    }
    solve(k, c->hessian, c->step + 1);
    double longest = LONGEST_STEP;
    for (int i = 1; i <= k; i++) longest = fmax(longest, fabs(c->step[i]));
    for (int i = 1; i <= k; i++) c->step[i] *= LONGEST_STEP / longest;
    c->step[0] = 0.0;
}

/* Whether a step is good: its end lies before the least dual along it or not far behind. A cell that takes long is
   held to a dual that falls, which always ends. */
static int falls(const cell *c, double slope, int iteration)
{
    if (iteration <= PATIENCE) return kernel_dot(c->left, c->step, c->k) <= 0.5 * fabs(slope);
    double at_base = dual(c, c->base);
    return dual(c, c->b) <= at_base + SLACK * (1 + fabs(at_base));
}

static void newton(cell *c)
{
    double slope = 0.0;
    for (int iteration = 1;; iteration++) {
        double worst = 0.0;
        judge(c);
        for (int j = 0; j < c->k; j++) worst = fmax(worst, fabs(c->left[j]));
        if (worst <= TOLERANCE || iteration == MAX_ITERATIONS) return;
        if (iteration == 1 || falls(c, slope, iteration)) {
            memcpy(c->base, c->b, (size_t)c->k * sizeof *c->b);
            newton_step(c);
            slope = kernel_dot(c->left, c->step, c->k);
        } else {
            for (int j = 0; j < c->k; j++) c->step[j] *= 0.5;
            slope *= 0.5;
        }
        for (int j = 0; j < c->k; j++) c->b[j] = c->base[j] + c->step[j];
    }
}

/* Where the totals of the k classes are best begun: b = log(f / mean softmax). A class nobody may hold stays apart. */
static void begin(cell *c)
{
    for (int j = 0; j < c->k; j++) c->b[j] = 0.0;
    judge(c);
    for (int j = 0; j < c->k; j++) c->b[j] = log(c->f[j] / (c->left[j] + c->f[j]));
}

/* Classes above 0, the largest first and the lower of equals; their number. */
static int present(int64_t classes, const double *f, int *order)
{
    int k = 0;
    for (int64_t j = 0; j < classes; j++) {
        if (!(f[j] > 0)) continue;
        int at = k++;
        for (; at > 0 && f[order[at - 1]] < f[j]; at--) order[at] = order[at - 1];
        order[at] = (int)j;
    }
    return k;
}

/* e = from[at], or from where there is no `at` */
static inline void gather_doubles(double *restrict e, const float *restrict from, const int64_t *restrict at, int64_t n)
{
    for (int64_t i = 0; !at && i < n; i++) e[i] = from[i];
    for (int64_t i = 0; at && i < n;) {
        if (i + 4 <= n && run_of_four(at + i)) {
            four_floats some;
            memcpy(&some, from + at[i], sizeof some);
            const four wide = __builtin_convertvector(some, four);
            memcpy(e + i, &wide, sizeof wide), i += 4;
        } else e[i] = from[at[i]], i++;
    }
}

/* e = exp(z - max z) of the classes present, each pixel's largest that it may have taken off, `deepest` at least. Whether
   they are finite. */
WIDE static int prepare(cell *c, const float *z, const int64_t *restrict at, int64_t step, const unsigned char *allowed,
                         const int *order, double deepest)
{
    const int64_t n = c->n;
    double *restrict top = c->total;
    int64_t bad = 0; /* as wide as what is looked at */
    for (int64_t i = 0; i < n; i++) top[i] = -INFINITY;
    for (int j = 0; j < c->k; j++) {
        const float *restrict from = z + order[j] * step;
        const unsigned char *may = allowed ? allowed + order[j] * step : NULL;
        double *restrict e = c->e + j * n;
        if (at || may) {
            gather_doubles(e, from, at, n);
            for (int64_t i = 0; i < n; i++) bad |= !(fabs(e[i]) <= FLT_MAX);
            for (int64_t i = 0; may && i < n; i++) e[i] = may[at ? at[i] : i] ? e[i] : -INFINITY;
            for (int64_t i = 0; i < n; i++) top[i] = e[i] > top[i] ? e[i] : top[i];
        } else
            for (int64_t i = 0; i < n; i++) {
                const double logit = from[i];
                e[i] = logit, bad |= !(fabs(logit) <= FLT_MAX), top[i] = logit > top[i] ? logit : top[i];
            }
    }
    for (int j = 0; j < c->k; j++) {
        const unsigned char *may = allowed ? allowed + order[j] * step : NULL;
        double *restrict e = c->e + j * n;
        exponentials(e, top, deepest, n);
        for (int64_t i = 0; may && i < n; i++) e[i] = may[at ? at[i] : i] ? e[i] : 0.0;
    }
    return !bad;
}

WIDE static void weigh(cell *c, const double *restrict area)
{
    double *restrict w = c->w;
    for (int64_t i = 0; i < c->n; i++) w[i] = 1.0;
    const double whole = kernel_dot(area, w, c->n);
    for (int64_t i = 0; i < c->n; i++) w[i] = area[i] / whole;
}

/* The classes present and their totals, made to sum to 1. */
static void aim(cell *c, int64_t classes, const double *f, int *order)
{
    double wanted = 0.0;
    c->k = present(classes, f, order);
    for (int j = 0; j < c->k; j++) wanted += f[order[j]];
    for (int j = 0; j < c->k; j++) c->f[j] = f[order[j]] / wanted;
}

/* Solves for the totals from what was prepared; what is missed of f as it was given. */
static void meet(cell *c, const double *f, const int *order, double *left)
{
    begin(c);
    newton(c);
    for (int j = 0; j < c->k; j++) left[order[j]] = c->left[j] + (c->f[j] - f[order[j]]);
}

WIDE static int finite(int64_t n, const float *z, const int64_t *at)
{
    int32_t bad = 0;
    for (int64_t i = 0; !at && i < n; i++) bad |= !(fabsf(z[i]) <= FLT_MAX);
    for (int64_t i = 0; at && i < n; i++) bad |= !(fabsf(z[at[i]]) <= FLT_MAX);
    return !bad;
}

/* p[to] = from, 0 where there is no such; `to` ascends. */
static void put(double *p, const double *from, const int64_t *to, int64_t n)
{
    if (from && together(to, n)) memcpy(p + to[0], from, (size_t)n * sizeof *p);
    else
        for (int64_t i = 0; i < n; i++) p[to[i]] = from ? from[i] : 0.0;
}

int kernel_close_cell(cell *c, int64_t classes, const double *area, const float *z, const int64_t *at, int64_t step,
                       const unsigned char *allowed, const double *f, double *left, int *order)
{
    aim(c, classes, f, order);
    weigh(c, area);
    for (int64_t k = 0; k < classes; k++)
        if (!(f[k] > 0) && !finite(c->n, z + k * step, at)) return 0;
    if (!prepare(c, z, at, step, allowed, order, DEEPEST_LOGIT)) return 0;
    meet(c, f, order, left);
    return 1;
}

double *kernel_furnish(cell *c, size_t k, size_t n)
{
    double *memory = malloc((2 * k * n + 2 * n + 10 * k + k * k + 1) * sizeof *memory);
    if (!memory) return NULL;
    double *small = memory + 2 * k * n + 2 * n;
    *c = (cell){.e = memory, .p = memory + k * n, .total = memory + 2 * k * n, .w = memory + 2 * k * n + n, .f = small,
                .b = small + k, .base = small + 2 * k, .step = small + 3 * k, .left = small + 4 * k, .hessian = small + 5 * k,
                .a = small + 5 * k + k * k, .lane = small + 6 * k + k * k};
    return memory;
}

int64_t kernel_close(int64_t cells, int64_t classes, const int64_t *first, const double *area, const float *z,
                     const int64_t *at, int64_t step, const unsigned char *allowed, const double *f, double *p,
                     const int64_t *to, int64_t stride, double *left)
{
    cell c;
    double *memory = kernel_furnish(&c, (size_t)classes, (size_t)most_pixels(cells, first));
    int *order = malloc((size_t)(classes + 1) * sizeof *order);
    int64_t i = 0, bad = memory && order ? 0 : -1;
    memset(left, 0, (size_t)(cells * classes) * sizeof *left);
    for (; i < cells && !bad; i++) {
        const int64_t start = first[i];
        c.n = first[i + 1] - start;
        if (!c.n) continue;
        const double *wanted = f + i * classes;
        if (!kernel_close_cell(&c, classes, area + start, z, at + start, step, allowed, wanted, left + i * classes, order)) {
            bad = i + 1;
            continue;
        }
        for (int64_t k = 0; k < classes; k++)
            if (!(wanted[k] > 0)) put(p + k * stride, NULL, to + start, c.n);
        for (int j = 0; j < c.k; j++) put(p + order[j] * stride, c.p + j * c.n, to + start, c.n);
    }
    free(memory), free(order);
    return bad;
}

WIDE void kernel_mean_of_cell(cell *c, const double *area, const float *z, int64_t step, const int *order, double *mean)
{
    if (!prepare(c, z, NULL, step, NULL, order, LEAST_LOGIT)) {
        for (int j = 0; j < c->k; j++) mean[j] = NAN;
        return;
    }
    weigh(c, area);
    double *restrict total = c->total, *restrict w = c->w;
    for (int64_t i = 0; i < c->n; i++) total[i] = 0.0;
    for (int j = 0; j < c->k; j++) {
        const double *restrict e = c->e + j * c->n;
        for (int64_t i = 0; i < c->n; i++) total[i] += e[i];
    }
    for (int64_t i = 0; i < c->n; i++) w[i] /= total[i];
    kernel_dots(w, c->e, c->n, c->n, c->k, mean);
}

/* e = q in shares of a part's largest among the classes present, exp(DEEPEST_LOGIT) at least. */
static void prepare_shares(cell *c, const double *q, int64_t step, const int *order)
{
    const double least = exp(DEEPEST_LOGIT);
    for (int64_t i = 0; i < c->n; i++) {
        double top = 0.0;
        for (int j = 0; j < c->k; j++) top = fmax(top, q[order[j] * step + i]);
        for (int j = 0; j < c->k; j++) c->e[j * c->n + i] = top > 0 ? fmax(q[order[j] * step + i] / top, least) : 1.0;
    }
}

int kernel_spread(int64_t hosts, int64_t classes, const int64_t *first, const double *area, const double *q,
                  const double *f, double *share, double *left)
{
    cell c;
    double *memory = kernel_furnish(&c, (size_t)classes, (size_t)most_pixels(hosts, first));
    int *order = malloc((size_t)(classes + 1) * sizeof *order);
    const int failed = memory && order ? 0 : -1;
    const int64_t parts = first[hosts];
    if (!failed) {
        memset(left, 0, (size_t)(hosts * classes) * sizeof *left);
        memset(share, 0, (size_t)(parts * classes) * sizeof *share);
    }
    for (int64_t h = 0; h < hosts && !failed; h++) {
        const int64_t start = first[h];
        c.n = first[h + 1] - start;
        aim(&c, classes, f + h * classes, order);
        if (!c.n || !c.k) continue;
        weigh(&c, area + start);
        prepare_shares(&c, q + start, parts, order);
        meet(&c, f + h * classes, order, left + h * classes);
        for (int j = 0; j < c.k; j++)
            memcpy(share + order[j] * parts + start, c.p + j * c.n, (size_t)c.n * sizeof *share);
    }
    free(memory), free(order);
    return failed;
}
