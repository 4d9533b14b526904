/* A host's own handler in C: it counts, and has system calls end early. */
#include <signal.h>

static volatile sig_atomic_t came;

static void count(int number) { (void)number; came++; }

int install(int number)
{
    struct sigaction action = {.sa_handler = count};
    return sigaction(number, &action, 0);
}

int so_far(void) { return came; }
