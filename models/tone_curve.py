"""Light as a file codes it (PQ, HLG, wide gamuts) to BT.709 as a standard screen shows it, by one stated curve.

1. The code values become light in cd/m2: PQ by SMPTE ST 2084; HLG by its inverse OETF and its OOTF for a screen of
   1000 cd/m2, gamma 1.2 (ITU-R BT.2100); others by a gamma of 2.4 with white at 203 cd/m2 (ITU-R BT.1886).
2. Light is divided by SDR_WHITE, 203 cd/m2 (ITU-R BT.2408), and turned to BT.709's primaries; negative light is cut,
   and of a standard dynamic range also what is above 1.
3. A colour whose largest channel m is at most 1 stays as it is. Above, c becomes c/m + (1 - c/m) * ln(m) / ln(10000 /
   203): it keeps its hue, and nears white as it becomes brighter, which it is at the 10000 cd/m2 that PQ ends with.
4. The result is coded by the inverse of a gamma of 2.4, 0 to 255; a picture's in sRGB by that of sRGB, from step 1 on.
"""

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Transfer = Literal["sdr", "srgb", "pq", "hlg"]
Gamut = Literal["bt709", "bt2020", "p3"]

SDR_WHITE = 203.0
"""cd/m2: what white of a standard picture is in one of high dynamic range (ITU-R BT.2408)."""

BRIGHTEST = 10_000.0
"""cd/m2: the most that PQ codes."""

GAMMA = 2.4

HLG_PEAK, HLG_GAMMA = 1000.0, 1.2

CODES = 65536

_D65 = (0.3127, 0.3290)

_PRIMARIES: dict[Gamut, tuple[tuple[float, float], ...]] = {
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "p3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""The chromaticities (x, y) of red, green and blue (ITU-R BT.709, BT.2020; Display P3), white being D65."""


def compute_pq_light(codes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the light in cd/m2 of PQ's values, 0 to 1 (SMPTE ST 2084)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    raised = np.power(codes, 1 / m2)
    return BRIGHTEST * np.power(np.maximum(raised - c1, 0) / (c2 - c3 * raised), 1 / m1)


def compute_hlg_scene(codes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the scene's light, 0 to 1, of HLG's values, 0 to 1 (the inverse OETF of ITU-R BT.2100)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)


def convert_to_bt709(picture: NDArray[np.uint16], transfer: Transfer, gamut: Gamut) -> NDArray[np.uint8]:
    """Convert RGB [height, width, 3] of 16 bits in full range to BT.709 of 8 bits, as this module's docstring says."""
    light = _make_table(transfer)[picture]
    if transfer == "hlg":
        light *= _compute_ootf(light)[..., None]
    turned = light @ compute_gamut_matrix(gamut).astype(np.float32).T
    shown = roll_off(np.maximum(turned, 0)) if transfer in ("pq", "hlg") else np.clip(turned, 0, 1)
    coded = code_srgb(shown.astype(np.float32, copy=False)) if transfer == "srgb" else shown ** (1 / GAMMA)
    return np.rint(coded * 255).astype(np.uint8)


def code_srgb(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sRGB's values, 0 to 1, of light, 0 to 1 (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def roll_off(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring light [height, width, 3], 1 being SDR_WHITE, into 0 to 1: the third step of this module's docstring."""
    most = light.max(axis=2, keepdims=True)
    if most.max() <= 1:
        return light
    over = np.maximum(most, 1)
    whiter = np.minimum(np.log(over) / np.float32(np.log(BRIGHTEST / SDR_WHITE)), 1)
    hue = light / over
    return hue + (1 - hue) * whiter


@cache
def compute_gamut_matrix(gamut: Gamut) -> NDArray[np.float64]:
    """Return the 3x3 matrix from light in a gamut's primaries to that in BT.709's; white stays white."""
    return np.linalg.inv(_compute_xyz_matrix("bt709")) @ _compute_xyz_matrix(gamut)


def _compute_xyz_matrix(gamut: Gamut) -> NDArray[np.float64]:
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*_PRIMARIES[gamut], _D65)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


@cache
def _make_table(transfer: Transfer) -> NDArray[np.float32]:
    """Return the light of every code of 16 bits, 1 being SDR_WHITE; for HLG the scene's light, 0 to 1."""
    codes = np.arange(CODES) / (CODES - 1)
    light = {
        "sdr": lambda: codes**GAMMA,
        "srgb": lambda: np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4),
        "pq": lambda: compute_pq_light(codes) / SDR_WHITE,
        "hlg": lambda: compute_hlg_scene(codes),
    }
    return light[transfer]().astype(np.float32)


def _compute_ootf(scene: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the OOTF multiplies the scene's light [height, width, 3] by: in BT.2020, on a screen of HLG_PEAK."""
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return np.float32(HLG_PEAK / SDR_WHITE) * np.power(luminance, np.float32(HLG_GAMMA - 1))
