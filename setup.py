"""Stub: metadata is in pyproject.toml; here stand only the extension modules."""

import setuptools

# Optional: without a C compiler or OpenSSL's headers the package installs all the same and hashes
# by hashlib.
LEAF_HASH = setuptools.Extension(
    "nova_trusted_clone.core.integrity._leafhash",
    sources=["nova_trusted_clone/core/integrity/_leafhash.c"],
    libraries=["crypto", "dl"],
    extra_compile_args=["-O3", "-Wall", "-Wextra"],
    optional=True,
)

# Optional: for hosts with Xen, where libxen-dev is.
XEN = setuptools.Extension(
    "nova_trusted_clone.hypervisor.xen._xl",
    sources=["nova_trusted_clone/hypervisor/xen/_xl.c"],
    libraries=["xenlight", "xenguest", "xenctrl", "xentoollog"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
    optional=True,
)

setuptools.setup(pbr=True, ext_modules=[LEAF_HASH, XEN])
