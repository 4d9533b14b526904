!> How this model ends on errors: one message, then MPI_Abort. The plugin never does that; a host may.
module host_errors
    use, intrinsic :: iso_fortran_env, only: error_unit
    use mpi
    use netcdf, only: nf90_noerr, nf90_strerror
    implicit none
    private
    public :: check_netcdf, stop_model

contains

    subroutine check_netcdf(status, what)
        integer, intent(in) :: status
        character(len=*), intent(in) :: what
        if (status /= nf90_noerr) call stop_model(what//': '//trim(nf90_strerror(status)))
    end subroutine check_netcdf

    subroutine stop_model(message)
        character(len=*), intent(in) :: message
        integer :: ierr
        write (error_unit, '(2a)') 'host: ', trim(message)
        call MPI_Abort(MPI_COMM_WORLD, 1, ierr)
    end subroutine stop_model

end module host_errors
