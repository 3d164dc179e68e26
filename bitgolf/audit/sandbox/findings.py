"""What a run in the sandbox shows of an audit's faults."""

from collections.abc import Iterator
from pathlib import Path

from bitgolf.audit.audit import Audit
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding, in_order
from bitgolf.audit.folder import read_record
from bitgolf.audit.sandbox import box
from bitgolf.audit.sandbox.lines import SHARED, TINY, UNTRAINED, Line
from bitgolf.audit.sandbox.run import Run, run, short
from bitgolf.base.errors import BitgolfError

APART = 0.01  # nats by which one process and two may differ
OF_PROBE = {
    "once": ("V17", SUSPECTED, "every token has one score, which depends on it"),
    "causal": ("V05", FOUND, "scores hold when later tokens change"),
    "target unseen": ("V08", FOUND, "the distribution holds when the token that comes is another"),
    "sums to one": ("V01", FOUND, "probabilities of all tokens sum to one"),
    "same again": ("V03", SUSPECTED, "a second evaluation gives the same scores"),
    "bytes counted": ("B01", SUSPECTED, "the bytes of the text"),
}
COVERED = frozenset("V01 V03 V04 V05 V06 V08 V17 V18 B01 T13 T18".split())


def with_run(audit: Audit, seconds: int) -> tuple[Audit, Run]:
    """An audit and what a run adds to it. Raises BitgolfError where nothing can be run, or not safely."""
    target = Path(audit.target)
    script = read_record(target).entry if target.is_dir() else target
    if script is None or script.suffix != ".py":
        raise BitgolfError("no script in it to run", where=audit.target, way_out="leave --run out")
    seen = run(script, box.way(), box.Limits(seconds=seconds))
    new, looked = findings(seen)
    return audit._replace(
        findings=in_order([*audit.findings, *new]),
        looked=audit.looked | looked,
        seconds=audit.seconds + seen.seconds,
    ), seen


def findings(seen: Run) -> tuple[list[Finding], frozenset[str]]:
    """What a run shows, and the codes that it could look for; what it could not is said with the reason."""
    findings = [*_of_probes(seen), *_of_training(seen), *_of_reload(seen), *_of_processes(seen)]
    looked = {each.code for each in findings if each.sure != CANNOT_TELL} | {*_passed(seen)}
    missing = COVERED - looked - {each.code for each in findings}
    findings += [
        Finding(code, CANNOT_TELL, seen.script, f"the run did not show it: {_why(seen, code)}")
        for code in sorted(missing)
    ]
    return findings, frozenset(looked)


def _why(seen: Run, code: str) -> str:
    """Why something could not be seen."""
    left = [each for each in seen.of("probe") if OF_PROBE.get(each.get("probe", ""), ("",))[0] == code]
    if left:
        return f"{short(left[0].get('name', ''))}: {short(left[0].get('why', ''))}"
    learnt = seen.of("learnt", TINY)
    if code in ("V06", "T13") and learnt and not any(each.get("saves") for each in learnt):
        return "no file that may be a model was written and read again"
    if code == "T13" and any(each.get("by_bytes") for each in seen.of("evaluated", TINY)):
        return "bytes were written and read again; whether the model that scores is made of them is not seen"
    if code in ("V18", "T18") and seen.of("evaluated", TINY):
        return "no scores of two processes that can be held against each other"
    for each in [*seen.of("unprobed"), *seen.of("ran", UNTRAINED, TINY), *seen.of("ran")]:
        if each.get("why"):
            return short(each["why"])
    late = [each["stage"] for each in seen.of("unended")]
    if seen.stopped or late:
        return f"ended at {seen.stopped}" if seen.stopped else f"{', '.join(late)}: no end in its time"
    return "no function took a model and the validation tokens and returned a score that could be probed"


