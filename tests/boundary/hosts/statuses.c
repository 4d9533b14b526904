/* Every refusal a host can meet, once each; on the last rank alone where the hook is collective, heard on all.
   argv: configuration, folder. */

#include "check.h"

static MPI_Comm world = MPI_COMM_WORLD;
static int rank, size, handle;
static cells c;

/* The status is `expected` on all ranks and the text of `owner` holds `word`. */
static void expect(int status, int expected, int owner, const char *word)
{
    char text[4096] = "";
    ai4land_last_error(owner, text, sizeof text);
    if (status != expected || !strstr(text, word)) {
        fprintf(stderr, "expected status %d and '%s', got %d and '%s'\n", expected, word, status, text);
        exit(1);
    }
    CHECK(same_on_all(status, world));
}

static void write_config(const char *path, const char *text)
{
    if (rank == 0) {
        FILE *file = fopen(path, "w");
        fputs(text, file);
        fclose(file);
    }
    MPI_Barrier(world);
}

static void refused_init(const char *good, const char *folder)
{
    char path[2048], text[4096];
    int comm = MPI_Comm_c2f(world), none = 99;
    snprintf(path, sizeof path, "%s/bad.yaml", folder);
    expect(ai4land_init("/nowhere/ai4land.yaml", comm, &none), AI4LAND_CONFIG, 0, "/nowhere/ai4land.yaml");
    CHECK(none == 0);
    write_config(path, "emulator: /nowhere/emulator\n");
    expect(ai4land_init(path, comm, &none), AI4LAND_EMULATOR, 0, "/nowhere/emulator");
    snprintf(text, sizeof text, "emulator: %s\nemulater: x\n", "small");
    write_config(path, text);
    expect(ai4land_init(path, comm, &none), AI4LAND_CONFIG, 0, "emulator");
    expect(ai4land_init(rank == 0 ? NULL : good, comm, &none), AI4LAND_USAGE, 0, "NULL");
    expect(ai4land_init(good, comm, rank == size - 1 ? NULL : &none), AI4LAND_USAGE, 0, "handle");
    expect(ai4land_init(good, MPI_Comm_c2f(MPI_COMM_NULL), &none), AI4LAND_MPI, 0, "communicator");
    expect(ai4land_init(good, 123456, &none), AI4LAND_MPI, 0, "123456");
    expect(ai4land_init(good, -7, &none), AI4LAND_MPI, 0, "-7");
    CHECK(none == 0);
}

static int set_grid(cells *g, int64_t n)
{
    return ai4land_set_grid(handle, n, 4, g->id, &g->lon[0][0], &g->lat[0][0], g->land);
}

static void refused_grids(void)
{
    int last = rank == size - 1;
    cells bad = c;
    double value;
    int64_t n;
    expect(ai4land_step(handle, 2000), AI4LAND_USAGE, handle, "set_grid");
    expect(ai4land_put(handle, "forest", 1, &value), AI4LAND_USAGE, handle, "set_grid");
    expect(ai4land_size(handle, "host", &n), AI4LAND_USAGE, handle, "set_grid");
    if (last) bad.id[1] = bad.id[0];
    expect(set_grid(&bad, bad.n), AI4LAND_GRID, handle, "id");
    bad = c;
    if (last) bad.land[3] = 1.5;
    expect(set_grid(&bad, bad.n), AI4LAND_GRID, handle, "land fraction");
    expect(set_grid(&c, last ? -1 : c.n), AI4LAND_USAGE, handle, "ncell");
    expect(ai4land_set_grid(handle, c.n, 4, last ? NULL : c.id, &c.lon[0][0], &c.lat[0][0], c.land), AI4LAND_USAGE, handle,
           "NULL");
    expect(set_grid(&c, c.n), AI4LAND_OK, handle, "");
    expect(set_grid(&c, c.n), AI4LAND_USAGE, handle, "set_grid");
}

static void refused_names(void)
{
    double values[NLAT * NLON] = {0};
    int64_t n;
    expect(ai4land_put(handle, "florest", c.n, values), AI4LAND_USAGE, handle, "florest");
    expect(ai4land_put(handle, NULL, c.n, values), AI4LAND_USAGE, handle, "NULL");
    expect(ai4land_put(handle, "forest", c.n - 1, values), AI4LAND_USAGE, handle, "forest");
    expect(ai4land_put(handle, "forest", -1, values), AI4LAND_USAGE, handle, "-1");
    expect(ai4land_put(handle, "forest", c.n, NULL), AI4LAND_USAGE, handle, "NULL");
    expect(ai4land_size(handle, "coarse", &n), AI4LAND_USAGE, handle, "coarse");
    expect(ai4land_size(handle, "host", NULL), AI4LAND_USAGE, handle, "NULL");
    expect(ai4land_get(handle, "host", "forest", c.n, values), AI4LAND_USAGE, handle, "step");
    expect(ai4land_get(handle, "host", "area", c.n + 1, values), AI4LAND_USAGE, handle, "area");
    expect(ai4land_get(handle, "host", "filled", c.n, values), AI4LAND_USAGE, handle, "filled");
    expect(ai4land_get(handle, "host", "area", c.n, NULL), AI4LAND_USAGE, handle, "NULL");
    expect(ai4land_put(handle + 50, "forest", c.n, values), AI4LAND_USAGE, 0, "unknown");
    expect(ai4land_write_restart(handle, "/tmp/never"), AI4LAND_USAGE, handle, "step");
}

