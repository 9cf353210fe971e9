"""What a Dockerfile says, as far as ours goes: instructions in their order, stages by FROM."""

from __future__ import annotations

import json
import re
from pathlib import Path

FILE = Path(__file__).parent.parent.parent / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(RUN, what it runs) and so on; lines that go on are one."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def copied() -> list[str]:
    """The files and folders that the image is built from."""
    return [name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]


def commands(program: str) -> list[str]:
    """Of that program, in all RUN lines."""
    runs = [re.sub(r"^(--\S+ +)+", "", rest) for word, rest in instructions() if word == "RUN"]
    return [one.strip() for run in runs for one in run.split("&&") if one.strip().startswith(program)]


def exec_form(word: str) -> list[str]:
    """The command of CMD, ENTRYPOINT or HEALTHCHECK."""
    (found,) = (rest for one, rest in instructions() if one == word)
    command: list[str] = json.loads(found[found.index("[") :])
    return command
