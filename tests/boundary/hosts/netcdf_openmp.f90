!> A model that links its own netCDF and OpenMP and keeps its history file open across every hook.
!! Arguments: configuration, folder.
program netcdf_openmp
    use, intrinsic :: iso_fortran_env, only: int64, real64
    use mpi
    use netcdf
    use omp_lib, only: omp_get_max_threads, omp_set_num_threads
    use ai4land_coupler
    use check_host
    implicit none
    type(ai4land_component) :: component
    integer :: ierr, rank, ranks, file, var, dims(3), year, k
    character(len=1024) :: config, folder
    character(len=8) :: number
    integer, allocatable :: rows(:)
    integer(int64), allocatable :: cell_id(:, :)
    real(real64), allocatable :: lon(:, :, :), lat(:, :, :), land(:, :), got(:, :)

    call MPI_Init(ierr)
    call MPI_Comm_rank(MPI_COMM_WORLD, rank, ierr)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks, ierr)
    call get_command_argument(1, config)
    call get_command_argument(2, folder)
    rows = rows_of(rank, ranks)
    allocate (cell_id(nlon, size(rows)), land(nlon, size(rows)), got(nlon, size(rows)))
    allocate (lon(4, nlon, size(rows)), lat(4, nlon, size(rows)))
    call cells(rows, cell_id, lon, lat, land)
    call omp_set_num_threads(2)

    write (number, '(i0)') rank
    call nc(nf90_create(trim(folder) // '/history' // trim(number) // '.nc', ior(nf90_netcdf4, nf90_clobber), file))
    call nc(nf90_def_dim(file, 'lon', nlon, dims(1)))
    call nc(nf90_def_dim(file, 'row', size(rows), dims(2)))
    call nc(nf90_def_dim(file, 'year', nf90_unlimited, dims(3)))
    call nc(nf90_def_var(file, 'forest', nf90_double, dims, var, deflate_level=4, shuffle=.true.))
    call nc(nf90_enddef(file))

    call component%init(config, MPI_COMM_WORLD, ierr)
    call check(ierr == 0, 'init', component)
    call write_year(1, threaded(cell_id, 1999))
    call component%set_grid(cell_id, lon, lat, land, ierr)
    call check(ierr == 0, 'set_grid', component)
    do year = 2000, 2002
        do k = 1, nclass
            call component%put(classes(k), share_of(cell_id, k, year), ierr)
            call check(ierr == 0, 'put', component)
        end do
        call component%step(year, ierr)
        call check(ierr == 0, 'step', component)
        call component%get('host', 'forest', got, ierr)
        call check(maxval(abs(got - threaded(cell_id, year))) < 1e-12_real64, 'columns', component)
        call write_year(year - 1998, got)
    end do
    call component%write_restart(trim(folder) // '/restart.nc', ierr)
    call check(ierr == 0, 'write_restart', component)
    call nc(nf90_sync(file))
    call component%finalize(ierr)
    call check(ierr == 0 .and. omp_get_max_threads() == 2, 'finalize', component)
    call nc(nf90_close(file))
    call MPI_Finalize(ierr)

contains

    !> The forest of a year, made by the host's own threads.
    function threaded(cell_id, year) result(forest)
        integer(int64), intent(in) :: cell_id(:, :)
        integer, intent(in) :: year
        real(real64) :: forest(size(cell_id, 1), size(cell_id, 2))
        integer :: i

        !$omp parallel do
        do i = 1, size(cell_id, 1)
            forest(i, :) = share_of(cell_id(i, :), 1, year)
        end do
        !$omp end parallel do
    end function threaded

    subroutine write_year(record, values)
        integer, intent(in) :: record
        real(real64), intent(in) :: values(:, :)

        call nc(nf90_put_var(file, var, values, start=[1, 1, record], count=[size(values, 1), size(values, 2), 1]))
    end subroutine write_year

    subroutine nc(status)
        integer, intent(in) :: status

        call check(status == nf90_noerr, trim(nf90_strerror(status)), component)
    end subroutine nc
end program netcdf_openmp
