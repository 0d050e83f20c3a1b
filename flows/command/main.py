"""The command line: a table of commands, each a flow and its config class, which are imported only when they run.

Exit codes: 0 all done, 1 done but some items failed, 2 could not run, 130 stopped by Ctrl-C.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flows.command.flags import Interface
    from flows.running.config import Outcome

DONE, SOME_FAILED, COULD_NOT_RUN, STOPPED, TERMINATED = 0, 1, 2, 130, 143

HELP = ("-h", "--help")

OTHER_PLATFORM = (
    "reelmill: Reelmill runs on Linux, and on Windows in WSL2 (`wsl --install`), but not on {}. Run it there, or in a "
    "Linux container."
)
"""What is said where file locks, child processes and their limits work in other ways."""


@dataclass(frozen=True)
class Command:
    """One row of the table; what it names is defined in `module`, which is imported when the command runs.

    `flow` is a Prefect flow or a function of one config object, whose class is `config`; `positional` is its field
    that is given without a flag. A command that is `watched` runs as a Prefect flow; the others are short and
    are called directly. One that `claims` writes into --out itself, and not into other commands' folders inside.
    `shortcuts`: see flows.command.flags.Interface. For `--dry-run`, `check` raises what the run
    would be refused for and returns a sentence for each item that would fail; `plan`, where there is one, is called
    instead and says more. Neither writes anything.
    """

    name: str
    module: str
    flow: str
    config: str
    help: str
    check: str = "check"
    positional: str | None = None
    watched: bool = True
    claims: bool = True
    plan: str | None = None
    shortcuts: Mapping[str, str] = field(default_factory=dict)


COMMANDS = (
    Command(
        name="curate",
        module="flows.curate",
        flow="curate",
        config="CurateConfig",
        help="footage in, a dataset of measured and chosen clips out",
        positional="sources",
    ),
    Command(
        name="select",
        module="flows.selection",
        flow="decide_again",
        config="ReselectConfig",
        help="choose again which clips a dataset keeps, without measuring them again",
        positional="dataset",
        watched=False,
    ),
    Command(
        name="export",
        module="flows.export",
        flow="export",
        config="ExportConfig",
        help="a dataset's kept clips as WebDataset shards, a Hugging Face folder or CSV",
        positional="dataset",
    ),
    Command(
        name="finetune",
        module="flows.finetune",
        flow="finetune",
        config="FinetuneConfig",
        help="train a model, or a LoRA on one, on a dataset's kept clips",
        positional="dataset",
        shortcuts={"train.steps": "steps", "train.seed": "seed"},
    ),
    Command(
        name="generate",
        module="flows.generate",
        flow="generate",
        config="GenerateConfig",
        help="videos from pictures, texts, a table of jobs or a ComfyUI workflow",
        positional="jobs",
        plan="plan",
    ),
    Command(
        name="reproduce",
        module="flows.reproduce",
        flow="reproduce",
        config="ReproduceConfig",
        help="make a generated clip again and say whether it is the same",
        positional="clip",
        watched=False,
    ),
    Command(
        name="calibrate",
        module="flows.calibrate",
        flow="calibrate",
        config="CalibrationConfig",
        help="measure how much motion a model makes for each motion bucket",
        positional="model",
    ),
    Command(
        name="evaluate",
        module="flows.evaluate",
        flow="evaluate",
        config="EvaluationConfig",
        help="measure a model on pictures it never saw",
        positional="model",
    ),
    Command(
        name="tiny",
        module="flows.tiny",
        flow="tiny",
        config="TinyConfig",
        help="train the embedded model from scratch",
    ),
    Command(
        name="pipeline",
        module="flows.pipeline",
        flow="pipeline",
        config="PipelineConfig",
        help="footage and pictures in, a dataset, a motion LoRA and videos out",
        positional="sources",
        claims=False,
    ),
    Command(
        name="demo",
        module="flows.demo",
        flow="demo",
        config="DemoConfig",
        help="the whole system on rendered footage, offline, with a page of results",
    ),
    Command(
        name="status",
        module="flows.command.folders",
        flow="status",
        config="ResultsConfig",
        plan="status",
        help="what is done in an output folder, what failed and why",
        positional="path",
        watched=False,
    ),
    Command(
        name="check",
        module="flows.command.check",
        flow="check",
        config="CheckConfig",
        help="whether every file of an output folder is as it was written",
        positional="path",
        watched=False,
    ),
    Command(
        name="retry",
        module="flows.command.folders",
        flow="retry",
        config="ResultsConfig",
        check="check_retry",
        help="run an output folder's flow again for what failed",
        positional="path",
    ),
    Command(
        name="report",
        module="flows.command.folders",
        flow="report",
        config="ResultsConfig",
        check="check_report",
        help="write the page of a dataset or of generated videos again",
        positional="path",
        watched=False,
    ),
    Command(
        name="lineage",
        module="flows.command.lineage",
        flow="lineage",
        config="LineageConfig",
        help="where a file comes from and what was made of it, digests compared",
        positional="file",
        watched=False,
    ),
    Command(
        name="up",
        module="flows.serving.up",
        flow="up",
        config="UpConfig",
        help="Prefect's server with its UI, the deployments and a worker",
        watched=False,
    ),
    Command(
        name="down",
        module="flows.serving.up",
        flow="down",
        config="DownConfig",
        check="check_down",
        help="end what `reelmill up` started",
        watched=False,
    ),
    Command(
        name="doctor",
        module="flows.serving.doctor",
        flow="doctor",
        config="DoctorConfig",
        help="what this machine and the server lack, and what mends it",
        watched=False,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.platform != "linux":
        show(OTHER_PLATFORM.format(sys.platform), sys.stderr)
        return COULD_NOT_RUN
    if not arguments or arguments[0] in HELP:
        show(format_usage())
        return DONE if arguments else COULD_NOT_RUN
    if arguments[0] == "--version":
        from importlib.metadata import version

        show(f"reelmill {version('reelmill')}")
        return DONE
    return run_guarded(arguments)


def run_guarded(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code; whatever it raises is a sentence on standard error."""
    from flows.running.interrupt import Terminated
    from flows.running.messages import make_line, make_lines
    from models.errors import ReelmillError, TrainingDiverged

    debug = "--debug" in arguments
    try:
        return run(find_command(arguments[0]), arguments[1:])
    except SystemExit as ended:
        return DONE if not ended.code else COULD_NOT_RUN
    except ReelmillError as error:
        if debug:
            raise
        show(f"reelmill: {make_lines(str(error))}", sys.stderr)
        return SOME_FAILED if isinstance(error, TrainingDiverged) else COULD_NOT_RUN
    except KeyboardInterrupt as stopped:
        if debug:
            raise
        show("reelmill: stopped. Run the same command to resume.", sys.stderr)
        return TERMINATED if isinstance(stopped, Terminated) else STOPPED
    except Exception as error:
        if debug:
            raise
        show(f"reelmill: {make_line(explain_unexpected(error))}", sys.stderr)
        return COULD_NOT_RUN


