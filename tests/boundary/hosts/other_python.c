/* A host that runs a Python of its own before the plugin is called. argv: configuration, "held" or "released" (the lock). */

#include <Python.h>

#include "check.h"

int main(int argc, char **argv)
{
    int handle = 0;
    PyThreadState *state = NULL;
    MPI_Init(&argc, &argv);
    Py_InitializeEx(0);
    PyRun_SimpleString("ours = 41");
    if (!strcmp(argv[2], "released")) state = PyEval_SaveThread();

    cells c = deal(0, 1);
    CHECK(ai4land_init(argv[1], MPI_Comm_c2f(MPI_COMM_WORLD), &handle) == 0);
    CHECK(ai4land_set_grid(handle, c.n, 4, c.id, &c.lon[0][0], &c.lat[0][0], c.land) == 0);
    CHECK(put_state(handle, &c, 2000) == 0 && ai4land_step(handle, 2000) == 0 && ai4land_finalize(handle) == 0);

    if (state) PyEval_RestoreThread(state);
    CHECK(PyRun_SimpleString("assert ours + 1 == 42") == 0);
    MPI_Finalize();
    return 0;
}
