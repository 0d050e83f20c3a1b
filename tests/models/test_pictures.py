"""Pictures of every kind come out upright, opaque and eight bits deep, or are refused with a reason."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import BadInput, BadMedia
from models.pictures import Fit, count_pictures, from_pixels, prepare_picture, to_pixels

RED, BLUE = (230, 20, 30), (10, 40, 220)


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


def saved(picture: Image.Image, path: Path, **options) -> Path:
    picture.save(path, **options)
    return path


def near(pixel: np.ndarray, colour: tuple[int, int, int], tolerance: int = 3) -> bool:
    return bool((np.abs(pixel.astype(int) - colour) <= tolerance).all())


def test_crop_fills_the_frame_and_keeps_the_middle(tmp_path: Path):
    striped = Image.new("RGB", (60, 20), RED)
    striped.paste(BLUE, (20, 0, 40, 20))
    pixels = prepare_picture(saved(striped, tmp_path / "a.png"), 16, 16, "crop")
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert all(near(pixels[y, x], BLUE) for y in (0, 8, 15) for x in (2, 8, 13))


def test_pad_shows_the_whole_picture_on_the_background(tmp_path: Path):
    path = saved(halves(), tmp_path / "a.png")
    white, black = (prepare_picture(path, 16, 16, "pad", colour) for colour in ("white", "black"))
    assert near(white[0, 8], (255, 255, 255))
    assert near(black[0, 8], (0, 0, 0))
    assert near(white[8, 2], RED)
    assert near(white[8, 13], BLUE)


def test_stretch_ignores_the_proportions(tmp_path: Path):
    pixels = prepare_picture(saved(halves(), tmp_path / "a.png"), 16, 16, "stretch")
    assert near(pixels[0, 2], RED)
    assert near(pixels[15, 13], BLUE)


def test_a_picture_of_the_right_size_is_not_touched(tmp_path: Path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    path = saved(Image.fromarray(values), tmp_path / "a.png")
    for fit in ("crop", "pad", "stretch"):
        assert np.array_equal(prepare_picture(path, 24, 16, fit), values)


TURNS = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: np.fliplr(np.rot90(a, -1)),
    6: np.rot90, 7: lambda a: np.fliplr(np.rot90(a)), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip
"""How a camera lays down an upright picture, for each EXIF orientation."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_all_eight_exif_orientations_are_followed(tmp_path: Path, orientation: int, suffix: str):
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20], upright[:12, 20:], upright[12:, :20] = RED, BLUE, (250, 250, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    laid = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    options = {"quality": 98} if suffix != ".tif" else {}
    pixels = prepare_picture(saved(laid, tmp_path / f"a{suffix}", exif=exif, **options), 40, 24)
    corners = ((4, 4), (4, 35), (19, 4), (19, 35))
    assert all(near(pixels[at], tuple(upright[at].tolist()), 12) for at in corners)


def test_a_picture_lying_on_its_side_is_stood_up_before_it_is_cropped(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(halves(40, 20), tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    upright = prepare_picture(path, 20, 40)
    assert near(upright[4, 10], RED, 6)
    assert near(upright[36, 10], BLUE, 6)


@pytest.mark.parametrize(("place", "said"), [(84, "Missing or empty image item"), (280, "Decoding of color planes")])
def test_a_damaged_avif_is_a_picture_that_cannot_be_read(tmp_path: Path, place: int, said: str):
    path = tmp_path / "a.avif"
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    content = bytearray(path.read_bytes())
    content[place] = 0xFF
    path.write_bytes(content)
    with pytest.raises(BadMedia, match=f"a.avif: cannot be read as a picture .*{said}"):
        prepare_picture(path, 32, 24)
    assert count_pictures(path) in (0, 1)


def test_damaged_exif_data_is_passed_over(tmp_path: Path):
    """Pillow warns of it, and a warning is an error here."""
    cut = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06"
    path = saved(halves(40, 20), tmp_path / "a.jpg", exif=cut, quality=98, subsampling=0)
    with pytest.warns(UserWarning, match="EXIF"), Image.open(path) as picture:
        picture.getexif()
    pixels = prepare_picture(path, 40, 20)
    assert near(pixels[10, 4], RED)
    assert count_pictures(path) == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_shows_the_background(tmp_path: Path, mode: str):
    picture = Image.new("RGBA", (16, 16), (*RED, 0))
    picture.paste((200, 200, 200, 255), (0, 0, 8, 16))
    path = saved(picture.convert(mode), tmp_path / ("a.tif" if mode == "PA" else "a.png"))
    assert near(prepare_picture(path, 16, 16, background="white")[8, 12], (255, 255, 255))
    assert near(prepare_picture(path, 16, 16, background="black")[8, 12], (0, 0, 0))
    assert near(prepare_picture(path, 16, 16, background="black")[8, 3], (200, 200, 200))


def test_half_transparent_pixels_are_mixed(tmp_path: Path):
    path = saved(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), tmp_path / "a.png")
    assert near(prepare_picture(path, 16, 16, background="white")[8, 8], (127, 127, 127))


def test_a_palette_with_one_transparent_colour_is_opaque_afterwards(tmp_path: Path):
    picture = halves(16, 16).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    see_through = picture.getpixel((12, 8))
    path = saved(picture, tmp_path / "a.png", transparency=see_through)
    assert near(prepare_picture(path, 16, 16)[8, 12], (255, 255, 255))
    assert near(prepare_picture(path, 16, 16)[8, 3], RED)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str):
    values = np.full((16, 16), 32768, np.uint16)
    values[:, 8:] = 65535
    pixels = prepare_picture(saved(Image.fromarray(values), tmp_path / f"a{suffix}"), 16, 16)
    assert near(pixels[8, 2], (128, 128, 128), 1)
    assert near(pixels[8, 14], (255, 255, 255), 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_colour_become_eight(tmp_path: Path, suffix: str):
    values = np.zeros((16, 16, 3), np.uint16)
    values[..., 0], values[..., 2] = 65535, 32768
    cv2.imwrite(str(tmp_path / f"a{suffix}"), values[..., ::-1])
    assert near(prepare_picture(tmp_path / f"a{suffix}", 16, 16)[8, 8], (255, 0, 128), 1)


@pytest.mark.parametrize(("mode", "value"), [("L", 90), ("1", 1)])
def test_grey_and_black_and_white_become_rgb(tmp_path: Path, mode: str, value: int):
    pixels = prepare_picture(saved(Image.new(mode, (16, 16), value), tmp_path / "a.png"), 16, 16)
    assert near(pixels[8, 8], (90, 90, 90) if mode == "L" else (255, 255, 255))


def test_cmyk_becomes_rgb(tmp_path: Path):
    path = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=98, subsampling=0)
    assert near(prepare_picture(path, 16, 16)[8, 8], (255, 0, 0), 6)


def test_an_animation_gives_its_first_frame(tmp_path: Path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert near(prepare_picture(path, 16, 16)[8, 8], RED, 12)


def test_what_is_behind_the_first_picture_of_a_file_is_counted(tmp_path: Path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE, RED)]
    for suffix in (".gif", ".webp", ".png", ".tif"):
        path = saved(frames[0], tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        assert count_pictures(path) == 3
        assert near(prepare_picture(path, 16, 16)[8, 8], RED, 12)
    assert count_pictures(saved(frames[0], tmp_path / "one.png")) == 1
    (tmp_path / "text.png").write_text("words")
    assert count_pictures(tmp_path / "text.png") == 1


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_the_longest_and_the_smallest_pictures_come_to_any_size(tmp_path: Path, fit: Fit, size: tuple[int, int]):
    path = saved(Image.new("RGB", size, RED), tmp_path / "a.png")
    for width, height in ((16, 16), (8, 64)):
        pixels = prepare_picture(path, width, height, fit)
        assert pixels.shape == (height, width, 3)
        assert near(pixels[height // 2, width // 2], RED)


def test_a_file_that_claims_a_huge_picture_is_refused_without_being_decoded(tmp_path: Path):
    content = bytearray(saved(Image.new("RGB", (16, 16)), tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadMedia, match=r"a\.png: has more than 89 million pixels"):
        prepare_picture(tmp_path / "a.png", 16, 16)
    assert count_pictures(tmp_path / "a.png") == 1


def test_a_single_pixel_is_enough(tmp_path: Path):
    pixels = prepare_picture(saved(Image.new("RGB", (1, 1), RED), tmp_path / "a.png"), 16, 16)
    assert near(pixels[15, 15], RED)


def test_a_missing_picture_is_named(tmp_path: Path):
    with pytest.raises(BadInput, match=r"gone\.png: no such file"):
        prepare_picture(tmp_path / "gone.png", 16, 16)


def test_text_renamed_to_a_picture_is_refused(tmp_path: Path):
    (tmp_path / "a.png").write_text("these are words")
    with pytest.raises(BadMedia, match=r"a\.png: cannot be read as a picture \(its content is not in a known"):
        prepare_picture(tmp_path / "a.png", 16, 16)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif"])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(values), tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadMedia, match="cannot be read as a picture"):
        prepare_picture(path, 16, 16)


def test_a_picture_with_more_pixels_than_pillow_allows_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch):
    path = saved(Image.new("RGB", (64, 64)), tmp_path / "a.png")
    for limit in (3000, 1000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(BadMedia, match="million pixels"):
            prepare_picture(path, 16, 16)


def test_floating_point_pictures_are_refused_because_their_range_is_unknown(tmp_path: Path):
    path = saved(Image.fromarray(np.ones((16, 16), np.float32)), tmp_path / "a.tif")
    with pytest.raises(BadMedia, match="floating-point values"):
        prepare_picture(path, 16, 16)


def test_values_of_pixels_span_minus_one_to_one_and_become_the_same_pixels_again():
    pixels = torch.arange(256, dtype=torch.uint8)
    values = from_pixels(pixels)
    assert values.dtype == torch.float32
    assert (values[0], values[255]) == (-1, 1)
    assert torch.equal(to_pixels(values), pixels)


def test_values_past_the_range_are_cut_and_others_rounded():
    assert to_pixels(torch.tensor([-3.0, -0.999, 0.001, 7.0])).tolist() == [0, 0, 128, 255]
