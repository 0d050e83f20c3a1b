"""The settings of a Prefect server that stays up, of its worker, and of the runs that the worker starts.

Prefect's own defaults are for one process and one afternoon: what holds a limit is forgotten when the server restarts,
a machine that is gone is missed after nine minutes, and a server that is away for a minute ends the runs.
"""

from collections.abc import Mapping

SILENT: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""What keeps libraries, and every Prefect server that is started here, from calling home, whatever was set before."""

HEARTBEAT_S = 30
"""Seconds between two signs of life of a run, Prefect's shortest; LOST_AFTER_S without one, its machine is lost."""

LOST_AFTER_S = 100
"""Three heartbeats and what one may be late; with the half minute in which an automation looks, below three minutes."""

SERVER: Mapping[str, str] = {
    **SILENT,
    # Who holds a limit is kept in files of Prefect's home: with the default, memory, a restart ends every limited run.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # A run whose place is not confirmed for so long has lost it; a restart of the server is shorter.
    "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "300",
    # A run that waits for a GPU tries again after so many seconds.
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "10",
}
"""The server's own, whatever its environment or profile says."""

RUNS: Mapping[str, str] = {
    **SILENT,
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    # Our lines are in the logs of a run; of Prefect's own only what went wrong is.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "reelmill",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # A server or its database may be away for four minutes: 2 + 4 + ... + 128 seconds.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    "PREFECT_API_REQUEST_TIMEOUT": "300",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # Threads that spin while they wait slow down those of other processes on the same cores.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""What the worker and the processes of its runs have in their environment."""
