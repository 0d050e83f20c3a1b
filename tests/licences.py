"""The licences of every installed dependency, read from the texts and the binaries that it bundles (`make licences`).

Metadata is what a package says of its own code; it is silent about the libraries that a wheel carries along. So licence
texts are recognised by their words, FFmpeg's libraries are asked for the licence that they were built under, and the
other libraries that are under a GPL are known by name. A licence under which whoever ships copies owes their source is
marked with a star.
"""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import NamedTuple

MARKS: Mapping[str, str] = {
    "AGPL-3.0": r"gnu affero general public license version 3",
    "GPL-3.0": r"gnu general public license version 3, 29 june",
    "GPL-2.0": r"gnu general public license version 2, june",
    "LGPL-3.0": r"gnu lesser general public license version 3, 29 june",
    "LGPL-2.1": r"gnu lesser general public license version 2\.1, february",
    "MPL-2.0": r"mozilla public license,? (version |v\. ?)2\.0",
    "EPL": r"eclipse public license",
    "Apache-2.0": r"apache license,? version 2\.0",
    "MIT": r"permission is hereby granted, free of charge, to any person obtaining a copy of this software and",
    "MIT-0": r"mit no attribution",
    "BSD-3-Clause": r"redistribution and use in source and binary forms.{,1500}(neither the name|name of .{,90} be)",
    "BSD": r"redistribution and use in source and binary forms",
    "ISC": r"permission to use, copy, modify,? and(/or)? distribute this software for any purpose with or without fee",
    "PSF-2.0": r"psf license agreement|python software foundation license",
    "HPND": r"permission to use, copy, modify,? and distribute this software and its( associated)? documentation",
    "Zlib": r"this software is provided ['\"]as-is['\"], without any express or implied",
    "BSL-1.0": r"boost software license",
    "OFL-1.1": r"sil open font license",
    "Artistic": r"artistic license",
    "Unlicense": r"this is free and unencumbered software released into the public domain",
    "CC0-1.0": r"cc0 1\.0 universal",
    "CC-BY-4.0": r"attribution 4\.0 international",
    "NVIDIA": r"nvidia.{0,200}(license agreement|eula)|license agreement for nvidia",
    "Intel": r"intel simplified software license",
}
"""Words by which the text of a licence is known, after lower case and single spaces."""

LIBRARIES: Mapping[str, str] = {
    "x264": "GPL-2.0", "x265": "GPL-2.0", "xvidcore": "GPL-2.0", "mp3lame": "LGPL-2.0", "asound": "LGPL-2.1",
    "gmp": "LGPL-3.0", "gnutls": "LGPL-2.1", "hogweed": "LGPL-3.0", "nettle": "LGPL-3.0", "unistring": "LGPL-3.0",
    "quadmath": "LGPL-2.1", "geos": "LGPL-2.1", "geos_c": "LGPL-2.1", "gomp": "GPL-3.0 with exception",
    "gfortran": "GPL-3.0 with exception", "stdc++": "GPL-3.0 with exception", "gcc_s": "GPL-3.0 with exception",
}  # fmt: skip
"""Libraries under a GPL that wheels carry, by name. The exception is GCC's: what is linked with them owes nothing."""

TEXTS = re.compile(r"(^|[/_-])(licen[cs]e|copying|notice|copyright|eula)", re.IGNORECASE)

LIBRARY = re.compile(
    r"(?:^|/)lib([a-z_+]*[a-z+]|x26[45])(?:-[0-9][^/]*?|-[0-9a-f]{8})?\.so[.0-9]*$|/lib(x26[45])[^/]*$"
)

FFMPEG = re.compile(rb"lib(?:av|sw|postproc)\w* license: (L?GPL) version ([0-9.]+)")

PROGRAM = re.compile(r"/binaries/|/bin/|\.so[.0-9]*$")

COPYLEFT = ("GPL", "AGPL", "LGPL", "MPL", "EPL")


