"""``python -m l4lb``, and the console script: what has to hold before any slow import.

Python answers SIGINT with an exception wherever it is, which in the middle of an import is a traceback. So until a
command runs, SIGINT ends the process as the kernel does; the signals that `l4lb serve` and `l4lb demo` wait for are
blocked from here on. Descriptors 0 to 2 are open from here on: otherwise a socket could get the number of a closed one
and receive output that is meant for the user. What is imported stays: garbage is not collected until a command runs,
which saves a seventh of the start of `l4lb serve`. Memory for the imports is asked for before them: libraries written
in Rust abort the process when they get none, which looks like a crash.
"""

import gc
import mmap
import os
import signal
import sys

KEEPING = {
    "serve": {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2},
    "demo": {signal.SIGTERM, signal.SIGINT},
}  # by command: the signals that it waits for
IMPORTS_TAKE = 40 << 20  # bytes; 33 MiB measured, for `l4lb serve`


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, KEEPING.get("".join(sys.argv[1:2]), ()))
    _open_standard_files()
    gc.disable()
    try:
        _expect_memory()
        from l4lb.cli.main import main as command

        command()
    except MemoryError:
        _give_up("out of memory")
    except SystemError as error:
        if "without" not in str(error):
            raise
        _give_up("out of memory")  # Python 3.13 says so: "error return without exception set" and the like
    except ImportError as error:
        if not str(error.path).endswith(".so"):
            raise
        _give_up(str(error))  # dlopen(3), for lack of memory: "cannot map zero-fill pages" and the like


def _expect_memory() -> None:
    try:
        mmap.mmap(-1, IMPORTS_TAKE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:  # ENOMEM: RLIMIT_AS, RLIMIT_DATA, overcommit
        _give_up(f"out of memory: a start needs {IMPORTS_TAKE >> 20} MiB more; see `ulimit -d` and `ulimit -v`")


def _give_up(why: str) -> None:
    os.write(2, f"l4lb: {why}\n".encode())
    os._exit(1)  # skips Python's own shutdown, which needs memory too


def _open_standard_files() -> None:
    """Open /dev/null for those that were closed (``>&-``): open(2) takes the lowest free number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # EBADF
            if os.open(os.devnull, os.O_RDWR) != fd:
                raise


if __name__ == "__main__":
    main()
