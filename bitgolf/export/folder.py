"""A Hugging Face folder with its own code: AutoModelForCausalLM and AutoTokenizer load it."""

import importlib
from pathlib import Path

import safetensors.torch
import torch

from bitgolf.base.files import write_bytes, write_json
from bitgolf.export.code import CONFIG_CLASS, MODEL_CLASS, TOKENIZER_CLASS, model_code, tokenizer_code
from bitgolf.export.exported import Exported, greatest_difference
from bitgolf.net.model import ModelPlan
from bitgolf.public.optional import needs
from bitgolf.text.encoder import Encoder

README = """---
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A language model of {parameters:,} parameters, trained and packed with bitgolf. The code beside it is what
bitgolf scores with, in plain operations of torch; it needs torch, transformers and sentencepiece.

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
    ids = tokenizer("Once", return_tensors="pt").input_ids
    print(tokenizer.decode(model.generate(ids, max_new_tokens=100, do_sample=True)[0]))

It was trained on {window:,} tokens at a time. {cache}
"""
CACHES = "Keys and values are kept while it writes so many; after that each new token is a whole pass."
NO_CACHE = "It keeps no cache: each new token is a whole pass."


def write_folder(exported: Exported, out: Path) -> float:
    """Write it, load it as a user would, and return by how much its logits differ at most."""
    needs("hf", "transformers", "safetensors")
    tokenizer = exported.tokenizer
    files = {
        "modeling_bitgolf.py": model_code(exported.plan).encode(),
        "tokenization_bitgolf.py": tokenizer_code().encode(),
        "tokenizer.bin": tokenizer.model_file or tokenizer.to_bytes(),
        "model.safetensors": safetensors.torch.save(
            {f"model.{name}": tensor.contiguous() for name, tensor in exported.weights.items()},
            metadata={"format": "pt"},
        ),
        "README.md": README.format(
            name=exported.name,
            parameters=sum(tensor.numel() for tensor in exported.weights.values()),
            window=exported.window,
            cache=CACHES if caches(exported.plan) else NO_CACHE,
        ).encode(),
    }
    starts = {"bos_token_id": tokenizer.bos} if tokenizer.bos >= 0 else {}
    plan = exported.plan
    config = {
        "model_type": "bitgolf",
        "architectures": [MODEL_CLASS],
        "auto_map": {
            "AutoConfig": f"modeling_bitgolf.{CONFIG_CLASS}",
            "AutoModelForCausalLM": f"modeling_bitgolf.{MODEL_CLASS}",
        },
        "vocab_size": plan.vocabulary_size,
        "hidden_size": plan.width,
        "num_hidden_layers": plan.layers,
        "num_attention_heads": plan.heads,
        "num_key_value_heads": plan.kv_heads,
        "max_position_embeddings": exported.window,
        "torch_dtype": "float32",
        "keeps_cache": caches(plan),
        **starts,
    }
    names = Encoder(tokenizer).names()
    special = {"unk_token": names[tokenizer.unknown]} if tokenizer.unknown >= 0 else {}
    special |= {"bos_token": names[tokenizer.bos]} if tokenizer.bos >= 0 else {}
    tokenizer_config = {
        "tokenizer_class": TOKENIZER_CLASS,
        "auto_map": {"AutoTokenizer": [f"tokenization_bitgolf.{TOKENIZER_CLASS}", None]},
        "model_max_length": exported.window,
        **special,
    }
    for name, data in files.items():
        write_bytes(out / name, data)
    write_json(out / "tokenizer_config.json", tokenizer_config)
    write_json(
        out / "generation_config.json",
        {"do_sample": True, "top_p": 0.95, "use_cache": caches(plan), **starts},
    )
    write_json(out / "config.json", config)
    return _compared(exported, out)


def caches(plan: ModelPlan) -> bool:
    """Whether what a model computes of a token stays as it is while others follow."""
    return not plan.looks_back and not getattr(plan.position, "reference_length", 0)


def _compared(exported: Exported, out: Path) -> float:
    transformers = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True).eval()
    ids, expected = exported.probe()
    with torch.inference_mode():
        whole = greatest_difference(model(ids, use_cache=False).logits, expected, out)
        half, kept = ids.shape[1] // 2, None
        parts = []
        for part in (
            ids[:, :half],
            ids[:, half : half + 1],
            ids[:, half + 1 :],
        ):  # as a prompt and what follows
            answer = model(part, past_key_values=kept)
            parts.append(answer.logits)
            kept = answer.to_tuple()[1] if caches(exported.plan) else None
        follows = torch.cat(parts, 1) if kept is not None else expected
        return max(whole, greatest_difference(follows, expected, out))
