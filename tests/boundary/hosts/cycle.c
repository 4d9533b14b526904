/* A whole run: init, grid, two years, restart, finalize. argv: configuration, folder, first rank of the communicator. */

#include "check.h"

#include <unistd.h>

static void check_geometry(int handle, const cells *c)
{
    int64_t n = -5;
    CHECK(ai4land_size(handle, "host", &n) == 0 && n == c->n);
    double *got = malloc((n + 1) * sizeof *got);
    CHECK(ai4land_get(handle, "host", "cell_id", n, got) == 0);
    for (int64_t i = 0; i < n; i++) CHECK(got[i] == (double)c->id[i]);
    CHECK(ai4land_get(handle, "host", "land_fraction", n, got) == 0);
    for (int64_t i = 0; i < n; i++) CHECK(got[i] == c->land[i]);
    CHECK(ai4land_size(handle, "fine", &n) == 0 && n >= 0);
    got = realloc(got, (n + 1) * sizeof *got);
    CHECK(ai4land_get(handle, "fine", "lon", n, got) == 0);
    for (int64_t i = 0; i < n; i++) CHECK(got[i] >= -180 && got[i] < 180);
    CHECK(ai4land_get(handle, "fine", "class", n, got) == AI4LAND_USAGE);
    free(got);
}

/* Host cells are the coarse cells: what comes back to a cell that has fine land is what was put. */
static void check_columns(int handle, const cells *c, int year, MPI_Comm comm)
{
    double sum[NLAT * NLON] = {0}, got[NLAT * NLON], served = 0;
    CHECK(ai4land_get(handle, "host", "year", 1, &served) == 0 && served == year);
    for (int k = 0; k < NCLASS; k++) {
        CHECK(ai4land_get(handle, "host", CLASSES[k], c->n, got) == 0);
        for (int64_t i = 0; i < c->n; i++) {
            CHECK(fabs(got[i] - fraction(c->id[i], k, year)) < 1e-12);
            sum[i] += got[i];
        }
    }
    for (int64_t i = 0; i < c->n; i++) CHECK(fabs(sum[i] - 1) < 1e-13);

    int64_t n = 0, all = 0;
    CHECK(ai4land_size(handle, "fine", &n) == 0);
    double *class = malloc((n + 1) * sizeof *class);
    CHECK(ai4land_get(handle, "fine", "class", n, class) == 0);
    for (int64_t i = 0; i < n; i++) CHECK(class[i] >= 1 && class[i] <= NCLASS && class[i] == floor(class[i]));
    free(class);
    MPI_Allreduce(&n, &all, 1, MPI_INT64_T, MPI_SUM, comm);
    CHECK(all > 1000);
}

static void run(MPI_Comm comm, const char *config, const char *folder)
{
    int handle = 0, again = 0, rank, size;
    char restart[2048];
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    snprintf(restart, sizeof restart, "%s/restart.nc", folder);
    cells c = deal(rank, size);

    CHECK(ai4land_init(rank == 0 ? config : NULL, MPI_Comm_c2f(comm), &handle) == 0 && handle == 1);
    CHECK(ai4land_set_grid(handle, c.n, 4, c.id, &c.lon[0][0], &c.lat[0][0], c.land) == 0);
    check_geometry(handle, &c);
    for (int year = 2000; year <= 2001; year++) {
        CHECK(put_state(handle, &c, year) == 0);
        CHECK(ai4land_step(handle, year) == 0);
        check_columns(handle, &c, year, comm);
    }
    CHECK(ai4land_write_restart(handle, rank == 0 ? restart : NULL) == 0);

    /* a second component beside the first, taken up from its restart */
    CHECK(ai4land_init(config, MPI_Comm_c2f(comm), &again) == 0 && again == 2);
    CHECK(ai4land_set_grid(again, c.n, 4, c.id, &c.lon[0][0], &c.lat[0][0], c.land) == 0);
    CHECK(ai4land_read_restart(again, restart) == 0);
    check_columns(again, &c, 2001, comm);
    CHECK(ai4land_finalize(handle) == 0 && ai4land_finalize(handle) == 0);
    CHECK(put_state(again, &c, 2003) == 0 && ai4land_step(again, 2003) == 0);
    check_columns(again, &c, 2003, comm);
    CHECK(ai4land_finalize(again) == 0 && ai4land_finalize(77) == 0);
    CHECK(ai4land_put(handle, "forest", 0, NULL) == AI4LAND_USAGE);
    CHECK(ai4land_init(config, MPI_Comm_c2f(comm), &handle) == 0 && handle == 3);
    CHECK(ai4land_finalize(handle) == 0);
}

int main(int argc, char **argv)
{
    int handle = 0, world, provided, first = argc > 3 ? atoi(argv[3]) : 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SINGLE, &provided);
    CHECK(argc > 2 && ai4land_abi_version() == AI4LAND_ABI_VERSION);
    MPI_Comm_rank(MPI_COMM_WORLD, &world);
    MPI_Comm part;
    MPI_Comm_split(MPI_COMM_WORLD, world < first, -world, &part); /* the order of the ranks turned round as well */
    if (world >= first) run(part, argv[1], argv[2]);
    MPI_Comm_free(&part);
    MPI_Finalize();
    return 0;
}
