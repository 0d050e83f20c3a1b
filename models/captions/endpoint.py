"""A captioning server with OpenAI's chat completions: the way to caption many clips with large models.

At most a fixed number of requests is open at a time. A request that the server refuses for the moment (429, 5xx), or
that breaks off or times out, is sent again after a pause that doubles each time; a wrong one (any other 4xx) is not.
The key is never part of a message.
"""

import base64
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray

from models.errors import EndpointFailed

JPEG_QUALITY = 90

LONGEST_PAUSE_S = 60.0
"""The longest pause, whatever a server asks for."""

SHOWN = 200
"""Letters of a server's answer that an error shows."""


@dataclass(frozen=True)
class ChatRequest:
    """One question: a prompt, and the pictures it is about, uint8 RGB [pictures, height, width, 3]."""

    prompt: str
    pictures: Sequence[NDArray[np.uint8]] = ()

    def messages(self) -> list[dict[str, Any]]:
        """Return the question as chat messages, the pictures as data URLs."""
        shown = [{"type": "image_url", "image_url": {"url": encode_data_url(picture)}} for picture in self.pictures]
        content: Any = [{"type": "text", "text": self.prompt}, *shown] if shown else self.prompt
        return [{"role": "user", "content": content}]


@dataclass(frozen=True)
class _Later:
    """What is wrong for the moment, and how long the server asks to wait."""

    wrong: str
    pause_s: float = 0.0


@dataclass(frozen=True)
class Endpoint:
    """A model at a server: `base_url` ends before `/chat/completions`, `pause_s` is the first pause."""

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0
    attempts: int = 5
    concurrency: int = 8
    pause_s: float = 1.0

    def ask(self, requests: Sequence[ChatRequest], max_words: int = 120) -> list[str | EndpointFailed]:
        """Return the answer to each request, or what went wrong with it; never raises for a single request."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        with (
            httpx.Client(headers=headers, timeout=self.timeout_s) as client,
            ThreadPoolExecutor(max_workers=self.concurrency) as pool,
        ):
            return list(pool.map(lambda request: self._answer(client, request, max_words), requests))

    def _answer(self, client: httpx.Client, request: ChatRequest, max_words: int) -> str | EndpointFailed:
        body = {"model": self.model, "messages": request.messages(), "max_tokens": max_words, "temperature": 0}
        said = _Later("nothing was asked")
        for attempt in range(self.attempts):
            if attempt:
                pause = min(self.pause_s * 2 ** (attempt - 1), LONGEST_PAUSE_S)
                sleep(max(pause * random.uniform(0.75, 1.25), said.pause_s))
            said = self._ask_once(client, body)
            if not isinstance(said, _Later):
                return said
        return self._make_failure(f"{said.wrong}, {self.attempts} times. Is the server up?")

    def _ask_once(self, client: httpx.Client, body: dict[str, Any]) -> "str | EndpointFailed | _Later":
        try:
            answer = client.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body)
        except httpx.HTTPError as error:
            return _Later(f"no answer ({type(error).__name__})")
        if answer.is_success:
            return self._read_text(answer)
        wrong = f"status {answer.status_code}: {self._shorten(answer)}"
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return _Later(wrong, _read_pause(answer))
        return self._make_failure(f"{wrong}. Check the address, the model and the key.")

    def _read_text(self, answer: httpx.Response) -> str | EndpointFailed:
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            return self._make_failure(
                f"its answer has no text: {self._shorten(answer)}. Does it speak chat completions?"
            )
        return text.strip()

    def _shorten(self, answer: httpx.Response) -> str:
        text = " ".join(answer.text.split())
        return (text.replace(self.key, "…") if self.key else text)[:SHOWN] or "nothing"

    def _make_failure(self, what: str) -> EndpointFailed:
        return EndpointFailed(f"{self.model} at {self.base_url}: {what}")


def encode_data_url(picture: NDArray[np.uint8]) -> str:
    """Encode a uint8 RGB picture as a JPEG in a data URL."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def _read_pause(answer: httpx.Response) -> float:
    """Return the seconds that a server asks to wait, 0 when it names none or uses another form."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE_S) if asked.isdecimal() else 0.0
