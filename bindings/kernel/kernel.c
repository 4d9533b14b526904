#include "kernel.h"
#include "wide.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ITERATIONS 100
#define PATIENCE 20
#define MAX_SWEEPS 8
#define TOLERANCE 1e-13
#define DEEPEST_LOGIT -20.0
#define LEAST_LOGIT -700.0 /* of which `exponentials` still gives the power */
#define LONGEST_STEP 4.0
#define DAMPING 1e-14
#define SLACK 4e-15

/* Sums in four lanes, which a compiler may keep in one register without changing the order. */
WIDE static double dot(const double *restrict a, const double *restrict b, int64_t n)
{
    double lane[4] = {0, 0, 0, 0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int l = 0; l < 4; l++) lane[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += a[i] * b[i];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/* The dots of a with vectors that stand n apart, four at a time so that none waits for another; the lanes are those of
   `dot`. */
WIDE static void dots(const double *restrict a, const double *restrict b, int64_t n, int count, double *restrict out)
{
    for (int first = 0; first < count; first += 4) {
        const double *from[4];
        four lane[4] = {{0}};
        for (int v = 0; v < 4; v++) from[v] = b + (first + v < count ? first + v : first) * n;
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

/* One coarse cell: k classes with totals f > 0 and n pixels of land with weights w that sum to 1. */
typedef struct {
    int k;
    int64_t n;
    double *e, *p, *total, *w, *f, *b, *base, *step, *left, *hessian, *a, *lane;
} cell;

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
        dots(weighted, c->p + n, n, i + 1, c->hessian + i * k);
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
    if (iteration <= PATIENCE) return dot(c->left, c->step, c->k) <= 0.5 * fabs(slope);
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
            slope = dot(c->left, c->step, c->k);
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

/* Whether n places, ascending, lie side by side. */
static int together(const int64_t *at, int64_t n)
{
    return at[n - 1] - at[0] == n - 1;
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
    const double whole = dot(area, w, c->n);
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

/* Whether its logits are finite; where not, nothing is closed. The fractions of the classes present are left in c->p. */
static int close_cell(cell *c, int64_t classes, const double *area, const float *z, const int64_t *at, int64_t step,
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

static int64_t most_pixels(int64_t cells, const int64_t *first)
{
    int64_t most = 0;
    for (int64_t c = 0; c < cells; c++)
        if (first[c + 1] - first[c] > most) most = first[c + 1] - first[c];
    return most;
}

/* Memory for cells of up to n pixels, to be freed; NULL where there is none. */
static double *furnish(cell *c, size_t k, size_t n)
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
    double *memory = furnish(&c, (size_t)classes, (size_t)most_pixels(cells, first));
    int *order = malloc((size_t)(classes + 1) * sizeof *order);
    int64_t i = 0, bad = memory && order ? 0 : -1;
    memset(left, 0, (size_t)(cells * classes) * sizeof *left);
    for (; i < cells && !bad; i++) {
        const int64_t start = first[i];
        c.n = first[i + 1] - start;
        if (!c.n) continue;
        const double *wanted = f + i * classes;
        if (!close_cell(&c, classes, area + start, z, at + start, step, allowed, wanted, left + i * classes, order)) {
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
    double *memory = furnish(&c, (size_t)classes, (size_t)most_pixels(hosts, first));
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

/* The finaliser of SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t hash(int64_t id)
{
    uint64_t x = (uint64_t)id + UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* Pixels and what they are put in order by; apart, as a pair of two kinds is slow to read when it was just written. */
typedef struct {
    double *key;
    int64_t *pixel;
} candidates;

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

/* Pixels in no order, class after class: those of class j stand from start[j] to start[j + 1]. */
typedef struct {
    int k;
    int64_t n;
    int64_t *start, *pixel, *dealt, *moved, *looked;
    const double **p; /* of each class [n], by the pixel's number */
    const int64_t *id;
    uint64_t *draw;
    candidates scratch;
} shares;

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

/* Whole pixels of n times the totals, those left over to the classes of the largest remainders, the lower of equals. */
static void count_of_cell(int64_t classes, const double *f, double n, double whole, double *rest, int64_t *count)
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
        count_of_cell(classes, f + c * classes, (double)pixels[c], whole, rest, count + c * classes);
    free(rest);
    return 0;
}

/* Memory to draw cells of up to n pixels, to be freed; NULL where there is none. */
static void *furnish_shares(shares *s, size_t k, size_t n)
{
    int64_t *memory = malloc((3 * n + 3 * k + k * k + 3 + n + n + k) * sizeof *memory);
    if (!memory) return NULL;
    int64_t *small = memory + 3 * n;
    *s = (shares){.pixel = memory, .start = small, .moved = small + k + 1, .looked = small + 2 * k + 1,
                  .draw = (uint64_t *)(small + 3 * k + k * k + 3), .p = (const double **)(small + 3 * k + k * k + 3 + n)};
    s->dealt = memory + n, s->scratch = (candidates){(double *)(small + 4 * k + k * k + 3 + n), memory + 2 * n};
    return memory;
}

/* Draws the map of a cell of n pixels from the fractions of[c] of each class. */
static void draw_cell(shares *s, int64_t n, int64_t classes, const int64_t *count, const double **of, const int64_t *id,
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
    void *memory = furnish_shares(&s, k, n);
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
        draw_cell(&s, here, classes, wanted, of, id + begin, order, place + begin);
    }
    free(memory), free(values), free(of), free(order);
    return failed ? -1 : 0;
}

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

/* picked[k * n + m] of the pixels of coarse cell c. */
static void pick_cell(const kernel_tile *t, int64_t c, int64_t classes, const float *z, int64_t row0, int64_t column0,
                      int64_t columns, float *picked, int64_t n)
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
        for (int64_t k = 0; k < classes; k++) picked[k * n + m] = of[4 * k];
    }
}

/* mean_k = sum w e_k / sum e over n pixels with areas; NaN where a logit is not finite. */
WIDE static void mean_of_cell(cell *c, const double *area, const float *z, int64_t step, const int *order, double *mean)
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
    dots(w, c->e, c->n, c->k, mean);
}

static int64_t pixels_of(const kernel_tile *t, int64_t cells, const int64_t *some)
{
    int64_t n = 0;
    for (int64_t c = 0; c < cells; c++) n += t->first[some[c] + 1] - t->first[some[c]];
    return n;
}

int kernel_pick(const kernel_tile *tile, int64_t cells, const int64_t *some, int64_t classes, const float *z, int64_t row0,
                int64_t column0, int64_t columns, float *picked, double *mean)
{
    const int64_t n = pixels_of(tile, cells, some);
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
            pick_cell(tile, some[c], classes, z, row0, column0, columns, picked + m, n);
            if (!mean || !one.n) continue;
            look(tile, some[c], area, NULL);
            mean_of_cell(&one, area, picked + m, n, order, mean + c * classes);
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
    void *of_cell = furnish(&c, k, n), *of_shares = furnish_shares(&s, k, n);
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
        if (!close_cell(&c, classes, area, z, NULL, step, NULL, wanted, left + i * classes, order)) {
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
        count_of_cell(classes, wanted, (double)c.n, whole, area + n, count);
        draw_cell(&s, c.n, classes, count, of, id, order, place + start);
        z += c.n;
    }
    free(of_cell), free(of_shares), free(area), free(id), free(of), free(order);
    return bad;
}

int kernel_areas(const kernel_tile *tile, int64_t classes, const double *p, const unsigned char *some,
                 const int32_t *host, double *total, double *part, double *by_host)
{
    const int64_t n = tile->first[tile->cells];
    double *area = malloc((size_t)(most_pixels(tile->cells, tile->first) + 1) * sizeof *area);
    if (!area) return -1;
    for (int64_t k = 0; k < classes; k++) total[k] = part[k] = 0.0;
    for (int64_t c = 0; c < tile->cells; c++) {
        const int64_t stop = tile->first[c + 1];
        const double *of = area;
        look(tile, c, area, NULL);
        for (int64_t i = tile->first[c], next; i < stop; of += next - i, i = next) { /* pixels of one host cell */
            for (next = host ? i + 1 : stop; next < stop && host[next] == host[i];) next++;
            for (int64_t k = 0; k < classes; k++) {
                const double sum = dot(of, p + k * n + i, next - i);
                total[k] += sum;
                if (some[c]) part[k] += sum;
                if (host) by_host[host[i] * classes + k] += sum;
            }
        }
    }
    free(area);
    return 0;
}
