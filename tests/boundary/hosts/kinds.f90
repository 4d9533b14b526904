!> Every kind, rank and layout of array, and both kinds of communicator. Arguments: configuration.
program kinds
    use, intrinsic :: iso_fortran_env, only: int32, int64, real32, real64
    use mpi_f08
    use ai4land_coupler
    use check_host
    implicit none
    integer :: ierr, rank, ranks
    character(len=1024) :: config
    integer, allocatable :: rows(:)
    integer(int64), allocatable :: cell_id(:, :)
    real(real64), allocatable :: lon(:, :, :), lat(:, :, :), land(:, :)

    call MPI_Init(ierr)
    call MPI_Comm_rank(MPI_COMM_WORLD, rank)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks)
    call get_command_argument(1, config)
    rows = rows_of(rank, ranks)
    allocate (cell_id(nlon, size(rows)), land(nlon, size(rows)))
    allocate (lon(4, nlon, size(rows)), lat(4, nlon, size(rows)))
    call cells(rows, cell_id, lon, lat, land)

    call in_two_dimensions_i8r8()
    call in_two_dimensions_i4r4()
    call in_one_dimension_i4r8()
    call in_one_dimension_i8r4()
    call with_gaps()
    call refusals()
    call MPI_Finalize(ierr)

contains

    subroutine in_two_dimensions_i8r8()
        type(ai4land_component) :: component
        real(real64), allocatable :: got(:, :)
        integer :: k

        call component%init(config, MPI_COMM_WORLD, ierr) ! type(MPI_Comm), trailing blanks
        call check(ierr == AI4LAND_OK, 'init', component)
        call component%set_grid(cell_id, lon, lat, land, ierr)
        call check(ierr == 0, 'set_grid', component)
        do k = 1, nclass
            call component%put(classes(k), share_of(cell_id, k, 2000), ierr) ! an expression, a padded name
            call check(ierr == 0, 'put', component)
        end do
        call component%step(2000, ierr)
        call check(ierr == 0, 'step', component)
        allocate (got, mold=land)
        do k = 1, nclass
            call component%get('host  ', classes(k), got, ierr)
            call check(ierr == 0, 'get', component)
            call check(all(abs(got - share_of(cell_id, k, 2000)) < 1e-12_real64), 'columns', component)
        end do
        call component%get('host', 'cell_id', got, ierr)
        call check(all(got == real(cell_id, real64)), 'ids in memory order', component)
        call component%finalize(ierr)
        call check(ierr == 0, 'finalize', component)
    end subroutine in_two_dimensions_i8r8

    subroutine in_two_dimensions_i4r4()
        type(ai4land_component) :: component
        real(real32), allocatable :: got(:, :)
        integer :: k

        call component%init(trim(config), MPI_COMM_WORLD%MPI_VAL, ierr) ! the integer of use mpi
        call check(ierr == 0, 'init', component)
        call component%set_grid(int(cell_id, int32), real(lon, real32), real(lat, real32), real(land, real32), ierr)
        call check(ierr == 0, 'set_grid', component)
        do k = 1, nclass
            call component%put(classes(k), real(share_of(cell_id, k, 2001), real32), ierr)
            call check(ierr == 0, 'put', component)
        end do
        call component%step(2001, ierr)
        call check(ierr == 0, 'step', component)
        allocate (got(nlon, size(rows)))
        do k = 1, nclass
            call component%get('host', classes(k), got, ierr)
            call check(ierr == 0, 'get', component)
            call check(all(abs(got - share_of(cell_id, k, 2001)) < 4*epsilon(1.0_real32)), 'columns', component)
        end do
        call component%finalize(ierr)
    end subroutine in_two_dimensions_i4r4

    subroutine in_one_dimension_i4r8()
        type(ai4land_component) :: component
        real(real64), allocatable :: got(:), fine(:)
        real(real64) :: year(1)
        integer :: k, n

        n = size(cell_id)
        call component%init(config, MPI_COMM_WORLD, ierr)
        call component%set_grid(reshape(int(cell_id, int32), [n]), reshape(lon, [4, n]), reshape(lat, [4, n]), &
            reshape(land, [n]), ierr)
        call check(ierr == 0, 'set_grid', component)
        call check(component%size('host') == n, 'size of host', component)
        do k = 1, nclass
            call component%put(classes(k), reshape(share_of(cell_id, k, 2002), [n]), ierr)
        end do
        call component%step(2002, ierr)
        call check(ierr == 0, 'step', component)
        allocate (got(n), fine(component%size('fine')))
        call component%get('host', 'cropland', got, ierr)
        call check(all(abs(got - reshape(share_of(cell_id, 3, 2002), [n])) < 1e-12_real64), 'columns', component)
        call component%get('fine', 'class', fine, ierr)
        call check(ierr == 0 .and. all(fine >= 1 .and. fine <= nclass), 'classes', component)
        call component%get('fine', 'year', year, ierr)
        call check(ierr == 0 .and. year(1) == 2002, 'year', component) ! exact
        call component%finalize(ierr)
    end subroutine in_one_dimension_i4r8

    subroutine in_one_dimension_i8r4()
        type(ai4land_component) :: component
        real(real32), allocatable :: got(:)
        integer :: n

        n = size(cell_id)
        call component%init(config, MPI_COMM_WORLD, ierr)
        call component%set_grid(reshape(cell_id, [n]), reshape(real(lon, real32), [4, n]), &
            reshape(real(lat, real32), [4, n]), reshape(real(land, real32), [n]), ierr)
        call check(ierr == 0, 'set_grid', component)
        call component%put('forest', reshape(real(land, real32), [n]), ierr)
        call check(ierr == 0, 'put', component)
        allocate (got(n))
        call component%get('host', 'lon', got, ierr)
        call check(ierr == 0 .and. all(abs(got - reshape(sum(lon, 1)/4, [n])) < 1e-4), 'lon', component)
        call component%finalize(ierr)
    end subroutine in_one_dimension_i8r4

    !> Blocked and strided arrays as models have them: halo columns, the corners last in memory, a slice of a big field.
    subroutine with_gaps()
        type(ai4land_component) :: component
        integer(int64) :: wide_id(0:nlon + 1, size(rows))
        real(real64) :: corners(nlon, size(rows), 4, 2), state(2, nclass, nlon, size(rows)), got(3, nlon, size(rows))
        integer :: k

        wide_id = -1
        wide_id(1:nlon, :) = cell_id
        state = -99
        do k = 1, 4
            corners(:, :, k, 1) = lon(k, :, :)
            corners(:, :, k, 2) = lat(k, :, :)
            state(2, k, :, :) = share_of(cell_id, k, 2003)
        end do
        call component%init(config, MPI_COMM_WORLD, ierr)
        call component%set_grid(wide_id(1:nlon, :), turned(corners(:, :, :, 1)), turned(corners(:, :, :, 2)), land, ierr)
        call check(ierr == 0, 'set_grid', component)
        do k = 1, nclass
            call component%put(classes(k), state(2, k, :, :), ierr)
            call check(ierr == 0, 'put', component)
        end do
        call component%step(2003, ierr)
        call check(ierr == 0, 'step', component)
        got = -99
        call component%get('host', 'barren', got(2, :, :), ierr)
        call check(all(abs(got(2, :, :) - state(2, 4, :, :)) < 1e-12_real64), 'columns', component)
        call check(all(got([1, 3], :, :) == -99), 'nothing beside the slice is touched', component) ! exact
        call component%get('host', 'nothing', got(2, :, :), ierr)
        call check(all(abs(got(2, :, :) - state(2, 4, :, :)) < 1e-12_real64), 'values stay on failure', component)
        call component%finalize(ierr)
    end subroutine with_gaps

    pure function turned(corners) result(first)
        real(real64), intent(in) :: corners(:, :, :)
        real(real64) :: first(size(corners, 3), size(corners, 1), size(corners, 2))
        integer :: k

        do k = 1, size(corners, 3)
            first(k, :, :) = corners(:, :, k)
        end do
    end function turned

    subroutine refusals()
        type(ai4land_component) :: component
        real(real64) :: values(1)

        call check(component%last_error() == '', 'no error yet', component)
        call component%put('forest', values, ierr)
        call check(ierr == AI4LAND_USAGE .and. index(component%last_error(), 'unknown') > 0, 'before init', component)
        call component%finalize(ierr)
        call check(ierr == 0, 'finalize before init', component)
        call component%init('/nowhere.yaml', MPI_COMM_WORLD, ierr)
        call check(ierr == AI4LAND_CONFIG .and. index(component%last_error(), '/nowhere.yaml') > 0, 'config', component)
        call component%init(config, MPI_COMM_WORLD, ierr)
        call check(ierr == 0, 'init after a failed one', component)
        call component%init(config, MPI_COMM_WORLD, ierr)
        call check(ierr == AI4LAND_USAGE .and. index(component%last_error(), 'already') > 0, 'twice', component)
        call check(component%size('host') == -1, 'size before set_grid', component)
        if (rank == ranks - 1) then ! shapes that do not fit, on one rank alone
            call component%set_grid(cell_id, lon, lat, land(2:, :), ierr)
            call check(index(component%last_error(), '(31, ') > 0, 'shapes named', component)
        else
            call component%set_grid(cell_id, lon, lat, land, ierr)
        end if
        call check(ierr == AI4LAND_USAGE, 'shapes', component)
        call component%set_grid(cell_id, lon, lat, land, ierr)
        call check(ierr == 0, 'set_grid after a failed one', component)
        call component%finalize(ierr)
        call component%step(2000, ierr)
        call check(ierr == AI4LAND_USAGE .and. index(component%last_error(), 'finalized') > 0, 'end', component)
        call component%init(config, MPI_COMM_WORLD, ierr)
        call check(ierr == 0, 'the same variable again', component)
        call component%finalize(ierr)
    end subroutine refusals
end program kinds
