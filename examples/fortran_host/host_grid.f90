!> The host's grid: T63 cells read from its start file and dealt to the ranks in bands of latitude.
module host_grid
    use, intrinsic :: iso_fortran_env, only: int64, real64
    use netcdf
    use host_errors, only: check_netcdf
    implicit none
    private
    public :: grid_type, read_grid, cell_area

    real(real64), parameter :: earth_radius = 6371000.0_real64, degree = acos(-1.0_real64)/180

    type :: grid_type
        integer :: nlon = 0, nlat = 0                !! of the whole grid
        integer :: first_row = 1, nrow = 0           !! of this rank's band, from the south; cells run west to east first
        integer(int64), allocatable :: cell_id(:)    !! (ncell), unique over all ranks
        real(real64), allocatable :: lon(:, :)       !! (4, ncell) corners, degrees
        real(real64), allocatable :: lat(:, :)       !! (4, ncell)
        real(real64), allocatable :: land(:)         !! (ncell) land fraction of the cell
    end type grid_type

contains

    !> Read the band of `rank` of `nrank` bands. From three ranks on the last one holds no cell, as happens in models.
    subroutine read_grid(path, rank, nrank, grid)
        character(len=*), intent(in) :: path
        integer, intent(in) :: rank, nrank
        type(grid_type), intent(out) :: grid
        integer :: file, id, ncell, first, bands

        call check_netcdf(nf90_open(path, nf90_nowrite, file), path)
        call check_netcdf(nf90_get_att(file, nf90_global, 'nlon', grid%nlon), path)
        call check_netcdf(nf90_get_att(file, nf90_global, 'nlat', grid%nlat), path)
        bands = merge(nrank, nrank - 1, nrank < 3)
        if (rank < bands) then
            grid%first_row = rank*grid%nlat/bands + 1
            grid%nrow = (rank + 1)*grid%nlat/bands - grid%first_row + 1
        end if
        ncell = grid%nrow*grid%nlon
        first = (grid%first_row - 1)*grid%nlon + 1
        allocate (grid%cell_id(ncell), grid%lon(4, ncell), grid%lat(4, ncell), grid%land(ncell))
        if (ncell > 0) then
            call check_netcdf(nf90_inq_varid(file, 'cell_id', id), 'cell_id')
            call check_netcdf(nf90_get_var(file, id, grid%cell_id, [first], [ncell]), 'cell_id')
            call check_netcdf(nf90_inq_varid(file, 'vertex_lon', id), 'vertex_lon')
            call check_netcdf(nf90_get_var(file, id, grid%lon, [1, first], [4, ncell]), 'vertex_lon')
            call check_netcdf(nf90_inq_varid(file, 'vertex_lat', id), 'vertex_lat')
            call check_netcdf(nf90_get_var(file, id, grid%lat, [1, first], [4, ncell]), 'vertex_lat')
            call check_netcdf(nf90_inq_varid(file, 'land_fraction', id), 'land_fraction')
            call check_netcdf(nf90_get_var(file, id, grid%land, [first], [ncell]), 'land_fraction')
        end if
        call check_netcdf(nf90_close(file), path)
    end subroutine read_grid

    !> Area of every cell in m2: R**2 dlon (sin north - sin south).
    pure function cell_area(grid) result(area)
        type(grid_type), intent(in) :: grid
        real(real64) :: area(size(grid%cell_id))
        area = earth_radius**2*degree*(maxval(grid%lon, dim=1) - minval(grid%lon, dim=1)) &
               *(sin(degree*maxval(grid%lat, dim=1)) - sin(degree*minval(grid%lat, dim=1)))
    end function cell_area

end module host_grid
