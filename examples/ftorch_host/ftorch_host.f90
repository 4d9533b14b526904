!> What a Fortran model pays for the same U-Net through FTorch, for `ai4land bench --ftorch`.
!>
!>     ftorch_host MODEL CHANNELS CLASSES SIDE REPEATS
!>
!> MODEL is TorchScript, float32. Prints the seconds of each forward pass on one window of SIDE x SIDE cells, in the
!> memory order of torch; one pass before them is not counted. https://github.com/Cambridge-ICCS/FTorch
program ftorch_host
    use, intrinsic :: iso_fortran_env, only: int64, output_unit, real32, real64
    use ftorch, only: torch_delete, torch_kCPU, torch_model, torch_model_forward, torch_model_load, torch_tensor, &
        torch_tensor_from_array
    implicit none

    type(torch_model) :: model
    type(torch_tensor) :: given(1), made(1)
    real(real32), allocatable, target :: input(:, :, :, :), logits(:, :, :, :)
    character(len=4096) :: path
    integer(int64) :: began, ended, rate
    integer :: i, side

    call get_command_argument(1, path)
    side = number(4)
    allocate (input(1, number(2), side, side), logits(1, number(3), side, side))
    call random_number(input)
    call torch_model_load(model, trim(path), torch_kCPU)
    do i = 0, number(5)
        call system_clock(began, rate)
        call torch_tensor_from_array(given(1), input, [4, 3, 2, 1], torch_kCPU)
        call torch_tensor_from_array(made(1), logits, [4, 3, 2, 1], torch_kCPU)
        call torch_model_forward(model, given, made)
        call torch_delete(given)
        call torch_delete(made)
        call system_clock(ended)
        if (i > 0) write (output_unit, '(es16.8)') real(ended - began, real64)/real(rate, real64)
    end do
    call torch_delete(model)

contains

    !> The i-th argument as a number.
    integer function number(i)
        integer, intent(in) :: i
        character(len=32) :: text

        call get_command_argument(i, text)
        read (text, *) number
    end function number

end program ftorch_host
