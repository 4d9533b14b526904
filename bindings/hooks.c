/* The public hooks: agree on the start over all ranks, cross into Python, translate the answer. */

#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#pragma GCC visibility push(default) /* the header is all the library shows */
#include "ai4land_coupler.h"
#pragma GCC visibility pop
#include "hooks.h"
#include "internal.h"

static char failure[4096]; /* last failure of the C side; "" once Python answers for handle 0 */
static int started = 0;    /* Python runs on all ranks of at least one init */

int fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure, sizeof failure, format, arguments);
    va_end(arguments);
    return status;
}

static int translate(int answer)
{
    if (answer >= AI4LAND_ANSWERED + AI4LAND_HELD) return answer - AI4LAND_ANSWERED;
    return fail(AI4LAND_INTERNAL, "the Python side gave no answer (%d); its message is on stderr", answer);
}

static int unknown(int handle)
{
    if (*failure) return AI4LAND_USAGE; /* keeps the reason of the failed init */
    return fail(AI4LAND_USAGE, "handle %d is unknown: no ai4land_init has succeeded", handle);
}

/* A hook that never communicates. */
#define LOCAL(handle, call)                                                                                           \
    do {                                                                                                              \
        if (!started) return unknown(handle);                                                                         \
        host_state host;                                                                                              \
        host_leave(&host);                                                                                            \
        int answer = (call);                                                                                          \
        host_return(&host);                                                                                           \
        return translate(answer);                                                                                     \
    } while (0)

/* A hook of all ranks: long, and free to import. */
#define COLLECTIVE(handle, call)                                                                                      \
    do {                                                                                                              \
        if (!started) return unknown(handle);                                                                         \
        host_state host;                                                                                              \
        signal_table *signals = signals_save();                                                                       \
        host_leave(&host);                                                                                            \
        int answer = (call);                                                                                          \
        host_return(&host);                                                                                           \
        signals_restore(signals);                                                                                     \
        return translate(answer);                                                                                     \
    } while (0)

/* The communicator behind a Fortran integer. A wrong integer is an error here, whatever the host's error handler. */
static int find_communicator(int fortran_comm, MPI_Comm *comm, int *size, int *rank)
{
    int running = 0, over = 0, between = 0;
    MPI_Initialized(&running);
    if (running) MPI_Finalized(&over);
    if (!running || over) return fail(AI4LAND_MPI, "MPI is not running: call ai4land_init between MPI_Init and MPI_Finalize");

    *comm = MPI_Comm_f2c((MPI_Fint)fortran_comm);
    if (*comm == MPI_COMM_NULL || *comm == (MPI_Comm)0)
        return fail(AI4LAND_MPI, "%d is no communicator of this rank; pass the Fortran integer of one (MPI_Comm_c2f in C)",
                    fortran_comm);
    MPI_Errhandler handler;
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    int bad = MPI_Comm_test_inter(*comm, &between) != MPI_SUCCESS;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    MPI_Errhandler_free(&handler);
    if (bad || between)
        return fail(AI4LAND_MPI, "communicator %d is %s; pass the Fortran integer of an intracommunicator", fortran_comm,
                    bad ? "not valid" : "an intercommunicator");
    MPI_Comm_size(*comm, size);
    MPI_Comm_rank(*comm, rank);
    return AI4LAND_OK;
}

/* The worst status of all ranks, with the text of the first rank that has it. */
static int agree(MPI_Comm comm, int size, int rank, int status)
{
    struct {
        int status, rank;
    } mine = {status, rank}, worst = {status, rank};
    MPI_Allreduce(&mine, &worst, 1, MPI_2INT, MPI_MAXLOC, comm);
    if (worst.status == AI4LAND_OK) return AI4LAND_OK;
    char text[sizeof failure];
    memcpy(text, failure, sizeof text);
    MPI_Bcast(text, sizeof text, MPI_CHAR, worst.rank, comm);
    if (size == 1) return worst.status;
    return fail(worst.status, "%.*s [rank %d of %d]", (int)(sizeof text - 40), text, worst.rank, size);
}

static int check_mpi(int fortran_comm, int size, int rank)
{
    int status = translate(ai4land_py_check_mpi(fortran_comm, size, rank));
    if (status != AI4LAND_OK) ai4land_py_last_error(0, failure, sizeof failure);
    return status;
}

static int init(const char *config_path, int fortran_comm, int *handle)
{
    MPI_Comm comm = MPI_COMM_NULL;
    int size = 0, rank = 0;
    int status = find_communicator(fortran_comm, &comm, &size, &rank);
    if (status != AI4LAND_OK) return status;
    if (!handle)
        status = fail(AI4LAND_USAGE, "ai4land_init needs a place for the handle, got NULL");
    else if (!config_path && rank == 0)
        status = fail(AI4LAND_USAGE, "ai4land_init needs the path of a configuration on rank 0, got NULL");
    else
        status = python_start();
    if (status == AI4LAND_OK) status = check_mpi(fortran_comm, size, rank);
    status = agree(comm, size, rank, status);
    if (status != AI4LAND_OK) return status;
    started = 1;
    *failure = '\0';
    return translate(ai4land_py_init(config_path ? config_path : "", fortran_comm, handle));
}

int ai4land_init(const char *config_path, int fortran_comm, int *handle)
{
    if (handle) *handle = 0;
    host_state host;
    signal_table *signals = signals_save();
    host_leave(&host);
    int status = init(config_path, fortran_comm, handle);
    host_return(&host);
    signals_restore(signals);
    return status;
}

int ai4land_set_grid(int handle, int64_t ncell, int nvertex, const int64_t *cell_id, const double *vertex_lon,
                     const double *vertex_lat, const double *land_fraction)
{
    COLLECTIVE(handle, ai4land_py_set_grid(handle, ncell, nvertex, cell_id, vertex_lon, vertex_lat, land_fraction));
}

int ai4land_put(int handle, const char *name, int64_t n, const double *values)
{
    if (desk_put(handle, name, n, values)) return AI4LAND_OK;
    LOCAL(handle, ai4land_py_put(handle, name, n, values));
}

int ai4land_step(int handle, int year) { COLLECTIVE(handle, ai4land_py_step(handle, year)); }

int ai4land_size(int handle, const char *grid, int64_t *n) { LOCAL(handle, ai4land_py_size(handle, grid, n)); }

int ai4land_get(int handle, const char *grid, const char *name, int64_t n, double *values)
{
    if (desk_get(handle, grid, name, n, values)) return AI4LAND_OK;
    LOCAL(handle, ai4land_py_get(handle, grid, name, n, values));
}

int ai4land_write_restart(int handle, const char *path) { COLLECTIVE(handle, ai4land_py_write_restart(handle, path)); }

int ai4land_read_restart(int handle, const char *path) { COLLECTIVE(handle, ai4land_py_read_restart(handle, path)); }

int ai4land_finalize(int handle)
{
    if (!started) return AI4LAND_OK;
    COLLECTIVE(handle, ai4land_py_finalize(handle));
}

int ai4land_last_error(int handle, char *buffer, int64_t length)
{
    if (!buffer || length < 1) return AI4LAND_USAGE;
    if (started && !(handle == 0 && *failure)) LOCAL(handle, ai4land_py_last_error(handle, buffer, length));
    size_t n = strlen(failure) < (size_t)length ? strlen(failure) : (size_t)length - 1;
    memcpy(buffer, failure, n);
    buffer[n] = '\0';
    return handle == 0 ? AI4LAND_OK : AI4LAND_USAGE;
}

int ai4land_abi_version(void) { return AI4LAND_ABI_VERSION; }
