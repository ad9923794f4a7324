"""The memory that a sandbox process shares with its parent: an anonymous file of a fixed size, mapped by both.

It exists as long as the process. Pages get memory when they are first written, and keep it for later requests. A
process that is not trusted writes to it, so:

- the file cannot be made smaller (it is sealed on Linux, and the sandbox process has no open file besides its socket):
  otherwise the parent would get SIGBUS when it reads;
- the parent copies results out of it before it uses them, so that they can no longer change;
- the parent frees all but the first KEPT bytes after a request, however many the process has written.
"""

import mmap
import os
import sys
import tempfile

from raylabel.schema import MAX_BYTES

PAGE = 4096
KEPT = 64 << 20  # bytes that are kept between requests
SIZE = 2 * MAX_BYTES + KEPT  # the largest sample and the largest result


class SharedMemory:
    """The parent's side."""

    def __init__(self) -> None:
        self.file = _anonymous_file()
        """What the sandbox process is given to `map_shared`."""
        try:
            self.bytes = map_shared(self.file)
        except BaseException:
            os.close(self.file)
            raise

    def free(self) -> None:
        """Frees the memory after the first KEPT bytes."""
        if sys.platform == "linux" and 512 * os.fstat(self.file).st_blocks > KEPT:
            self.bytes.madvise(mmap.MADV_REMOVE, KEPT, SIZE - KEPT)

    def close(self) -> None:
        os.close(self.file)
        self.bytes.close()


def map_shared(file: int) -> mmap.mmap:
    return mmap.mmap(file, SIZE)


def _anonymous_file() -> int:
    """A file without a name, of SIZE zeros that take no memory."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as temporary:
            temporary.truncate(SIZE)
            return os.dup(temporary.fileno())
    import fcntl

    file = os.memfd_create("raylabel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, SIZE)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return file
