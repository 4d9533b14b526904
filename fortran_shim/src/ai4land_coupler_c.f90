!> The functions of ai4land_coupler.h, in its order.
module ai4land_coupler_c
    use, intrinsic :: iso_c_binding, only: c_char, c_double, c_int, c_int64_t
    implicit none
    private
    public :: ai4land_init, ai4land_set_grid, ai4land_put, ai4land_step, ai4land_size, ai4land_get
    public :: ai4land_write_restart, ai4land_read_restart, ai4land_finalize, ai4land_last_error
    public :: ai4land_abi_version

    interface
        function ai4land_init(config_path, fortran_comm, handle) result(status) bind(c)
            import :: c_char, c_int
            character(kind=c_char), intent(in) :: config_path(*)
            integer(c_int), value :: fortran_comm
            integer(c_int), intent(out) :: handle
            integer(c_int) :: status
        end function ai4land_init

        function ai4land_set_grid(handle, ncell, nvertex, cell_id, vertex_lon, vertex_lat, land_fraction) &
            result(status) bind(c)
            import :: c_double, c_int, c_int64_t
            integer(c_int), value :: handle
            integer(c_int64_t), value :: ncell
            integer(c_int), value :: nvertex
            integer(c_int64_t), intent(in) :: cell_id(*)
            real(c_double), intent(in) :: vertex_lon(*), vertex_lat(*), land_fraction(*)
            integer(c_int) :: status
        end function ai4land_set_grid

        function ai4land_put(handle, name, n, values) result(status) bind(c)
            import :: c_char, c_double, c_int, c_int64_t
            integer(c_int), value :: handle
            character(kind=c_char), intent(in) :: name(*)
            integer(c_int64_t), value :: n
            real(c_double), intent(in) :: values(*)
            integer(c_int) :: status
        end function ai4land_put

        function ai4land_step(handle, year) result(status) bind(c)
            import :: c_int
            integer(c_int), value :: handle, year
            integer(c_int) :: status
        end function ai4land_step

        function ai4land_size(handle, grid, n) result(status) bind(c)
            import :: c_char, c_int, c_int64_t
            integer(c_int), value :: handle
            character(kind=c_char), intent(in) :: grid(*)
            integer(c_int64_t), intent(out) :: n
            integer(c_int) :: status
        end function ai4land_size

        function ai4land_get(handle, grid, name, n, values) result(status) bind(c)
            import :: c_char, c_double, c_int, c_int64_t
            integer(c_int), value :: handle
            character(kind=c_char), intent(in) :: grid(*), name(*)
            integer(c_int64_t), value :: n
            real(c_double), intent(inout) :: values(*)
            integer(c_int) :: status
        end function ai4land_get

        function ai4land_write_restart(handle, path) result(status) bind(c)
            import :: c_char, c_int
            integer(c_int), value :: handle
            character(kind=c_char), intent(in) :: path(*)
            integer(c_int) :: status
        end function ai4land_write_restart

        function ai4land_read_restart(handle, path) result(status) bind(c)
            import :: c_char, c_int
            integer(c_int), value :: handle
            character(kind=c_char), intent(in) :: path(*)
            integer(c_int) :: status
        end function ai4land_read_restart

        function ai4land_finalize(handle) result(status) bind(c)
            import :: c_int
            integer(c_int), value :: handle
            integer(c_int) :: status
        end function ai4land_finalize

        function ai4land_last_error(handle, buffer, length) result(status) bind(c)
            import :: c_char, c_int, c_int64_t
            integer(c_int), value :: handle
            character(kind=c_char), intent(inout) :: buffer(*)
            integer(c_int64_t), value :: length
            integer(c_int) :: status
        end function ai4land_last_error

        function ai4land_abi_version() result(version) bind(c)
            import :: c_int
            integer(c_int) :: version
        end function ai4land_abi_version
    end interface
end module ai4land_coupler_c
