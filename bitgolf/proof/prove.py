"""The proof of a score: code a text with a packed model, decode it, and write a certificate."""

import hashlib
import platform
import re
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

import bitgolf
from bitgolf.base.errors import ArtifactError, DataError
from bitgolf.base.events import Event, with_progress
from bitgolf.base.files import write_bytes, write_json
from bitgolf.base.plan import to_json
from bitgolf.proof.adapted import AdaptedPlan
from bitgolf.proof.crew import Coder, Crew, decoded
from bitgolf.proof.file import (
    ARITHMETIC,
    Compressed,
    compress_adapted,
    compress_tokens,
    decoded_tokens,
    frames_of,
    read_header,
)
from bitgolf.proof.frames import Layout
from bitgolf.proof.frames import parallel_nats as nats_in_parallel
from bitgolf.proof.mixed import MixedLanes
from bitgolf.proof.mixed_frames import mixture_for
from bitgolf.run.folder import processor_name
from bitgolf.score.score import score
from bitgolf.score.windows import Sliding

FORMAT = "bitgolf proof 1"
ALARM_BITS_PER_BYTE = 1e-4  # between the steps of the coder and a parallel pass
CODED_SHARE = 5e-4  # allowed between coded bits and the steps' nats, beside frame ends and rare tokens
FRAME_BITS, TOKEN_BITS = 64, 1e-4
RAREST_BITS = 16  # from this cost on, the coder's 24 bits per step can make a token cheaper
ANYWHERE = "any processor: portable arithmetic"
PROVES = (
    "This model alone writes these bytes as this file and reads them back, so the size of the file is its "
    "score on them: causal, normalised, every token once, no byte miscounted."
)
DOES_NOT_PROVE = (
    "That the text was not in the training data; how long training took; which seeds were tried; that "
    "documents do not help each other (context may reach from one to the next)."
)


class Text(NamedTuple):
    """Tokens to prove, and their bytes. name: their source."""

    tokens: np.ndarray
    data: bytes
    name: str


def machine_class() -> dict[str, Any]:
    """The properties of a machine on which the bits of a model's numbers depend."""
    return {
        "processor": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "system": platform.machine(),
    }


