"""The command line of lm-evaluation-harness, with the model `bitgolf` in it."""

import importlib
import importlib.util
import sys

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.faults import ended


def main() -> None:
    """Everything after `python -m bitgolf.harness` is the harness's own."""
    if importlib.util.find_spec("lm_eval") is None:
        raise BitgolfError("lm-evaluation-harness is not installed", way_out="pip install 'bitgolf[harness]'")
    try:
        importlib.import_module("bitgolf.harness.lm")
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except BitgolfError:
        raise
    except Exception as error:  # an unknown task, a file that is not there: it is said by any class
        raise BitgolfError(f"lm-evaluation-harness says {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    sys.exit(ended(main))
