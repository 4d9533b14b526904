/* A host that is particular about its process: everything it set is as it was after every hook.
   argv: configuration, folder, how close host columns are to the state put (1e-12). */

#define _GNU_SOURCE
#include "check.h"

#include <fenv.h>
#include <locale.h>
#include <omp.h>
#include <signal.h>
#include <unistd.h>

enum { TRAPS = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW, THREADS = 3 };

typedef struct {
    struct sigaction action[NSIG];
    char folder[4096], locale[256];
    MPI_Errhandler on_world, on_self;
    unsigned long environment;
} process;

static void on_terminate(int number) { (void)number; }

/* Whatever the order of the variables. */
static unsigned long sum_of_environment(void)
{
    unsigned long sum = 0;
    for (char **entry = environ; *entry; entry++) {
        unsigned long hash = 5381;
        for (const char *c = *entry; *c; c++) hash = 33 * hash + (unsigned char)*c;
        sum += hash;
    }
    return sum;
}

static process look(void)
{
    static process p;
    memset(&p, 0, sizeof p);
    for (int number = 1; number < NSIG; number++) sigaction(number, NULL, &p.action[number]);
    if (!getcwd(p.folder, sizeof p.folder)) exit(2);
    snprintf(p.locale, sizeof p.locale, "%s", setlocale(LC_ALL, NULL));
    p.environment = sum_of_environment();
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &p.on_world);
    MPI_Comm_get_errhandler(MPI_COMM_SELF, &p.on_self);
    return p;
}

static void check_unchanged(int handle, const process *before)
{
    CHECK(fegetexcept() == TRAPS);
    CHECK(fegetround() == FE_UPWARD);
    CHECK(omp_get_max_threads() == THREADS);
    process now = look();
    for (int number = 1; number < NSIG; number++)
        CHECK(memcmp(&now.action[number].sa_handler, &before->action[number].sa_handler, sizeof(void *)) == 0);
    CHECK(strcmp(now.folder, before->folder) == 0);
    CHECK(strcmp(now.locale, before->locale) == 0);
    CHECK(now.environment == before->environment);
    CHECK(now.on_world == before->on_world && now.on_self == before->on_self);
}

#define HOOK(call)                        \
    do {                                  \
        CHECK((call) == 0);               \
        check_unchanged(handle, &before); \
    } while (0)

int main(int argc, char **argv)
{
    int handle = 0, rank, size, sum = 0, one = 1;
    double got[NLAT * NLON], close = argc > 3 ? atof(argv[3]) : 1e-12;
    char restart[2048];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    snprintf(restart, sizeof restart, "%s/restart.nc", argv[2]);
    cells c = deal(rank, size);

    signal(SIGTERM, on_terminate);
    signal(SIGUSR1, SIG_IGN);
    omp_set_num_threads(THREADS);
    feenableexcept(TRAPS);
    fesetround(FE_UPWARD);
    process before = look();
    CHECK(before.action[SIGINT].sa_handler == SIG_DFL);

    HOOK(ai4land_init(argv[1], MPI_Comm_c2f(MPI_COMM_WORLD), &handle));
    HOOK(ai4land_set_grid(handle, c.n, 4, c.id, &c.lon[0][0], &c.lat[0][0], c.land));
    HOOK(put_state(handle, &c, 2000));
    HOOK(ai4land_step(handle, 2000));
    HOOK(ai4land_get(handle, "host", "forest", c.n, got));
    for (int64_t i = 0; i < c.n; i++) CHECK(fabs(got[i] - fraction(c.id[i], 0, 2000)) < close);
    CHECK(ai4land_step(handle, 1990) == AI4LAND_TIME_ORDER || ai4land_step(handle, 1990) == AI4LAND_BAD_INPUT);
    check_unchanged(handle, &before);
    HOOK(ai4land_write_restart(handle, restart));
    HOOK(ai4land_read_restart(handle, restart));
    HOOK(ai4land_finalize(handle));
    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD); /* MPI is still the host's */
    CHECK(sum == size);
    MPI_Finalize();
    return 0;
}
