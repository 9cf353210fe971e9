"""The configurations in haproxy/ and nginx/: of the kind that people publish, written for these tests. Beside each is
what `l4lb convert` makes of it (.toml) and what it says (.lost), as printed by the command in the top directory."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent.relative_to(Path.cwd()) if Path(__file__).is_relative_to(Path.cwd()) else Path()
HAPROXY = sorted((DIRECTORY / "haproxy").glob("*.cfg"))
NGINX = sorted((DIRECTORY / "nginx").glob("*.conf"))
SAMPLES = [*HAPROXY, *NGINX]


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"
