import base64
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from models.captions.endpoint import ChatRequest, Endpoint
from models.errors import EndpointFailed
from tests.chat_server import Server, said, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def endpoint(server: Server, **settings: Any) -> Endpoint:
    return Endpoint(server.url, "captioner", **({"pause_s": 0.01, "attempts": 3, "timeout_s": 5.0} | settings))


def test_a_question_is_asked_in_chat_completions_with_the_picture_in_it(server: Server):
    picture = np.full((16, 24, 3), (250, 20, 20), np.uint8)
    assert endpoint(server, key="secret").ask([ChatRequest("What is it?", [picture])]) == ["A dog runs."]
    (body,), (headers,) = server.asked, server.headers
    assert (headers["path"], headers["authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("captioner", 0)
    text, image = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    seen = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert seen is not None
    assert np.abs(seen.astype(int) - picture).max() < 12


def test_without_a_key_none_is_sent(server: Server):
    endpoint(server).ask([ChatRequest("Hello?")])
    assert "authorization" not in server.headers[0]


def test_answers_come_in_the_order_of_the_questions(server: Server):
    server.answers = [(200, "echo")]
    questions = [str(number) for number in range(12)]
    assert endpoint(server, concurrency=4).ask([ChatRequest(question) for question in questions]) == questions


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_questions_are_under_way_than_allowed(server: Server, concurrency: int):
    server.slow_s = 0.05
    endpoint(server, concurrency=concurrency).ask([ChatRequest("?")] * 6)
    assert server.busiest == concurrency


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_for_the_moment_is_asked_again(server: Server, status: int):
    server.answers = [(status, {"error": "later"}), (status, {"error": "later"}), said("A cat.")]
    assert endpoint(server).ask([ChatRequest("?")]) == ["A cat."]
    assert len(server.asked) == 3


def test_a_server_that_stays_busy_is_given_up(server: Server):
    server.answers = [(500, {"error": "on fire"})]
    (answer,) = endpoint(server).ask([ChatRequest("?")])
    assert isinstance(answer, EndpointFailed)
    assert str(answer).startswith(f"captioner at {server.url}: status 500")
    assert "on fire" in str(answer)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_wrong_question_is_not_asked_again_and_the_key_is_not_told(server: Server, status: int):
    server.answers = [(status, {"error": "the key secret is not known"})]
    (answer,) = endpoint(server, key="secret").ask([ChatRequest("?")])
    assert isinstance(answer, EndpointFailed)
    assert f"status {status}" in str(answer)
    assert "secret" not in f"{answer} {endpoint(server, key='secret')!r}"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "content", [b"<html>", b"{}", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b'"a"']
)
def test_an_answer_without_text_is_an_error(server: Server, content: bytes):
    server.answers = [(200, content)]
    (answer,) = endpoint(server).ask([ChatRequest("?")])
    assert isinstance(answer, EndpointFailed)
    assert "its answer has no text" in str(answer)


def test_silence_is_an_error(server: Server):
    server.answers = [said("  ")]
    assert isinstance(endpoint(server).ask([ChatRequest("?")])[0], EndpointFailed)


def test_a_server_that_does_not_answer_in_time_is_given_up(server: Server):
    server.slow_s = 0.5
    (answer,) = endpoint(server, timeout_s=0.05, attempts=2).ask([ChatRequest("?")])
    assert isinstance(answer, EndpointFailed)
    assert "no answer (ReadTimeout), 2 times" in str(answer)


def test_a_server_that_is_not_there_is_an_error_of_each_question():
    answers = Endpoint("http://127.0.0.1:9/v1", "captioner", attempts=1).ask([ChatRequest("?")] * 2)
    assert ["no answer (ConnectError)" in str(answer) for answer in answers] == [True, True]


def test_one_bad_answer_leaves_the_others_as_they_are(server: Server):
    server.answers = [said("one"), (400, {}), said("three")]
    answers = endpoint(server, concurrency=1).ask([ChatRequest("?")] * 3)
    assert [isinstance(answer, str) for answer in answers] == [True, False, True]


def test_pauses_double_and_one_that_the_server_asks_for_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr("models.captions.endpoint.sleep", pauses.append)
    server.answers = [(500, {}), (500, {}), said("late")]
    assert endpoint(server, pause_s=1.0).ask([ChatRequest("?")]) == ["late"]
    assert 0.75 <= pauses[0] <= 1.25
    assert 1.5 <= pauses[1] <= 2.5
    server.answers, server.retry_after = [(429, {}), said("late")], "7"
    assert endpoint(server).ask([ChatRequest("?")]) == ["late"]
    assert pauses[2:] == [7.0]
