!> What the Fortran hosts of the tests share: the coarse grid of tests/small_emulator.py in two dimensions, rows dealt to
!! ranks in turn, and an asymmetric state.
module check_host
    use, intrinsic :: iso_fortran_env, only: error_unit, int64, real64
    use ai4land_coupler
    implicit none

    integer, parameter :: nlat = 16, nlon = 32, nclass = 4
    character(len=12), parameter :: classes(nclass) = [character(len=12) :: 'forest', 'grassland', 'cropland', 'barren']

contains

    !> Rows of this rank.
    function rows_of(rank, size) result(rows)
        integer, intent(in) :: rank, size
        integer, allocatable :: rows(:)
        integer :: j

        rows = [(j, j=rank + 1, nlat, size)]
    end function rows_of

    subroutine cells(rows, cell_id, lon, lat, land)
        integer, intent(in) :: rows(:)
        integer(int64), intent(out) :: cell_id(:, :)
        real(real64), intent(out) :: lon(:, :, :), lat(:, :, :), land(:, :)
        real(real64), parameter :: d = 180.0_real64/nlat
        integer :: i, j

        do j = 1, size(rows)
            do i = 1, nlon
                cell_id(i, j) = 10*((rows(j) - 1)*nlon + i)
                lon(:, i, j) = -180 + d*[i - 1, i, i, i - 1]
                lat(:, i, j) = -90 + d*[rows(j) - 1, rows(j) - 1, rows(j), rows(j)]
                land(i, j) = 0.125_real64*(1 + modulo(3*i + rows(j), 8))
            end do
        end do
    end subroutine cells

    !> Fraction of class k: none like its neighbour's, sums to 1.
    elemental function share_of(cell_id, k, year) result(share)
        integer(int64), intent(in) :: cell_id
        integer, intent(in) :: k, year
        real(real64) :: share, weight(nclass)
        integer :: m

        do m = 1, nclass
            weight(m) = 1 + modulo(cell_id*(m + 2)/10 + 5*m*m + year, 13_int64)
        end do
        share = weight(k)/sum(weight)
    end function share_of

    subroutine check(condition, what, land)
        logical, intent(in) :: condition
        character(len=*), intent(in) :: what
        type(ai4land_component), intent(in) :: land

        if (condition) return
        write (error_unit, '(4a)') 'failed: ', what, ': ', land%last_error()
        stop 1
    end subroutine check
end module check_host