/* One rank's state spoiled in one place. */
static void spoil(double value, int year, int status, const char *word)
{
    double values[NLAT * NLON];
    put_state(handle, &c, 2000);
    for (int64_t i = 0; i < c.n; i++) values[i] = fraction(c.id[i], 1, 2000);
    if (rank == size - 1) values[c.n / 2] = value;
    CHECK(ai4land_put(handle, "grassland", c.n, values) == 0);
    expect(ai4land_step(handle, year), status, handle, word);
}

static void refused_states(const char *folder)
{
    char path[2048];
    expect(ai4land_step(handle, 2000), AI4LAND_BAD_INPUT, handle, "forest");
    spoil(NAN, 2000, AI4LAND_BAD_INPUT, "grassland");
    spoil(-0.1, 2000, AI4LAND_BAD_INPUT, "grassland");
    spoil(1.1, 2000, AI4LAND_BAD_INPUT, "grassland");
    spoil(0.999, 2000, AI4LAND_BAD_INPUT, "sum");
    CHECK(put_state(handle, &c, 2000) == 0);
    CHECK(ai4land_step(handle, 2000) == 0);
    put_state(handle, &c, 2000);
    expect(ai4land_step(handle, 2000), AI4LAND_TIME_ORDER, handle, "2000");
    expect(ai4land_step(handle, 1999), AI4LAND_TIME_ORDER, handle, "1999");
    CHECK(ai4land_step(handle, 2001) == 0);
    expect(ai4land_step(handle, 2002), AI4LAND_BAD_INPUT, handle, "forest");
    snprintf(path, sizeof path, "%s/no/such/folder/restart.nc", folder);
    expect(ai4land_write_restart(handle, path), AI4LAND_OUTPUT, handle, "restart.nc");
    expect(ai4land_read_restart(handle, path), AI4LAND_RESTART, handle, "restart.nc");
    CHECK(ai4land_write_restart(handle, NULL) > 0 && ai4land_read_restart(handle, NULL) > 0);
    double year = 0;
    CHECK(ai4land_get(handle, "fine", "year", 1, &year) == 0 && year == 2001); /* nothing was lost */
}

static void texts(void)
{
    char text[8] = "#######", whole[4096];
    ai4land_size(handle, "coarse", NULL);
    CHECK(ai4land_last_error(handle, whole, sizeof whole) == 0 && strlen(whole) > 20);
    CHECK(ai4land_last_error(handle, text, 5) == 0);
    CHECK(strlen(text) == 4 && strncmp(text, whole, 4) == 0 && text[5] == '#');
    CHECK(ai4land_last_error(handle, NULL, 5) == AI4LAND_USAGE && ai4land_last_error(handle, text, 0) == AI4LAND_USAGE);
    CHECK(ai4land_last_error(handle + 50, whole, sizeof whole) == AI4LAND_USAGE && *whole);
}

static void after_the_end(void)
{
    double value = 0;
    int64_t n;
    CHECK(ai4land_finalize(handle) == 0 && ai4land_finalize(handle) == 0 && ai4land_finalize(0) == 0);
    expect(ai4land_put(handle, "forest", 1, &value), AI4LAND_USAGE, handle, "finalized");
    expect(set_grid(&c, c.n), AI4LAND_USAGE, handle, "finalized");
    expect(ai4land_step(handle, 2010), AI4LAND_USAGE, handle, "finalized");
    expect(ai4land_size(handle, "host", &n), AI4LAND_USAGE, handle, "finalized");
    expect(ai4land_get(handle, "host", "lon", 1, &value), AI4LAND_USAGE, handle, "finalized");
    expect(ai4land_write_restart(handle, "x"), AI4LAND_USAGE, handle, "finalized");
    expect(ai4land_read_restart(handle, "x"), AI4LAND_USAGE, handle, "finalized");
    expect(ai4land_step(0, 2010), AI4LAND_USAGE, 0, "unknown");
}

int main(int argc, char **argv)
{
    char text[64];
    CHECK(ai4land_last_error(0, text, sizeof text) == 0 && !*text);
    CHECK(ai4land_init(argv[1], 0, &handle) == AI4LAND_MPI && handle == 0); /* before MPI_Init */
    CHECK(ai4land_step(1, 2000) == AI4LAND_USAGE && ai4land_finalize(1) == 0);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    refused_init(argv[1], argv[2]);
    CHECK(ai4land_init(argv[1], MPI_Comm_c2f(world), &handle) == 0 && handle == 1);
    c = deal(rank, size);
    refused_grids();
    refused_names();
    refused_states(argv[2]);
    texts();
    after_the_end();
    MPI_Finalize();
    CHECK(ai4land_init(argv[1], 0, &handle) == AI4LAND_MPI && handle == 0);
    return 0;
}
