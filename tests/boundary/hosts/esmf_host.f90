!> A model in the style of NUOPC: ESMF drives a land component on a subset of its PETs, the component calls the plugin on
!! its own VM's communicator, and ESMF goes on afterwards.
!! Arguments: configuration, file for the columns of rank n (n is appended), who starts MPI ("model" or "esmf"), the
!! library that must have started the plugin's ESMF ("-": none).
module land_component
    use, intrinsic :: iso_fortran_env, only: int64, real64
    use ESMF
    use ai4land_coupler
    use check_host
    implicit none
    private
    public :: set_services, regrid, fail_unless

contains

    subroutine set_services(component, rc)
        type(ESMF_GridComp) :: component
        integer, intent(out) :: rc

        call ESMF_GridCompSetEntryPoint(component, ESMF_METHOD_RUN, userRoutine=run, rc=rc)
    end subroutine set_services

    subroutine run(component, import_state, export_state, clock, rc)
        type(ESMF_GridComp) :: component
        type(ESMF_State) :: import_state, export_state
        type(ESMF_Clock) :: clock
        integer, intent(out) :: rc
        type(ai4land_component) :: land
        type(ESMF_VM) :: vm
        integer :: comm, pet, pets, ierr, k, unit
        integer, allocatable :: rows(:)
        integer(int64), allocatable :: cell_id(:, :)
        real(real64), allocatable :: lon(:, :, :), lat(:, :, :), fraction(:, :), column(:, :)
        character(len=1024) :: config, columns

        call ESMF_GridCompGet(component, vm=vm, rc=rc)
        call ESMF_VMGet(vm, localPet=pet, petCount=pets, mpiCommunicator=comm, rc=rc)
        call fail_unless(rc == ESMF_SUCCESS, 'the component knows its VM')
        call get_command_argument(1, config)
        call get_command_argument(2, columns)
        rows = rows_of(pet, pets)
        allocate (cell_id(nlon, size(rows)), fraction(nlon, size(rows)), column(nlon, size(rows)))
        allocate (lon(4, nlon, size(rows)), lat(4, nlon, size(rows)))
        call cells(rows, cell_id, lon, lat, fraction)
        lon = lon + 3 ! host cells lie across the emulator's

        call land%init(config, comm, ierr)
        call check(ierr == 0, 'init', land)
        call land%set_grid(cell_id, lon, lat, fraction, ierr)
        call check(ierr == 0, 'set_grid', land)
        do k = 1, nclass
            call land%put(classes(k), share_of(cell_id, k, 2000), ierr)
            call check(ierr == 0, 'put', land)
        end do
        call land%step(2000, ierr)
        call check(ierr == 0, 'step', land)
        write (columns, '(a, i0)') trim(columns), pet
        open (newunit=unit, file=columns, access='stream', status='replace')
        do k = 1, nclass
            call land%get('host', classes(k), column, ierr)
            call check(ierr == 0, 'get', land)
            write (unit) column
        end do
        close (unit)
        call land%finalize(ierr)
        call check(ierr == 0, 'finalize', land)
        call ESMF_VMBarrier(vm, rc=rc)
    end subroutine run

    !> The model's own regridding: a constant stays what it is, with the PETs that this VM has.
    subroutine regrid(pets)
        integer, intent(in) :: pets
        type(ESMF_VM) :: vm
        type(ESMF_Grid) :: grids(2)
        type(ESMF_Field) :: fields(2)
        type(ESMF_RouteHandle) :: route
        real(real64), pointer :: values(:, :)
        integer :: rc, i, found

        call ESMF_VMGetCurrent(vm, rc=rc)
        call ESMF_VMGet(vm, petCount=found, rc=rc)
        call fail_unless(rc == ESMF_SUCCESS .and. found == pets, 'the model keeps its PETs')
        do i = 1, 2
            grids(i) = ESMF_GridCreate1PeriDimUfrm(maxIndex=[36*i, 18*i], minCornerCoord=[0._real64, -80._real64], &
                maxCornerCoord=[360._real64, 80._real64], &
                staggerLocList=[ESMF_STAGGERLOC_CENTER, ESMF_STAGGERLOC_CORNER], rc=rc)
            call fail_unless(rc == ESMF_SUCCESS, 'the model makes grids')
            fields(i) = ESMF_FieldCreate(grids(i), typekind=ESMF_TYPEKIND_R8, rc=rc)
            call ESMF_FieldGet(fields(i), farrayPtr=values, rc=rc)
            values = 3*(2 - i)
        end do
        call ESMF_FieldRegridStore(fields(1), fields(2), routehandle=route, regridmethod=ESMF_REGRIDMETHOD_CONSERVE, &
            normType=ESMF_NORMTYPE_FRACAREA, unmappedaction=ESMF_UNMAPPEDACTION_IGNORE, rc=rc)
        call fail_unless(rc == ESMF_SUCCESS, 'the model makes weights')
        call ESMF_FieldRegrid(fields(1), fields(2), route, rc=rc)
        call fail_unless(rc == ESMF_SUCCESS .and. all(abs(values - 3) < 1e-12_real64), 'the model regrids')
    end subroutine regrid

    subroutine fail_unless(condition, what)
        use, intrinsic :: iso_fortran_env, only: error_unit
        logical, intent(in) :: condition
        character(len=*), intent(in) :: what

        if (condition) return
        write (error_unit, '(2a)') 'failed: ', what
        stop 1
    end subroutine fail_unless