class Licences(NamedTuple):
    """What one package is under: as its texts say, as the binaries in it say (by name), and as its metadata says."""

    name: str
    version: str
    texts: tuple[str, ...]
    binaries: Mapping[str, str]
    metadata: str

    @property
    def is_gpl(self) -> bool:
        """Return whether something in it is under the GPL itself, without an exception."""
        return any(re.match(r"A?GPL-[\d.]+$", each) for each in (*self.texts, *self.binaries.values()))


def recognise(text: str) -> list[str]:
    """Return the licences whose words are in a text; of the BSD licences the one that is meant."""
    plain = re.sub(r"[\s*#>]+", " ", text.lower())
    found = [name for name, words in MARKS.items() if re.search(words, plain)]
    if "gcc runtime library exception" in plain:
        found = [f"{name} with exception" if name == "GPL-3.0" else name for name in found]
    return [name for name in found if not (name == "BSD" and "BSD-3-Clause" in found)]


def read_licences(package: Distribution) -> Licences:
    """Read the licences of one installed package from its files."""
    texts: dict[str, None] = {}
    binaries: dict[str, str] = {}
    unknown = "no text bundled"
    for name, path in list_files(package):
        if TEXTS.search(name) and not name.endswith((".py", ".pyc", ".pyi", ".so", ".json")):
            texts |= dict.fromkeys(recognise(path.read_text(encoding="utf-8", errors="replace")))
            unknown = f"{name} is not recognised"
        elif PROGRAM.search(name):
            binaries |= describe_binary(path)
    if "LGPL-3.0" in texts:
        # It is written as additions to the GPL, whose text goes with it.
        texts.pop("GPL-3.0", None)
    facts = package.metadata
    said = _read(facts, "License-Expression") or _read_classifiers(package) or _read(facts, "License")
    return Licences(facts["Name"], package.version, tuple(texts) or (unknown,), binaries, " ".join(said.split())[:60])


def list_files(package: Distribution) -> Iterator[tuple[str, Path]]:
    """Yield the files of a package that are there, with their names in it."""
    for file in package.files or ():
        path = Path(str(package.locate_file(file)))
        if path.is_file():
            yield file.as_posix(), path


def describe_binary(path: Path) -> dict[str, str]:
    """Return the licence of a library or a program that is under a GPL, by its name; nothing for another one."""
    if found := LIBRARY.search(path.as_posix()):
        name = found[1] or found[2]
        if name in LIBRARIES:
            return {name: LIBRARIES[name]}
    if re.match(r"lib(av|sw|postproc)|ffmpeg|ffprobe", path.name) and (built := FFMPEG.search(path.read_bytes())):
        number = built[2].decode()
        name = path.name.split("-")[0].removeprefix("lib")
        return {name: f"{built[1].decode()}-{number if '.' in number else f'{number}.0'}"}
    return {}


def list_installed() -> list[Licences]:
    """Return the licences of all installed packages but this project's own, by name."""
    packages = {package.metadata["Name"].lower(): package for package in distributions()}
    return [read_licences(packages[name]) for name in sorted(packages) if name != "reelmill"]


def _read(facts: PackageMetadata, name: str) -> str:
    return " ".join(facts.get_all(name) or ())


def _read_classifiers(package: Distribution) -> str:
    named = [each for each in package.metadata.get_all("Classifier") or () if each.startswith("License ::")]
    return ", ".join(each.rpartition(" :: ")[2] for each in named)


def _format(found: Licences) -> str:
    texts = ", ".join(f"{each}*" if each.startswith(COPYLEFT) else each for each in found.texts)
    binaries = ", ".join(f"{name} {each}*" for name, each in sorted(found.binaries.items()))
    return " | ".join([f"{found.name} {found.version}", texts, binaries or "-", found.metadata or "nothing"])


if __name__ == "__main__":
    print("package | its licence texts | binaries in it under a GPL | its metadata says")
    installed = list_installed()
    print("\n".join(map(_format, installed)))
    print(f"under the GPL itself: {', '.join(each.name for each in installed if each.is_gpl)}")
