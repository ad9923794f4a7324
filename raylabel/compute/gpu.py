"""What a process on a GPU needs before it runs a network there."""

import os
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
