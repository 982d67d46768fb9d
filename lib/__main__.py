"""Receptive on the command line.

- `python -m lib describe "4 8 M 10 A"` prints the output shape, cost and receptive field of each layer.
- `python -m lib import net.py` reads the networks in PyTorch source, a notebook or an ONNX file.
- `python -m lib train "4 8 M 10 A"` trains like the app, and saves the run in its folder; the app lists the run the
  next time it starts.
- `python -m lib predict IMAGE...` reads photos of digits with a trained network.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from lib.cli.describe import add_describe
from lib.cli.import_networks import add_import
from lib.cli.output import OutputError, Parser, UsageError, discard, prepare_standard_streams, write_error
from lib.cli.predict import add_predict
from lib.cli.train import add_train
from lib.design.layers import ArchitectureError
from lib.design.recipe import RecipeError
from lib.nn.memory import OUT_OF_MEMORY, TooLargeError, is_out_of_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    The status is 2 for invalid arguments, 1 if the output cannot be written, both with a sentence on the error stream,
    and 128 + SIGPIPE if the reader has closed the output.
    """
    prepare_standard_streams()
    if sys.stdout is None:
        write_error("Standard output is closed: redirect it to a file, or to /dev/null.")
        return 1
    try:
        return _run(arguments)
    except (ArchitectureError, RecipeError, UsageError) as error:
        write_error(str(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, TooLargeError) and not is_out_of_memory(error):
            raise
        write_error(str(error) if isinstance(error, TooLargeError) else OUT_OF_MEMORY)
        return 2
    except OutputError as error:
        discard(sys.stdout)
        if error.sentence:
            write_error(error.sentence)
        return error.status


def _run(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m lib", description="Receptive on the command line.")
    commands = parser.add_subparsers(required=True, metavar="command")
    add_describe(commands.add_parser("describe", help="print the output shape, cost and receptive field of each layer"))
    add_import(commands.add_parser("import", help="read the networks in PyTorch source, a notebook or an ONNX file"))
    add_train(commands.add_parser("train", help="train a network on MNIST; the app lists the run"))
    add_predict(commands.add_parser("predict", help="read photos of digits with a trained network"))
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def run() -> NoReturn:
    """Run the command in `sys.argv` and exit with its status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends commands without their own handler, and prints no traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    status = main()
    if status > 128:
        # A signal has ended the command. Everything is saved and printed, and the interpreter's shutdown can take
        # seconds while torch is being imported or the machine is busy.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
