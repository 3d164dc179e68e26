"""Public models in Hugging Face formats: hf:OWNER/NAME, a folder, a .gguf file. Their code is not run."""

import importlib
import math
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from bitgolf.base.errors import BitgolfError, DataError
from bitgolf.corpus.textfile import refuse_special
from bitgolf.public.optional import needs
from bitgolf.score.windows import Sliding

HUB = "hf:"
MOST_WINDOW = 2048  # tokens it sees at once: more takes longer and gains little
WEIGHTS = (".safetensors", ".bin", ".gguf")


class PublicModel(NamedTuple):
    """A model as it was read. model_bytes: of its weights on disk; 0 where they lie in a cache.

    network and tokenizer are of transformers, whose classes differ by architecture.
    """

    name: str
    network: Any
    tokenizer: Any
    window_tokens: int
    parameters: int
    model_bytes: int


class PublicScore(NamedTuple):
    """What a public model makes of a text."""

    name: str
    bits_per_byte: float
    parameters: int
    model_bytes: int
    tokens: int
    text_bytes: int
    window_tokens: int


def read_public_model(text: str) -> PublicModel:
    """Read what `--beside` names. Raises BitgolfError without transformers, and for what it cannot read."""
    needs("hf", "transformers")
    place, gguf_file = _place(text)
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options = {"trust_remote_code": False, **({"gguf_file": gguf_file} if gguf_file else {})}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
        automatic = transformers.AutoModelForCausalLM
        network = automatic.from_pretrained(place, dtype=torch.float32, **options).eval()
    except Exception as error:  # the library raises whatever its many readers do
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise BitgolfError(
            f"transformers cannot read it: {type(error).__name__}: {first[:300]}",
            where=text,
            way_out="give hf:OWNER/NAME, a folder with config.json, weights and tokenizer, or a .gguf file; "
            "a model that needs code of its own is not run",
        ) from error
    limit = getattr(network.config, "max_position_embeddings", None) or MOST_WINDOW
    return PublicModel(
        name=text.rstrip("/").rpartition("/")[2].removeprefix(HUB),
        network=network,
        tokenizer=tokenizer,
        window_tokens=max(2, min(int(limit), MOST_WINDOW)),
        parameters=sum(weight.numel() for weight in network.parameters()),
        model_bytes=_bytes_on_disk(Path(place), gguf_file),
    )


def score_public(model: PublicModel, content: bytes) -> Generator[tuple[int, int], None, PublicScore]:
    """Score a text in sliding windows that go on by half; yields (tokens scored, tokens in all).

    The first token follows the tokenizer's own start of a text; where it has none, all are equally likely.
    Raises DataError where its tokenizer does not give the text back: the nats would be of another text.
    """
    ids = _ids(model, content)
    start = model.tokenizer.bos_token_id
    nats = math.log(model.network.config.vocab_size) if start is None else 0.0
    tokens = torch.tensor(ids if start is None else [start, *ids])
    length = model.window_tokens
    for window in Sliding(length=length, stride=length // 2).windows(len(tokens)):
        inputs = tokens[window.start : window.end]
        with torch.inference_mode():
            logits = model.network(input_ids=inputs[None], use_cache=False).logits[0]
        fresh = slice(window.first_scored - window.start, None)
        targets = tokens[window.first_scored + 1 : window.end + 1]
        nats += float(F.cross_entropy(logits[fresh].float(), targets, reduction="sum"))
        yield window.end, len(tokens) - 1
    if not math.isfinite(nats):
        raise BitgolfError("its probabilities are not finite", where=model.name, value=nats)
    return PublicScore(
        name=model.name,
        bits_per_byte=nats / math.log(2) / len(content),
        parameters=model.parameters,
        model_bytes=model.model_bytes,
        tokens=len(ids),
        text_bytes=len(content),
        window_tokens=length,
    )


def _place(text: str) -> tuple[str, str]:
    """Where transformers finds it, and the name of the .gguf file in there, if it is one."""
    if text.startswith(HUB):
        return text.removeprefix(HUB), ""
    path = Path(text)
    if path.suffix == ".gguf":
        refuse_special(path)
        needs("gguf", "gguf", "accelerate")
        return str(path.parent), path.name
    if not (path / "config.json").is_file():
        raise BitgolfError(
            "no public model", where=text, way_out="give hf:OWNER/NAME, a folder with config.json, or a .gguf"
        )
    return str(path), ""


def _bytes_on_disk(folder: Path, gguf_file: str) -> int:
    if gguf_file:
        return (folder / gguf_file).stat().st_size
    if not folder.is_dir():
        return 0
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(WEIGHTS))


def _ids(model: PublicModel, content: bytes) -> list[int]:
    """Token ids of a text, without starts and ends, which must give its bytes back."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            "a public model reads UTF-8 text alone",
            value=f"byte {content[error.start]:#04x} at {error.start:,}",
            way_out="leave out --beside",
        ) from None
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    if not ids or max(ids) >= model.network.config.vocab_size:
        raise BitgolfError(
            "its tokenizer has tokens that the model does not have",
            where=model.name,
            value=max(ids, default=None),
        )
    back = model.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != text:
        differ = (i for i, (one, other) in enumerate(zip(text, back)) if one != other)
        at = next(differ, min(len(text), len(back)))
        raise DataError(
            "the tokenizer does not give the text back, so its bits would be those of another text",
            where=model.name,
            value=f"{text[at : at + 20]!r} becomes {back[at : at + 20]!r}",
            way_out="choose a model whose tokenizer keeps every byte",
        )
    return ids
