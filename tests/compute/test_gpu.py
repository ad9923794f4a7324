"""What a process on a GPU checks at its start, and what its errors mean."""

import os
import sys
import sysconfig

import pytest
import ray.exceptions
import torch
import torch.distributed

from raylabel.compute.gpu import check_compiler, is_device_error, is_out_of_memory
from raylabel.errors import InputError


def machine(tmp_path, patch: pytest.MonkeyPatch, header: bool, *programs: str, cc: str | None = None) -> None:
    """This process sees a machine with or without Python.h and with these programs, and the variable CC."""
    (tmp_path / "bin").mkdir()
    for name in programs:
        (tmp_path / "bin" / name).touch(0o755)
    if header:
        (tmp_path / "Python.h").touch()
    patch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    patch.setenv("PATH", str(tmp_path / "bin"))
    patch.setenv("CC", cc) if cc else patch.delenv("CC", raising=False)


@pytest.mark.parametrize(
    ("programs", "cc"), [(("gcc",), None), (("clang",), None), (("gcc", "mine"), "mine"), (("mine",), "mine")]
)
def test_a_machine_with_a_compiler_and_headers_can_compile(programs, cc, tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch, True, *programs, cc=cc)
    check_compiler()


@pytest.mark.parametrize(
    ("header", "programs", "cc", "missing"),
    [
        (True, (), None, "a C compiler"),
        (True, ("cc",), None, "a C compiler"),  # Triton does not try this name
        (True, ("gcc",), "mine", "the C compiler 'mine' of the variable CC"),
        (False, ("gcc",), None, "{include}/Python.h"),
        (False, (), None, "{include}/Python.h and a C compiler"),
    ],
)
def test_a_machine_that_cannot_compile_says_what_to_install(header, programs, cc, missing, tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch, header, *programs, cc=cc)
    with pytest.raises(InputError) as error:
        check_compiler()
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    assert str(error.value) == (
        f"a network is compiled for the GPU, but this machine lacks {missing.format(include=tmp_path)}: install gcc "
        f"and the headers of Python there (apt-get install gcc {python})"
    )


def test_headers_are_looked_for_where_triton_looks():
    """Where a virtual environment or Debian's scheme `posix_local` is active, the headers are those of the Python."""
    schemes: list[str] = []
    real = sysconfig.get_paths
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
        patch.setattr(sysconfig, "get_paths", lambda scheme: schemes.append(scheme) or real(scheme=scheme))
        patch.setenv("CC", sys.executable)
        if os.path.exists(os.path.join(real(scheme="posix_prefix")["include"], "Python.h")):
            check_compiler()
        else:
            with pytest.raises(InputError):
                check_compiler()
    assert schemes == ["posix_prefix"]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        torch.AcceleratorError("an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        torch.distributed.DistBackendError("NCCL error in: NCCLUtils.cpp:94, unhandled cuda error"),
    ],
)
def test_a_failed_gpu_is_told_from_other_errors(error):
    assert is_device_error(error) and not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_gpu_without_memory_has_not_failed(error):
    assert is_out_of_memory(error) and not is_device_error(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA error: this is not PyTorch's"),
        RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu"),
        InputError("cannot read 'CUDA error: x.jpg'"),
        ray.exceptions.OutOfMemoryError("the machine is out of memory"),
        MemoryError(),
    ],
)
def test_other_errors_are_not_of_a_gpu(error):
    assert not is_device_error(error) and not is_out_of_memory(error)
