"""What an AppArmor profile allows: its rules as apparmor_parser(8) reads them, includes and all (apparmor.d(5)).

Only what l4lb's profile has: rules for files, capabilities and networks. `owner` counts as met.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.programs import run

AS_A_SERVICE = ("env", "-u", "SSL_CERT_FILE", "-u", "SSL_CERT_DIR")  # no list of authorities but the system's
_VARIABLE = re.compile(r"^\s*(@\{\w+\})\s*\+?=\s*(.*)$", re.MULTILINE)
_FILE = re.compile(r"^\s*(?:owner\s+)?(/\S*|@\{\S*)\s+([rwaxmlkiuUpPcC]+)\s*,", re.MULTILINE)
_CAPABILITY = re.compile(r"^\s*capability\s+([\w\s]+),", re.MULTILINE)
_NETWORK = re.compile(r"^\s*network\s+(\w+)\s+(\w+)\s*,", re.MULTILINE)


@dataclass
class Profile:
    """`files`: a pattern of paths and what may be done with them, as letters."""

    files: list[tuple[re.Pattern[str], str]] = field(default_factory=list)
    capabilities: set[str] = field(default_factory=set)
    networks: set[tuple[str, str]] = field(default_factory=set)

    def allows(self, path: str, letter: str) -> bool:
        letters = {"w": "wa"}.get(letter, letter) if letter != "a" else "wa"
        return any(set(letters) & set(may) for pattern, may in self.files if pattern.fullmatch(path))


def alternatives(text: str, values: dict[str, list[str]]) -> list[str]:
    """A path of a rule, for each value of the variables in it."""
    found = re.search(r"@\{\w+\}", text)
    if found is None:
        return [text]
    made = (f"{text[: found.start()]}{value}{text[found.end() :]}" for value in values.get(found[0], []))
    return [path for one in made for path in alternatives(re.sub("/+", "/", one), values)]


def pattern_of(glob: str) -> re.Pattern[str]:
    """`*` stops at a slash, `**` does not; `{a,b}` is one of them."""
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}
    tokens = re.findall(r"\*\*|[*?{},]|\[[^]]*\]|[^*?{},[]+", glob)
    return re.compile("".join(parts.get(one, one if one.startswith("[") else re.escape(one)) for one in tokens))


def read_profile(path: Path) -> Profile:
    """Fails where apparmor_parser does."""
    lines = run("apparmor_parser", "--preprocess", str(path)).splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    values: dict[str, list[str]] = {}
    for name, listed in _VARIABLE.findall(text):
        values.setdefault(name, []).extend(listed.replace('"', "").split())
    profile = Profile()
    for glob, may in _FILE.findall(text):
        profile.files += [(pattern_of(one), may) for one in alternatives(glob, values)]
    profile.capabilities = {name for listed in _CAPABILITY.findall(text) for name in listed.split()}
    profile.networks = set(_NETWORK.findall(text))
    return profile
