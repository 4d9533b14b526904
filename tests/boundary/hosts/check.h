/* What the C hosts of the tests share: checks that say where they failed, and a small host grid. */

#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ai4land_coupler.h"

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            char why[4096] = "", of_init[4096] = "";                                         \
            ai4land_last_error(handle, why, sizeof why);                                     \
            ai4land_last_error(0, of_init, sizeof of_init);                                  \
            fprintf(stderr, "%s:%d: failed: %s\n[%s]\n[%s]\n", __FILE__, __LINE__, #condition, why, of_init); \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

/* Every rank of `comm` says the same. */
static inline int same_on_all(int value, MPI_Comm comm)
{
    int lowest, highest;
    MPI_Allreduce(&value, &lowest, 1, MPI_INT, MPI_MIN, comm);
    MPI_Allreduce(&value, &highest, 1, MPI_INT, MPI_MAX, comm);
    return lowest == highest;
}

/* The coarse grid of tests/small_emulator.py, its rows dealt to the ranks in turn. */
enum { NLAT = 16, NLON = 32, NCLASS = 4 };
static const char *const CLASSES[NCLASS] = {"forest", "grassland", "cropland", "barren"};

typedef struct {
    int64_t n;
    int64_t id[NLAT * NLON];
    double lon[NLAT * NLON][4], lat[NLAT * NLON][4], land[NLAT * NLON];
} cells;

static inline cells deal(int rank, int size)
{
    static cells c;
    double d = 180.0 / NLAT;
    c.n = 0;
    for (int j = NLAT - 1 - rank; j >= 0; j -= size)
        for (int i = 0; i < NLON; i++, c.n++) {
            double west = i * d, south = -90 + j * d;
            double lon[4] = {west, west + d, west + d, west}, lat[4] = {south, south, south + d, south + d};
            memcpy(c.lon[c.n], lon, sizeof lon);
            memcpy(c.lat[c.n], lat, sizeof lat);
            c.id[c.n] = 1000 + 7 * (j * NLON + i);
            c.land[c.n] = (i + j) % 5 ? 0.25 * ((i + j) % 5) : 0.5;
        }
    return c;
}

/* The state: class k of a cell, asymmetric in cell and class, summing to 1. */
static inline double fraction(int64_t id, int k, int year)
{
    double weight[NCLASS], sum = 0;
    for (int m = 0; m < NCLASS; m++) sum += weight[m] = 1 + (id * (m + 3) + 5 * m * m + year) % 11;
    return weight[k] / sum;
}

static inline int put_state(int handle, const cells *c, int year)
{
    double values[NLAT * NLON];
    int status = 0;
    for (int k = 0; k < NCLASS && status == 0; k++) {
        for (int64_t i = 0; i < c->n; i++) values[i] = fraction(c->id[i], k, year);
        status = ai4land_put(handle, CLASSES[k], c->n, values);
    }
    return status;
}

#endif
