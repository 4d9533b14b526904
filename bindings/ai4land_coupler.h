/* ai4land_coupler: a land-use emulator inside an Earth system model.

   Once a model year the host gives its coarse land-use state (ai4land_put), steps (ai4land_step), and gets fine fields and
   the columns of its own grid back (ai4land_get). Nothing here exits, aborts, prints to stdout or raises a signal.

   Every function returns an ai4land_status: 0 success, positive failure, negative done with a warning. The text of the last
   failure or warning is in ai4land_last_error.

   "Collective" functions are called by all ranks of the communicator given to ai4land_init and return the same status on
   all of them; "local" ones never communicate. All calls come from one thread, between MPI_Init and MPI_Finalize;
   MPI_THREAD_SINGLE suffices. Strings end in NUL. Memory stays the caller's and is only used during the call. */

#ifndef AI4LAND_COUPLER_H
#define AI4LAND_COUPLER_H

#include <stdint.h>

#define AI4LAND_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ai4land_status {
    AI4LAND_HELD = -1,         /* done with a warning: the input was refused and last year's fields are held */
    AI4LAND_OK = 0,            /* success */
    AI4LAND_USAGE = 1,         /* called out of order, unknown handle or name, wrong length, NULL where values are needed */
    AI4LAND_CONFIG = 2,        /* the configuration cannot be read or is not valid */
    AI4LAND_EMULATOR = 3,      /* the emulator is missing, damaged or inconsistent */
    AI4LAND_GRID = 4,          /* host cells that are no grid: repeated ids, overlaps, radians, corners off the sphere */
    AI4LAND_BAD_INPUT = 5,     /* state values missing, not finite, negative, above 1, or with a wrong sum */
    AI4LAND_TIME_ORDER = 6,    /* a year that repeats or goes against the configured direction */
    AI4LAND_REGRID = 7,        /* weights that could not be made, read or trusted */
    AI4LAND_CONSTRAINT = 8,    /* totals that could not be closed in a coarse cell */
    AI4LAND_OUTPUT = 9,        /* a folder, file or disk that could not be written */
    AI4LAND_RESTART = 10,      /* a restart that is missing, damaged or of another run */
    AI4LAND_DEVICE = 11,       /* a device that is not there or failed */
    AI4LAND_MPI = 12,          /* MPI is not running, or the communicator cannot be used */
    AI4LAND_PYTHON_START = 13, /* Python or the ai4land_coupler package did not start */
    AI4LAND_INTERNAL = 14      /* a defect in the plugin; the text holds the traceback */
} ai4land_status;

/* Starts a component. Collective.
     config_path   YAML file; read by rank 0, the others may pass NULL
     fortran_comm  communicator as its Fortran integer (MPI_Comm_c2f); the plugin works on a duplicate of it
     handle        the component, 1 or more, never used again for another one; 0 where init failed
   A failure's text is that of handle 0. Several components may live at once. */
int ai4land_init(const char *config_path, int fortran_comm, int *handle);

/* Describes this rank's host cells, any number of them, none included. Collective, once, after init.
     ncell          cells of this rank; the arrays may be NULL where it is 0
     nvertex        corners a cell, at least 3; cells with fewer repeat a corner
     cell_id        [ncell] unique over all ranks
     vertex_lon     [ncell][nvertex] degrees east, any turn
     vertex_lat     [ncell][nvertex] degrees north
     land_fraction  [ncell] of the cell's area, 0..1 */
int ai4land_set_grid(int handle, int64_t ncell, int nvertex, const int64_t *cell_id, const double *vertex_lon,
                     const double *vertex_lat, const double *land_fraction);

/* Gives one class of the state for the next step. Local.
     name    a class of the state's legend
     n       cells of this rank
     values  [n] fractions of land (or of the cell, as configured), 0..1, in the order of set_grid; copied
   Values are judged in ai4land_step. Every step needs each class from every rank that has cells. */
int ai4land_put(int handle, const char *name, int64_t n, const double *values);

/* Takes the state valid at the start of `year` and makes the fields of that year. Collective: a rank whose put failed still
   calls it. Years are strictly monotone. AI4LAND_HELD: the input was refused and last year's fields stay, as configured. */
int ai4land_step(int handle, int year);

/* Number of this rank's cells of `grid`: "fine" or "host". Local, after set_grid. */
int ai4land_size(int handle, const char *grid, int64_t *n);

/* Copies a field of this rank out. Local.
     grid    "fine" (the emulator's land cells, each on exactly one rank) or "host" (order of set_grid)
     name    a class of the emulator's legend (fraction of land, 0..1); fine only: "class" (number in the legend, from 1),
             "filled" (0 own state, 1 nearest state, 2 base map); "year" (n = 1); geometry of either grid: "lon" in
             [-180, 180) and "lat" degrees, "area" m2 (radius 6371000 m), "cell_id", "land_fraction"
     n       what ai4land_size says
     values  [n]
   Geometry can be got after set_grid, fields after the first step or read_restart. */
int ai4land_get(int handle, const char *grid, const char *name, int64_t n, double *values);

/* Writes the state of the run to exactly `path`; an older file of that name becomes `path`.1. Collective. */
int ai4land_write_restart(int handle, const char *path);

/* Takes a run up again, after set_grid: get serves the restart year's fields without a step. Collective. */
int ai4land_read_restart(int handle, const char *path);

/* Ends a component, before MPI_Finalize. Collective. Finalizing a finished or unknown handle does nothing and returns 0. */
int ai4land_finalize(int handle);

/* Copies the text of the last failure or warning of a component, or with handle 0 of what belongs to none (init), to
   `buffer` of `length` bytes, cut to fit and ended by NUL; "" where there was none. Local. AI4LAND_USAGE for a finished or
   unknown handle, whose text is copied all the same, and where `buffer` cannot hold the NUL. */
int ai4land_last_error(int handle, char *buffer, int64_t length);

/* AI4LAND_ABI_VERSION of the library, to compare with that of the header. Local. */
int ai4land_abi_version(void);

#ifdef __cplusplus
}
#endif

#endif
