! Starts ESMF on a communicator of the caller's choice, which ESMF's own C interface cannot.

!> Start ESMF without log files; 0, or ESMF's error code.
integer(c_int) function ai4land_esmf_start(comm) bind(C) result(status)
    use, intrinsic :: iso_c_binding, only: c_int
    use ESMF, only: ESMF_Initialize, ESMF_LOGKIND_NONE, ESMF_SUCCESS
    implicit none
    integer(c_int), intent(in), optional :: comm !< Fortran handle; a null pointer where ESMF has no MPI
    integer :: rc
    call ESMF_Initialize(mpiCommunicator=comm, logKindFlag=ESMF_LOGKIND_NONE, rc=rc)
    status = merge(0, rc, rc == ESMF_SUCCESS)
end function

!> Major, minor and patch number of the ESMF that this was compiled with.
subroutine ai4land_esmf_version(numbers) bind(C)
    use, intrinsic :: iso_c_binding, only: c_int
    use ESMF, only: ESMF_VERSION_MAJOR, ESMF_VERSION_MINOR, ESMF_VERSION_REVISION
    implicit none
    integer(c_int), intent(out) :: numbers(3)
    numbers = [ESMF_VERSION_MAJOR, ESMF_VERSION_MINOR, ESMF_VERSION_REVISION]
end subroutine
