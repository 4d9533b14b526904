!> The Fortran model of `ai4land bench`: does what it is told on standard input and answers in seconds.
!>
!>     open CONFIG GRID    init and set_grid with the cells of GRID       -> seconds of each
!>     step YEAR           put of all classes, step, get of all columns   -> seconds of each
!>     hooks N OUT         times put, get and size call by call, and memcpy of the same size in turn
!>     peak                -> largest resident memory of a rank, bytes
!>     close               finalize
!>     quit
!>
!> GRID is what ai4land_coupler/bench/hostfile.py writes. Times are those of the slowest rank. A rank that waits sleeps,
!> so that whatever is measured in the meantime has the cores to itself.
program bench_host
    use, intrinsic :: iso_c_binding, only: c_int, c_ptr, c_size_t, c_loc
    use, intrinsic :: iso_fortran_env, only: error_unit, input_unit, int64, output_unit, real64
    use mpi
    use ai4land_coupler, only: ai4land_component
    implicit none

    interface
        function usleep(microseconds) bind(C, name='usleep') result(status)
            import :: c_int
            integer(c_int), value :: microseconds
            integer(c_int) :: status
        end function usleep

        function memcpy(to, from, n) bind(C, name='memcpy') result(same)
            import :: c_ptr, c_size_t
            type(c_ptr), value :: to, from
            integer(c_size_t), value :: n
            type(c_ptr) :: same
        end function memcpy
    end interface

    type :: cells_type
        character(len=32), allocatable :: class(:)
        integer(int64), allocatable :: id(:)
        real(real64), allocatable :: lon(:, :), lat(:, :), land(:), state(:, :), columns(:, :)
    end type cells_type

    type(ai4land_component) :: plugin
    type(cells_type) :: cells
    character(len=4096) :: line
    integer :: rank, nrank, ierr, status, year
    logical :: stepped = .false.

    call MPI_Init(ierr)
    call MPI_Comm_rank(MPI_COMM_WORLD, rank, ierr)
    call MPI_Comm_size(MPI_COMM_WORLD, nrank, ierr)
    do
        call next_line(line)
        select case (word(line, 1))
        case ('open')
            call open_component(word(line, 2), word(line, 3))
        case ('step')
            line = word(line, 2)
            read (line, *) year
            call step(year)
        case ('hooks')
            call hooks(line)
        case ('peak')
            call answer([largest_memory()])
        case ('close')
            call plugin%finalize(ierr)
            call check
            stepped = .false.
            call answer([0.0_real64])
        case default
            exit
        end select
    end do
    call plugin%finalize(ierr)
    call MPI_Finalize(ierr)

