"""The command line: parses, calls, prints; the logic is elsewhere.

Results go to standard output, progress and errors to standard error. Exit codes: 0 success, 1 a bug in
llm4sbr, 2 a problem that the user can fix, 3 a missing device, 130 interrupted. torch, polars and pydantic
are imported inside commands, so that `--help` is fast.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from contextlib import suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from llm4sbr.commands.answers import answers
from llm4sbr.commands.catalogue import catalogue
from llm4sbr.commands.experiment import experiment
from llm4sbr.commands.export import export
from llm4sbr.commands.intents import intents
from llm4sbr.commands.log import check_loggers, log, tell_loggers
from llm4sbr.commands.options import chosen_settings, common, print_json, say, sources, stage_options
from llm4sbr.commands.plugins import doctor, plugins
from llm4sbr.commands.recommend import recommend
from llm4sbr.commands.refit import refit
from llm4sbr.commands.report import report
from llm4sbr.commands.serve import serve
from llm4sbr.commands.sharing import pack, pull, push, unpack
from llm4sbr.commands.tune import tune
from llm4sbr.commands.update import update
from llm4sbr.errors import Llm4sbrError, PeerError
from llm4sbr.printable import printable
from llm4sbr.system import memory


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; unlike in click, it is no error if the reader of a pipe (such as `head`) ends."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            with suppress(OSError, ValueError):  # discard output that cannot be flushed
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="llm4sbr")
def cli() -> None:
    """Session-based recommendation that a large language model makes better and never slows down."""


def _bring(
    run: Path | None,
    until: str,
    file: Path | None,
    assignments: tuple[str, ...],
    force: bool,
    quiet: bool,
    options: Any,
    *,
    new: bool,
) -> Path:
    from llm4sbr import pipeline
    from llm4sbr.config import in_force
    from llm4sbr.progress import Progress

    chosen = chosen_settings(file, assignments, options)
    run = (run or in_force.default_run(chosen)).expanduser()
    new = new or bool(chosen.get("data", {}).keys() & {"reader", "path"})
    progress, start = Progress(quiet=quiet), options.get("start")
    pipeline.execute(run, chosen, until=until, progress=progress, force=force, new=new, start=start)
    return run


def _show(run: Path, stage: str, as_json: bool, *, brief: bool = False) -> None:
    from llm4sbr.api import summary
    from llm4sbr.pipeline import timings

    found = summary(run, stage)
    if as_json:
        print_json(found)
    else:
        from llm4sbr.report.terminal.next_step import next_command
        from llm4sbr.report.terminal.stages import show_stage

        show_stage(stage, found, timings(run), brief=brief)
        more = [f"More: llm4sbr evaluate {shlex.quote(str(run))}"] if brief else []
        more += [f"Report: {found['report']}"] if "report" in found else []
        say("\n".join(["", *more, f"Next: {next_command(run, stage)}"]))


@cli.command("run")
@stage_options("evaluate", required=False)
@click.option("--logger", "loggers", multiple=True, metavar="NAME", help="Then do as llm4sbr log --to NAME.")
def run_(
    run: Path | None,
    file: Path | None,
    assignments: tuple[str, ...],
    force: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
    loggers: tuple[str, ...],
    **options: Any,
) -> None:
    """Do every stage that is not fresh, from the raw log to the table.

    RUN is the run directory; without it, runs/DATASET-LLM[-PROTOCOL].
    """
    check_loggers(loggers)
    run = _bring(run, "evaluate", file, assignments, force, quiet, options, new=True)
    _show(run, "evaluate", as_json, brief=True)
    tell_loggers(run, loggers)


def _stage_command(stage: str, text: str) -> None:
    def command(
        run: Path,
        file: Path | None,
        assignments: tuple[str, ...],
        force: bool,
        as_json: bool,
        quiet: bool,
        debug: bool,
        **options: Any,
    ) -> None:
        new = stage == "prepare"
        _show(_bring(run, stage, file, assignments, force, quiet, options, new=new), stage, as_json)

    command.__doc__ = f"{text}\n\nStages before it are done first where they are not fresh."
    cli.command(stage)(stage_options(stage)(command))


_stage_command("prepare", "Read a raw log: sessions, catalogue, splits.")


@cli.command("infer")
@stage_options("infer")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be asked, and what it takes; ask nothing, and keep no setting but of data.",
)
def infer_(
    run: Path,
    dry_run: bool,
    file: Path | None,
    assignments: tuple[str, ...],
    force: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Ask the LLM what each session wants, from every perspective.

    Stages before it are done first where they are not fresh.
    """
    if not dry_run:
        _show(_bring(run, "infer", file, assignments, force, quiet, options, new=False), "infer", as_json)
        return
    from llm4sbr.api import plan
    from llm4sbr.asking.plan import sentence

    found = plan(run, quiet=quiet, **chosen_settings(file, assignments, options))
    if as_json:
        print_json(found.as_dict() if found else None)
    else:
        say(sentence(found) if found else "no LLM is asked; choose one with --llm")


