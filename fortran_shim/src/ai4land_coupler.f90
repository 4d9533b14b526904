!> A land-use emulator inside a Fortran model. ai4land_coupler.h says what the calls mean.
!!
!!     use ai4land_coupler
!!     type(ai4land_component) :: land
!!     call land%init('ai4land.yaml', comm, ierr)
!!     call land%set_grid(cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
!!     call land%put('forest', forest, ierr)          ! each class of the state, then
!!     call land%step(2020, ierr)
!!     call land%get('host', 'forest', forest, ierr)
!!     call land%finalize(ierr)                       ! before MPI_Finalize
!!
!! ierr is 0 for success, positive for a failure, negative for a warning; land%last_error() is its text.
module ai4land_coupler
    use, intrinsic :: iso_c_binding, only: c_char, c_double, c_int, c_int64_t, c_null_char
    use, intrinsic :: iso_fortran_env, only: int32, int64, real32, real64
    use ai4land_mpi, only: MPI_Comm
    use ai4land_coupler_c
    implicit none
    private

    integer, parameter, public :: AI4LAND_HELD = -1
    integer, parameter, public :: AI4LAND_OK = 0
    integer, parameter, public :: AI4LAND_USAGE = 1
    integer, parameter, public :: AI4LAND_CONFIG = 2
    integer, parameter, public :: AI4LAND_EMULATOR = 3
    integer, parameter, public :: AI4LAND_GRID = 4
    integer, parameter, public :: AI4LAND_BAD_INPUT = 5
    integer, parameter, public :: AI4LAND_TIME_ORDER = 6
    integer, parameter, public :: AI4LAND_REGRID = 7
    integer, parameter, public :: AI4LAND_CONSTRAINT = 8
    integer, parameter, public :: AI4LAND_OUTPUT = 9
    integer, parameter, public :: AI4LAND_RESTART = 10
    integer, parameter, public :: AI4LAND_DEVICE = 11
    integer, parameter, public :: AI4LAND_MPI = 12
    integer, parameter, public :: AI4LAND_PYTHON_START = 13
    integer, parameter, public :: AI4LAND_INTERNAL = 14

    !> One emulator on one communicator. Several may live at once; there is no finalizer, since it could run after
    !! MPI_Finalize. Arrays may have any layout: contiguous real64 ones go without a copy.
    type, public :: ai4land_component
        private
        integer(c_int) :: handle = 0
        logical :: alive = .false.
        character(len=:), allocatable :: refusal
    contains
        generic :: init => init_integer, init_f08
        generic :: set_grid => set_grid_i4r4, set_grid_i4r8, set_grid_i8r4, set_grid_i8r8, &
            set_grid_2d_i4r4, set_grid_2d_i4r8, set_grid_2d_i8r4, set_grid_2d_i8r8
        generic :: put => put_r4, put_r8, put_2d_r4, put_2d_r8
        generic :: get => get_r4, get_r8, get_2d_r4, get_2d_r8
        procedure :: step => component_step
        procedure :: size => component_size
        procedure :: write_restart => component_write_restart
        procedure :: read_restart => component_read_restart
        procedure :: finalize => component_finalize
        procedure :: last_error => component_last_error
        procedure, private :: init_integer, init_f08
        procedure, private :: set_grid_i4r4, set_grid_i4r8, set_grid_i8r4, set_grid_i8r8
        procedure, private :: set_grid_2d_i4r4, set_grid_2d_i4r8, set_grid_2d_i8r4, set_grid_2d_i8r8
        procedure, private :: put_r4, put_r8, put_2d_r4, put_2d_r8
        procedure, private :: get_r4, get_r8, get_2d_r4, get_2d_r8
    end type ai4land_component

contains

    !> Starts the component on a communicator of `use mpi`. Collective.
    subroutine init_integer(self, config, comm, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: config
        integer, intent(in) :: comm
        integer, intent(out) :: ierr

        if (self%alive) then
            self%refusal = 'init: this component is already started; finalize it first or use another variable'
            ierr = AI4LAND_USAGE
            return
        end if
        call forget(self)
        ierr = int(ai4land_init(c_string(config), int(comm, c_int), self%handle))
        self%alive = ierr <= 0
    end subroutine init_integer

    !> Starts the component on a communicator of `use mpi_f08`. Collective.
    subroutine init_f08(self, config, comm, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: config
        type(MPI_Comm), intent(in) :: comm
        integer, intent(out) :: ierr

        call self%init_integer(config, comm%MPI_VAL, ierr)
    end subroutine init_f08

    !> Describes this rank's cells, cell_id(ncell), vertex_lon(nvertex, ncell) and so on; none is normal. Collective.
    subroutine set_grid_i8r8(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int64), intent(in) :: cell_id(:)
        real(real64), intent(in) :: vertex_lon(:, :), vertex_lat(:, :), land_fraction(:)
        integer, intent(out) :: ierr

        call describe(self, shape(cell_id), shape(vertex_lon), shape(vertex_lat), shape(land_fraction), &
            cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
    end subroutine set_grid_i8r8

    subroutine set_grid_i4r8(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int32), intent(in) :: cell_id(:)
        real(real64), intent(in) :: vertex_lon(:, :), vertex_lat(:, :), land_fraction(:)
        integer, intent(out) :: ierr

        call set_grid_i8r8(self, int(cell_id, int64), vertex_lon, vertex_lat, land_fraction, ierr)
    end subroutine set_grid_i4r8

    subroutine set_grid_i8r4(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int64), intent(in) :: cell_id(:)
        real(real32), intent(in) :: vertex_lon(:, :), vertex_lat(:, :), land_fraction(:)
        integer, intent(out) :: ierr

        call set_grid_i8r8(self, cell_id, real(vertex_lon, real64), real(vertex_lat, real64), &
            real(land_fraction, real64), ierr)
    end subroutine set_grid_i8r4

    subroutine set_grid_i4r4(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int32), intent(in) :: cell_id(:)
        real(real32), intent(in) :: vertex_lon(:, :), vertex_lat(:, :), land_fraction(:)
        integer, intent(out) :: ierr

        call set_grid_i8r4(self, int(cell_id, int64), vertex_lon, vertex_lat, land_fraction, ierr)
    end subroutine set_grid_i4r4

    !> The same for cells in two dimensions: cell_id(nx, ny), vertex_lon(nvertex, nx, ny) and so on.
    subroutine set_grid_2d_i8r8(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int64), intent(in) :: cell_id(:, :)
        real(real64), intent(in) :: vertex_lon(:, :, :), vertex_lat(:, :, :), land_fraction(:, :)
        integer, intent(out) :: ierr

        call describe(self, shape(cell_id), shape(vertex_lon), shape(vertex_lat), shape(land_fraction), &
            cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
    end subroutine set_grid_2d_i8r8

    subroutine set_grid_2d_i4r8(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int32), intent(in) :: cell_id(:, :)
        real(real64), intent(in) :: vertex_lon(:, :, :), vertex_lat(:, :, :), land_fraction(:, :)
        integer, intent(out) :: ierr

        call set_grid_2d_i8r8(self, int(cell_id, int64), vertex_lon, vertex_lat, land_fraction, ierr)
    end subroutine set_grid_2d_i4r8

    subroutine set_grid_2d_i8r4(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int64), intent(in) :: cell_id(:, :)
        real(real32), intent(in) :: vertex_lon(:, :, :), vertex_lat(:, :, :), land_fraction(:, :)
        integer, intent(out) :: ierr

        call set_grid_2d_i8r8(self, cell_id, real(vertex_lon, real64), real(vertex_lat, real64), &
            real(land_fraction, real64), ierr)
    end subroutine set_grid_2d_i8r4

    subroutine set_grid_2d_i4r4(self, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer(int32), intent(in) :: cell_id(:, :)
        real(real32), intent(in) :: vertex_lon(:, :, :), vertex_lat(:, :, :), land_fraction(:, :)
        integer, intent(out) :: ierr

        call set_grid_2d_i8r4(self, int(cell_id, int64), vertex_lon, vertex_lat, land_fraction, ierr)
    end subroutine set_grid_2d_i4r4

    !> Checks that the arrays fit and passes them on in memory order. Shapes that do not fit still make the collective
    !! call, as -1 cells, so that every rank hears of it.
    subroutine describe(self, cells, lon, lat, land, cell_id, vertex_lon, vertex_lat, land_fraction, ierr)
        class(ai4land_component), intent(inout) :: self
        integer, intent(in) :: cells(:), lon(:), lat(:), land(:)
        integer(c_int64_t), intent(in) :: cell_id(*)
        real(c_double), intent(in) :: vertex_lon(*), vertex_lat(*), land_fraction(*)
        integer, intent(out) :: ierr
        integer(c_int64_t) :: ncell

        call forget(self)
        ncell = product(int(cells, c_int64_t))
        if (any(lon(2:) /= cells) .or. any(lat /= lon) .or. any(land /= cells)) ncell = -1
        ierr = int(ai4land_set_grid(self%handle, ncell, int(lon(1), c_int), cell_id, vertex_lon, vertex_lat, &
            land_fraction))
        if (ncell < 0) self%refusal = 'set_grid: expected vertex_lon and vertex_lat (nvertex, ncell), land_fraction' // &
            ' (ncell) for cell_id' // listed(cells) // ', got' // listed(lon) // ',' // listed(lat) // ' and' // listed(land)
    end subroutine describe

    !> Gives one class of the state for the next step, in the order of set_grid. Local.
    subroutine put_r8(self, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: name
        real(real64), intent(in) :: values(:)
        integer, intent(out) :: ierr

        call give(self, name, size(values, kind=c_int64_t), values, ierr)
    end subroutine put_r8

    subroutine put_r4(self, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: name
        real(real32), intent(in) :: values(:)
        integer, intent(out) :: ierr

        call give(self, name, size(values, kind=c_int64_t), real(values, real64), ierr)
    end subroutine put_r4

    subroutine put_2d_r8(self, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: name
        real(real64), intent(in) :: values(:, :)
        integer, intent(out) :: ierr

        call give(self, name, size(values, kind=c_int64_t), values, ierr)
    end subroutine put_2d_r8

    subroutine put_2d_r4(self, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: name
        real(real32), intent(in) :: values(:, :)
        integer, intent(out) :: ierr

        call give(self, name, size(values, kind=c_int64_t), real(values, real64), ierr)
    end subroutine put_2d_r4

    subroutine give(self, name, n, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: name
        integer(c_int64_t), intent(in) :: n
        real(c_double), intent(in) :: values(*)
        integer, intent(out) :: ierr

        call forget(self)
        ierr = int(ai4land_put(self%handle, c_string(name), n, values))
    end subroutine give

    !> Makes the fields of a year from the state valid at its start. Collective.
    subroutine component_step(self, year, ierr)
        class(ai4land_component), intent(inout) :: self
        integer, intent(in) :: year
        integer, intent(out) :: ierr

        call forget(self)
        ierr = int(ai4land_step(self%handle, int(year, c_int)))
    end subroutine component_step

    !> Number of this rank's cells on the grid 'fine' or 'host'; -1 where that is an error. Local.
    function component_size(self, grid) result(n)
        class(ai4land_component), intent(in) :: self
        character(len=*), intent(in) :: grid
        integer(int64) :: n

        if (ai4land_size(self%handle, c_string(grid), n) > 0) n = -1
    end function component_size

    !> Copies a field or the geometry of the grid 'fine' or 'host' out; on a failure `values` stays as it was. Local.
    subroutine get_r8(self, grid, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: grid, name
        real(real64), intent(inout) :: values(:)
        integer, intent(out) :: ierr

        call take(self, grid, name, size(values, kind=c_int64_t), values, ierr)
    end subroutine get_r8

    subroutine get_r4(self, grid, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: grid, name
        real(real32), intent(inout) :: values(:)
        integer, intent(out) :: ierr
        real(real64), allocatable :: wide(:)

        allocate (wide(size(values)), stat=ierr)
        if (ierr /= 0) then
            self%refusal = 'get: out of memory'
            ierr = AI4LAND_INTERNAL
            return
        end if
        call take(self, grid, name, size(values, kind=c_int64_t), wide, ierr)
        if (ierr <= 0) values = real(wide, real32)
    end subroutine get_r4

    subroutine get_2d_r8(self, grid, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: grid, name
        real(real64), intent(inout) :: values(:, :)
        integer, intent(out) :: ierr

        call take(self, grid, name, size(values, kind=c_int64_t), values, ierr)
    end subroutine get_2d_r8

    subroutine get_2d_r4(self, grid, name, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: grid, name
        real(real32), intent(inout) :: values(:, :)
        integer, intent(out) :: ierr
        real(real32), allocatable :: flat(:)

        allocate (flat(size(values)), stat=ierr)
        if (ierr /= 0) then
            self%refusal = 'get: out of memory'
            ierr = AI4LAND_INTERNAL
            return
        end if
        call get_r4(self, grid, name, flat, ierr)
        if (ierr <= 0) values = reshape(flat, shape(values))
    end subroutine get_2d_r4

    subroutine take(self, grid, name, n, values, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: grid, name
        integer(c_int64_t), intent(in) :: n
        real(c_double), intent(inout) :: values(*)
        integer, intent(out) :: ierr

        call forget(self)
        ierr = int(ai4land_get(self%handle, c_string(grid), c_string(name), n, values))
    end subroutine take

    !> Writes the state of the run to exactly `path`. Collective.
    subroutine component_write_restart(self, path, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: path
        integer, intent(out) :: ierr

        call forget(self)
        ierr = int(ai4land_write_restart(self%handle, c_string(path)))
    end subroutine component_write_restart

    !> Takes a run up again, after set_grid. Collective.
    subroutine component_read_restart(self, path, ierr)
        class(ai4land_component), intent(inout) :: self
        character(len=*), intent(in) :: path
        integer, intent(out) :: ierr

        call forget(self)
        ierr = int(ai4land_read_restart(self%handle, c_string(path)))
    end subroutine component_read_restart

    !> Ends the component, before MPI_Finalize; one that never started or has ended is left alone. Collective.
    subroutine component_finalize(self, ierr)
        class(ai4land_component), intent(inout) :: self
        integer, intent(out) :: ierr

        call forget(self)
        ierr = int(ai4land_finalize(self%handle))
        self%alive = .false.
    end subroutine component_finalize

    !> Text of the last failure or warning, of any length; '' where there was none.
    function component_last_error(self) result(text)
        class(ai4land_component), intent(in) :: self
        character(len=:), allocatable :: text
        character(kind=c_char), allocatable :: buffer(:)
        integer(c_int) :: status
        integer :: i, length

        if (allocated(self%refusal)) then
            text = self%refusal
            return
        end if
        length = 4096
        do
            allocate (buffer(length))
            status = ai4land_last_error(self%handle, buffer, int(length, c_int64_t))
            i = findloc_null(buffer)
            if (i < length - 4) exit ! the library cuts at a whole character of up to 4 bytes
            deallocate (buffer)
            length = 4*length
        end do
        allocate (character(len=i - 1) :: text)
        text = transfer(buffer(:i - 1), text)
    end function component_last_error

    !> Position of the NUL that ends a C string.
    pure function findloc_null(buffer) result(i)
        character(kind=c_char), intent(in) :: buffer(:)
        integer :: i

        do i = 1, size(buffer)
            if (buffer(i) == c_null_char) return
        end do
    end function findloc_null

    !> Without trailing blanks, ended by NUL.
    pure function c_string(text) result(string)
        character(len=*), intent(in) :: text
        character(len=:, kind=c_char), allocatable :: string

        string = trim(text) // c_null_char
    end function c_string

    !> A shape as ' (3, 4)'.
    pure function listed(extents) result(text)
        integer, intent(in) :: extents(:)
        character(len=:), allocatable :: text
        character(len=12) :: number
        integer :: i

        text = ' ('
        do i = 1, size(extents)
            write (number, '(i0)') extents(i)
            if (i > 1) text = text // ', '
            text = text // trim(number)
        end do
        text = text // ')'
    end function listed

    subroutine forget(self)
        class(ai4land_component), intent(inout) :: self

        if (allocated(self%refusal)) deallocate (self%refusal)
    end subroutine forget
end module ai4land_coupler
