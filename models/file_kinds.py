"""What a file is by its first bytes, whatever its name says: a film, a picture, sound, or nothing that is known here.

Names are often wrong or missing, and suffixes are many; the formats below announce themselves. Text, archives and
documents are of no kind. Sources: the formats' specifications, as libavformat's demuxers and Pillow's plugins probe
them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

HEAD = 1 << 16
"""Bytes that are read of a file: a header with its list of streams fits, and a stream without one shows its rhythm."""


@dataclass(frozen=True)
class FileKind:
    """A format by its name, and what such a file holds; `unread` where nothing here decodes it."""

    name: str
    holds: Literal["film", "picture", "sound"]
    unread: bool = False


MP4, GIF, APNG = FileKind("MP4", "film"), FileKind("GIF", "film"), FileKind("animated PNG", "film")

_WEBP = FileKind("WebP", "picture")

ANIMATED_WEBP = FileKind("animated WebP", "film", unread=True)

READS_HEIC = find_spec("pillow_heif") is not None
"""Whether the extra `heic` is installed."""

HEIC = FileKind("HEIC", "picture", unread=not READS_HEIC)

SOUND = FileKind("sound", "sound")

_FILMS = {
    "MPEG program stream": rb"\x00\x00\x01\xba",
    "MPEG video stream": rb"\x00\x00\x01[\xb0\xb3]",
    "H.264 stream": rb"\x00?\x00\x00\x01(?:[\x67\x27\x47]|\x09[\x10-\xf0]\x00)",
    "HEVC stream": rb"\x00?\x00\x00\x01(?:\x40\x01|\x46\x01)",
    "AV1 stream": rb"\x12\x00\x0a[\x01-\x7f]",
    "AVI": rb"RIFF.{4}AVI",
    "MXF": rb"\x06\x0e\x2b\x34\x02\x05\x01\x01",
    "Flash film": rb"FLV\x01|FWS[\x01-\x32]",
    "YUV4MPEG": rb"YUV4MPEG2 ",
    "DV": rb"\x1f\x07\x00[\x3f\xbf]",
    "IVF": rb"DKIF",
    "NUT": rb"nut/multimedia container\x00",
    "RealMedia": rb"\.RMF",
    "WTV": rb"\xb7\xd8\x00\x20\x37\x49\xda\x11",
    "Bink or Smacker": rb"BIK[bfghik]|SMK[24]",
}

_PICTURES = {
    "JPEG": rb"\xff\xd8\xff",
    "TIFF": rb"II\*\x00|MM\x00\*",
    "BMP": rb"BM.{4}\x00{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
    "PNM": rb"P[56]\s+[#\d]",
}

_UNREAD_PICTURES = {
    "Photoshop": rb"8BPS\x00",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  \r\n",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n",
}

_SOUNDS = rb"ID3|fLaC|\x0b\x77|RIFF.{4}WAVE|FORM.{4}AIF|#!AMR|\xff[\xe2-\xfe]"
"""The last is MPEG's: eleven bits of sync."""

_MARKS: Mapping[FileKind, re.Pattern[bytes]] = {
    **{FileKind(name, "film"): re.compile(mark, re.DOTALL) for name, mark in _FILMS.items()},
    **{FileKind(name, "picture"): re.compile(mark, re.DOTALL) for name, mark in _PICTURES.items()},
    **{FileKind(name, "picture", unread=True): re.compile(mark) for name, mark in _UNREAD_PICTURES.items()},
    SOUND: re.compile(_SOUNDS, re.DOTALL),
}
"""The marks that begin a file; of those that need more than a look at its beginning there are functions."""

_BRANDS: Mapping[bytes, FileKind] = {
    b"avif": FileKind("AVIF", "picture"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2"), HEIC),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax ", b"aaxc"), SOUND),
}
"""What the first brand of an ISO base media file says; any other is a film's."""

_MP4_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof")

_TS_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Lengths of the packets of MPEG transport streams, and where in them the sync byte stands."""

_ASF, _ASF_VIDEO = bytes.fromhex("3026b2758e66cf11"), bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")

_ASF_ENCRYPTED = (bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"), bytes.fromhex("14e68a292226174cb935dae07ee9289c"))
"""The Content Encryption Object and the extended one."""

_MATROSKA = b"\x1a\x45\xdf\xa3"

_MATROSKA_CODEC = re.compile(rb"\x86[\x83-\xbf]([VA])_")
"""The CodecID element, whose value begins with V_ for video and with A_ for sound."""

_MATROSKA_ENCRYPTED = re.compile(rb"\x50\x35[\x81-\xff\x40].{0,64}?\x47[\xe1\xe2]", re.DOTALL)
"""A ContentEncryption element that names its algorithm or its key."""

_OGG_VIDEO = (b"\x80theora", b"BBCD\x00", b"OVP80", b"\x01video\x00\x00\x00")


def read_kind(path: Path) -> FileKind | None:
    """Return the kind of a file by its content; None for what is of none, or no regular file, or may not be read."""
    return find_kind(_read_head(path))


def is_film(path: Path) -> bool:
    """Say whether a file's content is a film, or moving pictures of any sort, that can be decoded."""
    kind = read_kind(path)
    return kind is not None and kind.holds == "film" and not kind.unread


