/* What the C files of the library share. Nothing here is visible outside it. */

#ifndef AI4LAND_INTERNAL_H
#define AI4LAND_INTERNAL_H

#include <fenv.h>
#include <stdint.h>

/* Starts Python (once) and the Python side of the hooks. Local. AI4LAND_OK or AI4LAND_PYTHON_START with the reason noted. */
int python_start(void);

/* Between the generated cffi source and python.c: starts its Python side, which calls the second where it cannot. */
int python_start_cffi(void);
void python_refuse(const char *reason);

/* Notes the text of a failure on the C side, cut to fit, and returns `status`. */
int fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* put and get by a copy alone (desk.c); 0 where Python must answer. */
int desk_put(int handle, const char *name, int64_t n, const double *values);
int desk_get(int handle, const char *grid, const char *name, int64_t n, double *values);

/* State of the host that a hook must leave as it was. */
typedef struct {
    fenv_t floating_point;
    int omp_threads;
} host_state;

/* Around every hook: floating-point environment (inside: no traps, round to nearest, denormals kept) and number of
   OpenMP threads (each side keeps its own). */
void host_leave(host_state *host);
void host_return(const host_state *host);

/* Around the collective hooks, which may import modules that install handlers. */
typedef struct signal_table signal_table;
signal_table *signals_save(void);
void signals_restore(signal_table *table);

#endif
