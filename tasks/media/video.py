"""Reading and writing video: the one place that opens a decoder or starts ffmpeg.

Times are exact: a frame is identified by its pts and the stream's time base, never by an index over an average rate.
"""

import codecs
import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from pydantic import BaseModel, ConfigDict

from models.errors import BadInput, BadMedia, DecodeLimit, EncoderOutOfMemory
from models.pictures import Frames
from tasks.child_process import run_program
from tasks.limits import LONGEST_LIMIT_S, Limits, get_limits
from tasks.manifest import publish
from tasks.media.clocks import GuessedClock, SteadyClock, can_be_set_back
from tasks.media.written_colours import make_film_pictures

ENCODE_LIMIT_S = 600.0

VERSION_LIMIT_S = 60.0

OLDEST_FFMPEG = (6, 1)
"""The first ffmpeg with `-enc_time_base demux`, which exact cutting needs."""

NO_MEMORY = (
    "Cannot allocate memory",
    "malloc of size",
    "insufficient resources",
    "bad_alloc",
    "Resource temporarily unavailable",
)
"""What ffmpeg, x264, x265 and SVT-AV1 print when they, or one of their threads, have too little memory. The kernel
kills without a message."""

DEMUXERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu", "ivf", "vc1",
    "mjpeg", "asf", "flv", "mxf", "gxf", "ogg", "dv", "gif", "apng", "png_pipe", "jpeg_pipe", "webp_pipe",
    "bmp_pipe", "tiff_pipe", "mp3", "flac", "wav", "aac", "yuv4mpegpipe", "nut", "rm", "wtv",
)  # fmt: skip
"""The demuxers that may read a film: those of films alone. Others read further files that a film names (hls, concat,
dash, image2, sdp, vobsub), or make pictures of other things."""

PROTOCOLS = "file"
"""What a film, and whatever it names, may be read by."""

_opened: list[Path] = []


@cache
def find_ffmpeg() -> str:
    """Return the ffmpeg to run: the one in imageio-ffmpeg's wheel, whatever is on the PATH, or the one that the
    environment variable IMAGEIO_FFMPEG_EXE names. Raises BadInput where that cannot run or is too old."""
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    found = read_ffmpeg_version(exe)
    if found < OLDEST_FFMPEG:
        oldest, this = (".".join(map(str, version)) for version in (OLDEST_FFMPEG, found))
        raise BadInput(
            f"{exe}: is ffmpeg {this}, and Reelmill needs {oldest} or later. Unset IMAGEIO_FFMPEG_EXE to use the "
            "ffmpeg that Reelmill is installed with."
        )
    return exe


def read_ffmpeg_version(exe: str) -> tuple[int, int]:
    """Return the major and minor version of an ffmpeg; raises BadInput where the program cannot run or prints none."""
    try:
        said = run_program([exe, "-version"], limit_s=VERSION_LIMIT_S).output
    except OSError as error:
        raise BadInput(f"{exe}: cannot be run as ffmpeg ({error}). Correct or unset IMAGEIO_FFMPEG_EXE.") from error
    found = re.match(r"ffmpeg version n?(\d+)\.(\d+)", said.decode(errors="replace"))
    if not found:
        raise BadInput(f"{exe}: prints no version of ffmpeg. Correct or unset IMAGEIO_FFMPEG_EXE.")
    return int(found[1]), int(found[2])


def write_video(path: Path, frames: Frames, fps: float, crf: int = 16, tags: Mapping[str, str] | None = None) -> None:
    """Encode uint8 RGB [frames, height, width, 3] as H.264 mp4, of BT.709; odd sides are made even.

    The same frames give the same bytes: no clock and no encoder name is written. Raises BadMedia with ffmpeg's message.
    """
    options = {"vcodec": "libx264", "pix_fmt": "yuv420p", "crf": crf, "preset": "medium", "threads": 1}
    with publish(path) as aside:
        pictures = make_film_pictures(make_frame_input(frames, fps), frames)
        output = pictures.output(str(aside), **options, **make_mp4_options(tags or {}))
        run_ffmpeg(compile_command(output), frames, str(path))


def make_frame_input(frames: Frames, fps: float) -> Any:
    """Return the ffmpeg input for uint8 RGB [frames, height, width, 3] that `run_ffmpeg` sends."""
    _, height, width, _ = frames.shape
    return ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)


