"""The file of tokens for the admin API: a line each, ``TOKEN [NAME [admin | read-only]]``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

ADMIN, READ_ONLY = "admin", "read-only"
EXPECTED = f"expected TOKEN, or TOKEN NAME, or TOKEN NAME {READ_ONLY}"


@dataclass(frozen=True, slots=True)
class Token:
    """`name` stands in events: who has it. A `read_only` one changes nothing."""

    secret: str = field(repr=False)
    name: str = ""
    read_only: bool = False


def parse_tokens(text: str) -> list[Token]:
    """Empty lines and those that begin with # are left out. ValueError, which names the line and never the token."""
    found: list[Token] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        secret, name, role = (*words, "", "")[:3]
        if len(words) > 3 or role not in ("", ADMIN, READ_ONLY):
            raise ValueError(f"line {number}: {EXPECTED}")
        if any(one.secret == secret for one in found):
            raise ValueError(f"line {number}: the same token again")
        if name and any(one.name == name for one in found):
            raise ValueError(f'line {number}: the name "{name}" again')
        found.append(Token(secret, name, role == READ_ONLY))
    return found


def first_token(text: str) -> str:
    """The one that a client sends: the first of a file. ValueError when there is none."""
    found = parse_tokens(text)
    if not found:
        raise ValueError("the file is empty; expected a token")
    return found[0].secret
