/* Starts the interpreter the library was built for, whatever PATH and folder the host runs in. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ai4land_coupler.h"
#include "internal.h"

#define MEND "set AI4LAND_PYTHON to the python of the environment that holds ai4land_coupler"

static char refusal[2048]; /* why Python cannot be used; "" while it can */

void python_refuse(const char *reason) { snprintf(refusal, sizeof refusal, "%.1900s; " MEND, reason); }

/* A host that was itself loaded by dlopen keeps libpython to itself; Python's extension modules need to see it. */
static void show_libpython(void)
{
    Dl_info info;
    if (dladdr((void *)Py_IsInitialized, &info) && info.dli_fname)
        (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

static PyStatus initialize(const char *executable)
{
    PyPreConfig before;
    PyPreConfig_InitPythonConfig(&before);
    before.configure_locale = 0; /* the locale is the host's */
    before.coerce_c_locale = 0;
    before.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status)) return status;

    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    status = PyConfig_SetBytesString(&config, &config.program_name, executable);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

static void start_interpreter(const char *executable)
{
    PyStatus status = initialize(executable);
    if (PyStatus_Exception(status)) {
        snprintf(refusal, sizeof refusal, "Python %s did not start from %s: %s; unset PYTHONHOME or " MEND, PY_VERSION,
                 executable, status.err_msg ? status.err_msg : "no reason given");
        return;
    }
    PyObject *log = PySys_GetObject("stderr");
    if (log) PySys_SetObject("stdout", log); /* stdout is the host's */
    PyEval_SaveThread();
}

/* An interpreter that the host started finds other packages than ours: add those of our environment behind its own. */
static void join_interpreter(const char *executable)
{
    const char *end = strrchr(executable, '/');
    char packages[4096];
    snprintf(packages, sizeof packages, "%.*s/../lib/python%d.%d/site-packages", end ? (int)(end - executable) : 0, executable,
             PY_MAJOR_VERSION, PY_MINOR_VERSION);
    PyGILState_STATE lock = PyGILState_Ensure();
    PyObject *site = PyImport_ImportModule("site");
    PyObject *done = site ? PyObject_CallMethod(site, "addsitedir", "s", packages) : NULL;
    PyErr_Clear(); /* what is still missing is said when it is imported */
    Py_XDECREF(done);
    Py_XDECREF(site);
    PyGILState_Release(lock);
}

static void start(void)
{
    const char *executable = getenv("AI4LAND_PYTHON");
    if (!executable || !*executable) executable = AI4LAND_PYTHON_EXECUTABLE;
    show_libpython();
    if (Py_IsInitialized())
        join_interpreter(executable);
    else if (access(executable, X_OK) == 0)
        start_interpreter(executable);
    else
        snprintf(refusal, sizeof refusal, "cannot run the Python interpreter %s: %s; " MEND, executable, strerror(errno));
    if (!*refusal && python_start_cffi() != 0)
        snprintf(refusal, sizeof refusal, "the package cffi of %s did not start (details on stderr); " MEND, executable);
}

int python_start(void)
{
    static int tried = 0;
    if (!tried) start();
    tried = 1;
    return *refusal ? fail(AI4LAND_PYTHON_START, "%s", refusal) : AI4LAND_OK;
}