contains

    !> The next command, on every rank; 'quit' at the end of the input.
    subroutine next_line(text)
        character(len=*), intent(out) :: text
        integer :: i, request
        integer(c_int) :: slept
        logical :: there

        if (rank == 0) then
            read (input_unit, '(a)', iostat=status) text
            if (status /= 0) text = 'quit'
            do i = 1, nrank - 1
                call MPI_Send(text, len(text), MPI_CHARACTER, i, 0, MPI_COMM_WORLD, ierr)
            end do
        else
            call MPI_Irecv(text, len(text), MPI_CHARACTER, 0, 0, MPI_COMM_WORLD, request, ierr)
            do
                call MPI_Test(request, there, MPI_STATUS_IGNORE, ierr)
                if (there) exit
                slept = usleep(2000_c_int)
            end do
        end if
    end subroutine next_line

    !> The i-th word of a line, '' where it has fewer.
    pure function word(text, i) result(found)
        character(len=*), intent(in) :: text
        integer, intent(in) :: i
        character(len=:), allocatable :: found
        integer :: k

        found = trim(adjustl(text))
        do k = 2, i
            found = trim(adjustl(found(index(found//' ', ' '):)))
        end do
        found = found(:index(found//' ', ' ') - 1)
    end function word

    subroutine open_component(config, grid)
        character(len=*), intent(in) :: config, grid
        integer(int64) :: t(3)

        call read_cells(grid)
        call MPI_Barrier(MPI_COMM_WORLD, ierr)
        t(1) = now()
        call plugin%init(config, MPI_COMM_WORLD, ierr)
        call check
        t(2) = now()
        call plugin%set_grid(cells%id, cells%lon, cells%lat, cells%land, ierr)
        call check
        t(3) = now()
        call answer(seconds(t))
    end subroutine open_component

    subroutine step(year)
        integer, intent(in) :: year
        integer(int64) :: t(4)
        integer :: k

        call MPI_Barrier(MPI_COMM_WORLD, ierr)
        t(1) = now()
        do k = 1, size(cells%class)
            call plugin%put(cells%class(k), cells%state(:, k), ierr)
            call check
        end do
        t(2) = now()
        call plugin%step(year, ierr)
        call check
        t(3) = now()
        do k = 1, size(cells%class)
            call plugin%get('host', cells%class(k), cells%columns(:, k), ierr)
            call check
        end do
        t(4) = now()
        stepped = .true.
        call answer(seconds(t))
    end subroutine step

    !> Call by call, in turn: put, memcpy of the same bytes, get and memcpy (after a step), size, and two looks at the
    !> clock. OUT gets them as float64, seconds, six a turn.
    subroutine hooks(command)
        character(len=*), intent(in) :: command
        character(len=:), allocatable :: number
        real(real64), allocatable, target :: from(:), to(:), other(:, :)
        real(real64), allocatable :: took(:, :)
        integer(int64) :: t(7)
        integer(c_size_t) :: bytes
        type(c_ptr) :: same
        integer :: i, n, unit

        number = word(command, 2)
        read (number, *) n
        allocate (from(size(cells%id)), to(size(cells%id)), took(6, n))
        ! memory of its own for each memcpy, last touched as long ago as that of put and get
        allocate (other(size(from), 4))
        from = 1.0_real64/size(cells%class)
        to = 0
        other = 0
        bytes = 8*size(from, kind=c_size_t)
        do i = 1, n
            t(1) = now()
            call plugin%put(cells%class(1), from, ierr)
            t(2) = now()
            if (bytes > 0) same = memcpy(c_loc(other(:, 2)), c_loc(other(:, 1)), bytes)
            t(3) = now()
            if (stepped) call plugin%get('host', cells%class(1), to, ierr)
            t(4) = now()
            if (bytes > 0) same = memcpy(c_loc(other(:, 4)), c_loc(other(:, 3)), bytes)
            t(5) = now()
            year = int(plugin%size('host'))
            t(6) = now()
            t(7) = now()
            took(:, i) = seconds(t)
        end do
        call check
        if (rank == 0) then
            open (newunit=unit, file=word(command, 3), access='stream', form='unformatted', status='replace', action='write')
            write (unit) took
            close (unit)
        end if
        call answer([real(sum(to) + sum(other), real64)])
    end subroutine hooks

    !> Read the cells, and keep those of this rank: a band of them.
    subroutine read_cells(path)
        character(len=*), intent(in) :: path
        real(real64), allocatable :: lon(:, :), lat(:, :), land(:), state(:, :)
        integer(int64), allocatable :: id(:)
        integer(int64) :: n, nvertex, nclass, first, last
        integer :: unit

        open (newunit=unit, file=path, access='stream', form='unformatted', status='old', action='read', iostat=status)
        if (status /= 0) call stop_model('cannot open '//path)
        read (unit) n, nvertex, nclass
        cells = cells_type()
        allocate (cells%class(nclass), id(n), lon(nvertex, n), lat(nvertex, n), land(n), state(n, nclass))
        read (unit) cells%class, id, lon, lat, land, state
        close (unit)
        first = n*rank/nrank + 1
        last = n*(rank + 1)/nrank
        cells%id = id(first:last)
        cells%lon = lon(:, first:last)
        cells%lat = lat(:, first:last)
        cells%land = land(first:last)
        cells%state = state(first:last, :)
        cells%columns = cells%state
    end subroutine read_cells

    !> High-water mark of the resident memory as Linux tells it, of the largest rank, bytes; 0 elsewhere.
    function largest_memory() result(bytes)
        real(real64) :: bytes
        character(len=256) :: entry
        integer(int64) :: kilobytes
        integer :: unit

        bytes = 0
        open (newunit=unit, file='/proc/self/status', status='old', action='read', iostat=status)
        do while (status == 0)
            read (unit, '(a)', iostat=status) entry
            if (status == 0 .and. entry(:6) == 'VmHWM:') then
                read (entry(7:), *) kilobytes
                bytes = 1024.0_real64*kilobytes
            end if
        end do
        close (unit)
    end function largest_memory

    integer(int64) function now()
        call system_clock(now)
    end function now

    !> What lies between successive looks at the clock, seconds.
    function seconds(t) result(between)
        integer(int64), intent(in) :: t(:)
        real(real64) :: between(size(t) - 1)
        integer(int64) :: rate

        call system_clock(count_rate=rate)
        between = real(t(2:) - t(:size(t) - 1), real64)/rate
    end function seconds

    !> Print from rank 0 the largest of each number over the ranks.
    subroutine answer(numbers)
        real(real64), intent(in) :: numbers(:)
        real(real64) :: largest(size(numbers))

        call MPI_Allreduce(numbers, largest, size(numbers), MPI_DOUBLE_PRECISION, MPI_MAX, MPI_COMM_WORLD, ierr)
        if (rank == 0) then
            write (output_unit, '(*(es24.16))') largest
            flush (output_unit)
        end if
    end subroutine answer

    subroutine check
        if (ierr > 0) call stop_model(plugin%last_error())
    end subroutine check

    subroutine stop_model(message)
        character(len=*), intent(in) :: message

        write (error_unit, '(2a)') 'bench_host: ', trim(message)
        flush (error_unit)
        call MPI_Abort(MPI_COMM_WORLD, 1, ierr)
    end subroutine stop_model

end program bench_host
