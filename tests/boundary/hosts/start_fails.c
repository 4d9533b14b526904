/* Python cannot start on some ranks. argv: configuration, which ranks ("all", "last", "none": the environment does it),
   a word of the text, which is AI4LAND_PYTHON of those ranks too. */

#include "check.h"

int main(int argc, char **argv)
{
    int handle = 99, rank, size, length;
    char text[4096], again[4096];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (!strcmp(argv[2], "all") || (!strcmp(argv[2], "last") && rank == size - 1)) setenv("AI4LAND_PYTHON", argv[3], 1);

    int comm = MPI_Comm_c2f(MPI_COMM_WORLD), status = ai4land_init(argv[1], comm, &handle);
    CHECK(status == AI4LAND_PYTHON_START && handle == 0);
    CHECK(ai4land_last_error(0, text, sizeof text) == 0);
    length = (int)strlen(text);
    CHECK(strstr(text, argv[3]) && strstr(text, "AI4LAND_PYTHON") && same_on_all(length, MPI_COMM_WORLD));

    CHECK(ai4land_step(handle, 2000) == AI4LAND_USAGE && ai4land_finalize(handle) == 0);
    CHECK(ai4land_init(argv[1], comm, &handle) == AI4LAND_PYTHON_START && handle == 0);
    CHECK(ai4land_last_error(0, again, sizeof again) == 0 && strcmp(text, again) == 0);
    MPI_Finalize();
    return 0;
}