def explain_unexpected(error: Exception) -> str:
    """Return the message for an error that is not a ReelmillError; a disk that cannot be written to has its own."""
    from models.errors import is_of_the_disk

    if isinstance(error, OSError) and is_of_the_disk(error):
        place, reason = error.filename or "the output", os.strerror(error.errno or 0).lower()
        return f"{place}: cannot be written ({reason}). Once it can, run the same command to resume."
    what = f"{type(error).__name__}: {error}".strip(".: ")
    return f"unexpected {what}. Run with --debug for more."


def format_usage() -> str:
    """Return the text of `reelmill --help`."""
    rows = "\n".join(f"  {command.name:<10} {command.help}" for command in COMMANDS)
    return (
        "usage: reelmill COMMAND ...\n\nFrom raw footage to curated clips, finetuned video models and generated videos."
        f"\n\ncommands:\n{rows}\n\n`reelmill COMMAND --help` lists every setting of a command."
    )


def find_command(name: str) -> Command:
    """Return the row of the table with this name; raises BadInput with the nearest name."""
    table = {command.name: command for command in COMMANDS}
    if name in table:
        return table[name]
    from flows.command.flags import find_nearest
    from models.errors import BadInput

    close = find_nearest(name, table)
    raise BadInput(f"Unknown command {name}{f': did you mean {close}?' if close else '.'} See `reelmill --help`.")


def run(command: Command, arguments: Sequence[str]) -> int:
    """Parse the arguments, run the command, print its result and return the exit code."""
    if asks_for_help(arguments):
        from flows.command.help_table import read_help, wrap_help

        show(wrap_help(read_help(command.name)).rstrip())
        return DONE
    from flows.command.flags import parse_command_line
    from flows.command.prefect_server import ensure_server, settle_environment
    from flows.running.messages import make_lines
    from flows.running.progress import show_log

    settle_environment()
    if command.watched and "--dry-run" not in arguments:
        ensure_server()
    module = importlib.import_module(command.module)
    asked = parse_command_line(make_interface(command, module), arguments)
    show_log(asked.debug)
    result = (rehearse if asked.dry_run else call)(command, module, asked.config)
    show(make_lines(str(result).rstrip("\n")))
    return result.exit_code


def make_interface(command: Command, module: ModuleType) -> "Interface":
    """Return the interface of a command, with what its module provides."""
    from flows.command.flags import Interface

    return Interface(
        prog=f"reelmill {command.name}",
        config=getattr(module, command.config),
        positional=command.positional,
        shortcuts=command.shortcuts,
    )


def rehearse(command: Command, module: ModuleType, config: "BaseModel") -> "Outcome":
    """Return what a dry run prints; raises what a run would be refused for."""
    from flows.running.config import Checked, dump
    from flows.running.refusal import check_start

    check_start(config, command.name if command.claims else None)
    if command.plan:
        return getattr(module, command.plan)(config)
    problems = tuple(getattr(module, command.check)(config))
    return Checked(failed=len(problems), settings=dump(config), problems=problems)


def call(command: Command, module: ModuleType, config: "BaseModel") -> "Outcome":
    """Run the flow, or call the plain function, of a command; one that is refused leaves no folder behind."""
    from flows.running.refusal import leave_nothing

    entry = getattr(module, command.flow)
    with leave_nothing(getattr(config, "out", None)):
        if not hasattr(entry, "fn"):
            return entry(config)
        if not command.watched:
            return entry.fn(config)
        from flows.running.run import run_flow

        return run_flow(entry, config)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return whether a command's arguments ask for its help; after `--` all are positional."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return bool(set(HELP) & set(options))


def show(text: str, stream: TextIO | None = None) -> None:
    """Print a text; where its reader has gone, as `head` goes, end the output quietly and keep the exit code."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        # Python flushes once more at exit, which must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


if __name__ == "__main__":
    sys.exit(main())
