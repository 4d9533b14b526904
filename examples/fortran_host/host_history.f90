!> The host's own output: one netCDF file, opened before the plugin starts and kept open to the end of the run.
module host_history
    use, intrinsic :: iso_fortran_env, only: real64
    use mpi
    use netcdf
    use host_errors, only: check_netcdf
    use host_grid, only: grid_type
    implicit none
    private
    public :: history_type, open_history, write_year, close_history

    type :: history_type
        integer :: comm = MPI_COMM_NULL, file = -1, time = -1, given = -1, received = -1, records = 0
        logical :: root = .false.
        integer, allocatable :: cells(:), offset(:)     !! of every rank, for the gather
        integer :: nlon = 0, nlat = 0
    end type history_type

contains

    subroutine open_history(path, comm, grid, class, history)
        character(len=*), intent(in) :: path, class(:)
        integer, intent(in) :: comm
        type(grid_type), intent(in) :: grid
        type(history_type), intent(out) :: history
        integer :: rank, nrank, ierr, i, dims(4)

        call MPI_Comm_rank(comm, rank, ierr)
        call MPI_Comm_size(comm, nrank, ierr)
        history%comm = comm; history%root = rank == 0
        history%nlon = grid%nlon; history%nlat = grid%nlat
        allocate (history%cells(nrank), history%offset(nrank))
        call MPI_Allgather(size(grid%cell_id), 1, MPI_INTEGER, history%cells, 1, MPI_INTEGER, comm, ierr)
        history%offset = [(sum(history%cells(:i - 1)), i=1, nrank)]
        if (.not. history%root) return
        call check_netcdf(nf90_create(path, ior(nf90_netcdf4, nf90_classic_model), history%file), path)
        call check_netcdf(nf90_def_dim(history%file, 'lon', grid%nlon, dims(1)), path)
        call check_netcdf(nf90_def_dim(history%file, 'lat', grid%nlat, dims(2)), path)
        call check_netcdf(nf90_def_dim(history%file, 'class', size(class), dims(3)), path)
        call check_netcdf(nf90_def_dim(history%file, 'time', nf90_unlimited, dims(4)), path)
        call check_netcdf(nf90_def_var(history%file, 'year', nf90_int, dims(4:), history%time), path)
        call define('given', 'fraction of land put into the plugin', history%given)
        call define('received', 'fraction of land of the fine fields under the cell', history%received)
        call check_netcdf(nf90_put_att(history%file, nf90_global, 'classes', &
                                       join(class)), path)
        call check_netcdf(nf90_enddef(history%file), path)
    contains
        subroutine define(name, long_name, id)
            character(len=*), intent(in) :: name, long_name
            integer, intent(out) :: id
            call check_netcdf(nf90_def_var(history%file, name, nf90_double, dims, id), name)
            call check_netcdf(nf90_put_att(history%file, id, 'long_name', long_name), name)
            call check_netcdf(nf90_put_att(history%file, id, 'units', '1'), name)
        end subroutine define
    end subroutine open_history

    !> Append one year of what was given and received; all ranks of the host call it.
    subroutine write_year(history, year, given, received)
        type(history_type), intent(inout) :: history
        integer, intent(in) :: year
        real(real64), intent(in) :: given(:, :), received(:, :)     !! (ncell, nclass)

        history%records = history%records + 1
        if (history%root) call check_netcdf(nf90_put_var(history%file, history%time, year, [history%records]), 'year')
        call gather_and_put(history%given, given)
        call gather_and_put(history%received, received)
        if (history%root) call check_netcdf(nf90_sync(history%file), 'sync')
    contains
        subroutine gather_and_put(id, values)
            integer, intent(in) :: id
            real(real64), intent(in) :: values(:, :)
            real(real64), allocatable :: whole(:)
            integer :: k, ierr
            allocate (whole(merge(history%nlon*history%nlat, 0, history%root)))
            do k = 1, size(values, 2)
                call MPI_Gatherv(values(:, k), size(values, 1), MPI_DOUBLE_PRECISION, whole, history%cells, &
                                 history%offset, MPI_DOUBLE_PRECISION, 0, history%comm, ierr)
                if (history%root) call check_netcdf(nf90_put_var(history%file, id, whole, [1, 1, k, history%records], &
                                                                 [history%nlon, history%nlat, 1, 1]), 'history')
            end do
        end subroutine gather_and_put
    end subroutine write_year

    subroutine close_history(history)
        type(history_type), intent(inout) :: history
        if (history%root) call check_netcdf(nf90_close(history%file), 'close')
    end subroutine close_history

    pure function join(words) result(line)
        character(len=*), intent(in) :: words(:)
        character(len=:), allocatable :: line
        integer :: i
        line = trim(words(1))
        do i = 2, size(words)
            line = line//' '//trim(words(i))
        end do
    end function join

end module host_history