def make_mp4_options(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the output options of an mp4 that has `tags`, plays while it loads, and contains no clock."""
    said = {f"metadata:g:{i}": f"{name}={value}" for i, (name, value) in enumerate(tags.items())}
    return {"fflags": "+bitexact", "movflags": "+faststart+use_metadata_tags", **said}


def compile_command(output: Any) -> list[str]:
    """Return the command that writes an ffmpeg output and prints only errors."""
    quiet = output.global_args("-hide_banner", "-loglevel", "error", "-nostdin")
    return quiet.overwrite_output().compile(cmd=find_ffmpeg())


def name_demuxer(container: str | None) -> str | None:
    """Return the demuxer to open a file with, from the names that probing it gave ("mov,mp4,m4a"); None for None."""
    return container.partition(",")[0] if container else None


def make_film_options(demuxer: str | None) -> dict[str, Any]:
    """Return the options with which ffmpeg reads a film by this demuxer, or one of DEMUXERS, and no other file."""
    known = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": PROTOCOLS}
    return known | ({"f": demuxer} if demuxer else {})


def run_ffmpeg(
    command: list[str],
    stdin: bytes | Frames | None,
    item: str,
    limit_s: float = ENCODE_LIMIT_S,
    limits: Limits | None = None,
) -> bytes:
    """Run one ffmpeg command and return its standard output; frames are sent from memory without a copy.

    `limits` are those of a command that reads a film. Raises BadMedia when it fails or exceeds the limit of time,
    DecodeLimit when it exceeds another, EncoderOutOfMemory when memory was too small, and OSError when the disk that it
    writes to is full.
    """
    given: Any = np.ascontiguousarray(stdin).reshape(-1).data if isinstance(stdin, np.ndarray) else stdin
    try:
        done = run_program(command, given, min(limit_s, LONGEST_LIMIT_S), {"SVT_LOG": "1"}, limits)
    except TimeoutError as error:
        raise BadMedia(f"{item}: ffmpeg did not finish within {limit_s:.0f} s.") from error
    said = done.messages.decode(errors="replace").strip()
    # Without enough memory to read on, ffmpeg may end with 0 and a file that is cut short.
    if done.killed or any(words in said for words in NO_MEMORY):
        if limits:
            raise DecodeLimit(f"{item}: takes more than {limits.memory_mb} MB of memory, or what there is.")
        raise EncoderOutOfMemory(f"{item}: ffmpeg ran out of memory. Free some, or use fewer --workers.")
    if done.code:
        if os.strerror(errno.ENOSPC) in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), item)
        # ffmpeg prefixes messages with addresses in memory, which differ in each run.
        reason = re.sub(r"^(\[[^]]*\] )+", "", said.splitlines()[-1]) if said else "no message"
        raise BadMedia(f"{item}: ffmpeg failed: {reason}")
    return done.output


def name_clip(source: Path | str, start_s: float, end_s: float) -> str:
    """Return how messages name a clip: by its film's file and its time."""
    return f"{Path(source).name or source}, {start_s:.2f} to {end_s:.2f} s"


class SourceVideo(BaseModel):
    """A source file that can be read, as flows pass it around; width and height are those of the picture as shown,
    `stream` is the number in the file of the stream that probing it chose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video_id: str
    path: Path
    digest: str
    duration_s: float | None
    width: int
    height: int
    container: str | None = None
    stream: int | None = None

    def make_key(self) -> str:
        """Return what its pictures depend on: its content, and its stream where that is not the first."""
        return f"{self.digest} {self.stream}" if self.stream else self.digest


@contextmanager
def open_video(
    path: Path, threads: int = 2, demuxer: str | None = None, number: int | None = None, **options: str
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file's video stream of this `number`, or its best one (`choose_stream`), for decoding with `threads`
    threads and options of its codec, by the `demuxer` that probing it found, or one of DEMUXERS. No other file is read,
    whatever this one names.

    Raises BadMedia, also for what the decoder raises inside the block, and DecodeLimit for a picture with more pixels
    than this process' limits allow.
    """
    _refuse_what_is_no_video(path)
    pixels = {"max_pixels": str(get_limits().pixels)}
    only = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": PROTOCOLS}
    try:
        with av.open(
            str(path.absolute()), format=demuxer, options=pixels, container_options=only, metadata_errors="replace"
        ) as container:
            yield container, _find_video_stream(container, path, threads, {**pixels, **options}, number)
    except MemoryError:
        raise
    except FFmpegError as error:
        kinds = f"Is it a film, and complete? Films are read from {', '.join(DEMUXERS[:4])} and the like."
        advice = kinds if error.errno == errno.EINVAL else "Is it complete? Copy it again."
        raise BadMedia(f"{path}: cannot be read as a video ({error.strerror}). {advice}") from error


class FullPass:
    """One decode of an opened video from start to end.

    It counts `lost` packets, which are missing or contain no picture that can be decoded, and `dropped` frames, which
    have no time or one that is not after the frame before. `resets` are the times at which its clock was set back:
    from there on, times are those of a clock that goes on, as `read_frames` has them too.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._clock, self._steady = GuessedClock(), SteadyClock(stream.time_base or Fraction(1))
        self._last_pts: int | None = None
        self._damage_pts: int | None = None
        self.lost = 0
        self.dropped = 0
        self.resets: list[int] = []

    def frames(self) -> Iterator[tuple[VideoFrame, bool]]:
        """Yield every frame with a usable time, in order, and whether it is damaged: repaired by the decoder, or shown
        between such damage and the next keyframe."""
        indexed = sum(entry.size > 0 for entry in self._stream.index_entries)
        packets = 0
        for packet in self._container.demux(self._stream):
            packets += bool(packet.size)
            for frame in self._decode(packet):
                given = self._clock.set_time(frame)
                pts, reset = self._steady.set_time(given) if given is not None else (None, False)
                if pts is None:
                    self.dropped += 1
                    continue
                frame.pts = self._last_pts = pts
                self.resets += [pts] if reset else []
                yield frame, self._is_damaged(frame, pts)
        self.lost += max(0, indexed - packets)

    def _decode(self, packet: av.Packet) -> list[VideoFrame]:
        try:
            return packet.decode()
        except InvalidDataError:
            self.lost += 1
            times = (packet.pts, packet.dts, self._last_pts, 0)
            self._damage_pts = next(time for time in times if time is not None)
            return []

    def _is_damaged(self, frame: VideoFrame, pts: int) -> bool:
        if frame.is_corrupt:
            self._damage_pts = pts
        elif self._damage_pts is not None and frame.key_frame and pts > self._damage_pts:
            self._damage_pts = None
        return self._damage_pts is not None


def count_decoders() -> int:
    """Return how many decoders this process has opened so far."""
    return len(_opened)


def read_frames(
    path: Path, start_s: Fraction | float = 0, end_s: Fraction | float | None = None, demuxer: str | None = None
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Decode the frames shown in [start_s, end_s) of a file's best video stream; see `decode_span`. Raises BadMedia."""
    with open_video(path, demuxer=demuxer) as (container, stream):
        yield from decode_span(container, stream, start_s, end_s)


def decode_span(
    container: InputContainer, stream: VideoStream, start_s: Fraction | float, end_s: Fraction | float | None
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Decode the frames shown in [start_s, end_s): their times in seconds and the frames, in order of presentation.

    It seeks to the keyframe before the start, so that only this span is decoded; a file whose clock is set back
    somewhere is decoded from its start.
    """
    time_base = stream.time_base or Fraction(1)
    from_start = start_s <= 0 or is_set_back(container, stream)
    if not from_start:
        container.seek(int(start_s / time_base), stream=stream)
    clock, steady = GuessedClock(), SteadyClock(time_base)
    may_be_set_back = from_start and can_be_set_back(container.format.name)
    for frame in container.decode(stream):
        pts = clock.set_time(frame)
        if pts is not None and may_be_set_back:
            pts, _ = steady.set_time(pts)
        if pts is None:
            continue
        time = pts * time_base
        if end_s is not None and time >= end_s:
            return
        if time >= start_s:
            yield time, frame


def choose_stream(streams: Sequence[VideoStream]) -> VideoStream:
    """Return the best of one or more video streams: one that its file marks as the default one, then the one with the
    most pixels, then the first."""

    def rate(stream: VideoStream) -> tuple[bool, int]:
        context = stream.codec_context
        pixels = context.width * context.height if context else 0
        return bool(stream.disposition & Disposition.default), pixels

    return max(streams, key=rate)


def is_set_back(opened: InputContainer, shown: VideoStream) -> bool:
    """Say whether the clock of a file's stream is set back somewhere, from its packets where its kind allows that,
    which are read anew. Raises BadMedia."""
    if not can_be_set_back(opened.format.name):
        return False
    demuxer = name_demuxer(opened.format.name)
    with open_video(Path(opened.name), threads=1, demuxer=demuxer, number=shown.index) as (container, stream):
        clock = SteadyClock(stream.time_base or Fraction(1))
        times = (packet.dts for packet in container.demux(stream))
        return any(clock.set_time(time)[1] for time in times if time is not None)


def _refuse_what_is_no_video(path: Path) -> None:
    """Raise BadMedia for text, before libav sees it: a playlist would make libav open the addresses in it."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise BadMedia(f"{path}: cannot be opened ({error.strerror}). Check the path and its permissions.") from error
    if not head:
        raise BadMedia(f"{path}: is empty (0 bytes). Copy it again.")
    if _is_text(head):
        raise BadMedia(f"{path}: is a text file, not a video. Remove it, or give the video that it names.")


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _check_pixels(path: Path, pixels: int) -> None:
    limits = get_limits()
    if pixels > limits.pixels:
        raise DecodeLimit(
            f"{path}: has more than {limits.megapixels:g} million pixels. If it should, raise --limits.megapixels."
        )


def _find_video_stream(
    container: InputContainer, path: Path, threads: int, options: Mapping[str, str], number: int | None
) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise BadMedia(f"{path}: has no video stream, only sound or pictures. Remove it.")
    asked = [s for s in streams if number in (None, s.index)]
    if not asked:
        there = " and ".join(str(s.index) for s in streams)
        raise BadMedia(
            f"{path}: its stream {number} is no video; {there} can be used. Change or leave --ingest.stream."
        )
    stream = choose_stream(asked)
    if stream.codec_context is None:
        raise BadMedia(f"{path}: its codec is not supported. Convert it to H.264.")
    _check_pixels(path, stream.codec_context.width * stream.codec_context.height)
    stream.codec_context.options = dict(options)
    stream.codec_context.thread_count = threads
    stream.thread_type = "AUTO"
    _opened.append(path)
    return stream
