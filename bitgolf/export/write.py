"""The formats of an export, and where each is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.export.exported import Exported, read_exported, write_weights
from bitgolf.export.folder import write_folder
from bitgolf.export.onnx import write_onnx
from bitgolf.inputs.resolve import beside
from bitgolf.inputs.writable import refuse_file, refuse_folder
from bitgolf.public.optional import needs


class Form(NamedTuple):
    """target_name: what it is called beside the model. packages: what the extra of that name installs."""

    target_name: str
    write: Callable[[Exported, Path], float]
    extra: str = ""
    packages: tuple[str, ...] = ()


FORMS = {
    "hf": Form("hf", write_folder, "hf", ("transformers",)),
    "onnx": Form("model.onnx", write_onnx, "onnx", ("onnx", "onnxscript", "onnxruntime")),
    "safetensors": Form("model.safetensors", write_weights),
}


def export_to(run: str, form_name: str, out: Path | None) -> dict[str, Any]:
    """Write a packed model in a form, read it again there, and say where it is and how well it agrees.

    Raises BitgolfError for another form, packages that are missing and a place that is taken, before work.
    """
    if form_name not in FORMS:
        raise BitgolfError("no such form", value=form_name, way_out=nearest(form_name, FORMS))
    form = FORMS[form_name]
    needs(form.extra, *form.packages)
    exported = read_exported(run)
    target = out or beside(exported.path) / form.target_name
    (refuse_file if "." in form.target_name else refuse_folder)(target)
    own = (exported.path, exported.path.parent / "weights.safetensors")
    if target.exists() and any(each.exists() and target.samefile(each) for each in own):
        raise BitgolfError("the run's own file would be replaced", where=str(target), way_out="another --out")
    difference = form.write(exported, target)
    num_bytes = sum(path.stat().st_size for path in ([target] if target.is_file() else target.iterdir()))
    return {
        "model": str(exported.path),
        "to": form_name,
        "out": str(target),
        "bytes": num_bytes,
        "largest_logit_difference": difference,
    }