_stage_command("localize", "Tie the answers to items of the catalogue.")
_stage_command("train", "Train the backbone plain, with intents, and with the controls.")


@cli.command("evaluate")
@stage_options("evaluate")
@click.option("--cold", is_flag=True, help="Also test on the items that data.hold_out held out.")
@click.option("--dry-run", is_flag=True, help="Say what baselines would ask an LLM; train and ask nothing.")
def evaluate_(
    run: Path,
    cold: bool,
    dry_run: bool,
    file: Path | None,
    assignments: tuple[str, ...],
    force: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Rank the whole catalogue for every test sample and compare.

    Stages before it are done first where they are not fresh.
    """
    if not dry_run:
        run = _bring(run, "evaluate", file, assignments, force, quiet, options, new=False)
        if not cold:
            _show(run, "evaluate", as_json)
            return
        from llm4sbr.commands.catalogue import show_cold

        show_cold(run, as_json)
        return
    from llm4sbr.api import plan_baselines
    from llm4sbr.asking.plan import sentence

    _bring(run, "prepare", file, assignments, False, quiet, options, new=False)
    found = plan_baselines(run, quiet=True)
    if as_json:
        print_json({name: one.as_dict() for name, one in found.items()})
    else:
        lines = [f"{name}: {sentence(one)}" for name, one in found.items()]
        say("\n".join(lines) if lines else "no baseline of train.baselines asks an LLM")


cli.add_command(answers)
cli.add_command(intents)
cli.add_command(plugins)
cli.add_command(doctor)
cli.add_command(experiment)
cli.add_command(tune)
cli.add_command(report)
cli.add_command(refit)
cli.add_command(update)
cli.add_command(catalogue)
cli.add_command(export)
cli.add_command(recommend)
cli.add_command(serve)
cli.add_command(log)
cli.add_command(pack)
cli.add_command(unpack)
cli.add_command(push)
cli.add_command(pull)


@cli.command("config")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--show", is_flag=True, help="Show every setting in force (the default).")
@sources
@common
def config_(
    run: Path | None,
    show: bool,
    file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Show every setting in force, of RUN or the defaults, as TOML that --config reads.

    With RUN, --set and --config are kept for its next command; --set KEY=default takes a choice back.
    """
    from llm4sbr import pipeline
    from llm4sbr.config import in_force, to_settings, to_toml

    given = chosen_settings(file, assignments, {})
    if run:
        in_force.check_run(run)
    config = pipeline.choose(run, given) if run else in_force.configure(None, given)
    settings = to_settings(config)
    print_json(settings) if as_json else click.echo(to_toml(settings), nl=False)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # do not fail on characters that the terminal cannot show
            stream.reconfigure(errors="replace")
    sys.exit(_together(arguments) if _several_processes() else _guarded(arguments))


def _several_processes() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _together(arguments: list[str]) -> int:
    """Exit code under `torchrun`: the first process runs the command, the others only help to train."""
    from llm4sbr.stages.train import follow
    from llm4sbr.training.team import join

    try:
        team = join()
        if team.rank:
            return follow(team)
    except KeyboardInterrupt:
        return 130
    try:
        return _guarded(arguments)
    finally:
        team.dismiss()


def _guarded(arguments: list[str]) -> int:
    """Exit code of a command; every error is printed as one line on standard error."""
    debug = "--debug" in arguments
    try:
        result = cli.main(arguments, prog_name="llm4sbr", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; finished work is kept, run the same command to go on", 130)
    except click.ClickException as error:
        error.show(said := StringIO())
        say(said.getvalue(), err=True, nl=False)
        return 2
    except Llm4sbrError as error:
        if debug:
            raise
        if isinstance(error, PeerError) and error.reported:
            return 2
        return _fail(f"error: {' '.join(str(error).split())}", error.exit_code)
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of polars is no `Exception`
        if debug:
            raise
        return _unexpected(error)


def _unexpected(error: BaseException) -> int:
    """Exit code of a command that ended with an error that is not ours: the machine's, or a bug."""
    if isinstance(error, ModuleNotFoundError):
        from llm4sbr.system import installation

        if lacking := installation.missing_module(error):
            return _fail(f"error: {lacking}", 2)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _fail(f"error: {error.filename or 'output'}: cannot write: {error.strerror}", 2)
    if short := memory.shortage(error):
        return _fail(f"error: {short}", 2)
    detail = " ".join(f"{type(error).__name__}: {error}".split())
    if "home directory" in detail:  # of `~`, or of a library's cache
        return _fail(f"error: {detail} Set HOME, and LLM4SBR_CACHE to a folder for what is kept", 2)
    return _fail(f"internal error: {detail}; --debug shows where", 1)


def _fail(message: str, code: int) -> int:
    click.echo(printable(message), err=True)
    return code
