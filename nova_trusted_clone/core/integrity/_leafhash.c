/*
 * Hashes the 4 KiB leaves of a segment in one call.
 *
 * Why in C: a call a leaf from Python takes the interpreter's lock back 340,000 times a second, so that two threads are no
 * faster than one. Here the lock is dropped once for a whole buffer. Where libipsec-mb can be loaded, several leaves are hashed
 * in the lanes of one core at a time; else OpenSSL hashes them one after another. Both give SHA-256 as of FIPS 180-4.
 *
 * Only leaf.py may call this: it gives the same results by hashlib where this module was not built.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include <openssl/evp.h>

#if defined(__has_include)
#if __has_include(<intel-ipsec-mb.h>)
#include <intel-ipsec-mb.h>
#define HAVE_IPSEC_MB 1
#endif
#endif

#define LEAF_BYTES 4096
#define DIGEST_BYTES 32
/* One manager for each thread that hashes at the same time; more threads than this use OpenSSL. */
#define POOL_SIZE 32

static EVP_MD *sha256;

static size_t
leaf_count(size_t length)
{
    return (length + LEAF_BYTES - 1) / LEAF_BYTES;
}

static size_t
leaf_length(size_t length, size_t index)
{
    size_t rest = length - index * LEAF_BYTES;

    return rest < LEAF_BYTES ? rest : LEAF_BYTES;
}

/* A leaf that is not zero mostly shows it in its first bytes; a zero leaf is read to its end at memory speed. */
static int
is_zero(const uint8_t *data, size_t length)
{
    while (length >= 64) {
        uint64_t words[8];

        memcpy(words, data, 64);
        if (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7])
            return 0;
        data += 64;
        length -= 64;
    }
    while (length--) {
        if (*data++)
            return 0;
    }
    return 1;
}

/* Fill bitmap (least significant bit first, one bit a leaf) and return how many leaves are zero. */
static size_t
find_zero_leaves(const uint8_t *data, size_t length, uint8_t *bitmap)
{
    size_t count = leaf_count(length), zeros = 0;

    memset(bitmap, 0, (count + 7) / 8);
    for (size_t i = 0; i < count; i++) {
        if (is_zero(data + i * LEAF_BYTES, leaf_length(length, i))) {
            bitmap[i / 8] |= (uint8_t)(1u << (i % 8));
            zeros++;
        }
    }
    return zeros;
}

static int
skipped(const uint8_t *skip, size_t index)
{
    return skip && (skip[index / 8] >> (index % 8) & 1);
}

static int
hash_openssl(const uint8_t *data, size_t length, const uint8_t *skip, uint8_t *out)
{
    size_t count = leaf_count(length);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int ok = context != NULL;

    for (size_t i = 0; ok && i < count; i++) {
        if (skipped(skip, i))
            continue;
        ok = EVP_DigestInit_ex(context, sha256, NULL)
             && EVP_DigestUpdate(context, data + i * LEAF_BYTES, leaf_length(length, i))
             && EVP_DigestFinal_ex(context, out, NULL);
        out += DIGEST_BYTES;
    }
    EVP_MD_CTX_free(context);
    return ok;
}

#ifdef HAVE_IPSEC_MB
static IMB_MGR *(*mb_alloc)(uint64_t);
static void (*mb_init)(IMB_MGR *, IMB_ARCH *);
static unsigned (*mb_version)(void);
static int mb_usable;

/* Managers that no thread uses now; the interpreter's lock guards it. */
static IMB_MGR *pool[POOL_SIZE];
static int pool_free, pool_made;

static IMB_MGR *
manager_take(void)
{
    IMB_MGR *manager;

    if (pool_free)
        return pool[--pool_free];
    if (!mb_usable || pool_made >= POOL_SIZE)
        return NULL;
    manager = mb_alloc(0);
    if (!manager)
        return NULL;
    mb_init(manager, NULL);
    pool_made++;
    return manager;
}

static void
manager_give_back(IMB_MGR *manager)
{
    pool[pool_free++] = manager;
}

static int
hash_multibuffer(IMB_MGR *manager, const uint8_t *data, size_t length, const uint8_t *skip, uint8_t *out)
{
    size_t count = leaf_count(length), submitted = 0, done = 0;
    int ok = 1;
    IMB_JOB *job;

    for (size_t i = 0; i < count; i++) {
        if (skipped(skip, i))
            continue;
        job = IMB_GET_NEXT_JOB(manager);
        job->cipher_mode = IMB_CIPHER_NULL;
        job->cipher_direction = IMB_DIR_ENCRYPT;
        job->chain_order = IMB_ORDER_HASH_CIPHER;
        job->hash_alg = IMB_AUTH_SHA_256;
        job->src = data + i * LEAF_BYTES;
        job->hash_start_src_offset_in_bytes = 0;
        job->msg_len_to_hash_in_bytes = leaf_length(length, i);
        job->auth_tag_output = out;
        job->auth_tag_output_len_in_bytes = DIGEST_BYTES;
        out += DIGEST_BYTES;
        submitted++;
        for (job = IMB_SUBMIT_JOB(manager); job; job = IMB_GET_COMPLETED_JOB(manager)) {
            done++;
            ok &= job->status == IMB_STATUS_COMPLETED;
        }
    }
    while ((job = IMB_FLUSH_JOB(manager)) != NULL) {
        done++;
        ok &= job->status == IMB_STATUS_COMPLETED;
    }
    return ok && done == submitted;
}

