"""Every error Reelmill raises on purpose; each message says which item, what is wrong and what to do.

ReelmillError
├── BadInput          what the caller gave cannot be used: a path, an option, a table
├── BadMedia          a video or picture cannot be read
│   ├── DecodeCrash   the decoder's process died on it
│   ├── DecodeTimeout the decoder took longer than its limit
│   ├── BadFetch      a URL cannot be fetched
│   ├── NoKeyframes   a clip cannot be cut without encoding it again
│   └── EncoderOutOfMemory  ffmpeg was killed, or failed, for lack of memory; also a MemoryError
├── BadModel          weights or configuration of a model are missing or do not fit
├── EndpointFailed    a model server did not give a usable answer
└── BadManifest       a manifest does not have the columns its step declares
"""


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


class BadFetch(BadMedia):
    code = "fetch_failed"


class NoKeyframes(BadMedia):
    code = "no_keyframes"


class EncoderOutOfMemory(BadMedia, MemoryError):
    code = "out_of_memory"


class BadModel(ReelmillError):
    code = "bad_model"


class EndpointFailed(ReelmillError):
    code = "endpoint_failed"


class BadManifest(ReelmillError):
    code = "bad_manifest"