end module land_component

program esmf_host
    use mpi
    use ESMF
    use land_component
    implicit none
    type(ESMF_GridComp) :: component
    type(ESMF_VM) :: vm
    integer :: rc, user_rc, ierr, pets, i
    logical :: running
    character(len=64) :: starter, library

    call get_command_argument(3, starter)
    call get_command_argument(4, library)
    if (starter == 'model') call MPI_Init(ierr)
    call ESMF_Initialize(logKindFlag=ESMF_LOGKIND_NONE, vm=vm, rc=rc)
    call ESMF_VMGet(vm, petCount=pets, rc=rc)
    call fail_unless(rc == ESMF_SUCCESS, 'ESMF starts')
    call regrid(pets)

    component = ESMF_GridCompCreate(name='land', petList=[(i, i=1, pets - 1)], rc=rc)
    call ESMF_GridCompSetServices(component, userRoutine=set_services, userRc=user_rc, rc=rc)
    call fail_unless(rc == ESMF_SUCCESS .and. user_rc == ESMF_SUCCESS, 'the component is made')
    call ESMF_GridCompRun(component, userRc=user_rc, rc=rc)
    call fail_unless(rc == ESMF_SUCCESS .and. user_rc == ESMF_SUCCESS, 'the component runs')
    if (library /= '-' .and. ESMF_GridCompIsPetLocal(component)) call fail_unless(mapped(library), 'ESMF of the plugin')
    call ESMF_GridCompDestroy(component, rc=rc)

    call regrid(pets)
    call ESMF_VMBarrier(vm, rc=rc)
    call fail_unless(rc == ESMF_SUCCESS, 'ESMF lives on')
    if (starter == 'model') then
        call ESMF_Finalize(endflag=ESMF_END_KEEPMPI, rc=rc)
        call MPI_Finalized(running, ierr)
        running = .not. running
        call fail_unless(rc == ESMF_SUCCESS .and. running, 'MPI is the model''s to finalise')
        call MPI_Barrier(MPI_COMM_WORLD, ierr)
        call MPI_Finalize(ierr)
        call fail_unless(ierr == MPI_SUCCESS, 'MPI ends')
    else
        call ESMF_Finalize(rc=rc)
        call fail_unless(rc == ESMF_SUCCESS, 'ESMF and MPI end')
    end if

contains

    !> Whether a library is part of this process.
    logical function mapped(name)
        character(len=*), intent(in) :: name
        character(len=1024) :: line
        integer :: unit, status

        mapped = .false.
        open (newunit=unit, file='/proc/self/maps', action='read')
        do
            read (unit, '(a)', iostat=status) line
            if (status /= 0) exit
            mapped = mapped .or. index(line, trim(name)) > 0
        end do
        close (unit)
    end function mapped
end program esmf_host
