"""The program: its name, its exit codes, and how it ends whatever happens."""

from __future__ import annotations

import errno
import functools
import io
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normgate import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

app = typer.Typer(
    name="normgate",
    help="Image classifiers that know when not to answer: train a gate, set its threshold, screen images with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DONE, DATA_FAILED, USAGE, INTERNAL, REJECTED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normgate {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 some data failed, 2 usage, 3 internal, 4 rejected, 130 Ctrl-C."""
    from normgate import console

    signal.signal(signal.SIGTERM, _ended)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no α must not cost the job
    code = run(sys.argv[1:])
    try:
        if sys.stdout is not None:  # it may have been closed
            sys.stdout.flush()
    except BrokenPipeError:
        console.silence_broken_pipe()
    except OSError as error:
        console.silence_broken_pipe()
        code = _cannot_write(error)
    sys.exit(code)


def _ended(number: int, _: FrameType | None) -> None:
    """End as with Ctrl-C, so that nothing half-written is left."""
    sys.exit(128 + number)


def _show(
    shown: list[Warning | str], usual: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any
) -> None:
    """Our own warnings as lines for people, once where a command starts further processes; those of others as ever."""
    from normgate import console
    from normgate.data.names import printable
    from normgate.errors import NormgateWarning

    if not issubclass(category, NormgateWarning):
        usual(message, category, *place)
    elif os.environ.get("LOCAL_RANK", "0") == "0":
        shown.append(message)
        text = "\n".join(map(printable, f"warning: {message}".splitlines()))
        console.err.print(text, style="yellow", soft_wrap=True)


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code."""
    from normgate import console
    from normgate.data.names import printable
    from normgate.errors import NormgateError, NormgateWarning, ProbeWarning, ToldError, UnreadableWarning

    shown: list[Warning | str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", NormgateWarning)
            warnings.simplefilter("ignore", ProbeWarning)  # the commands print what it says
            warnings.showwarning = functools.partial(_show, shown, warnings.showwarning)
            app(arguments)
    except SystemExit as exit_:
        if isinstance(exit_.__context__, BrokenPipeError):  # whoever read our output went away; Click ends with 1
            return DONE
        if exit_.code == INTERRUPTED:
            console.err.print("interrupted; no output was left half-written", style="yellow")
        if exit_.code in (None, DONE) and any(isinstance(warning, UnreadableWarning) for warning in shown):
            return DATA_FAILED
        return exit_.code if isinstance(exit_.code, int) else DONE
    except ToldError:
        return USAGE
    except NormgateError as error:
        message = "\n".join(map(printable, f"error: {error}".splitlines()))
        console.err.print(message, style="red", soft_wrap=True)
        return USAGE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            return _cannot_write(error)
        if console.debugging():
            raise
        console.err.print(
            f"internal error: {type(error).__name__}: {error}\nThis is a defect of normgate; "
            "run again with NORMGATE_DEBUG=1 for the traceback, and report it.",
            style="red",
            soft_wrap=True,
        )
        return INTERNAL
    return DONE


def _cannot_write(error: OSError) -> int:
    from normgate import console

    console.err.print(f"error: the output cannot be written: {error.strerror or error}", style="red", soft_wrap=True)
    return USAGE
