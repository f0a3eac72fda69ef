"""The one line a user gets for a mistake of theirs, and the exit code that goes with it."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable

# What the machine refuses and only the user can mend: space, rights, a path in the way.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}


class UserError(ValueError):
    """A mistake of the user's. The message is one line that names the thing and the remedy."""


def run_command(main: Callable[[], None]) -> int:
    """Run a command line's `main` and return its exit code: 0 done, 2 the user's mistake, 130 interrupted.

    Faults of ours are not caught: they leave with their traceback, and Python exits with 1.
    """
    warnings.filterwarnings("ignore", module="PIL")  # about files that load_photo judges itself
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        print(
            f"error: {error.filename or 'writing'}: {error.strerror}; free space or choose another place",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0
