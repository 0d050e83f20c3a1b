"""Flows that tell how they ended: the state that Prefect shows says what the command's exit code and counts say.

Prefect calls a run Completed when its function returns. A night of which every clip failed returns too, with a table of
failures; so a state is made of the outcome. `curate(config)` still returns the outcome, whatever the state.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.results import ResultRecord
from prefect.states import Completed, Failed, State
from pydantic import BaseModel

from flows.running.config import Outcome
from flows.running.gpu_limit import hold_gpu
from flows.running.messages import make_line
from flows.running.run_log import SaidInASentence, settle_run_log
from flows.running.runners import on_its_runner
from flows.running.scheduled import find_later_firing
from flows.running.summary import tell_summary

P = ParamSpec("P")
R = TypeVar("R", bound=Outcome)


class NothingMade(SaidInASentence):
    """Every item of a run failed; what Prefect asks of a Failed state."""

    def __init__(self, outcome: Outcome, said: str) -> None:
        super().__init__(said)
        self.outcome = outcome


class ToldFlow(Flow[P, R]):
    """A flow whose state is told by its outcome, and whose call returns the outcome."""

    def __call__(self, *args: Any, return_state: bool = False, **named: Any) -> Any:
        """Run the flow; return its outcome, also where its state is Failed, or raise what it raised."""
        state: State[Any] = super().__call__(*args, return_state=True, **named)
        return state if return_state else read_outcome(state)


def read_outcome(state: State[Any]) -> Any:
    """Return the outcome of a run that ended in this state in this process, or raise what it raised."""
    data = state.data
    made = data.result if isinstance(data, ResultRecord) else data
    return made.outcome if isinstance(made, NothingMade) else state.result()


def told_flow(
    name: str, before: Callable[[Any], None] | None = None, **options: Any
) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Return the decorator that makes a flow of a function that returns an Outcome; `options` are Prefect's. `before`
    is called with the settings first, while the run holds no GPU."""

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        return ToldFlow(cast(Callable[P, R], _tell(function, before)), name=name, **options)

    return decorate


def make_state(outcome: Outcome) -> State[Any] | None:
    """Return the state of an outcome: Failed where nothing was made, Completed with a name of counts where some failed
    or wait; None where all is done."""
    name, tally = outcome.ending, outcome.tally
    if name is None:
        return None
    said = make_line(tally.said) if tally and tally.said else None
    if outcome.is_nothing_made:
        message = f"{name}. {said}" if said else name
        return Failed(message=message, data=NothingMade(outcome, message))
    return Completed(name=name, message=said, data=outcome)


def _tell(function: Callable[P, R], before: Callable[[Any], None] | None) -> Callable[P, R | State[Any]]:
    """Return the function with a state instead of an outcome, in a run of a flow, where there is something to tell."""

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> R | State[Any]:
        settle_run_log()
        if later := find_later_firing():
            return Completed(name="Missed", message=f"The firing of {later:%Y-%m-%d %H:%M} stands for this one.")
        config = next((each for each in (*args, *named.values()) if isinstance(each, BaseModel)), None)
        if before:
            before(config)
        started = time.monotonic()
        with on_its_runner(config), hold_gpu(getattr(config, "gpu", None)):
            outcome = function(*args, **named)
        tell_summary(config, outcome, time.monotonic() - started)
        return (FlowRunContext.get() and make_state(outcome)) or outcome

    return call
