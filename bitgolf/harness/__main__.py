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
    importlib.import_module("bitgolf.harness.lm")
    importlib.import_module("lm_eval.__main__").cli_evaluate()


if __name__ == "__main__":
    sys.exit(ended(main))
