"""The child's end: what it gives up before it looks at a stranger's bytes. Each step works without privileges.

Linux: no new privileges, no core dumps, no file larger than nothing, if wanted the parent's death is its own, and a
seccomp filter (Linux 3.5) that answers EPERM to sockets, other programs, and whatever opens a file for writing,
renames or removes one. What a kernel does not have is returned by name, so that a report can say it.
"""

import ctypes
import errno
import platform
import resource
import signal
import struct
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF, with a constant
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_X32 = 0x40000000

# By architecture of the kernel: audit number, system calls that are denied, and (call, place of its flags) of those
# that may open a file for reading only.
_TABLES: dict[str, tuple[int, tuple[int, ...], tuple[tuple[int, int], ...]]] = {
    "x86_64": (
        0xC000003E,
        (
            # socket connect accept bind listen socketpair accept4
            41, 42, 43, 49, 50, 53, 288,
            # execve execveat ptrace process_vm_readv process_vm_writev kill tkill tgkill pidfd_send_signal
            59, 322, 101, 310, 311, 62, 200, 234, 424,
            # truncate rename mkdir rmdir creat link unlink symlink chmod fchmod chown fchown lchown mknod
            76, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 133,
            # mkdirat mknodat fchownat unlinkat renameat linkat symlinkat fchmodat renameat2
            258, 259, 260, 263, 264, 265, 266, 268, 316,
            # mount umount2 unshare setns bpf io_uring_setup openat2 keyctl add_key userfaultfd perf_event_open
            165, 166, 272, 308, 321, 425, 437, 250, 248, 323, 298,
        ),
        ((2, 1), (257, 2)),  # open openat
    ),
    "aarch64": (
        0xC00000B7,
        (
            198, 203, 202, 200, 201, 199, 242,
            221, 281, 117, 270, 271, 129, 130, 131, 424,
            45, 52, 53, 54, 55,
            34, 33, 35, 38, 37, 36, 276,
            40, 39, 97, 268, 280, 425, 437, 219, 217, 282, 241,
        ),
        ((56, 2),),
    ),
}  # fmt: skip


def restrict(*, cpu_seconds: int | None = None, dies_with_parent: bool = False) -> list[str]:
    """Give up what is not needed to compute. Returns what this kernel could not take away.

    cpu_seconds: of this process; None sets no limit. dies_with_parent: when the thread that started it ends, so only
    for a process that is started and ended in one call.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    missing = []
    if dies_with_parent and not _control(_PR_SET_PDEATHSIG, signal.SIGKILL):
        missing.append("it does not end with its parent")
    missing += [] if _control(_PR_SET_DUMPABLE, 0) else ["its memory can be looked at"]
    if not (_control(_PR_SET_NO_NEW_PRIVS, 1) and _filter_calls()):
        missing.append("network, programs and files are not closed to it (no seccomp)")
    return missing


def address_space_bytes() -> int | None:
    """How much this process has mapped; None where there is no /proc, and so no memory limit."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else None


def limit_memory(bytes_above: int, base_bytes: int | None) -> None:
    """At most so many bytes above what was mapped after the imports."""
    if base_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (base_bytes + bytes_above, resource.RLIM_INFINITY))


def _control(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def _filter_calls() -> bool:
    table = _TABLES.get(platform.machine())
    if table is None:
        return False
    program = _program(*table)
    count = len(program) // 8
    buffer = ctypes.create_string_buffer(program)
    head = struct.pack("@HxxxxxxP" if struct.calcsize("P") == 8 else "@HxxP", count, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(head)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        return bool(library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(pointer), 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def _program(architecture: int, denied: tuple[int, ...], opening: tuple[tuple[int, int], ...]) -> bytes:
    """A classic BPF program: every line is (code, jump if true, jump if false, constant)."""
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _DENY),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _DENY),
    ]
    for call in denied:
        lines += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _DENY)]
    for call, place in opening:
        lines += [
            (_EQUAL, 0, 4, call),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * place),
            (_ANY_BIT, 0, 1, _WRITING),
            (_RETURN, 0, 0, _DENY),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
