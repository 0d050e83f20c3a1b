"""Every error Reelmill raises on purpose; each message says which item, what is wrong and what to do.

ReelmillError
├── BadInput          what the caller gave cannot be used: a path, an option, a table
├── BadMedia          a video or picture cannot be read
│   ├── DecodeCrash   the decoder's process died on it
│   ├── DecodeTimeout the decoder took longer than its limit
│   ├── DecodeLimit   the decoder wanted more memory, processor time or pixels than it may have
│   ├── BadFetch      a URL cannot be fetched
│   ├── NoKeyframes   a clip cannot be cut without encoding it again
│   ├── SourceChanged a file has other bytes than when it was listed
│   ├── TooShort      a clip has too few frames to be measured, which is no failure
│   └── EncoderOutOfMemory  ffmpeg was killed, or failed, for lack of memory; also a MemoryError
├── BadModel          weights or configuration of a model are missing or do not fit
├── TrainingDiverged  a training's loss is not a number, or grew past use
├── ProcessDied       a program of ours died at its work, or gave no sign of life; the same may work again
├── EndpointFailed    a model server did not give a usable answer
└── BadManifest       a manifest does not have the columns its step declares
"""

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the disk that is written to: they concern the whole run, not the item that was being worked on."""

NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
)
"""Texts of out-of-memory errors without a class of their own: torch's, those of CUDA and its libraries, MPS's."""


class ReelmillError(Exception):
    """Root of the tree; `code` is the stable word in a manifest's `error_code` column."""

    code = "error"


class BadInput(ReelmillError):
    code = "bad_input"


class BadMedia(ReelmillError):
    code = "bad_media"


class DecodeCrash(BadMedia):
    code = "decoder_crashed"


class DecodeTimeout(BadMedia):
    code = "decoder_timeout"


class DecodeLimit(BadMedia):
    code = "decoder_limit"


class BadFetch(BadMedia):
    code = "fetch_failed"


class NoKeyframes(BadMedia):
    code = "no_keyframes"


class SourceChanged(BadMedia):
    code = "source_changed"


class TooShort(BadMedia):
    code = "too_short"


class EncoderOutOfMemory(BadMedia, MemoryError):
    code = "out_of_memory"


class BadModel(ReelmillError):
    code = "bad_model"


class ProcessDied(ReelmillError):
    code = "process_died"


class TrainingDiverged(ReelmillError):
    code = "diverged"


class EndpointFailed(ReelmillError):
    code = "endpoint_failed"


class BadManifest(ReelmillError):
    code = "bad_manifest"


def is_of_the_disk(error: BaseException) -> bool:
    """Return whether an error says that the disk which is written to is full or read-only."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory was too small, on any device: a MemoryError, or one of torch's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
