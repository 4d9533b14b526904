/* The work that is too small for a tensor library: closing of the totals (closing.c), class maps by quota (quota.c), both
   and what goes with them for a whole tile (tile.c), sparse sums (sums.c), static fields (statics.c). No dependency but
   libm. Every cell is worked on by itself, in an order of its own, so its bits depend on nothing else, not on the vectors
   the compiler makes of it either. The modules of ai4land_coupler that call it say what is computed and why (the closing:
   constraint.py); numpy does the same there where this is not built. */
#ifndef AI4LAND_KERNEL_H
#define AI4LAND_KERNEL_H
#include <stdint.h>

#define KERNEL_VERSION 12 /* of this interface; a build of another one is not used */

/* Fractions closest to softmax(z) that meet the totals f [cells][classes] of every coarse cell. Cell c has the pixels
   first[c] .. first[c + 1] of land, with areas area[i] > 0. The logit of class k is z[at[i] + k * step], the fraction is
   put at p[to[i] + k * stride]; at and to ascend within a cell. allowed, laid out as z, is 0 where a class may not be;
   NULL: all may. left [cells][classes] is what the area means miss of f, 0 in cells without land.
   0; -1 without memory; 1 + the first cell whose logits are not finite: it and those after it are left undone. */
int64_t kernel_close(int64_t cells, int64_t classes, const int64_t *first, const double *area, const float *z,
                     const int64_t *at, int64_t step, const unsigned char *allowed, const double *f, double *p,
                     const int64_t *to, int64_t stride, double *left);

/* The same for host cells that consist of parts with areas and the shares q [classes][parts] >= 0, in the place of pixels
   and their softmax: share [classes][parts] closest to q that meets f [hosts][classes] of every host cell, of which host h
   has the parts first[h] .. first[h + 1]. left [hosts][classes] as above. 0, or -1 without memory. */
int kernel_spread(int64_t hosts, int64_t classes, const int64_t *first, const double *area, const double *q,
                  const double *f, double *share, double *left);

/* count [cells][classes]: pixels of each class, of pixels[c] in all, nearest to the totals f [cells][classes] by largest
   remainder; what is short of a whole pixel by less than `whole` is one. 0, or -1 without memory. */
int kernel_counts(int64_t cells, int64_t classes, const double *f, const int64_t *pixels, double whole, int64_t *count);

/* Class maps with count [cells][classes] pixels of each class, drawn from the fractions p[to[i] + k * stride] of pixels
   laid out as above: place[i] counts from 1. The hash of id[i] decides between equals. 0, or -1 without memory. */
int kernel_quota(int64_t cells, int64_t classes, const int64_t *first, const double *p, const int64_t *to,
                 int64_t stride, const int64_t *id, const int64_t *count, unsigned char *place);

/* The pixels of the coarse cells of a square tile, `size` cells a side: inside [..] says where in it each lies, row by row;
   those of coarse cell c stand from first[c] to first[c + 1]. area_rows: area of a pixel by its row in the tile; ids count
   from id0, that of the tile's first, in rows of nlon. */
typedef struct {
    int64_t cells;
    const int64_t *first;
    const int32_t *inside;
    int32_t size;
    const double *area_rows;
    int64_t id0, nlon;
} kernel_tile;

/* picked[k * step + ..]: the logits of the pixels of coarse cells some[c], in their order, of z [..][columns][classes][2][2]
   for 2 x 2 pixels each, which begin at row0, column0 of the tile, both even. mean [cells][classes], where it is not NULL:
   means over the area of each cell of softmax(z); 0 without land, NaN where a logit is not finite. 0, or -1 without
   memory. */
int kernel_pick(const kernel_tile *tile, int64_t cells, const int64_t *some, int64_t classes, const float *z, int64_t row0,
                int64_t column0, int64_t columns, float *picked, int64_t step, double *mean);

#define KERNEL_ONE 0
#define KERNEL_BASE 1
#define KERNEL_RUN 2

/* The fields of all n pixels of a tile: fractions p [classes][n], and place [n], classes from 1. What a coarse cell shows
   says kind [cells]: the class of its largest total alone; classes base[id - 1]; or what closes the totals f [cells][classes]
   on the logits z[k * step + ..] of the pixels of such cells, as kernel_close, and is drawn from that, as kernel_counts
   and kernel_quota. The logits of a class may lie at the end of its own fractions: what is written never comes to those
   that are yet to be read. left [cells][classes] and what is returned: as of kernel_close. */
