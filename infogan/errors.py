"""The one line a user gets for a mistake of theirs, and the exit code that goes with it."""

from __future__ import annotations

import argparse
import errno
import io
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

# What the machine refuses and only the user can mend: space, rights, something in the way.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EBUSY, errno.ENAMETOOLONG, errno.ELOOP),
}


# What is not installed with the core, and the extra that brings it.
_EXTRAS = {
    **dict.fromkeys(("torch", "pytorch_lightning", "omegaconf", "tensorboard", "safetensors"), "train"),
    **dict.fromkeys(("onnx", "onnxscript", "yaml"), "train"),
    **dict.fromkeys(("torchvision", "timm", "sklearn", "umap", "matplotlib"), "compare"),
    **dict.fromkeys(("faiss", "threadpoolctl"), "cpu"),
    "duckdb": "attributes",
    **dict.fromkeys(("fastapi", "uvicorn", "uvloop", "httptools", "python_multipart", "prometheus_client"), "serve"),
    "ray": "ray",
    "pymilvus": "milvus",
}


class UserError(ValueError):
    """A mistake of the user's. The message is one line that names the thing and the remedy."""


class ArgumentParser(argparse.ArgumentParser):
    """Tells a wrong command line as a `UserError`, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def run_command(main: Callable[[], None]) -> int:
    """Run a command line's `main` and return its exit code: 0 done, 2 the user's mistake, 130 interrupted.

    141, as of a shell's own commands, where whoever read its output has seen enough (`| head`).

    Faults of ours are not caught: they leave with their traceback, and Python exits with 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name need not be UTF-8
    warnings.filterwarnings("ignore", module="PIL")  # about files that load_photo judges itself
    threading.excepthook = _quiet_about_the_machine
    try:
        main()
        sys.stdout.flush()  # here and not when Python ends, where nobody could catch it
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS:
            raise
        print(f"error: {module} is missing: pip install 'sole2vec[{_EXTRAS[module]}]'", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
            return 128 + signal.SIGPIPE
        if error.errno not in _MACHINE:
            raise
        print(
            f"error: {error.filename or 'writing'}: {error.strerror}; make room or choose another place",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _nobody_reads() -> bool:
    """Whether it is standard output whose other end is closed, and not some connection."""
    output = select.poll()
    output.register(sys.stdout, 0)  # errors alone
    return bool(output.poll(0))


def _quiet_about_the_machine(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread of its own; what stops it there stops the main thread too, which then says so."""
    if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in _MACHINE):
        threading.__excepthook__(failure)
