/* A framework that loads its model, and so the plugin, by dlopen and keeps its symbols local. argv: model, its arguments. */

#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *model = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    int (*run)(int, char **) = NULL;
    if (model) *(void **)&run = dlsym(model, "model_main");
    if (!run) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    return run(argc - 1, argv + 1);
}
