/* The few calls of libxenlight and libxenctrl for which there is no binding. Each lets the interpreter's other threads run.
 *
 * Only the saver's process may call what needs libxenlight: that forks a helper of its own and wants to be told when it ends.
 * ``ended`` needs libxenctrl alone, and may be called anywhere.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libxl.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xentoollog.h>

/* A number says little: libxl's first complaint since a call began says what went wrong, those after it what followed from that. All
 * of them go to standard error as well. */
static struct recorder {
    xentoollog_logger vtable;
    xentoollog_logger *next;
    char complaint[512];
} recorder;

static libxl_ctx *context;
static xc_interface *control;

static void recorder_vmessage(xentoollog_logger *logger, xentoollog_level level, int error, const char *source, const char *format, va_list arguments)
{
    struct recorder *self = (struct recorder *)logger;
    va_list again;

    va_copy(again, arguments);
    if (level >= XTL_ERROR && !self->complaint[0])
        vsnprintf(self->complaint, sizeof self->complaint, format, again);
    va_end(again);
    if (self->next)
        xtl_logv(self->next, level, error, source, format, arguments);
}

static void recorder_destroy(xentoollog_logger *logger)
{
    (void)logger;
}

/* Both are opened once: between the suspend and the resume there is no time for it. */
static int open_control(void)
{
    if (!control && !(control = xc_interface_open(NULL, NULL, 0))) {
        PyErr_SetFromErrno(PyExc_OSError);
        return 0;
    }
    return 1;
}

static int open_both(void)
{
    if (!context) {
        recorder.vtable.vmessage = recorder_vmessage;
        recorder.vtable.destroy = recorder_destroy;
        recorder.next = (xentoollog_logger *)xtl_createlogger_stdiostream(stderr, XTL_WARN, 0);
        if (libxl_ctx_alloc(&context, LIBXL_VERSION, 0, &recorder.vtable)) {
            context = NULL;
            PyErr_SetString(PyExc_OSError, "libxl cannot be opened: is this dom0, and the user root?");
            return 0;
        }
    }
    return open_control();
}

static PyObject *xl_error(const char *what, int code)
{
    /* libxl calls every failure before the domain has suspended "guest timed out" (libxl__xc_domain_save_done). */
    const char *when = code == ERROR_GUEST_TIMEDOUT ? "before the domain had suspended: " : "";

    /* The complaint is libxl's own, in whatever encoding: PyErr_Format replaces what is none. */
    return PyErr_Format(PyExc_OSError, "%s: %s%s (libxl error %d)", what, when,
                        recorder.complaint[0] ? recorder.complaint : "libxl does not say why", code);
}

static int domain_info(uint32_t domain, xc_dominfo_t *found)
{
    int count;

    Py_BEGIN_ALLOW_THREADS
    count = xc_domain_getinfo(control, domain, 1, found);
    Py_END_ALLOW_THREADS
    /* A dying one is there until nobody maps its memory any more. */
    if (count != 1 || found->domid != domain || found->dying) {
        PyErr_Format(PyExc_ProcessLookupError, "there is no domain %u", domain);
        return 0;
    }
    return 1;
}

static PyObject *open_libraries(PyObject *self, PyObject *arguments)
{
    (void)self;
    (void)arguments;
    if (!open_both())
        return NULL;
    Py_RETURN_NONE;
}

/* Left on by a saver that was killed, it is turned off first: Xen refuses to turn it on twice. */
static int try_log_dirty(uint32_t domain)
{
    int code, error;

    Py_BEGIN_ALLOW_THREADS
    xc_shadow_control(control, domain, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0);
    code = xc_shadow_control(control, domain, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, NULL, 0) < 0 ? -1 : 0;
    error = errno;
    if (code == 0)
        xc_shadow_control(control, domain, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0);
    Py_END_ALLOW_THREADS
    errno = error;
    return code;
}

