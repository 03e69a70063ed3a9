"""The ``maptile`` command: one file per sub-command, each a thin shell over the Python API."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import click

from data_prep.errors import MaptileError
from data_prep.registry import Registry
from maptile_loc.cli.parts.output import Interrupted

COMMANDS = Registry("maptile_loc.cli", "command", "command")
"""All commands. A new one is a file in this folder that exports ``command``."""


class Commands(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in the order of a user's work."""
        return sorted((name.replace("_", "-") for name in COMMANDS.names()), key=_order)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        name = cmd_name.replace("-", "_")
        return COMMANDS.load(name) if name in COMMANDS.names() else None


USUAL = (
    *("prepare", "simulate", "train", "localize", "locate", "live", "adapt"),
    *("evaluate", "report", "inspect", "city-report", "demo"),
)
"""The order in which the commands are listed; others follow."""

AGAIN_S = 0.01
"""Seconds after which a signal that was dropped comes again."""
LIBRARIES = "sudo apt-get install libusb-1.0-0 libx11-6 libgl1 libegl1"
"""What installs the system libraries of Open3D."""


def _order(name: str) -> tuple[int, str]:
    return (USUAL.index(name) if name in USUAL else len(USUAL)), name


@click.group(
    cls=Commands,
    context_settings={
        "show_default": True,
        "max_content_width": 100,
        "help_option_names": ["-h", "--help"],
    },
)
@click.version_option(None, "--version", package_name="maptile-loc", prog_name="maptile")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def app(debug: bool) -> None:
    """Localize a vehicle on OpenStreetMap."""


def main() -> None:
    """Run the command; a user's error is one line and status 2, ``--debug`` shows the traceback.

    An interrupted command ends with status 130 (Ctrl-C) or 143 (SIGTERM).
    """
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    ended_by, hook = [signal.SIGINT], sys.unraisablehook
    before = _listen(ended_by)
    try:
        sys.exit(app(arguments, prog_name="maptile", standalone_mode=False) or 0)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "maptile"
        _fail(f"{error.format_message()}; see {command} -h")
    except Interrupted as error:
        _say(f"interrupted: {error.format_message()}")
        sys.exit(128 + ended_by[-1])
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        sys.exit(128 + ended_by[-1])
    except click.ClickException as error:
        _fail(error.format_message())
    except MaptileError as error:
        if debug:
            raise
        _fail(str(error))
    except ImportError as error:
        if debug or "shared object file" not in str(error):
            raise
        _fail(f"{error}; what Open3D needs, on Debian or Ubuntu: {LIBRARIES}")
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}; check its permissions")
    finally:
        sys.unraisablehook = hook
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _listen(ended_by: list[signal.Signals]) -> Any:
    """Let SIGTERM end this process as Ctrl-C does, so that it cleans up; appends the signal.

    Python drops what is raised while an object is removed, and goes on: a signal that came at such
    a moment comes again.

    Returns:
        The handler before; None outside the main thread, where there is none.
    """
    own = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() != own:  # a child process inherits the handler
            os._exit(128 + number)
        ended_by.append(signal.Signals(number))
        raise KeyboardInterrupt

    show = sys.unraisablehook

    def dropped(about: Any) -> None:
        if issubclass(about.exc_type, KeyboardInterrupt):
            again = threading.Timer(AGAIN_S, os.kill, (own, ended_by[-1]))
            again.daemon = True
            again.start()
        else:
            show(about)

    sys.unraisablehook = dropped
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, end)


def _fail(line: str) -> None:
    _say(f"error: {line}")
    sys.exit(2)


def _say(line: str) -> None:
    click.echo(line, err=True)
