"""What a process on a GPU needs before it runs a network there, and what its errors mean."""

import os
import re
import shutil
import sys
import sysconfig

from raylabel.errors import InputError


def check_compiler() -> None:
    """InputError if `torch.compile` would fail on a GPU: Triton builds a small C module for Python on each machine."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # the former is Debian's, as Triton
    header = os.path.join(sysconfig.get_paths(scheme=scheme)["include"], "Python.h")
    compiler = os.environ.get("CC")
    missing = [] if os.path.exists(header) else [header]
    if not (shutil.which(compiler) if compiler else shutil.which("gcc") or shutil.which("clang")):
        missing.append(f"the C compiler '{compiler}' of the variable CC" if compiler else "a C compiler")
    if missing:
        raise InputError(
            f"a network is compiled for the GPU, but this machine lacks {' and '.join(missing)}: install gcc and the "
            f"headers of Python there (apt-get install gcc python{sys.version_info[0]}.{sys.version_info[1]}-dev)"
        )


def use_full_float32() -> None:
    """Convolutions in float32 compute in float32. PyTorch's default on a GPU is TF32, which keeps 11 significant bits
    of their inputs; its default for matrix products is float32."""
    import torch

    torch.backends.cudnn.allow_tf32 = False


# In the messages of PyTorch (2.11 to 2.15). CUDA's errors mostly have a class of their own, AcceleratorError; those of
# cuBLAS ("CUDA error: CUBLAS_STATUS_..."), cuDNN, NCCL, the driver and compiled kernels are a RuntimeError.
_DEVICE = re.compile(r"\b(CUDA|CUDA driver|cuDNN|cuDNN Frontend|NCCL|Triton) error\b", re.IGNORECASE)
_FULL = re.compile(r"out of memory|STATUS_ALLOC_FAILED", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU was not enough."""
    if isinstance(error, RuntimeError) and type(error).__name__ == "OutOfMemoryError":
        return True
    return _of_device(error) and bool(_FULL.search(str(error)))


def is_device_error(error: BaseException) -> bool:
    """Whether a GPU failed (ECC, Xid, the launch of a kernel), other than by being out of memory. This process cannot
    use it any more."""
    return _of_device(error) and not is_out_of_memory(error)


def _of_device(error: BaseException) -> bool:
    # By its name, because a process may run without PyTorch.
    return isinstance(error, RuntimeError) and bool(
        type(error).__name__ == "AcceleratorError" or _DEVICE.search(str(error))
    )
