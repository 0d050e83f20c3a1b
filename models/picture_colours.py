"""The colours of a picture as every viewer shows them: what its file says of its colours, converted to sRGB.

A file says it by PNG's chunk cICP, by the nclx tag of AVIF and HEIC (both ITU-T H.273's numbers), or by an embedded ICC
profile, in this order. PQ, HLG and wide gamuts go through the curve of models/tone_curve.py, profiles through LittleCMS
with its perceptual intent. What says nothing, or sRGB, stays as it is.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from models.tone_curve import Gamut, Transfer, convert_to_bt709

HEAD = 1 << 16
"""Bytes of a file in which its colour tags are looked for."""

_TRANSFERS: dict[int, Transfer] = {16: "pq", 18: "hlg"}
_GAMUTS: dict[int, Gamut] = {9: "bt2020", 11: "p3", 12: "p3"}

_WORDS = {"pq": "PQ", "hlg": "HLG", "srgb": "", "bt2020": "BT.2020", "p3": "Display P3", "bt709": "BT.709"}


class Tag(NamedTuple):
    """A colour tag that asks for a conversion: the light and the primaries of the values."""

    transfer: Transfer
    gamut: Gamut

    def __str__(self) -> str:
        """Return it in words."""
        return " ".join(filter(None, (_WORDS[self.gamut], _WORDS[self.transfer])))


def describe_conversion(picture: Image.Image, head: bytes) -> str | None:
    """Return what `convert_colours` does with an opened picture, in words; None for nothing. `head` are the first HEAD
    bytes of its file."""
    if tag := read_tag(head):
        return f"colours: {tag} to sRGB."
    profile = read_profile(picture)
    return f"colours: profile {_name_profile(profile)!r} to sRGB." if profile else None


def convert_colours(picture: Image.Image, head: bytes) -> Image.Image:
    """Return a picture of 8 bits in sRGB, with the alpha that it has; one that asks for nothing as it is."""
    tag, profile = read_tag(head), read_profile(picture)
    if tag is None and profile is None:
        return picture
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    opaque = _drop_alpha(picture)
    if tag:
        codes = np.asarray(opaque.convert("RGB")).astype(np.uint16) * 257
        converted = Image.fromarray(convert_to_bt709(codes, tag.transfer, tag.gamut))
    else:
        converted = _apply_profile(opaque, profile)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _drop_alpha(picture: Image.Image) -> Image.Image:
    mode = _name_plain_mode(picture.mode)
    return picture if picture.mode == mode else picture.convert(mode)


def _name_plain_mode(mode: str) -> str:
    """Return the mode without alpha and palette in which a picture of that mode is converted."""
    return "L" if mode in ("L", "LA", "La", "1") or mode.startswith("I") else "CMYK" if mode == "CMYK" else "RGB"


def _apply_profile(picture: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
    if profile is None:
        return picture
    made = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return made or picture


def read_profile(picture: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Return the embedded profile of a picture where it asks for a conversion; None without one, for sRGB, and for one
    that cannot be read or is not for colours of the picture's kind."""
    content = picture.info.get("icc_profile")
    if not content:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        _apply_profile(Image.new(_name_plain_mode(picture.mode), (1, 1)), profile)
        return None if "srgb" in _name_profile(profile).lower() else profile
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _name_profile(profile: ImageCms.ImageCmsProfile | None) -> str:
    return ImageCms.getProfileDescription(profile).strip() if profile else ""


def read_tag(head: bytes) -> Tag | None:
    """Return the colour tag in the first bytes of a PNG, AVIF or HEIC file; None without one that asks for a
    conversion."""
    numbers = _find_numbers(head)
    if numbers is None:
        return None
    primaries, transfer = numbers
    tag = Tag(_TRANSFERS.get(transfer, "srgb"), _GAMUTS.get(primaries, "bt709"))
    return None if tag == Tag("srgb", "bt709") else tag


def _find_numbers(head: bytes) -> tuple[int, int] | None:
    """Return H.273's numbers of the primaries and the transfer."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        place = head.find(b"\x00\x00\x00\x04cICP", 8, max(8, head.find(b"IDAT")))
        return (head[place + 8], head[place + 9]) if 0 < place < len(head) - 10 else None
    place = head.find(b"colrnclx") if head[4:8] == b"ftyp" else -1
    return struct.unpack_from(">HH", head, place + 8) if 0 < place < len(head) - 12 else None
