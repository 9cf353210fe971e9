"""Every exception l4lb raises on purpose, from one base class.

Bottom of the import order: this module imports nothing of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

# What other people's code can raise. It may call sys.exit(), which must end neither this program nor a thread of it.
RAISED_BY_OTHERS = (Exception, SystemExit)


class L4lbError(Exception):
    """Base class: ``except L4lbError`` catches whatever l4lb raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration, and where.

    ``path`` is the dotted key (``listeners.web.bind[0]``, or a command-line flag), ``line`` counts from 1
    and is 0 when the value did not come from a file.
    """

    path: str
    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """One line, whatever the file has in it."""
        place = ":".join(part for part in (self.file, str(self.line) if self.line else "") if part)
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()


class ConfigError(L4lbError):
    """A configuration cannot be used. Carries every problem found, not only the first."""

    def __init__(self, problems: list[Problem] | tuple[Problem, ...]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(L4lbError, TypeError):
    """A function of l4lb was called with what it does not take; the message says what to write instead."""


class UnknownNameError(L4lbError, KeyError):
    """There is no pool, backend or listener with that name, as in ``lb.pools["nosuch"]``. It is a KeyError too.

    `kind` is ``pool``, ``backend`` or ``listener``, `name` what was asked for. The message has the nearest known name.
    """

    def __init__(self, kind: str, name: object, message: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's shows it in quotes

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, object, str]]:
        return type(self), (self.kind, self.name, str(self))


class EngineError(L4lbError):
    """The data plane cannot do what was asked (out of file descriptors, worker lost, ...)."""


class ChangeError(L4lbError):
    """A runtime change is impossible; nothing has changed.

    `code`: ``not_found`` (pool or backend), ``invalid`` (a value), ``conflict`` (with the current state),
    ``state_not_saved`` (the state file cannot be written); `path` is the key in question, such as
    ``pools.web.backends[10.0.0.1:80].weight``.
    """

    def __init__(self, code: str, message: str, path: str = "") -> None:
        self.code = code
        self.path = path
        super().__init__(f"{path}: {message}" if path else message)


class UpgradeError(L4lbError):
    """The new process did not take over; this one goes on."""


class AdminError(L4lbError):
    """A request to a running instance failed: unreachable, refused or answered with an error."""

    def __init__(self, message: str, *, code: str = "unreachable", status: int = 0) -> None:
        self.code = code
        self.status = status
        super().__init__(message)
