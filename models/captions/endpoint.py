"""A captioning server with OpenAI's chat completions: the way to caption many clips with large models.

Requests go out a bounded number at a time. One that the server refuses for the moment (429, 5xx), or that breaks off or
outlasts its time, is sent again after a pause that doubles each time; a wrong one (any other 4xx) is not. The key is
never part of a message.
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
"""Whatever a server asks for."""

SHOWN = 200
"""Letters of a server's answer that an error shows."""


@dataclass(frozen=True)
class Request:
    """One question: a prompt and the pictures, uint8 RGB [pictures, height, width, 3], that it is about."""

    prompt: str
    pictures: Sequence[NDArray[np.uint8]] = ()

    def messages(self) -> list[dict[str, Any]]:
        """The question as chat messages, the pictures as data addresses."""
        shown = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in self.pictures]
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

    def ask(self, requests: Sequence[Request], max_words: int = 120) -> list[str | EndpointFailed]:
        """The answer to each request, or what went wrong with it; never raises for one of them."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        with (
            httpx.Client(headers=headers, timeout=self.timeout_s) as client,
            ThreadPoolExecutor(max_workers=self.concurrency) as pool,
        ):
            return list(pool.map(lambda request: self._answer(client, request, max_words), requests))

    def _answer(self, client: httpx.Client, request: Request, max_words: int) -> str | EndpointFailed:
        body = {"model": self.model, "messages": request.messages(), "max_tokens": max_words, "temperature": 0}
        said = _Later("nothing was asked")
        for attempt in range(self.attempts):
            if attempt:
                pause = min(self.pause_s * 2 ** (attempt - 1), LONGEST_PAUSE_S)
                sleep(max(pause * random.uniform(0.75, 1.25), said.pause_s))
            said = self._ask_once(client, body)
            if not isinstance(said, _Later):
                return said
        return self._failed(f"{said.wrong}, {self.attempts} times. Is the server up?")

    def _ask_once(self, client: httpx.Client, body: dict[str, Any]) -> "str | EndpointFailed | _Later":
        try:
            answer = client.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body)
        except httpx.HTTPError as error:
            return _Later(f"no answer ({type(error).__name__})")
        if answer.is_success:
            return self._text(answer)
        wrong = f"status {answer.status_code}: {self._shown(answer)}"
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return _Later(wrong, _asked_pause(answer))
        return self._failed(f"{wrong}. Check the address, the model and the key.")

    def _text(self, answer: httpx.Response) -> str | EndpointFailed:
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            return self._failed(f"its answer has no text: {self._shown(answer)}. Does it speak chat completions?")
        return text.strip()

    def _shown(self, answer: httpx.Response) -> str:
        text = " ".join(answer.text.split())
        return (text.replace(self.key, "…") if self.key else text)[:SHOWN] or "nothing"

    def _failed(self, what: str) -> EndpointFailed:
        return EndpointFailed(f"{self.model} at {self.base_url}: {what}")


def data_url(picture: NDArray[np.uint8]) -> str:
    """A uint8 RGB picture as a JPEG in an address."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def _asked_pause(answer: httpx.Response) -> float:
    """The seconds that a server asks to wait, 0 when it asks for none or in another form."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE_S) if asked.isdecimal() else 0.0