def is_picture(path: Path) -> bool:
    """Say whether a file's content is a picture that can be decoded; of an animated one, its first is."""
    kind = read_kind(path)
    return kind in (GIF, APNG, ANIMATED_WEBP) or (kind is not None and kind.holds == "picture" and not kind.unread)


def find_kind(head: bytes) -> FileKind | None:
    """Return the kind that the first bytes of a file announce; None where they announce none."""
    special = (_find_mp4, _find_animation, _find_matroska, _find_ogg, _find_asf, _find_transport_stream)
    found = next((kind for find in special if (kind := find(head))), None)
    return found or next((kind for kind, mark in _MARKS.items() if mark.match(head)), None)


def find_encryption(path: Path) -> str | None:
    """Return how a film is encrypted, by its header or the marks of its packets; None where no such sign is found.

    An mp4 says it with each packet instead (tasks/media/probe.py): its header may stand at its end.
    """
    head = _read_head(path)
    if head.startswith(_ASF) and any(mark in head for mark in _ASF_ENCRYPTED):
        return "Windows Media DRM"
    if head.startswith(_MATROSKA) and _MATROSKA_ENCRYPTED.search(head):
        return "Matroska encryption"
    if _is_scrambled_dvd(head):
        return "CSS, as on DVDs"
    return "scrambled, as by a broadcaster" if _is_scrambled_transport(head) else None


def _read_head(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except (OSError, ValueError):
        return b""


def _find_mp4(head: bytes) -> FileKind | None:
    box, brand = head[4:8], head[8:12]
    if box == b"ftyp":
        return _BRANDS.get(brand, MP4)
    # Text has the word for a box where a box has it, but no length before it.
    return MP4 if box in _MP4_BOXES and not head[:4].decode("latin-1").isprintable() else None


def _find_animation(head: bytes) -> FileKind | None:
    """Return the kind of what may hold one picture or more: PNG, GIF and WebP."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return APNG if b"acTL" in head else FileKind("PNG", "picture")
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GIF if _has_second_picture(head) else FileKind("GIF of one picture", "picture")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        # Bit 1 of the extended header's flags says that there is an animation.
        return ANIMATED_WEBP if head[12:16] == b"VP8X" and head[20:21] > b"" and head[20] & 2 else _WEBP
    return None


def _has_second_picture(head: bytes) -> bool:
    """Walk the blocks of a GIF to its second picture; past the head, an extension for loops stands for one."""
    pictures, at = 0, 13 + _count_table(head, 10)
    while at + 1 < len(head):
        if head[at] == 0x2C:
            pictures += 1
            at += 11 + _count_table(head, at + 9)
        elif head[at] == 0x21:
            at += 2
        else:
            break
        while at < len(head) and head[at]:
            at += head[at] + 1
        at += 1
    return pictures > 1 or (at >= len(head) == HEAD and b"NETSCAPE2.0" in head)


def _count_table(head: bytes, at: int) -> int:
    """Return the bytes of a GIF's colour table, by its flags at a place."""
    flags = head[at] if at < len(head) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _find_matroska(head: bytes) -> FileKind | None:
    if not head.startswith(_MATROSKA):
        return None
    return SOUND if set(_MATROSKA_CODEC.findall(head)) == {b"A"} else FileKind("Matroska or WebM", "film")


def _find_ogg(head: bytes) -> FileKind | None:
    if not head.startswith(b"OggS"):
        return None
    return FileKind("Ogg", "film") if any(mark in head for mark in _OGG_VIDEO) else SOUND


def _find_asf(head: bytes) -> FileKind | None:
    if not head.startswith(_ASF):
        return None
    return FileKind("Windows Media", "film") if _ASF_VIDEO in head else SOUND


def _find_transport_stream(head: bytes) -> FileKind | None:
    return FileKind("MPEG transport stream", "film") if _find_rhythm(head) else None


def _find_rhythm(head: bytes) -> tuple[int, int] | None:
    """Return the length of a transport stream's packets and the place of their sync byte; None where there are none."""
    for size, start in _TS_PACKETS:
        marks = head[start::size]
        if len(marks) > 3 and marks.count(b"\x47") == len(marks):
            return size, start
    return None


def _is_scrambled_transport(head: bytes) -> bool:
    """Say whether more than half of a transport stream's packets are marked as scrambled."""
    if not (found := _find_rhythm(head)):
        return False
    marks = head[found[1] + 3 :: found[0]]
    return sum(mark & 0xC0 != 0 for mark in marks) > len(marks) / 2


def _is_scrambled_dvd(head: bytes) -> bool:
    """Say whether a program stream has packets of video that are marked as scrambled."""
    if not head.startswith(b"\x00\x00\x01\xba"):
        return False
    flags = (head[found.end()] for found in re.finditer(rb"\x00\x00\x01\xe0..(?=.)", head, re.DOTALL))
    return any(flag & 0xC0 == 0x80 and flag & 0x30 for flag in flags)
