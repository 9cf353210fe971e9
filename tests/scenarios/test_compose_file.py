"""contrib/compose: held to a schema of the keys that it uses, to its lb.toml and to the image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from l4lb import Config
from l4lb.version import __version__
from tests.support import forking
from tests.support.dockerfile import FILE, exec_form, instructions
from tests.support.programs import require, run

COMPOSE = FILE.parent / "contrib" / "compose"
TEXT: dict[str, Any] = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
KEYS: dict[str, Any] = {
    "build": {"type": "object", "properties": {"context": TEXT}, "additionalProperties": False},
    "image": TEXT, "hostname": TEXT, "init": {"type": "boolean"}, "read_only": {"type": "boolean"}, "cap_drop": TEXTS,
    "security_opt": TEXTS, "stop_grace_period": {"type": "string", "pattern": "^[0-9]+s$"}, "tmpfs": TEXTS,
    "volumes": TEXTS, "ports": TEXTS, "depends_on": TEXTS,
}  # fmt: skip
SERVICE = {"type": "object", "properties": KEYS, "required": ["image"], "additionalProperties": False}
SCHEMA = {
    "type": "object",
    "properties": {"name": TEXT, "services": {"type": "object", "additionalProperties": SERVICE}},
    "required": ["name", "services"],
    "additionalProperties": False,
}


def services() -> dict[str, Any]:
    said = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    jsonschema_rs.validate(SCHEMA, said)
    found: dict[str, Any] = said["services"]
    return found


def test_it_fits_its_configuration_and_the_image() -> None:
    found, config = services(), Config.load(str(COMPOSE / "lb.toml"))
    l4lb = found.pop("l4lb")
    assert (COMPOSE / l4lb["build"]["context"] / "Dockerfile").samefile(FILE)
    assert l4lb["image"] == f"l4lb:{__version__}"
    assert l4lb["volumes"] == [f"./lb.toml:{exec_form('CMD')[-1]}:ro"]
    (port,) = l4lb["ports"]
    assert list(config.listeners["web"].bind) == [f":{port.rpartition(':')[2]}"]
    assert int(l4lb["stop_grace_period"].removesuffix("s")) >= config.global_.drain_timeout + 5
    assert [one.address for one in config.pools["web"].backends] == [f"{name}:80" for name in found]
    assert l4lb["depends_on"] == list(found)
    (user,) = (rest for word, rest in instructions() if word == "USER")
    (directory,) = l4lb["tmpfs"]
    assert re.fullmatch(rf"/run/l4lb:uid={user},gid={user},mode=0700", directory)


def test_l4lb_check_accepts_its_configuration() -> None:
    """The only warnings are that names of services mean nothing outside of Compose's network."""
    file = COMPOSE / "lb.toml"
    done = forking.run("check", str(file))
    assert (done.returncode, done.stdout) == (0, f"{file}: ok (1 listeners, 1 pools, 2 backends)\n")
    warned = [line for line in done.stderr.splitlines() if not re.search(r"name (one|two) does not resolve", line)]
    assert warned == []


@pytest.mark.external
def test_docker_compose_accepts_it(tmp_path: Path) -> None:
    """That of Debian 12 is of the first series, which knows all of the file but the project's name."""
    program, file = require("docker-compose"), COMPOSE / "compose.yaml"
    if run(program, "version", "--short").startswith("1."):
        file = tmp_path / "compose.yaml"
        text = (COMPOSE / "compose.yaml").read_text()
        file.write_text(text.replace("\nname: l4lb\n", "\n", 1))
    said = yaml.safe_load(run(program, "--project-directory", str(COMPOSE), "-f", str(file), "config"))
    assert set(said["services"]) == set(services())
