/* The hooks that Python implements (ai4land_coupler/capi.py). Each answers AI4LAND_ANSWERED + its ai4land_status, because
   cffi makes the answer 0 where Python could not run: 0 is never success here. Lines that begin with '#' are not for cffi. */
#define AI4LAND_ANSWERED 1000

int ai4land_py_check_mpi(int fortran_comm, int size, int rank);
int ai4land_py_init(const char *config_path, int fortran_comm, int *handle);
int ai4land_py_set_grid(int handle, int64_t ncell, int nvertex, const int64_t *cell_id, const double *vertex_lon,
                        const double *vertex_lat, const double *land_fraction);
int ai4land_py_put(int handle, const char *name, int64_t n, const double *values);
int ai4land_py_step(int handle, int year);
int ai4land_py_size(int handle, const char *grid, int64_t *n);
int ai4land_py_get(int handle, const char *grid, const char *name, int64_t n, double *values);
int ai4land_py_write_restart(int handle, const char *path);
int ai4land_py_read_restart(int handle, const char *path);
int ai4land_py_finalize(int handle);
int ai4land_py_last_error(int handle, char *buffer, int64_t length);