def code_sha256() -> str:
    """Hex SHA-256 of the source of this package."""
    root, digest = Path(bitgolf.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def prove(
    coder: Coder, text: Text, out: Path, processes: int = 1, adapted: AdaptedPlan | None = None
) -> Generator[Event, None, dict[str, Any]]:
    """Code a text, decode it from the written file, and write the certificate; see `check`.

    After an interruption finished frames are not done again. adapted: adapter and mixers, in one process;
    with only mixers a frame has several lanes, otherwise one.

    Raises ArtifactError if decoding gives another text, and DataError if the tokens are not the text.
    """
    if coder.tokenizer.decode(text.tokens) != text.data:
        raise DataError(
            "the tokenizer does not give the text back",
            where=text.name,
            way_out="prove with a tokenizer that is lossless",
        )
    tokens = text.tokens[1:] if text.tokens[0] == coder.first == coder.tokenizer.bos else text.tokens
    crew, clock = Crew(processes, out / "proof.part"), [time.monotonic()]
    coding: Generator[tuple[int, int], None, Compressed | None]
    if adapted is None:
        coding = compress_tokens(coder, tokens, text.data, crew=crew)
    else:
        coding = compress_adapted(coder, adapted, tokens, text.data, crew)
    packed = yield from crew.follow(coding, "encode")
    assert packed is not None and packed.layout is not None
    clock.append(time.monotonic())
    write_bytes(out / "coded.bin", packed.data)
    coded = (out / "coded.bin").read_bytes()
    read_back = yield from crew.follow(
        decoded_tokens(coder, coded, read_header(coded, "coded.bin"), "coded.bin", crew), "decode"
    )
    clock.append(time.monotonic())
    if not np.array_equal(read_back, tokens) or coder.tokenizer.decode(read_back) != text.data:
        raise ArtifactError("what was decoded is not the text", where=str(out / "coded.bin"))
    parallel = yield from scored_in_parallel(coder, tokens, packed.layout, adapted)
    certificate = certificate_of(coder, text, coded, packed.nats, parallel)
    certificate["seconds"] = {"encode": clock[1] - clock[0], "decode": clock[2] - clock[1]}
    write_json(out / "certificate.json", certificate)
    crew.disband()
    return certificate


def scored_in_parallel(
    coder: Coder, tokens: np.ndarray, layout: Layout, adapted: AdaptedPlan | None
) -> Generator[Event, None, np.ndarray]:
    """Nats, float64, of all tokens under the windows of a coding, in parallel as in scoring; in no order."""
    parallel, mixture = list[np.ndarray](), None
    if adapted is not None and layout.lanes > 1:
        mixture = mixture_for(coder, adapted)
    elif adapted is not None:
        yield Event("parallel score", 0, layout.tokens, {})
        plan = adapted.plan.replace(
            windows=Sliding(length=adapted.length, stride=adapted.stride), limit_tokens=0
        )
        stream = np.concatenate(([coder.first], tokens)).astype(np.uint16)
        parallel.append(score(coder.model, stream, coder.tokenizer, plan).nats.astype(np.float64))
    for start, end in layout.frames() if adapted is None or mixture is not None else ():
        yield Event("parallel score", start, layout.tokens, {})
        mixed = MixedLanes(mixture, layout.lanes) if mixture is not None else None
        parallel.append(nats_in_parallel(coder.model, tokens[start:end], layout, mixed))
    yield Event("parallel score", 1, 1, {})
    return np.concatenate(parallel)


def rare_bits_of(nats: np.ndarray) -> float:
    """Bits of tokens beyond `RAREST_BITS` each, which the coder may save."""
    return float(np.maximum(nats / np.log(2) - RAREST_BITS, 0).sum())


def certificate_of(
    coder: Coder, text: Text, coded: bytes, packed_nats: float, parallel_nats: np.ndarray
) -> dict[str, Any]:
    """The figures of a certificate. packed_nats: total by the coder's steps; parallel_nats: per token."""
    machine, claims = machine_class(), claims_of(coder, coded)
    scores = {
        "bits_per_byte": claims["bits_per_byte"],
        "stepwise_bits_per_byte": bits_of(packed_nats, claims["text_bytes"]),
        "parallel_bits_per_byte": bits_of(parallel_nats.sum(), claims["text_bytes"]),
        "rare_bits": rare_bits_of(parallel_nats),
    }
    alarm = "; ".join(alarms_in({**claims, **scores}))
    return {
        "format": claims["format"],
        **scores,
        "text": text.name,
        **claims,
        "text_sha256": hashlib.sha256(text.data).hexdigest(),
        "code_sha256": code_sha256(),
        "certified_on": ANYWHERE if coder.portable else "class {processor}, {capability}".format(**machine),
        "machine": machine,
        "proves": PROVES,
        "does_not_prove": DOES_NOT_PROVE,
        **({"alarm": alarm} if alarm else {}),
    }


def claims_of(coder: Coder, coded: bytes, where: str = "") -> dict[str, Any]:
    """The entries of a certificate that follow from coded file and artifact. where: for messages.

    Raises ArtifactError for a damaged file; it names the frame and where it begins.
    """
    header = read_header(coded, where)
    if header.layout is None:
        raise ArtifactError("no model wrote it", where=where)
    frames, layout = frames_of(coded, header, where), header.layout
    claims: dict[str, Any] = {
        "format": FORMAT,
        "bits_per_byte": 8 * len(coded) / header.text_bytes,
        "text_bytes": header.text_bytes,
        "tokens": layout.tokens,
        "coded_bytes": len(coded),
        "container_bytes": len(coded) - sum(len(each.frame.data) for each in frames),
        "windows": f"sliding {layout.window}/{layout.stride} in {layout.in_lanes} of {layout.lane_tokens}",
        "frames": len(frames),
        "arithmetic": ARITHMETIC[header.method],
    }
    if header.adapted is not None:
        plan = header.adapted.plan
        claims["adapted"] = {"adapter": to_json(plan.adapter), "mixers": to_json(plan.mixers)}
    for name, data in (("artifact", coder.artifact), ("coded", coded)):
        claims |= {f"{name}_bytes": len(data), f"{name}_sha256": hashlib.sha256(data).hexdigest()}
    return claims


def alarms_in(figures: Mapping[str, Any]) -> Iterator[str]:
    """Scores of a certificate that differ by more than rounding explains, as sentences."""
    stepwise, parallel = figures["stepwise_bits_per_byte"], figures["parallel_bits_per_byte"]
    if not (apart := abs(stepwise - parallel)) <= ALARM_BITS_PER_BYTE:
        yield f"stepwise and parallel scores differ by {apart:.2g} bits per byte"
    coded = 8 * (figures["coded_bytes"] - figures["container_bytes"]) / figures["text_bytes"]
    bits = FRAME_BITS * figures["frames"] + TOKEN_BITS * figures["tokens"]
    tolerance = CODED_SHARE * stepwise + bits / figures["text_bytes"]
    saved = figures.get("rare_bits", 0) / figures["text_bytes"]
    if not -saved - tolerance <= coded - stepwise <= tolerance:
        yield f"coded bits and stepwise score differ by {abs(coded - stepwise):.2g} bits per byte"


def bits_of(nats: float, text_bytes: int) -> float:
    """Bits per byte of a text."""
    return float(nats / np.log(2) / text_bytes)


def check(
    coder: Coder,
    coded: bytes,
    certificate: Mapping[str, Any],
    share: float = 1.0,
    seed: int = 0,
    processes: int = 1,
    where: str = "coded.bin",
) -> Generator[Event, None, dict[str, Any]]:
    """Verify a certificate: its entries, and by decoding all frames or a random share of them.

    share: of the frames, 0 to 1; at least one frame. where: the coded file, for messages. Raises
    ArtifactError if anything does not hold.
    """
    claims = claims_of(coder, coded, where)
    for name in ("artifact", "coded"):
        if certificate[f"{name}_sha256"] != claims[f"{name}_sha256"]:
            raise ArtifactError(
                f"the certificate is of another {name}",
                value=claims[f"{name}_sha256"][:16],
                way_out=f"give the one whose SHA-256 begins {certificate[f'{name}_sha256'][:16]}",
            )
    refuse_untrue(certificate, claims, coder.portable)
    header = read_header(coded, where)
    frames = frames_of(coded, header, where)
    reads_all = share >= 1 or header.adapted is not None  # adapters need all tokens before
    count = len(frames) if reads_all else max(1, round(share * len(frames)))
    chosen = sorted(np.random.default_rng(seed).permutation(len(frames))[:count].tolist())
    jobs = [frames[index] for index in chosen]
    if header.adapted is not None:
        parts = [(yield from with_progress(decoded_tokens(coder, coded, header, where), "decode"))]
    else:
        parts = yield from with_progress(decoded(coder, jobs, Crew(processes)), "decode")
    if count == len(frames):
        tokens = np.concatenate(parts)
        if hashlib.sha256(coder.tokenizer.decode(tokens)).hexdigest() != certificate["text_sha256"]:
            raise ArtifactError("what was decoded is not the certificate's text")
        assert header.layout is not None
        nats = yield from scored_in_parallel(coder, tokens, header.layout, header.adapted)
        refuse_other_scores(certificate, nats, header.text_bytes)
    elif "alarm" not in certificate and any(alarms_in({**certificate, **claims, "rare_bits": 0.0})):
        raise ArtifactError(
            "coded size and score differ by tokens that hardly ever come; a share of the frames cannot tell",
            where="rare_bits",
            value=certificate.get("rare_bits"),
            way_out="check all frames: leave --audit out",
        )
    return {
        "frames": len(frames),
        "frames_decoded": count,
        "tokens_decoded": sum(map(len, parts)),
        "same_code": certificate.get("code_sha256") == code_sha256(),
    }


def refuse_untrue(certificate: Mapping[str, Any], claims: Mapping[str, Any], portable: bool) -> None:
    """Raises ArtifactError if a certificate differs from its files, or omits an alarm."""
    for name, true in claims.items():
        claimed = certificate.get(name, true)
        if isinstance(true, dict) and isinstance(claimed, dict):  # older ones have more entries of adapters
            claimed = {key: claimed.get(key) for key in true}
        if name == "windows":  # as in older certificates
            claimed = str(claimed).replace("in 1 lanes of", "in 1 lane of")
        if claimed != true:
            raise ArtifactError(
                "the certificate says what its files do not",
                where=name,
                value=claimed,
                way_out=f"it is {true}",
            )
    if "adapted" in certificate and "adapted" not in claims:
        raise ArtifactError("the certificate says that the model adapted, its file does not", where="adapted")
    certified_on = certificate.get("certified_on")
    if certified_on is not None and (certified_on == ANYWHERE) != portable:
        raise ArtifactError("the file was not coded so", where="certified_on", value=certified_on)
    if "alarm" not in certificate:
        for alarm in alarms_in({**certificate, **claims}):
            raise ArtifactError(f"the certificate does not say that {alarm}")


def refuse_other_scores(certificate: Mapping[str, Any], nats: np.ndarray, text_bytes: int) -> None:
    """Raises ArtifactError if the text does not have the scores of its certificate. nats: per token."""
    apart = ALARM_BITS_PER_BYTE
    parallel, rare = bits_of(nats.sum(), text_bytes), rare_bits_of(nats)
    for name, true, tolerance in (
        ("parallel_bits_per_byte", parallel, apart),
        ("rare_bits", rare, apart * text_bytes),
    ):
        if not abs(certificate.get(name, true) - true) <= tolerance:
            raise ArtifactError(
                "the certificate says another score than its text has",
                where=name,
                value=certificate[name],
                way_out=f"it is {true:.6g}",
            )


def share_of(text: str) -> float:
    """'1%' or '0.01' as a share. Raises DataError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 < share <= 1:
        raise DataError("not a share of the frames", value=text, way_out="as 1% or 0.01, above 0, at most 1")
    return share
