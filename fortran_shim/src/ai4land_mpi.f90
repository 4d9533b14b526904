!> The communicator type of the host's MPI.
module ai4land_mpi
    use mpi_f08, only: MPI_Comm
    implicit none
    private
    public :: MPI_Comm
end module ai4land_mpi
