/* Leaves the host as it was found: floating-point environment, OpenMP threads, signal handlers. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>

#include "internal.h"

static int (*omp_get)(void);
static void (*omp_set)(int);
static int omp_of_plugin = 1;

/* An OpenMP runtime that is in the process before the plugin is the host's. */
static void find_openmp(void)
{
    static int looked = 0;
    if (looked) return;
    looked = 1;
    void *library = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
    void *scope = dlsym(RTLD_DEFAULT, "omp_get_max_threads") || !library ? RTLD_DEFAULT : library;
    *(void **)&omp_get = dlsym(scope, "omp_get_max_threads");
    *(void **)&omp_set = dlsym(scope, "omp_set_num_threads");
}

void host_leave(host_state *host)
{
    fegetenv(&host->floating_point);
    fesetenv(FE_DFL_ENV);
    find_openmp();
    if (!omp_get || !omp_set) return;
    host->omp_threads = omp_get();
    omp_set(omp_of_plugin);
}

void host_return(const host_state *host)
{
    if (omp_get && omp_set) {
        omp_of_plugin = omp_get();
        omp_set(host->omp_threads);
    }
    fesetenv(&host->floating_point);
}

struct signal_table {
    struct sigaction action[NSIG];
    int known[NSIG];
};

signal_table *signals_save(void)
{
    signal_table *table = calloc(1, sizeof *table);
    for (int number = 1; table && number < NSIG; number++)
        table->known[number] = sigaction(number, NULL, &table->action[number]) == 0;
    return table;
}

void signals_restore(signal_table *table)
{
    for (int number = 1; table && number < NSIG; number++)
        if (table->known[number]) (void)sigaction(number, &table->action[number], NULL);
    free(table);
}
