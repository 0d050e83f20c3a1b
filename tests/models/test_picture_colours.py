"""Colours of pictures, against ImageCms itself for profiles, and against the formulas of the tags."""

import io
import struct
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from models.file_kinds import READS_HEIC
from models.picture_colours import read_tag
from models.pictures import describe_foreign_picture, prepare_picture, register_heif
from tests.models.test_tone_curve import BT2087, code_hlg, code_pq

P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
"""X, Y and Z of red, green and blue by D50, as the profiles of that name have them."""


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(gamma: float | None) -> bytes:
    """A curve of a profile; None is that of sRGB."""
    if gamma is None:
        codes = np.arange(1024) / 1023
        light = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
        return b"curv" + bytes(4) + struct.pack(">I", 1024) + np.rint(light * 65535).astype(">u2").tobytes()
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def make_profile(name: str, space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2 with these tags."""
    said = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + bytes(1 + 8 + 3 + 67)
    tags = {b"desc": said, b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249), **tags}
    table, body, place = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for key, tag in tags.items():
        padded = tag + bytes(-len(tag) % 4)
        table += key + struct.pack(">II", place + len(body), len(tag))
        body += padded
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I", place + len(body)) + bytes(4) + b"\x02\x40\0\0" + kind + space + connection
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + table + body


def make_rgb_profile(name: str, primaries: tuple[tuple[float, ...], ...], gamma: float | None) -> bytes:
    tags = {
        key: b"XYZ " + bytes(4) + fixed(*xyz) for key, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    return make_profile(name, b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma)))


def make_cmyk_profile() -> bytes:
    """Inks on paper by a table of two points an ink: Lab of the mixtures, printed a little dull."""
    ramp = bytes(range(256))
    grid = np.array(list(product((0, 1), repeat=4)))
    points = (1 - grid[:, :3]) * (1 - grid[:, 3:]) * [230, 220, 210]
    labs = cv2.cvtColor(points[None].astype(np.uint8), cv2.COLOR_RGB2Lab).tobytes()
    matrix = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + labs + ramp * 3
    return make_profile("Dull inks", b"CMYK", {b"A2B0": table}, b"Lab ")


PROFILES = {
    "RGB": (make_rgb_profile("Display P3", P3, 2.2), make_rgb_profile("Adobe RGB (1998)", ADOBE, 2.19921875)),
    "L": (make_profile("Gray 1.8", b"GRAY", {b"kTRC": curve(1.8)}),),
    "CMYK": (make_cmyk_profile(),),
}

FORMATS = {"RGB": (".png", ".jpg", ".tif", ".webp", ".avif"), "L": (".png", ".jpg", ".tif"), "CMYK": (".jpg", ".tif")}

CASES = [(mode, profile, suffix) for mode, all_of in PROFILES.items() for profile in all_of for suffix in FORMATS[mode]]


def make_patches(mode: str) -> Image.Image:
    """Four flat patches of 32 pixels, so that no codec smears them where they are looked at."""
    colours = np.array([[[200, 35, 40, 20], [65, 150, 65, 90]], [[45, 80, 190, 0], [250, 200, 10, 140]]], np.uint8)
    bands = {"RGB": 3, "L": 1, "CMYK": 4}[mode]
    pixels = colours.repeat(32, 0).repeat(32, 1)[..., :bands]
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)


def read_patches(pixels: np.ndarray) -> np.ndarray:
    return pixels[16::32, 16::32].astype(int)


def as_imagecms_does(picture: Image.Image, profile: bytes) -> np.ndarray:
    source, screen = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(picture, source, screen, outputMode="RGB")
    assert made is not None
    return np.asarray(made)


@pytest.mark.parametrize(("mode", "profile", "suffix"), CASES)
def test_a_profile_is_applied_as_imagecms_does(tmp_path: Path, mode: str, profile: bytes, suffix: str):
    path = tmp_path / f"a{suffix}"
    lossless: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    make_patches(mode).save(path, icc_profile=profile, quality=100, **lossless)
    with Image.open(path) as stored:
        wanted = as_imagecms_does(stored.convert(mode), profile)
    found = prepare_picture(path, 64, 64)
    assert np.abs(read_patches(found) - read_patches(wanted)).max() <= 1
    plain = np.asarray(make_patches(mode).convert("RGB"))
    assert np.abs(read_patches(found) - read_patches(plain)).max() > 3
    assert "to sRGB" in (describe_foreign_picture(path) or "")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_grey_go_through_their_profile(tmp_path: Path, suffix: str):
    path, profile = tmp_path / f"a{suffix}", PROFILES["L"][0]
    deep = Image.fromarray(np.full((64, 64), 120 * 257, np.uint16))
    deep.save(path, icc_profile=profile)
    wanted = as_imagecms_does(Image.new("L", (64, 64), 120), profile)
    assert np.abs(read_patches(prepare_picture(path, 64, 64)) - read_patches(wanted)).max() <= 1


def test_what_is_transparent_shows_the_background_and_keeps_its_profile(tmp_path: Path):
    path, profile = tmp_path / "a.png", PROFILES["RGB"][0]
    picture = make_patches("RGB").convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 32))
    picture.save(path, icc_profile=profile)
    found = read_patches(prepare_picture(path, 64, 64))
    assert found[0, 0].tolist() == [255, 255, 255]
    wanted = read_patches(as_imagecms_does(make_patches("RGB"), profile))
    assert np.abs(found - wanted)[1].max() <= 1


@pytest.mark.parametrize(
    "content", [b"no profile", PROFILES["CMYK"][0], ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_a_profile_of_srgb_of_another_kind_or_broken_changes_nothing(tmp_path: Path, content: bytes):
    path = tmp_path / "a.png"
    make_patches("RGB").save(path, icc_profile=content)
    assert np.array_equal(prepare_picture(path, 64, 64), np.asarray(make_patches("RGB")))
    assert describe_foreign_picture(path) is None


def add_cicp(path: Path, primaries: int, transfer: int) -> None:
    """Put a chunk cICP behind a PNG's header."""
    content = path.read_bytes()
    chunk = b"cICP" + bytes([primaries, transfer, 0, 1])
    path.write_bytes(content[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:])


@pytest.mark.parametrize(("transfer", "number"), [("pq", 16), ("hlg", 18)])
def test_a_png_tagged_as_hdr_goes_through_the_curve(tmp_path: Path, transfer: str, number: int):
    path, wanted = tmp_path / "a.png", np.asarray(make_patches("RGB"))
    light = 203 * (wanted / 255) ** 2.4 @ BT2087.T
    coded = (code_pq if transfer == "pq" else code_hlg)(light)
    Image.fromarray(np.rint(coded * 255).astype(np.uint8)).save(path)
    add_cicp(path, 9, number)
    # Eight bits of PQ or HLG are coarse, most of all in the dark.
    assert np.abs(read_patches(prepare_picture(path, 64, 64)) - read_patches(wanted)).max() <= 12
    assert describe_foreign_picture(path) == f"colours: BT.2020 {transfer.upper()} to sRGB."


def test_a_png_tagged_as_display_p3_is_as_with_its_profile(tmp_path: Path):
    path = tmp_path / "a.png"
    make_patches("RGB").save(path)
    add_cicp(path, 12, 13)
    exact = make_rgb_profile("P3", P3, None)
    wanted = read_patches(as_imagecms_does(make_patches("RGB"), exact))
    assert np.abs(read_patches(prepare_picture(path, 64, 64)) - wanted).max() <= 2
    assert describe_foreign_picture(path) == "colours: Display P3 to sRGB."


def test_plain_tags_ask_for_nothing_and_nclx_is_read():
    nclx = b"\0\0\0\x20ftypavif" + bytes(40) + b"\0\0\0\x13colrnclx" + struct.pack(">HHH", 9, 16, 9) + b"\x80"
    assert str(read_tag(nclx)) == "BT.2020 PQ"
    assert read_tag(nclx.replace(struct.pack(">HHH", 9, 16, 9), struct.pack(">HHH", 1, 13, 6))) is None
    assert read_tag(b"") is read_tag(b"\x89PNG\r\n\x1a\n") is read_tag(nclx[:66]) is None


def test_the_base_picture_of_a_gain_map_is_used(tmp_path: Path):
    path = tmp_path / "a.jpg"
    base, gain = make_patches("RGB"), Image.new("RGB", (64, 64), (128, 128, 128))
    base.save(path, format="MPO", save_all=True, append_images=[gain], quality=100)
    found = read_patches(prepare_picture(path, 64, 64))
    assert np.abs(found - read_patches(np.asarray(base))).max() <= 3


@pytest.mark.skipif(not READS_HEIC, reason="The extra heic is not installed.")
def test_heic_is_read_with_its_profile(tmp_path: Path):
    path, profile = tmp_path / "a.heic", PROFILES["RGB"][0]
    assert register_heif()
    make_patches("RGB").save(path, quality=100, chroma=444, icc_profile=profile)
    wanted = read_patches(as_imagecms_does(make_patches("RGB"), profile))
    assert np.abs(read_patches(prepare_picture(path, 64, 64)) - wanted).max() <= 4
