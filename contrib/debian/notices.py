"""Writes debian/copyright, that of the libraries in the package included: ``python notices.py ENVIRONMENT TEMPLATE``.

Each library says in its metadata by which licence it is distributed; one that does not ends the build.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageMetadata
from pathlib import Path

OWN = "l4lb"
HOME_OF_L4LB = "usr/lib/l4lb"
# Not what a licence says of them: "Copyright License", "Copyright [yyyy]".
NOTICE = re.compile(r"^\W*Copyright (?:\([Cc]\) |© )?(?!Licen[cs]e|\[)(.*?)[.\s]*$", re.MULTILINE)
STANZA = """
Files: {folder}/*
Copyright: {holders}
License: {name}
 {licence}
{texts}Comment: {home}
"""


def licence_of(metadata: PackageMetadata) -> str:
    """An SPDX expression where there is one, else what the classifiers say."""
    classifiers = [one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier", []) if one.startswith("License")]
    found = metadata.get("License-Expression") or " and ".join(classifiers) or metadata.get("License", "")
    if not found.strip() or "\n" in found.strip():
        raise SystemExit(f"{metadata['Name']} says nothing of its licence")
    return found.strip()


def home_of(metadata: PackageMetadata) -> str:
    """Where its source is, as far as it says."""
    addresses = dict(one.split(", ", 1) for one in metadata.get_all("Project-URL", []))
    named = [url for label, url in addresses.items() if re.search("home|source|repo", label, re.IGNORECASE)]
    return metadata.get("Home-page") or (named or [*addresses.values(), metadata["Name"]])[0]


def texts_in(folder: Path) -> Iterator[str]:
    """Of its licence, below the folder of its metadata."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and re.search("licen[cs]e|copying|notice", file.name, re.IGNORECASE):
            yield str(file.relative_to(folder))


def holders(folder: Path, metadata: PackageMetadata) -> str:
    """The notices in its texts, or whom the metadata name."""
    texts = (folder.joinpath(name).read_text(encoding="utf-8", errors="replace") for name in texts_in(folder))
    notices = [" ".join(found.split()) for text in texts for found in NOTICE.findall(text)]
    author = metadata.get("Author") or metadata.get("Author-email") or metadata.get("Maintainer-email") or ""
    return "\n ".join(dict.fromkeys(notices)) or " ".join(author.split()) or f"the authors of {metadata['Name']}"


def stanza(folder: Path, environment: Path) -> str:
    metadata = Distribution.at(folder).metadata
    installed = f"{HOME_OF_L4LB}/{folder.relative_to(environment)}"
    return STANZA.format(
        folder=installed,
        holders=holders(folder, metadata),
        name=f"{metadata['Name']}-{metadata['Version']}",
        licence=licence_of(metadata),
        texts="".join(f" The text is in /{installed}/{text}\n" for text in texts_in(folder)),
        home=home_of(metadata),
    )


def main(environment: Path, template: Path) -> None:
    folders = environment.glob("lib/python3*/site-packages/*.dist-info")
    libraries = [one for one in folders if not one.name.startswith(f"{OWN}-")]
    ordered = sorted(libraries, key=lambda one: one.name.lower())
    sys.stdout.write(template.read_text() + "".join(stanza(one, environment) for one in ordered))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
