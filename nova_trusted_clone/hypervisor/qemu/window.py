"""A look into a guest's QEMU, held open: what is mapped where, the memory itself, and which pages are write-protected.

The kernel asks for the right to look when these files of /proc are opened, and never again (proc(5), ptrace(2):
CAP_SYS_PTRACE, and CAP_DAC_READ_SEARCH where QEMU is another user's). So whoever has the right can open them for whoever
has it not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from types import TracebackType

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.process import Mapping, ProcessId, parse_smaps

FILES = ("mem", "pagemap", "smaps")
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Window:
    """Three open files of one process; whoever has the window closes it.

    :ivar memory: /proc/PID/mem, for reading
    :ivar pagemap: /proc/PID/pagemap
    :ivar smaps: /proc/PID/smaps
    """

    process: ProcessId
    memory: int
    pagemap: int
    smaps: int

    @classmethod
    def open(cls, process: ProcessId) -> Window:
        """Open it by one's own right.

        :raises HypervisorError: the process is gone or another one, or may not be looked into
        """
        with contextlib.ExitStack() as undo:
            opened = []
            for name in FILES:
                try:
                    opened.append(
                        os.open(f"/proc/{process.pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                    )
                except OSError as error:
                    raise HypervisorError(
                        f"process {process.pid}: its {name}: {error.strerror}"
                    ) from error
                undo.callback(os.close, opened[-1])
            # The files are open on one process for good; now its identity can be checked without a race.
            if not process.alive():
                raise HypervisorError(f"process {process.pid} is not the one that was meant")
            undo.pop_all()
        return cls(process, *opened)

    def mappings(self) -> list[Mapping]:
        """Every mapping of the process, with its flags, as they are now.

        :raises HypervisorError: the process is gone
        """
        text = b""
        try:
            while part := os.pread(self.smaps, _CHUNK_BYTES, len(text)):
                text += part
        except OSError as error:
            raise HypervisorError(
                f"process {self.process.pid}: cannot read its mappings: {error.strerror}"
            ) from error
        return parse_smaps(text.decode(errors="replace"))

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """In the order of ``FILES``."""
        return self.memory, self.pagemap, self.smaps

    def close(self) -> None:
        """Let it go."""
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
