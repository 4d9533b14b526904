/* Every path through the C layer, many times, for tools that watch memory. argv: rounds. The Python side is a stub. */

#include "check.h"

static void everything(int comm, int handle)
{
    double values[16] = {0}, corners[16][4] = {{0}};
    int64_t ids[16] = {0}, n = 0;
    CHECK(ai4land_set_grid(handle, 16, 4, ids, &corners[0][0], &corners[0][0], values) == 0);
    CHECK(ai4land_set_grid(handle, 0, 0, NULL, NULL, NULL, NULL) == 0);
    CHECK(ai4land_set_grid(2, 16, 4, ids, &corners[0][0], &corners[0][0], values) == AI4LAND_USAGE);
    CHECK(ai4land_put(handle, "forest", 16, values) == 0);
    CHECK(ai4land_put(handle, "room", 0, NULL) == 0 && ai4land_get(handle, "fine", "room", 0, NULL) == 0);
    CHECK(ai4land_set_grid(handle, 16, 4, ids, &corners[0][0], &corners[0][0], values) == 0);
    double twice[32];
    CHECK(ai4land_put(handle, "room", 16, values) == 0 && ai4land_put(handle, "room", 15, values) == 0);
    CHECK(ai4land_get(handle, "fine", "room", 32, twice) == 0 && twice[0] == values[0] && twice[31] == values[15]);
    CHECK(ai4land_put(handle, "", 0, NULL) == AI4LAND_USAGE && ai4land_put(handle, NULL, 0, NULL) == AI4LAND_USAGE);
    CHECK(ai4land_step(handle, 2000) == 0 && ai4land_step(handle, -5) == AI4LAND_HELD);
    CHECK(ai4land_step(handle, 13) == AI4LAND_INTERNAL); /* Python raised through everything */
    CHECK(ai4land_size(handle, "host", &n) == 0 && n == (int64_t)1 << 40);
    CHECK(ai4land_size(handle, "host", NULL) == AI4LAND_USAGE);
    CHECK(ai4land_get(handle, "host", "forest", 16, values) == 0 && values[15] == 15);
    CHECK(ai4land_write_restart(handle, "r.nc") == 0 && ai4land_write_restart(handle, NULL) == AI4LAND_OUTPUT);
    CHECK(ai4land_read_restart(handle, "r.nc") == 0 && ai4land_read_restart(handle, NULL) == AI4LAND_RESTART);
    for (int64_t length = -1; length < 700; length += 7) {
        char *buffer = malloc(length > 0 ? (size_t)length : 1); /* exactly as long as said */
        int expected = length < 1 ? AI4LAND_USAGE : AI4LAND_OK;
        CHECK(ai4land_last_error(handle, buffer, length) == expected);
        if (length > 0) CHECK(strlen(buffer) < (size_t)length);
        CHECK(ai4land_last_error(0, buffer, length) == expected);
        if (length > 0) CHECK(strlen(buffer) < (size_t)length);
        free(buffer);
    }
    int none = 9;
    CHECK(ai4land_init("bad.yaml", comm, &none) == AI4LAND_CONFIG && none == 0);
    CHECK(ai4land_init(NULL, comm, NULL) == AI4LAND_USAGE);
    CHECK(ai4land_init("good.yaml", -1, &none) == AI4LAND_MPI);
    CHECK(ai4land_finalize(handle) == 0);
}

int main(int argc, char **argv)
{
    int handle = 0;
    char text[64];
    CHECK(ai4land_init("good.yaml", 0, &handle) == AI4LAND_MPI && ai4land_finalize(1) == 0);
    CHECK(ai4land_last_error(0, text, sizeof text) == 0 && ai4land_step(1, 2000) == AI4LAND_USAGE);
    MPI_Init(&argc, &argv);
    int comm = MPI_Comm_c2f(MPI_COMM_WORLD);
    for (int i = 0; i < atoi(argv[1]); i++) {
        CHECK(ai4land_init("good.yaml", comm, &handle) == 0 && handle == 1);
        everything(comm, handle);
    }
    MPI_Finalize();
    CHECK(ai4land_abi_version() == AI4LAND_ABI_VERSION);
    return 0;
}
