"""Licences are read from what packages bundle, and the documents name what is under the GPL."""

import re
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest

from tests.licences import describe_binary, list_installed, read_licences, recognise

GPL = "GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n Copyright (C) 2007 ..."
MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software\n# and associated"
LGPL = "GNU LESSER GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007 ... supplements the GNU General Public License"


def package(folder: Path, metadata: str, **files: str) -> PathDistribution:
    """An installed package with these files of licences."""
    info = folder / "fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: fake\nVersion: 1.0\n{metadata}\n")
    for name, text in files.items():
        (info / name).write_text(text)
    (info / "RECORD").write_text("".join(f"fake-1.0.dist-info/{name},,\n" for name in files))
    return PathDistribution(info)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GPL, ["GPL-3.0"]),
        (f"GCC RUNTIME LIBRARY EXCEPTION\n{GPL}", ["GPL-3.0 with exception"]),
        (f"{GPL}\n\n{MIT}", ["GPL-3.0", "MIT"]),
        (LGPL, ["LGPL-3.0"]),
        ("It works beside programs under the GPL.", []),
    ],
)
def test_a_licence_is_known_by_its_words(text: str, found: list[str]):
    assert recognise(text) == found


def test_our_own_licence_is_recognised(repository: Path):
    assert recognise((repository / "LICENSE").read_text()) == ["Apache-2.0"]


def test_the_texts_decide_and_not_the_metadata(tmp_path: Path):
    found = read_licences(package(tmp_path, "License-Expression: MIT", LICENSE=MIT, COPYING=GPL))
    assert (found.texts, found.metadata, found.is_gpl) == (("MIT", "GPL-3.0"), "MIT", True)


def test_the_gpls_text_that_goes_with_the_lgpl_is_no_gpl(tmp_path: Path):
    found = read_licences(package(tmp_path, "", COPYING=GPL, LICENSE=LGPL))
    assert (found.texts, found.is_gpl) == (("LGPL-3.0",), False)


def test_what_has_no_text_or_an_unknown_one_says_so(tmp_path: Path):
    (tmp_path / "a").mkdir()
    assert read_licences(package(tmp_path / "a", "License: MIT")).texts == ("no text bundled",)
    assert read_licences(package(tmp_path, "", LICENSE="ask me")).texts == (
        "fake-1.0.dist-info/LICENSE is not recognised",
    )


def test_ffmpegs_own_word_is_read_from_the_program_and_from_the_libraries():
    ffmpeg = read_licences(distribution("imageio-ffmpeg"))
    assert (dict(ffmpeg.binaries), ffmpeg.texts, ffmpeg.is_gpl) == ({"ffmpeg": "GPL-3.0"}, ("BSD",), True)
    av = read_licences(distribution("av"))
    assert {av.binaries[name] for name in ("x264", "x265")} == {"GPL-2.0"}
    assert av.binaries["avcodec"] == "LGPL-3.0"
    assert "BSD" in av.metadata


@pytest.mark.parametrize("name", ["libx264-d6533a8d.so.165", "libx265-f5385bb8.so.216", "libx264.so"])
def test_a_gpl_library_is_known_by_its_name(name: str, tmp_path: Path):
    (tmp_path / name).touch()
    assert list(describe_binary(tmp_path / name).values()) == ["GPL-2.0"]


@pytest.mark.slow
def test_every_installed_dependency_of_the_lock_is_listed_and_the_documents_name_those_under_the_gpl(repository: Path):
    installed = list_installed()
    names = {re.sub(r"[-_.]+", "-", each.name).lower() for each in installed}
    required = {"torch", "av", "imageio-ffmpeg", "prefect", "opencv-python-headless", "easyocr", "numpy", "pyarrow"}
    assert required <= names
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (repository / "requirements.lock").read_text(), re.MULTILINE))
    assert names - {"pip", "uv"} <= {re.sub(r"[-_.]+", "-", name) for name in locked} | {"setuptools"}
    page = (repository / "docs/licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)`.*\| GPL-", page, re.MULTILINE)
    assert sorted(rows) == [each.name for each in installed if each.is_gpl] == ["av", "imageio-ffmpeg"]
    assert all(f"`{name}`" in (repository / "README.md").read_text() for name in rows)
    assert all(each.texts for each in installed)
