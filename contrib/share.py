"""Writes what packages put below share/ and the commands themselves describe: man pages and completions.

`make share` runs it: ``python contrib/share.py build/share``. The layout is that of /usr/share; setup.py has it in
the wheel.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import manual

from l4lb.cli.main import cli
from l4lb.cli.shared.shells import script

# Where each shell looks for the completions of packages.
COMPLETIONS = {
    "bash": "bash-completion/completions/l4lb",
    "zsh": "zsh/site-functions/_l4lb",
    "fish": "fish/vendor_completions.d/l4lb.fish",
}


def main(directory: Path) -> None:
    for name, content in manual.pages():
        page = directory / f"man/man{name[-1]}" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(content, encoding="utf-8")
    for shell, name in COMPLETIONS.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script(shell, cli) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
