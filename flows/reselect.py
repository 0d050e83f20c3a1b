"""Select: decide again which clips of a dataset are kept, as a Prefect flow; the work is in flows/selection.py."""

from flows.running.told import told_flow
from flows.selection import ReselectConfig, SelectOutcome, decide_again


@told_flow(name="select")
def select(config: ReselectConfig) -> SelectOutcome:
    """Apply the thresholds to every clip and write the verdicts into clips.parquet again."""
    return decide_again(config)
