!> What a careful host does with the plugin's answer: look at it on its own terms.
module host_checks
    use, intrinsic :: iso_fortran_env, only: int64, output_unit, real64
    use mpi
    use ai4land_coupler, only: ai4land_component
    use host_errors, only: stop_model
    use host_grid, only: cell_area, grid_type
    use host_land_use, only: land_use_type
    implicit none
    private
    public :: check_and_report

    real(real64), parameter :: column_limit = 1e-13_real64     !! beyond it CTSM, for one, aborts
    real(real64), parameter :: cell_limit = 1e-14_real64       !! of a fine cell, about 1e-15 for each class
    real(real64), parameter :: million_km2 = 1e12_real64       !! m2

contains

    !> Check the year served and every sum, compare areas, print one line from rank 0.
    subroutine check_and_report(plugin, grid, land, columns, year, comm)
        type(ai4land_component), intent(inout) :: plugin
        type(grid_type), intent(in) :: grid
        type(land_use_type), intent(in) :: land
        real(real64), intent(in) :: columns(:, :)              !! (ncell, nclass) from get('host', ...)
        integer, intent(in) :: year, comm
        real(real64), allocatable :: fine(:), area(:), total(:)
        real(real64) :: host_area(size(grid%cell_id)), served(1), mine(4), all(4), error_mine(2), error(2)
        integer :: ierr, rank, k
        integer(int64) :: n

        call plugin%get('fine', 'year', served, ierr)
        if (ierr /= 0) call stop_model(plugin%last_error())
        if (nint(served(1)) /= year) call stop_model('the plugin serves another year than the one of this step')

        n = plugin%size('fine')
        allocate (fine(n), area(n), total(n))
        host_area = cell_area(grid)*grid%land
        call plugin%get('fine', 'area', area, ierr)
        if (ierr /= 0) call stop_model(plugin%last_error())
        total = 0
        mine = 0
        do k = 1, size(land%class)
            call plugin%get('fine', trim(land%class(k)), fine, ierr)
            if (ierr /= 0) call stop_model(plugin%last_error())
            if (any(.not. (fine >= 0 .and. fine <= 1))) call stop_model('a fine fraction is not in 0..1: '//land%class(k))
            total = total + fine
            if (k == land%forest) mine(1:2) = [sum(host_area*land%fraction(:, k)), sum(area*fine)]
            if (k == land%grass) mine(3:4) = [sum(host_area*land%fraction(:, k)), sum(area*fine)]
        end do
        error_mine = [maxval([0.0_real64, abs(total - 1)]), &
                      maxval([0.0_real64, pack(abs(sum(columns, dim=2) - 1), grid%land > 0)])]
        call MPI_Allreduce(mine, all, 4, MPI_DOUBLE_PRECISION, MPI_SUM, comm, ierr)
        call MPI_Allreduce(error_mine, error, 2, MPI_DOUBLE_PRECISION, MPI_MAX, comm, ierr)
        if (error(1) > cell_limit) call stop_model('the classes of a fine cell do not sum to 1')
        if (error(2) > column_limit) call stop_model('the classes of a host column do not sum to 1 within 1e-13')

        call MPI_Comm_rank(comm, rank, ierr)
        if (rank == 0) then
            write (output_unit, '(a, i0, 2(a, f7.3, a, f7.3), 2(a, es7.1), a)') &
                'host ', year, ': forest ', all(1)/million_km2, ' -> fine ', all(2)/million_km2, &
                ', grassland ', all(3)/million_km2, ' -> fine ', all(4)/million_km2, &
                ' million km2; sums off 1 by ', error(1), ' (fine), ', error(2), ' (columns)'
            flush (output_unit)
        end if
    end subroutine check_and_report

end module host_checks
