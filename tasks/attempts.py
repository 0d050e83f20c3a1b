"""Work that failed is a row: the word and the sentence of the error that stopped it, and how often it was tried."""

from models.device import is_out_of_memory
from models.errors import ReelmillError


def error_columns(error: ReelmillError, item: str | None = None) -> dict[str, str]:
    """Return the columns `error_code` and `error_message` of a row whose item failed; `item` names it before the
    sentence, where the error does not."""
    return {"error_code": error.code, "error_message": f"{item}: {error}" if item else str(error)}


def failure_of(error: BaseException, name: str, doing: str) -> dict[str, str]:
    """`error_code` and `error_message` of the clip `name`, which a step was `doing` ("sampling") when it failed.

    Where memory was too small, even for the plan that takes the least, torch's own text gives no advice.
    """
    if isinstance(error, ReelmillError):
        code, said = error.code, str(error)
    elif is_out_of_memory(error):
        advice = "ask for a smaller size or fewer frames, or choose another --device"
        code, said = "out_of_memory", f"{name}: {doing} ran out of memory, however little it took at a time; {advice}."
    else:
        code, said = f"{doing}_failed", f"{name}: {doing} failed ({str(error).strip() or type(error).__name__})."
    return {"error_code": code, "error_message": said}
