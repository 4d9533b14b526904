/* The same coupled run from C, in a few lines: read the start file, step, look at the forest.
 *
 *     mpirun -n 2 c_host START.nc CONFIG.yaml FIRST_YEAR YEARS
 *
 * START.nc is what examples/prepare_demo.py writes. Cells are dealt in equal blocks. */
#include <mpi.h>
#include <netcdf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ai4land_coupler.h"

enum { NAME = 32, CORNERS = 4 };

static void stop(const char *message) {
    fprintf(stderr, "c_host: %s\n", message);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void netcdf(int status) {
    if (status != NC_NOERR) stop(nc_strerror(status));
}

static void plugin(int handle, int status) {
    char message[2000];
    if (status <= 0) return; /* negative: done, with a warning */
    ai4land_last_error(handle, message, sizeof message);
    stop(message);
}

/* n values of each of `rows` rows of a variable, from `first` on along its cells; `width` values a cell. */
static double *read_cells(int file, const char *name, size_t rows, size_t first, size_t n, size_t width) {
    int id;
    double *values = malloc((rows * n * width + 1) * sizeof *values);
    size_t by_row_start[] = {0, first}, by_row_count[] = {rows, n}, start[] = {first, 0}, count[] = {n, width};
    netcdf(nc_inq_varid(file, name, &id));
    if (n && rows > 1) netcdf(nc_get_vara_double(file, id, by_row_start, by_row_count, values));
    else if (n) netcdf(nc_get_vara_double(file, id, start, count, values));
    return values;
}

int main(int argc, char **argv) {
    int rank, nrank, file, dim, id, handle = 0;
    size_t ncell, nclass;
    char class[64][NAME + 1] = {{0}};

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &nrank);
    if (argc != 5) stop("usage: c_host START.nc CONFIG.yaml FIRST_YEAR YEARS");

    netcdf(nc_open(argv[1], NC_NOWRITE, &file));
    netcdf(nc_inq_dimid(file, "cell", &dim));
    netcdf(nc_inq_dimlen(file, dim, &ncell));
    netcdf(nc_inq_dimid(file, "class", &dim));
    netcdf(nc_inq_dimlen(file, dim, &nclass));
    if (nclass > 64) stop("more than 64 classes");
    netcdf(nc_inq_varid(file, "class_name", &id));
    for (size_t k = 0; k < nclass; k++) {
        netcdf(nc_get_vara_text(file, id, (size_t[]){k, 0}, (size_t[]){1, NAME}, class[k]));
        class[k][strcspn(class[k], " ")] = '\0';
    }
    size_t first = ncell * rank / nrank, n = ncell * (rank + 1) / nrank - first;
    double *lon = read_cells(file, "vertex_lon", 1, first, n, CORNERS);
    double *lat = read_cells(file, "vertex_lat", 1, first, n, CORNERS);
    double *land = read_cells(file, "land_fraction", 1, first, n, 1);
    double *loss = read_cells(file, "forest_loss", 1, first, n, 1);
    double *state = read_cells(file, "state", nclass, first, n, 1); /* [class][cell] */
    int64_t *cell_id = malloc((n + 1) * sizeof *cell_id);
    for (size_t i = 0; i < n; i++) cell_id[i] = (int64_t)(first + i + 1);
    netcdf(nc_close(file));

    plugin(handle, ai4land_init(argv[2], MPI_Comm_c2f(MPI_COMM_WORLD), &handle));
    plugin(handle, ai4land_set_grid(handle, (int64_t)n, CORNERS, cell_id, lon, lat, land));
    for (int year = atoi(argv[3]), last = year + atoi(argv[4]) - 1, now = year; now <= last; now++) {
        for (size_t k = 0; k < nclass; k++) {
            double sign = !strcmp(class[k], "forest") ? -1 : !strcmp(class[k], "grassland") ? 1 : 0;
            if (sign != 0 && now > year)
                for (size_t i = 0; i < n; i++) state[k * n + i] += sign * loss[i];
            plugin(handle, ai4land_put(handle, class[k], (int64_t)n, state + k * n));
        }
        plugin(handle, ai4land_step(handle, now));

        int64_t nfine;
        plugin(handle, ai4land_size(handle, "fine", &nfine));
        double *area = malloc((size_t)(nfine + 1) * sizeof *area), *forest = malloc((size_t)(nfine + 1) * sizeof *forest);
        double mine = 0, all = 0;
        plugin(handle, ai4land_get(handle, "fine", "area", nfine, area));
        plugin(handle, ai4land_get(handle, "fine", "forest", nfine, forest));
        for (int64_t i = 0; i < nfine; i++) mine += area[i] * forest[i];
        MPI_Reduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
        if (rank == 0) printf("c_host %d: %.3f million km2 of fine forest\n", now, all / 1e12);
        free(area);
        free(forest);
    }
    plugin(handle, ai4land_finalize(handle));
    free(lon), free(lat), free(land), free(loss), free(state), free(cell_id);
    MPI_Finalize();
    return 0;
}
