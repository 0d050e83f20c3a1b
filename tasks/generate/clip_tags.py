"""Generated clips as files, whatever their format: the provenance they carry, their content, and their frames.

An mp4 carries its provenance in a tag, a WebP in its EXIF description, a GIF in a comment, and a folder of PNG pictures
in a text chunk of the first one.
"""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from models.errors import BadMedia
from models.pictures import Frames, open_picture
from tasks.manifest import digest_file
from tasks.media.canonical_picture import make_picture
from tasks.media.video import open_video, read_frames

TAG = "reelmill"
"""The name under which a clip holds its provenance as JSON, where the format has names."""

DESCRIPTION = 0x010E
"""EXIF's ImageDescription."""

WEBP_HAS_EXIF = 0x08


def digest_content(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of the names and digests of the files in a folder."""
    if not path.is_dir():
        return digest_file(path)
    return hashlib.sha256("".join(f"{p.name} {digest_file(p)}\n" for p in list_pictures(path)).encode()).hexdigest()


def list_pictures(folder: Path) -> list[Path]:
    """List the pictures of a clip that is a folder, in order."""
    return sorted(folder.glob("[!.]*.png"))


def write_tag(path: Path, text: str) -> None:
    """Put `text` (ASCII) into a clip just written that is not an mp4: a GIF, a WebP or a folder of PNG pictures."""
    if path.is_dir():
        first = list_pictures(path)[0]
        with open_picture(first) as picture:
            said = PngInfo()
            said.add_text(TAG, text)
            picture.save(first, pnginfo=said)
    elif path.suffix == ".gif":
        path.write_bytes(add_gif_comment(path.read_bytes(), text))
    else:
        path.write_bytes(add_webp_description(path.read_bytes(), text))


def read_tag(path: Path) -> str | None:
    """Read the text that a clip carries; None where it carries none. Raises BadMedia for what is not a clip."""
    if path.suffix == ".mp4":
        with open_video(path, demuxer="mov") as (container, _):
            return container.metadata.get(TAG)
    with _read_picture(path) as picture:
        said = picture.info.get("comment") or picture.info.get(TAG) or picture.getexif().get(DESCRIPTION)
    return said.decode(errors="replace") if isinstance(said, bytes) else said


def read_clip(path: Path) -> Frames:
    """Read all frames of a clip, uint8 RGB [frames, height, width, 3]; raises BadMedia."""
    if path.suffix == ".mp4":
        return np.stack([make_picture(frame) for _, frame in read_frames(path, demuxer="mov")])
    return np.stack(list(_read_pictures(path)))


def add_gif_comment(content: bytes, text: str) -> bytes:
    """Return a GIF with a comment before its first picture."""
    table = 3 * 2 ** ((content[10] & 7) + 1) if content[10] & 0x80 else 0
    place = 13 + table
    said = text.encode("ascii")
    parts = [said[i : i + 255] for i in range(0, len(said), 255)]
    block = b"\x21\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\x00"
    return content[:place] + block + content[place:]


def add_webp_description(content: bytes, text: str) -> bytes:
    """Return an animated WebP (RIFF, with a VP8X header) with an EXIF chunk at its end that holds `text` as
    description."""
    if content[12:16] != b"VP8X":
        raise BadMedia("A WebP without an extended header cannot carry what it says of itself.")
    exif = Image.Exif()
    exif[DESCRIPTION] = text
    data = exif.tobytes().removeprefix(b"Exif\x00\x00")
    chunk = b"EXIF" + struct.pack("<I", len(data)) + data + b"\x00" * (len(data) % 2)
    flagged = content[:20] + bytes([content[20] | WEBP_HAS_EXIF]) + content[21:] + chunk
    return flagged[:4] + struct.pack("<I", len(flagged) - 8) + flagged[8:]


def _read_picture(path: Path) -> Image.Image:
    pictures = list_pictures(path) if path.is_dir() else [path]
    try:
        return open_picture(pictures[0])
    except (OSError, IndexError, UnidentifiedImageError) as error:
        raise BadMedia(f"{path}: cannot be read as a clip ({error}). Is it whole? Copy it again.") from error


def _read_pictures(path: Path) -> Iterator[Frames]:
    if path.is_dir():
        for each in list_pictures(path):
            with _read_picture(each) as picture:
                yield np.asarray(picture.convert("RGB"))
        return
    with _read_picture(path) as clip:
        for picture in ImageSequence.Iterator(clip):
            yield np.asarray(picture.convert("RGB"))
