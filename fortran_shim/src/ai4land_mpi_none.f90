!> The communicator type where the host's MPI has no mpi_f08: the same component, and nobody to pass one.
module ai4land_mpi
    implicit none
    private

    type, public :: MPI_Comm
        integer :: MPI_VAL
    end type MPI_Comm
end module ai4land_mpi