def _passed(seen: Run) -> Iterator[str]:
    """Codes that were looked for and not found."""
    for each in seen.of("probe"):
        if each.get("ended") == "passed" and each.get("how") != "part" and each.get("probe") in OF_PROBE:
            yield OF_PROBE[each["probe"]][0]
            if each["probe"] == "sums to one":
                yield "V08"  # who sees the target gives each its own distribution: no sum of one
    yield from ("V04" for each in seen.of("seen") if each.get("seen"))
    ended = any(each.get("ended") == "passed" for each in seen.of("ran", TINY))
    if ended and any(each.get("saves") for each in seen.of("learnt", TINY)):
        scores = seen.of("evaluated", TINY)
        yield from ("V06", "T13") if scores and not scores[-1].get("by_bytes") else ("V06",)
    if len(_pair(seen)) == 2:
        yield from ("V18", "T18")


def _of_probes(seen: Run) -> Iterator[Finding]:
    failed = [
        each for each in seen.of("probe") if each.get("ended") == "failed" and each.get("probe") in OF_PROBE
    ]
    not_causal = {each.get("name") for each in failed if each.get("probe") == "causal"}
    for each in failed:
        if each["probe"] in ("target unseen", "sums to one") and each.get("name") in not_causal:
            continue  # who looks ahead sees the target, and what it reports does not sum to one
        code, sure, expected = OF_PROBE[each["probe"]]
        why = short(each.get("why", ""))
        if why.startswith("it raises"):
            sure = CANNOT_TELL
        elif each.get("how") == "part":
            sure = SUSPECTED  # what is reported is more than these scores
        where = f"{seen.script}: {short(each.get('name', ''))}"
        token = each.get("token")
        at = "" if token is None else f", at token {token}"
        yield Finding(code, sure, where, f"run at tiny size{at}: {why}", expected)
    for each in seen.of("seen"):
        if each.get("early"):
            message = (
                f"{each['early']} tokens are learned before they have a score, of {each.get('learnt', 0)}"
            )
            yield Finding("V04", FOUND, f"{seen.script}: {short(each.get('name', ''))}", message)


def _of_training(seen: Run) -> Iterator[Finding]:
    for each in seen.of("learnt"):
        if each.get("early"):
            message = (
                f"{each['early']} gradients or steps on validation tokens before the last file of a model"
            )
            yield Finding("V06", SUSPECTED, seen.script, message)
            return


def _of_reload(seen: Run) -> Iterator[Finding]:
    scores = seen.of("evaluated", TINY)
    if scores and scores[-1].get("saves") and scores[-1].get("reloaded") is False:
        message = f"nothing is loaded between the last file written and {short(scores[-1].get('name', ''))}"
        yield Finding("T13", SUSPECTED, seen.script, message)


def _pair(seen: Run) -> list[Line]:
    """The last score of each of two processes."""
    scores = seen.of("evaluated", SHARED)
    latest = {each["rank"]: each for each in scores}
    same = len([each for each in scores if each["rank"] == 0]) * 2 == len(scores)
    return [latest[rank] for rank in sorted(latest)] if same else []


def _of_processes(seen: Run) -> Iterator[Finding]:
    if any(each["stage"] == SHARED for each in seen.of("unended")):
        yield Finding("T18", SUSPECTED, seen.script, "two processes do not come to an end")
    alone = seen.of("evaluated", TINY, UNTRAINED)  # after training they need not be the same model
    first = [each for each in seen.of("evaluated", SHARED) if each["rank"] == 0]
    untrained = all(each[:1] and not each[0].get("steps") for each in (alone, first))
    if untrained and alone[0].get("name") == first[0].get("name"):
        one, two = alone[0].get("loss", 0.0), first[0].get("loss", 0.0)
        if abs(one - two) > APART:
            message = f"the first score is {one:.4f} by one process and {two:.4f} by two"
            yield Finding("V18", SUSPECTED, seen.script, message)
    pair = _pair(seen)
    if len(pair) == 2 and abs(pair[0].get("loss", 0.0) - pair[1].get("loss", 0.0)) > APART:
        message = (
            f"one process reports {pair[0].get('loss', 0.0):.4f}, the other {pair[1].get('loss', 0.0):.4f}"
        )
        yield Finding("V18", SUSPECTED, seen.script, message)
