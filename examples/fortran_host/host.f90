!> A small land model that asks the plugin for fine land use once a model year.
!>
!>     mpirun -n 2 fortran_host host.nml
!>
!> The namelist names the start file, the plugin's configuration and the outputs; examples/prepare_demo.py writes one.
program host
    use, intrinsic :: iso_fortran_env, only: real64
    use mpi
    use ai4land_coupler, only: ai4land_component
    use host_checks, only: check_and_report
    use host_errors, only: stop_model
    use host_grid, only: grid_type, read_grid
    use host_history, only: close_history, history_type, open_history, write_year
    use host_land_use, only: advance, land_use_type, read_land_use
    implicit none

    type(ai4land_component) :: plugin
    type(grid_type) :: grid
    type(land_use_type) :: land
    type(history_type) :: history
    real(real64), allocatable :: columns(:, :)
    character(len=512) :: namelist_file, start = '', config = '', history_file = '', restart = ''
    integer :: first_year = 0, years = 0, year, k, rank, nrank, ierr, unit
    namelist /host_nml/ start, config, history_file, restart, first_year, years

    call MPI_Init(ierr)
    call MPI_Comm_rank(MPI_COMM_WORLD, rank, ierr)
    call MPI_Comm_size(MPI_COMM_WORLD, nrank, ierr)
    call get_command_argument(1, namelist_file)
    open (newunit=unit, file=namelist_file, status='old', action='read', iostat=ierr)
    if (ierr /= 0) call stop_model('cannot open the namelist "'//trim(namelist_file)//'"')
    read (unit, nml=host_nml)
    close (unit)

    call read_grid(trim(start), rank, nrank, grid)
    call read_land_use(trim(start), grid, land)
    allocate (columns, mold=land%fraction)
    call open_history(trim(history_file), MPI_COMM_WORLD, grid, land%class, history)

    ! What a model needs of the plugin is from here ...
    call plugin%init(trim(config), MPI_COMM_WORLD, ierr);                          call check
    call plugin%set_grid(grid%cell_id, grid%lon, grid%lat, grid%land, ierr);       call check
    do year = first_year, first_year + years - 1
        call advance(land, elapsed=year - first_year)
        do k = 1, size(land%class)
            call plugin%put(land%class(k), land%fraction(:, k), ierr);             call check
        end do
        call plugin%step(year, ierr);                                              call check
        do k = 1, size(land%class)
            call plugin%get('host', land%class(k), columns(:, k), ierr);           call check
        end do
        call check_and_report(plugin, grid, land, columns, year, MPI_COMM_WORLD)
        call write_year(history, year, land%fraction, columns)
    end do
    call plugin%write_restart(trim(restart), ierr);                                call check
    call plugin%finalize(ierr);                                                    call check
    ! ... to here.

    call close_history(history)
    call MPI_Finalize(ierr)

contains

    subroutine check
        if (ierr > 0) call stop_model(plugin%last_error())
    end subroutine check

end program host