/* The library is used only if it hashes whole and short leaves as OpenSSL does: a wrong build must not go unnoticed. */
static int
multibuffer_agrees(void)
{
    enum { LENGTH = 37 * LEAF_BYTES + 123, COUNT = 38 };
    uint8_t *data = PyMem_RawMalloc(LENGTH);
    uint8_t ours[COUNT * DIGEST_BYTES], theirs[COUNT * DIGEST_BYTES];
    IMB_MGR *manager = manager_take();
    int ok = data && manager;

    if (ok) {
        for (size_t i = 0; i < LENGTH; i++)
            data[i] = (uint8_t)(i * 2654435761u >> 13);
        ok = hash_multibuffer(manager, data, LENGTH, NULL, ours) && hash_openssl(data, LENGTH, NULL, theirs)
             && memcmp(ours, theirs, sizeof ours) == 0;
    }
    if (manager)
        manager_give_back(manager);
    PyMem_RawFree(data);
    return ok;
}

/* Loaded at run time, so that a host without the library needs no other build. Its layout is fixed within one soname. */
static void
multibuffer_load(void)
{
    void *library = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return;
    mb_alloc = (IMB_MGR * (*)(uint64_t)) dlsym(library, "alloc_mb_mgr");
    mb_init = (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(library, "init_mb_mgr_auto");
    mb_version = (unsigned (*)(void))dlsym(library, "imb_get_version");
    if (!mb_alloc || !mb_init || !mb_version || mb_version() < IMB_VERSION_NUM)
        return;
    mb_usable = 1;
    mb_usable = multibuffer_agrees();
}
#endif

/* Hash the leaves that skip does not name, packed, without the interpreter's lock. */
static int
hash_leaves_unlocked(const uint8_t *data, size_t length, const uint8_t *skip, uint8_t *out)
{
    int ok;
#ifdef HAVE_IPSEC_MB
    IMB_MGR *manager = mb_usable ? manager_take() : NULL;

    if (manager) {
        Py_BEGIN_ALLOW_THREADS
        ok = hash_multibuffer(manager, data, length, skip, out);
        Py_END_ALLOW_THREADS
        manager_give_back(manager);
    } else
#endif
    {
        Py_BEGIN_ALLOW_THREADS
        ok = hash_openssl(data, length, skip, out);
        Py_END_ALLOW_THREADS
    }
    if (!ok)
        PyErr_SetString(PyExc_RuntimeError, "SHA-256 failed in the library");
    return ok;
}

static PyObject *
py_hash_leaves(PyObject *module, PyObject *argument)
{
    Py_buffer view;
    PyObject *result;

    (void)module;
    if (PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(leaf_count((size_t)view.len) * DIGEST_BYTES));
    if (result && !hash_leaves_unlocked(view.buf, (size_t)view.len, NULL, (uint8_t *)PyBytes_AS_STRING(result)))
        Py_CLEAR(result);
    PyBuffer_Release(&view);
    return result;
}

static PyObject *
py_zero_bitmap(PyObject *module, PyObject *argument)
{
    Py_buffer view;
    PyObject *result;

    (void)module;
    if (PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)((leaf_count((size_t)view.len) + 7) / 8));
    if (result) {
        Py_BEGIN_ALLOW_THREADS
        find_zero_leaves(view.buf, (size_t)view.len, (uint8_t *)PyBytes_AS_STRING(result));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return result;
}

static PyObject *
py_digest_segment(PyObject *module, PyObject *argument)
{
    Py_buffer view;
    PyObject *bitmap = NULL, *digests = NULL, *result = NULL;
    size_t count, zeros = 0;

    (void)module;
    if (PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    count = leaf_count((size_t)view.len);
    bitmap = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)((count + 7) / 8));
    if (!bitmap)
        goto out;
    Py_BEGIN_ALLOW_THREADS
    zeros = find_zero_leaves(view.buf, (size_t)view.len, (uint8_t *)PyBytes_AS_STRING(bitmap));
    Py_END_ALLOW_THREADS
    digests = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)((count - zeros) * DIGEST_BYTES));
    if (!digests)
        goto out;
    if (zeros == count
        || hash_leaves_unlocked(view.buf, (size_t)view.len, (const uint8_t *)PyBytes_AS_STRING(bitmap),
                                (uint8_t *)PyBytes_AS_STRING(digests)))
        result = PyTuple_Pack(2, bitmap, digests);
out:
    Py_XDECREF(bitmap);
    Py_XDECREF(digests);
    PyBuffer_Release(&view);
    return result;
}

static PyObject *
py_implementation(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
#ifdef HAVE_IPSEC_MB
    if (mb_usable)
        return PyUnicode_FromString("ipsec-mb");
#endif
    return PyUnicode_FromString("openssl");
}

static PyMethodDef methods[] = {
    {"hash_leaves", py_hash_leaves, METH_O, "SHA-256 of each 4 KiB leaf, 32 bytes each; the last leaf may be short."},
    {"zero_bitmap", py_zero_bitmap, METH_O, "One bit a leaf, least significant first, set where a leaf is all zero."},
    {"digest_segment", py_digest_segment, METH_O, "(zero bitmap, digests of the leaves that are not zero)."},
    {"implementation", py_implementation, METH_NOARGS, "Which library hashes: 'ipsec-mb' or 'openssl'."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_leafhash", "SHA-256 of leaves in one call.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__leafhash(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!sha256) {
        PyErr_SetString(PyExc_ImportError, "OpenSSL offers no SHA-256");
        return NULL;
    }
#ifdef HAVE_IPSEC_MB
    multibuffer_load();
#endif
    return PyModule_Create(&definition);
}
