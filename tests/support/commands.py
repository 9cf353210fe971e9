"""The commands of `l4lb` against one instance, as a script runs them."""

from __future__ import annotations

from tests.support import forking


class Commands:
    """`admin`: the address of the instance's admin API, which the commands get by their environment."""

    def __init__(self, admin: str) -> None:
        self.admin = admin
        self.environment = {"L4LB_ADMIN": admin}

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        done = forking.run(*arguments, environment=self.environment)
        return done.returncode, done.stdout, done.stderr

    def ok(self, *arguments: str) -> str:
        """What a command that succeeds, without a word on stderr, prints."""
        code, out, err = self.run(*arguments)
        assert (code, err) == (0, ""), (arguments, out, err)
        return out
