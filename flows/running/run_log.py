"""The log of a deployment's run, as Prefect's page shows it: our lines, and what went wrong, without a traceback."""

import logging

from prefect.context import FlowRunContext

from models.errors import ReelmillError

log = logging.getLogger("reelmill")


class SaidInASentence(Exception):
    """An end that its message explains."""


class _NoTracebacks(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what repeats an end that the run's state explains in a sentence."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, ReelmillError | SaidInASentence)


_filter = _NoTracebacks()


def settle_run_log() -> None:
    """Log the steps' lines in a run of a deployment; a command has its own log (progress.py)."""
    context = FlowRunContext.get()
    if context and context.flow_run and context.flow_run.deployment_id:
        log.setLevel(min(log.level or logging.INFO, logging.INFO))
        for name in ("prefect.flow_runs", "prefect.engine"):
            logging.getLogger(name).addFilter(_filter)