static PyObject *logs_dirty(PyObject *self, PyObject *arguments)
{
    unsigned int domain;
    xc_dominfo_t found;

    (void)self;
    if (!PyArg_ParseTuple(arguments, "I", &domain) || !open_both() || !domain_info(domain, &found))
        return NULL;
    if (try_log_dirty(domain) == 0)
        Py_RETURN_TRUE;
    if (errno == EOPNOTSUPP || errno == EINVAL)
        Py_RETURN_FALSE;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* libxl does not say when the domain stopped, only when all of it was written. Looked for here, and not in Python, whose own work
 * each millisecond would take from dom0 what the copy needs. */
struct watch {
    uint32_t domain;
    atomic_int ended;
    double stopped_at;
};

static void *watch_domain(void *argument)
{
    struct watch *watch = argument;
    const struct timespec pause = { 0, 1000000 };
    struct timespec now;
    xc_dominfo_t found;

    while (!atomic_load(&watch->ended)) {
        if (xc_domain_getinfo(control, watch->domain, 1, &found) != 1 || found.domid != watch->domain)
            break;
        if (found.shutdown && found.shutdown_reason == SHUTDOWN_suspend) {
            clock_gettime(CLOCK_MONOTONIC, &now);
            watch->stopped_at = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
            break;
        }
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static PyObject *suspend(PyObject *self, PyObject *arguments)
{
    unsigned int domain;
    int file, live, code, error;
    pthread_t watcher;
    struct watch watch = { 0 };

    (void)self;
    if (!PyArg_ParseTuple(arguments, "Iip", &domain, &file, &live) || !open_both())
        return NULL;
    watch.domain = domain;
    recorder.complaint[0] = '\0';
    error = pthread_create(&watcher, NULL, watch_domain, &watch);
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_BEGIN_ALLOW_THREADS
    code = libxl_domain_suspend(context, domain, file, live ? LIBXL_SUSPEND_LIVE : 0, NULL);
    atomic_store(&watch.ended, 1);
    pthread_join(watcher, NULL);
    Py_END_ALLOW_THREADS
    if (code)
        return xl_error("suspend", code);
    if (watch.stopped_at == 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(watch.stopped_at);
}

static PyObject *is_suspended(PyObject *self, PyObject *arguments)
{
    unsigned int domain;
    xc_dominfo_t found;

    (void)self;
    if (!PyArg_ParseTuple(arguments, "I", &domain) || !open_both() || !domain_info(domain, &found))
        return NULL;
    return PyBool_FromLong(found.shutdown && found.shutdown_reason == SHUTDOWN_suspend);
}

static PyObject *resume(PyObject *self, PyObject *arguments)
{
    unsigned int domain;
    int code;

    (void)self;
    if (!PyArg_ParseTuple(arguments, "I", &domain) || !open_both())
        return NULL;
    recorder.complaint[0] = '\0';
    Py_BEGIN_ALLOW_THREADS
    code = libxl_domain_resume(context, domain, 1, NULL);
    Py_END_ALLOW_THREADS
    if (code)
        return xl_error("resume", code);
    Py_RETURN_NONE;
}

static int append_ended(PyObject *list, const xc_domaininfo_t *found)
{
    unsigned int why = (found->flags >> XEN_DOMINF_shutdownshift) & XEN_DOMINF_shutdownmask;
    PyObject *one;
    int code;

    if (!(found->flags & XEN_DOMINF_shutdown) || found->flags & XEN_DOMINF_dying || why == SHUTDOWN_suspend)
        return 0;
    one = Py_BuildValue("(II)", (unsigned int)found->domain, why);
    code = one ? PyList_Append(list, one) : -1;
    Py_XDECREF(one);
    return code;
}

static PyObject *ended(PyObject *self, PyObject *arguments)
{
    enum { AT_ONCE = 64 };
    xc_domaininfo_t found[AT_ONCE];
    uint32_t next = 1; /* dom0 is not among them */
    int count;
    PyObject *list;

    (void)self;
    (void)arguments;
    if (!open_control() || !(list = PyList_New(0)))
        return NULL;
    do {
        Py_BEGIN_ALLOW_THREADS
        /* xc_domain_getinfo takes a host without a domain for an error. */
        count = xc_domain_getinfolist(control, next, AT_ONCE, found);
        Py_END_ALLOW_THREADS
        if (count < 0) {
            Py_DECREF(list);
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        for (int index = 0; index < count; index++) {
            if (append_ended(list, &found[index])) {
                Py_DECREF(list);
                return NULL;
            }
            next = found[index].domain + 1;
        }
    } while (count == AT_ONCE);
    return list;
}

/* The leaves of a policy, in the layout of the stream's record. */
static PyObject *leaves_of(xc_cpu_policy_t *policy)
{
    uint32_t leaves = 0, registers = 0;
    xen_cpuid_leaf_t *leaf = NULL;
    xen_msr_entry_t *msr = NULL;
    PyObject *result = NULL;

    if (xc_cpu_policy_get_size(control, &leaves, &registers))
        return PyErr_SetFromErrno(PyExc_OSError);
    leaf = calloc(leaves, sizeof *leaf);
    msr = calloc(registers, sizeof *msr);
    if (!leaf || !msr)
        PyErr_NoMemory();
    else if (xc_cpu_policy_serialise(control, policy, leaf, &leaves, msr, &registers))
        PyErr_SetFromErrno(PyExc_OSError);
    else
        result = PyBytes_FromStringAndSize((const char *)leaf, (Py_ssize_t)(leaves * sizeof *leaf));
    free(leaf);
    free(msr);
    return result;
}

static PyObject *host_policy(PyObject *self, PyObject *arguments)
{
    int hvm;
    xc_cpu_policy_t *policy;
    PyObject *result;

    (void)self;
    if (!PyArg_ParseTuple(arguments, "p", &hvm) || !open_control())
        return NULL;
    policy = xc_cpu_policy_init();
    if (!policy)
        return PyErr_NoMemory();
    if (xc_cpu_policy_get_system(control, hvm ? XEN_SYSCTL_cpu_policy_hvm_max : XEN_SYSCTL_cpu_policy_pv_max, policy))
        result = PyErr_SetFromErrno(PyExc_OSError);
    else
        result = leaves_of(policy);
    xc_cpu_policy_destroy(policy);
    return result;
}

static PyMethodDef methods[] = {
    { "open", open_libraries, METH_NOARGS, "Open both libraries, so that no later call waits for it." },
    { "logs_dirty", logs_dirty, METH_VARARGS, "logs_dirty(domain): whether Xen can log the pages that it writes to; it does not afterwards." },
    { "suspend", suspend, METH_VARARGS, "suspend(domain, file, live): save it into a file; it stays suspended. When it stopped, by the monotonic clock, seconds." },
    { "is_suspended", is_suspended, METH_VARARGS, "is_suspended(domain): whether it has suspended itself." },
    { "resume", resume, METH_VARARGS, "resume(domain): let a suspended one go on as if it had not been." },
    { "ended", ended, METH_NOARGS, "Domains that stand still for good: [(domain, why)], of Xen's SHUTDOWN reasons all but a suspend." },
    { "host_policy", host_policy, METH_VARARGS, "host_policy(hvm): the most of CPUID that this Xen offers to a domain." },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_xl", "Calls of libxenlight. Errors are OSError.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__xl(void)
{
    return PyModule_Create(&definition);
}
