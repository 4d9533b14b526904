/* What closing.c and quota.c do for one coarse cell, for themselves and for tile.c. */
#ifndef AI4LAND_CELLS_H
#define AI4LAND_CELLS_H
#include <stddef.h>
#include <stdint.h>

/* One coarse cell: k classes with totals f > 0 and n pixels of land with weights w that sum to 1. */
typedef struct {
    int k;
    int64_t n;
    double *e, *p, *total, *w, *f, *b, *base, *step, *left, *hessian, *a, *lane;
} cell;

/* Pixels and what they are put in order by; apart, as a pair of two kinds is slow to read when it was just written. */
typedef struct {
    double *key;
    int64_t *pixel;
} candidates;

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

/* Sums in four lanes, which a compiler may keep in one register without changing the order. */
double kernel_dot(const double *a, const double *b, int64_t n);

/* out [count]: those of a with `count` vectors that begin `apart` one after another, from b on. */
void kernel_dots(const double *a, const double *b, int64_t n, int64_t apart, int count, double *out);

/* Memory for cells of up to n pixels, to be freed; NULL where there is none. */
double *kernel_furnish(cell *c, size_t k, size_t n);

/* Whether its logits are finite; where not, nothing is closed. The fractions of the classes present are left in c->p. */
int kernel_close_cell(cell *c, int64_t classes, const double *area, const float *z, const int64_t *at, int64_t step,
                       const unsigned char *allowed, const double *f, double *left, int *order);

/* mean_k = sum w e_k / sum e over n pixels with areas; NaN where a logit is not finite. */
void kernel_mean_of_cell(cell *c, const double *area, const float *z, int64_t step, const int *order, double *mean);

/* Memory to draw cells of up to n pixels, to be freed; NULL where there is none. */
void *kernel_furnish_shares(shares *s, size_t k, size_t n);

/* Whole pixels of n times the totals, those left over to the classes of the largest remainders, the lower of equals. */
void kernel_count_of_cell(int64_t classes, const double *f, double n, double whole, double *rest, int64_t *count);

/* Draws the map of a cell of n pixels from the fractions of[c] of each class. */
void kernel_draw_cell(shares *s, int64_t n, int64_t classes, const int64_t *count, const double **of, const int64_t *id,
                      int *order, unsigned char *place);

static inline int64_t most_pixels(int64_t cells, const int64_t *first)
{
    int64_t most = 0;
    for (int64_t c = 0; c < cells; c++)
        if (first[c + 1] - first[c] > most) most = first[c + 1] - first[c];
    return most;
}

/* Whether n places, ascending, lie side by side. */
static inline int together(const int64_t *at, int64_t n)
{
    return at[n - 1] - at[0] == n - 1;
}

#endif
