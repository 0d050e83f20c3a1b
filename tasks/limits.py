"""What a process that reads a stranger's film or picture may take: memory, processor time and pixels."""

from pydantic import BaseModel, ConfigDict, Field

LONGEST_LIMIT_S = 7 * 86_400.0
"""The longest time limit of one call, whatever length a file claims: the system's own timers end at 24 days."""


class Limits(BaseModel):
    """What reading one file may take before it counts as failed; no result depends on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    memory_mb: int = Field(
        default=4000, ge=1000, description="Memory of a process that reads a film or a picture, in 10^6 bytes."
    )
    megapixels: float = Field(
        default=90.0, gt=0, description="Largest film or picture that is read, in millions of pixels."
    )
    processor_share: float = Field(
        default=1.0, gt=0, description="Processor time that reading one file may take, as a share of its time limit."
    )

    @property
    def pixels(self) -> int:
        """Return the number of pixels of the largest picture."""
        return int(self.megapixels * 1_000_000)


_held = [Limits()]


def set_limits(limits: Limits) -> None:
    """Make these the limits of the children that this process starts, and of the films that it opens itself."""
    _held[0] = limits


def get_limits() -> Limits:
    """Return the limits that hold in this process."""
    return _held[0]
