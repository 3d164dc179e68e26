"""ONNX: ids (batch, time) to logits (batch, time, vocabulary), for any batch and length."""

import contextlib
import importlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import write_bytes
from bitgolf.export.exported import Exported, greatest_difference
from bitgolf.net.model import Model
from bitgolf.public.optional import needs

OPSET = 20


class Logits(nn.Module):
    """The network with the one thing that is exported as its forward."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model.logits(input_ids)


def write_onnx(exported: Exported, out: Path) -> float:
    """Write it, run it with onnxruntime, and return by how much its logits differ at most."""
    needs("onnx", "onnx", "onnxscript", "onnxruntime")
    ids, expected = exported.probe()
    shapes = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        whole = Path(folder) / "model.onnx"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it reports there; stdout is for the answer
                torch.onnx.export(
                    Logits(exported.model()).eval(),
                    (ids,),
                    str(whole),
                    input_names=["input_ids"],
                    output_names=["logits"],
                    dynamic_shapes=shapes,
                    opset_version=OPSET,
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
        except Exception as error:  # of many kinds, by what the network has
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BitgolfError(
                f"torch cannot write this network as ONNX: {text}", where=exported.name
            ) from error
        data = whole.read_bytes()
    logits = _run(data, ids)
    difference = greatest_difference(logits, expected, out)
    write_bytes(out, data)
    return difference


def _run(data: bytes, ids: Tensor) -> Tensor:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input_ids": ids.numpy()})
    return torch.from_numpy(logits)
