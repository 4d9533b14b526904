!> The host's land use: the real state of 2019, changed each year as LUMIP's deforest-glob prescribes
!> (Lawrence et al. 2016, doi 10.5194/gmd-9-2973-2016): forest becomes grassland at a constant rate.
module host_land_use
    use, intrinsic :: iso_fortran_env, only: real64
    use netcdf
    use host_errors, only: check_netcdf, stop_model
    use host_grid, only: grid_type
    implicit none
    private
    public :: land_use_type, read_land_use, advance

    type :: land_use_type
        character(len=32), allocatable :: class(:)        !! names in the plugin's legend
        real(real64), allocatable :: start(:, :)          !! (ncell, nclass) fractions of land when the run starts
        real(real64), allocatable :: forest_loss(:)       !! (ncell) fraction of land that turns from forest to grass a year
        real(real64), allocatable :: fraction(:, :)       !! (ncell, nclass) now
        integer :: forest = 0, grass = 0                  !! their places in `class`
    end type land_use_type

contains

    subroutine read_land_use(path, grid, land)
        character(len=*), intent(in) :: path
        type(grid_type), intent(in) :: grid
        type(land_use_type), intent(out) :: land
        integer :: file, id, dim, nclass, ncell, first, k

        call check_netcdf(nf90_open(path, nf90_nowrite, file), path)
        call check_netcdf(nf90_inq_dimid(file, 'class', dim), 'class')
        call check_netcdf(nf90_inquire_dimension(file, dim, len=nclass), 'class')
        ncell = size(grid%cell_id)
        first = (grid%first_row - 1)*grid%nlon + 1
        allocate (land%class(nclass), land%start(ncell, nclass), land%forest_loss(ncell))
        call check_netcdf(nf90_inq_varid(file, 'class_name', id), 'class_name')
        call check_netcdf(nf90_get_var(file, id, land%class), 'class_name')
        if (ncell > 0) then
            call check_netcdf(nf90_inq_varid(file, 'state', id), 'state')
            call check_netcdf(nf90_get_var(file, id, land%start, [first, 1], [ncell, nclass]), 'state')
            call check_netcdf(nf90_inq_varid(file, 'forest_loss', id), 'forest_loss')
            call check_netcdf(nf90_get_var(file, id, land%forest_loss, [first], [ncell]), 'forest_loss')
        end if
        call check_netcdf(nf90_close(file), path)
        do k = 1, nclass
            if (land%class(k) == 'forest') land%forest = k
            if (land%class(k) == 'grassland') land%grass = k
        end do
        if (land%forest == 0 .or. land%grass == 0) call stop_model(path//': no class forest or grassland')
        land%fraction = land%start
    end subroutine read_land_use

    !> The state after `elapsed` years, valid at the start of the next one.
    subroutine advance(land, elapsed)
        type(land_use_type), intent(inout) :: land
        integer, intent(in) :: elapsed
        real(real64) :: lost
        integer :: cell

        !$omp parallel do private(lost)
        do cell = 1, size(land%forest_loss)
            lost = min(elapsed*land%forest_loss(cell), land%start(cell, land%forest))
            land%fraction(cell, land%forest) = land%start(cell, land%forest) - lost
            land%fraction(cell, land%grass) = land%start(cell, land%grass) + lost
        end do
    end subroutine advance

end module host_land_use
