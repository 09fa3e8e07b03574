"""The command line. Commands import what they need inside, so that `edgept --help` is quick."""

import io
import sys
from typing import Any

import click

from edgept import __version__
from edgept.cli.bench import bench
from edgept.cli.demo import demo
from edgept.cli.doctor import doctor
from edgept.cli.export import export
from edgept.cli.prompt import prompt
from edgept.cli.run import run
from edgept.cli.tune import tune
from edgept.cli.verify import verify
from edgept.errors import EdgeptError

__all__ = ["main"]


class _Commands(click.Group):
    """Turns edgept's errors into one line and an exit code; a traceback is a bug."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeptError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            # The reader of a pipe has gone, the disk is full, a file cannot be read to its end.
            if not isinstance(error, BrokenPipeError):
                click.echo(f"error: {error}. Check the file, its disk and your rights.", err=True)
            sys.stdout = sys.stderr  # Python would complain again when it flushes at exit
            ctx.exit(1)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="edgept")
def main() -> None:
    """Swap kilobyte prompt files on one frozen ONNX model.

    Export a model once, run it under any prompt that was trained for it:

    \N{BACKSPACE}
      edgept export MODEL
      edgept run --prompt spanish.pt "Where is my parcel?"

    Exit codes: 0 fine, 1 failed, 2 usage, 3 invalid file, 4 prompt and bundle do not fit,
    5 untrusted file.
    """
    # A prompt's name or an answer may hold what the terminal's encoding does not.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


for _command in (demo, export, tune, prompt, run, bench, verify, doctor):
    main.add_command(_command)
