/* A host that is particular about its process: everything it set is as it was after every hook, failed ones included.
   argv: configuration, folder, how close host columns are to the state put (1e-12). */

#define _GNU_SOURCE
#include "check.h"

#include <fenv.h>
#include <locale.h>
#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

enum { TRAPS = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW, THREADS = 3, FLUSH = 0x8040, DRAWS = 200, LIMITS = RLIM_NLIMITS };

static MPI_Comm given; /* a communicator of this host, with an error handler of its own */
static int drawn, draws[DRAWS];

typedef struct {
    struct sigaction action[NSIG];
    char folder[4096], locale[256];
    MPI_Errhandler on_world, on_self, on_given;
    unsigned long environment;
    sigset_t blocked;
    stack_t stack;
    struct itimerval timer;
    struct rlimit limit[LIMITS];
    mode_t mask;
    cpu_set_t processors;
    int dynamic, nested;
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
    MPI_Comm_get_errhandler(given, &p.on_given);
    sigprocmask(SIG_BLOCK, NULL, &p.blocked);
    sigaltstack(NULL, &p.stack);
    getitimer(ITIMER_REAL, &p.timer);
    for (int i = 0; i < LIMITS; i++) getrlimit((__rlimit_resource_t)i, &p.limit[i]);
    umask(p.mask = umask(0));
    sched_getaffinity(0, sizeof p.processors, &p.processors);
    p.dynamic = omp_get_dynamic();
    p.nested = omp_get_max_active_levels();
    return p;
}

static void check_unchanged(int handle, const process *before)
{
    CHECK(fegetexcept() == TRAPS);
    CHECK(fegetround() == FE_UPWARD);
    CHECK((fetestexcept(FE_ALL_EXCEPT) & ~FE_INEXACT) == FE_UNDERFLOW); /* what the host had raised, and nothing else */
#ifdef __SSE__
    CHECK((_mm_getcsr() & FLUSH) == FLUSH);
#endif
    CHECK(drawn < DRAWS && rand() == draws[drawn]);
    drawn++;
    CHECK(omp_get_max_threads() == THREADS);
    process now = look();
    for (int number = 1; number < NSIG; number++) {
        CHECK(memcmp(&now.action[number].sa_handler, &before->action[number].sa_handler, sizeof(void *)) == 0);
        CHECK(((now.action[number].sa_flags ^ before->action[number].sa_flags) & ~0x04000000) == 0); /* SA_RESTORER */
    }
    for (int number = 1; number < NSIG; number++)
        CHECK(sigismember(&now.blocked, number) == sigismember(&before->blocked, number));
    CHECK(now.stack.ss_sp == before->stack.ss_sp && now.stack.ss_flags == before->stack.ss_flags);
    CHECK(now.timer.it_interval.tv_sec == before->timer.it_interval.tv_sec && now.timer.it_value.tv_sec > 0);
    CHECK(memcmp(now.limit, before->limit, sizeof now.limit) == 0);
    CHECK(now.mask == before->mask);
    CHECK(CPU_EQUAL(&now.processors, &before->processors));
    CHECK(now.dynamic == before->dynamic && now.nested == before->nested);
    CHECK(strcmp(now.folder, before->folder) == 0);
    CHECK(strcmp(now.locale, before->locale) == 0);
    CHECK(now.environment == before->environment);
    CHECK(now.on_world == before->on_world && now.on_self == before->on_self);
    CHECK(now.on_given == before->on_given);
}

/* The status is as said, not even an inexact result is left to see, and nothing else has changed. */
#define FAILS(status, call)               \
    do {                                  \
        feclearexcept(FE_INEXACT);        \
        int got_status = (call);          \
        CHECK(!fetestexcept(FE_INEXACT)); \
        CHECK(got_status == (status));    \
        check_unchanged(handle, &before); \
    } while (0)
#define HOOK(call) FAILS(AI4LAND_OK, call)