int64_t kernel_fields(const kernel_tile *tile, int64_t classes, const unsigned char *kind, const float *z, int64_t step,
                      const double *f, double whole, const unsigned char *base, double *p, unsigned char *place,
                      double *left);

/* A sparse matrix. Row r begins with entries 2 r and 2 r + 1 of column and weight, weight 0 and one column past the last
   where it has fewer; the rest of the row long_row[l], ascending, are the entries rest_first[l] .. rest_first[l + 1]. */
typedef struct {
    int64_t rows;
    const int32_t *column;
    const double *weight;
    int64_t long_rows;
    const int64_t *long_row;
    const int64_t *rest_first;
    const int32_t *rest_column;
    const double *rest_weight;
} kernel_rows;

#define KERNEL_FIELDS 8

/* sum [fields][rows] of weight times x [fields][columns], the entries of a row added one after another. What is in room
   [columns + 1][KERNEL_FIELDS] is lost. */
void kernel_apply(const kernel_rows *matrix, int64_t columns, int64_t fields, const double *x, double *room, double *sum);

/* sum [hosts][classes] of area times fraction x [classes][n] over `count` overlaps of pixel[i] and host[i], in order. */
void kernel_gather(int64_t count, int64_t classes, int64_t n, const int32_t *pixel, const int32_t *host,
                   const double *area, const double *x, double *sum);

/* Areas of fractions p [classes][n] of all n pixels of a tile, cell after cell: total [classes]; part [classes], of coarse
   cells with some[c] alone; and, unless host is NULL, added to by_host [..][classes] of the host[i] of each pixel. mark: what
   tells their bits, tally.py says how. 0, or -1 without memory. */
int kernel_tally(const kernel_tile *tile, int64_t classes, const double *p, const unsigned char *some,
                 const uint16_t *host, double *total, double *part, double *by_host, uint64_t *mark);

/* field [rows][columns] between the values [..][width] of a coarser grid: those of row[y] and the next one, `north` of the
   way to it, at column[x] and the next one, `east` of the way. room [width]. */
void kernel_bilinear(int64_t rows, int64_t columns, int64_t width, const float *values, const int64_t *row,
                     const float *north, const int64_t *column, const float *east, float *room, float *field);

/* x [channels][n] less its mean over std, within -limit and limit. */
void kernel_normalise(int64_t channels, int64_t n, const float *mean, const float *std, float limit, float *x);

/* Of values [rows + 2 rim][columns + 2 rim]: field [radii + shares][rows][columns], the fourth roots of `scale` times the
   sums over boxes of radius[r] <= rim around each cell, root[s] for sums s < listed, and the roots of the mean in the box
   of radius[of[2 i]] over that in the box of radius[of[2 i + 1]], to whose sum 1 is added.
   room [(rows + 2 rim + 1) (columns + 2 rim + 1) + radii columns]. */
void kernel_settled(int64_t rows, int64_t columns, int64_t rim, const int64_t *value, int64_t radii, const int64_t *radius,
                    int64_t shares, const int64_t *of, double scale, int64_t listed, const float *root, int64_t *room,
                    float *field);

/* cells [side][side][..] of planes [channels][rows][columns] from row0 and column0 on; where width > 0 the last plane
   counts the rows of table [..][width] that stand in its place. */
void kernel_interleave(int64_t channels, int64_t rows, int64_t columns, const float *planes, int64_t row0, int64_t column0,
                       int64_t side, int64_t width, const float *table, float *cells);

/* out [rows][columns][width] = near + far. near: float16 without subnormals in square blocks [side][side][width], block[b]
   their addresses, `across` of them in a row; the window begins row0, column0 inside the first. far
   [..][far_columns][width], taken from row of_row[y] and column of_column[x]. */
void kernel_window(int64_t rows, int64_t columns, int64_t width, int64_t side, const int64_t *block, int64_t across,
                   int64_t row0, int64_t column0, const float *far, int64_t far_columns, const int64_t *of_row,
                   const int64_t *of_column, float *out);
#endif
