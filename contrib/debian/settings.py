"""Writes debian/*.service and debian/l4lb.logrotate from contrib/: the same, but for a user that the package makes and
the place of the command.

The unit in contrib/ works without any preparation, as a user that exists only while it runs. That of a package stays:
keys and certificates can be given to it, and logrotate can become it. The command is the package's own: by its name
alone systemd would find one in /usr/local first.
"""

from __future__ import annotations

from pathlib import Path

FROM, TO = Path("contrib"), Path("debian")
CHANGES = {
    "systemd/l4lb.service": (
        "l4lb.service",
        (
            ("DynamicUser=yes\n", "User=l4lb\nGroup=l4lb\n"),
            ("ExecStart=l4lb ", "ExecStart=/usr/bin/l4lb "),
            ("ExecReload=l4lb ", "ExecReload=/usr/bin/l4lb "),
        ),
    ),
    "systemd/l4lb-announce.service": (
        "l4lb.l4lb-announce.service",
        (("ExecStart=l4lb ", "ExecStart=/usr/bin/l4lb "), ("ExecStopPost=l4lb ", "ExecStopPost=/usr/bin/l4lb ")),
    ),
    "logrotate/l4lb": ("l4lb.logrotate", (("\tdaily\n", "\tdaily\n\tsu l4lb l4lb\n"),)),
}


def header_removed(text: str) -> str:
    """Without the comment at its head, which says how to install it by hand."""
    return text[text.index("[Unit]") :] if "[Unit]" in text else text


def main() -> None:
    for source, (target, replacements) in CHANGES.items():
        text = header_removed((FROM / source).read_text())
        for old, new in replacements:
            if text.count(old) != 1:
                raise SystemExit(f"{source}: {old!r} is there {text.count(old)} times, expected once")
            text = text.replace(old, new)
        (TO / target).write_text(text)


if __name__ == "__main__":
    main()