#define PUT(year)                                 \
    do {                                          \
        CHECK(put_state(handle, &c, (year)) == 0); \
        check_unchanged(handle, &before);         \
    } while (0)

/* What a host may have set before it calls the plugin. */
static void settle(void)
{
    srand(7);
    for (int i = 0; i < DRAWS; i++) draws[i] = rand();
    srand(7);
    MPI_Comm_dup(MPI_COMM_WORLD, &given);
    MPI_Comm_set_errhandler(given, MPI_ERRORS_RETURN);
    signal(SIGTERM, on_terminate);
    signal(SIGUSR1, SIG_IGN);
    sigset_t some;
    sigemptyset(&some);
    sigaddset(&some, SIGUSR2);
    sigprocmask(SIG_BLOCK, &some, NULL);
    struct itimerval timer = {{7200, 0}, {7200, 0}};
    setitimer(ITIMER_REAL, &timer, NULL);
    umask(027);
    setlocale(LC_ALL, "C.UTF-8");
    omp_set_num_threads(THREADS);
    omp_set_dynamic(1);
    feclearexcept(FE_ALL_EXCEPT);
    feraiseexcept(FE_UNDERFLOW);
    feenableexcept(TRAPS);
    fesetround(FE_UPWARD);
#ifdef __SSE__
    _mm_setcsr(_mm_getcsr() | FLUSH);
#endif
}

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

    settle();
    process before = look();
    CHECK(before.action[SIGINT].sa_handler == SIG_DFL);

    FAILS(AI4LAND_CONFIG, ai4land_init("/nowhere/ai4land.yaml", MPI_Comm_c2f(given), &handle));
    HOOK(ai4land_init(argv[1], MPI_Comm_c2f(given), &handle));
    FAILS(AI4LAND_USAGE, ai4land_step(handle, 2000));
    c.land[0] = NAN;
    FAILS(AI4LAND_GRID, ai4land_set_grid(handle, c.n, 4, c.id, &c.lon[0][0], &c.lat[0][0], c.land));
    c.land[0] = 0.5;
    HOOK(ai4land_set_grid(handle, c.n, 4, c.id, &c.lon[0][0], &c.lat[0][0], c.land));
    FAILS(AI4LAND_USAGE, ai4land_put(handle, "florest", c.n, got));
    PUT(2000);
    got[0] = NAN;
    FAILS(AI4LAND_OK, ai4land_put(handle, "forest", c.n, got));
    FAILS(AI4LAND_BAD_INPUT, ai4land_step(handle, 2000));
    PUT(2000);
    HOOK(ai4land_step(handle, 2000));
    HOOK(ai4land_get(handle, "host", "forest", c.n, got));
    for (int64_t i = 0; i < c.n; i++) CHECK(fabs(got[i] - fraction(c.id[i], 0, 2000)) < close);
    CHECK(ai4land_step(handle, 1990) == AI4LAND_TIME_ORDER || ai4land_step(handle, 1990) == AI4LAND_BAD_INPUT);
    check_unchanged(handle, &before);
    FAILS(AI4LAND_OUTPUT, ai4land_write_restart(handle, "/nowhere/at/all/restart.nc"));
    FAILS(AI4LAND_RESTART, ai4land_read_restart(handle, argv[1]));
    HOOK(ai4land_write_restart(handle, restart));
    HOOK(ai4land_read_restart(handle, restart));
    for (int year = 2001; year < 2004; year++) {
        PUT(year);
        HOOK(ai4land_step(handle, year));
        volatile double work = 1.0; /* the host computes on, under its own rounding, while fields may be in the making */
        for (int i = 0; i < 1000; i++) work = work * 1.0000001 + 1e-9;
    }
    HOOK(ai4land_finalize(handle));
    MPI_Comm_free(&given);
    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD); /* MPI is still the host's */
    CHECK(sum == size);
    MPI_Finalize();
    return 0;
}
