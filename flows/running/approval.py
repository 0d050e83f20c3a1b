"""A pause in Prefect's UI until a person says that a run may go on, with what it would cost before their eyes."""

from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.running.story import is_seen
from models.errors import BadInput

WAIT_S = 3 * 24 * 3600
"""Seconds that a run waits for an answer: over a weekend."""

POLL_S = 5


class Approval(RunInput):
    """The form that answers a pause."""

    approve: bool = Field(default=False, title="Go on with this", description="Off: the run ends here")


def ask_approval(shown: str, wait_s: int = WAIT_S, poll_s: int = POLL_S) -> None:
    """Pause the run that this code runs in until its form is answered, above which the Markdown `shown` stands. Raises
    BadInput where nobody can answer, nobody does, or the answer is no."""
    if FlowRunContext.get() is None or not is_seen():
        raise BadInput("approve: nobody can be asked without a server. Start one with `reelmill up`, or leave it out.")
    form = Approval.with_initial_data(description=shown)
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=wait_s, poll_interval=poll_s)
    except FlowPauseTimeout as error:
        raise BadInput(f"Nobody approved within {wait_s / 3600:g} hours. Run it again to be asked again.") from error
    if not answer.approve:
        raise BadInput("It was not approved in the form, so nothing was done.")
