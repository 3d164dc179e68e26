"""The traceback of an error, saved in a file for its developer."""

import os
import tempfile
import traceback
from pathlib import Path

SHOW_TRACE = "BITGOLF_TRACE"
TRACE_FILE = "trace.txt"


def kept_trace(error: BaseException, folder: Path | None = None) -> str:
    """Write where an error came from beside a run, or into a temporary file; where that is, in words."""
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    try:
        if folder is None:
            handle, name = tempfile.mkstemp(prefix="bitgolf-", suffix=".txt")
            os.close(handle)
            path = Path(name)
        else:
            path = folder / TRACE_FILE
        path.write_bytes(text)
    except OSError as problem:
        return f"its trace could not be written ({problem.strerror}), {SHOW_TRACE}=1 shows it"
    return f"its trace is in {path}, {SHOW_TRACE}=1 shows it"
