"""An audit: whatever it is given, every layer that fits, and one verdict under named rules."""

import ast
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from bitgolf.audit import (
    artifact_checks,
    data_checks,
    folder_checks,
    folder_logs,
    log_checks,
    script_bytes,
    script_checks,
    tokenizer_checks,
)
from bitgolf.audit.bounded import start_of
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding, in_order
from bitgolf.audit.folder import Record, read_record
from bitgolf.audit.logs import decoded, looks_like_log, read_log
from bitgolf.audit.rules import DISPUTED, VIOLATION, Rules, Ruling
from bitgolf.audit.script import Script, follow
from bitgolf.audit.unwrap import opened
from bitgolf.audit.violations import SEVERITIES, UNSEEN, VIOLATIONS
from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import sha256_of

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z")
DISQUALIFIES = SEVERITIES["D"]
CLEAN, INVALID, SUSPECT, FLAWED = "clean", "invalid", "suspect", "flawed"
Layers = tuple[list[Finding], frozenset[str], Mapping[str, Ruling], str]


class Audit(NamedTuple):
    """What was found. looked: the codes that a layer could look for; the others cannot be told from files.

    unchecked: what is missing before nothing found means that nothing is wrong; empty where it is all there.
    """

    target: str
    kind: str
    rules: Rules
    findings: list[Finding]
    looked: frozenset[str]
    seconds: float
    taken: Mapping[str, Ruling] = MappingProxyType({})
    unchecked: str = ""

    def ruling(self, finding: Finding) -> Ruling:
        """What holds for a finding: of this very entry, else of its kind on the day of the rules."""
        return self.taken.get(finding.code) or self.rules.ruling(finding.code)

    @property
    def real(self) -> list[Finding]:
        """Findings: found or suspected."""
        return [each for each in self.findings if each.sure != CANNOT_TELL]

    @property
    def disputed(self) -> list[Finding]:
        """Findings of faults without a ruling on the day of the rules."""
        return [each for each in self.real if self.ruling(each).word == DISPUTED]

    @property
    def verdict(self) -> str:
        """invalid: a fault that disqualifies was found. suspect: one, or a wrong score, is suspected. flawed:
        anything else was found. clean: nothing was, or a run that may be wasted elsewhere is suspected.
        cannot tell: as clean, but what could show a fault is not there.
        """
        counted = [each for each in self.real if self.ruling(each).word == VIOLATION]
        worst = [each for each in counted if each.severity == DISQUALIFIES]
        if any(each.sure == FOUND for each in worst):
            return INVALID
        if worst or any(each.severity == SEVERITIES["S"] for each in counted):
            return SUSPECT
        if any(each.sure == FOUND or each.severity != SEVERITIES["R"] for each in self.real):
            return FLAWED
        return CANNOT_TELL if self.unchecked else CLEAN

    def untold(self) -> dict[str, str]:
        """The codes that nothing here could look for, with the reason."""
        reported = {each.code for each in self.findings}
        return {
            code: UNSEEN.get(each.seen_by, f"nothing given here shows it; it is seen in a {each.seen_by}")
            for code, each in VIOLATIONS.items()
            if code not in self.looked | reported
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "target": self.target,
            "kind": self.kind,
            "rules": self.rules.name,
            "status": self.verdict,
            "unchecked": self.unchecked,
            "found": sum(each.sure == FOUND for each in self.findings),
            "suspected": sum(each.sure == SUSPECTED for each in self.findings),
            "cannot_tell": sum(each.sure == CANNOT_TELL for each in self.findings) + len(self.untold()),
            "findings": [
                {
                    "title": each.title,
                    "severity": each.severity,
                    "ruling": self.ruling(each).word,
                    "source": self.ruling(each).source,
                }
                | each._asdict()
                for each in self.findings
            ],
            "not_looked_for": self.untold(),
            "seconds": self.seconds,
        }


def audit(path: Path, rules: Rules) -> Audit:
    """Look at a folder, a script, a log or an artifact. Raises BitgolfError for what is none of them."""
    started = time.monotonic()
    if not path.exists():
        raise BitgolfError("no such file or folder", where=str(path))
    if path.is_dir():
        kind, (findings, looked, taken, unchecked) = "folder", _folder(path, rules)
    else:
        kind, (findings, looked, taken, unchecked) = _file(path, rules)
    seconds = time.monotonic() - started
    return Audit(str(path), kind, rules, in_order(findings), looked, seconds, taken, unchecked)


def _file(path: Path, rules: Rules) -> tuple[str, Layers]:
    if path.suffix == ".py":
        layers = opened(path)
        beside = [each for each in path.parent.glob("*.py") if each != path]
        script = follow(path.name, layers, _modules(layers[-1].tree, beside))._replace(alone=True)
        findings = [*script_checks.check_script(script)]
        return "script", (findings, script_checks.COVERED, {}, script.unfollowed)
    head = start_of(path, 2**20)
    if path.suffix in (".log", ".txt") or (b"\0" not in head and looks_like_log(decoded(head))):
        log = read_log(path)
        if not (log.scores or log.steps or log.sizes):
            raise BitgolfError("no line of a training log in it", where=str(path))
        findings = [*log_checks.check_log(log, rules)]
        return "log", (findings, log_checks.COVERED, {}, "" if log.scores else "no line has a score")
    findings = [*artifact_checks.check_artifact(path, rules)]
    if findings and all(each.sure == CANNOT_TELL for each in findings):
        raise BitgolfError(
            "neither a script, a log nor an artifact that can be read",
            where=str(path),
            value=findings[0].found.removeprefix(f"{path}: "),
            way_out="name a folder, a .py file, a log or a packed model",
        )
    return "artifact", (findings, artifact_checks.COVERED, {}, "")


def _modules(tree: ast.Module, beside: list[Path]) -> list[tuple[str, ast.Module]]:
    """The files beside a script that it imports: names and trees."""
    wanted = {*folder_checks.modules_of(tree)}
    trees = []
    for path in beside:
        if path.name in wanted:
            try:
                trees.append((path.name, opened(path)[-1].tree))
            except BitgolfError:
                continue
    return trees


def _folder(path: Path, rules: Rules) -> Layers:
    record = read_record(path)
    if not record.files:
        raise BitgolfError("an empty folder", where=str(path))
    findings: list[Finding] = []
    shards = data_checks.shards_in(path, [*record.files])
    data = [*data_checks.check_data(path, [*record.files])]
    of_tokenizers, seen = tokenizer_checks.check_tokenizers(path, [*record.files])
    data += of_tokenizers
    seen |= data_checks.COVERED if shards else frozenset()
    if shards and not (record.logs or record.claims or record.entry):
        return data, seen, {}, ""
    looked = folder_checks.COVERED | seen
    for log in record.logs:
        beside = folder_logs.of_no_claim(record, log)
        for each in log_checks.check_log(log, rules, record.is_timed):
            if beside and each.sure != CANNOT_TELL:
                message = f"{each.found}; no reported figure stands on this log"
                each = each._replace(sure=CANNOT_TELL, found=message)
            findings.append(each)
        looked |= log_checks.COVERED
    script = None
    if record.entry and record.entry.stat().st_size:
        try:
            script = _script(record)
        except BitgolfError as error:
            findings.append(
                Finding("K03", SUSPECTED, record.entry.name, str(error), "a script that can be read")
            )
        else:
            looked |= script_checks.COVERED
            for each in script_checks.check_script(script):
                weighed = folder_logs.weighed(record, each, rules)
                if weighed and weighed.sure == FOUND and not record.reports:
                    weighed = weighed._replace(sure=SUSPECTED, found=f"{each.found}; no score is reported")
                findings += [weighed] if weighed else []
    runs = folder_checks.closure(record, script) if script else []
    for helper in record.scripts:
        if helper != record.entry:
            known = {(each.code, each.where) for each in findings}
            shown = _beside(helper, str(helper.relative_to(path)) in runs)
            findings += [each for each in shown if (each.code, each.where) not in known]
    findings += folder_checks.check_folder(record, script, rules)
    findings += data
    if packed := [name for name in record.files if name.lower().endswith(ARCHIVES)]:
        names = ", ".join(packed[:3]) + (f" and {len(packed) - 3} more" if len(packed) > 3 else "")
        findings.append(
            Finding("K03", CANNOT_TELL, names, "archives are not opened", "code and logs as files")
        )
    for artifact in artifact_checks.artifacts_in(path, [*record.files]):
        findings += artifact_checks.check_artifact(artifact, rules)
        looked |= artifact_checks.COVERED
    evidence = record.claims.path if record.claims else record.logs[0].path if record.logs else None
    taken = rules.taken(sha256_of(evidence)) if evidence else {}
    return findings, looked, taken, _unchecked(record, script)


def _unchecked(record: Record, script: Script | None) -> str:
    """What is missing in a folder to check what it claims."""
    missing = [script.unfollowed if script else "no script that can be read"]
    if record.claimed and not any(log.scores for log in record.logs):
        missing.append("no log with a score, though one is claimed")
    return "; ".join(filter(None, missing))


def _script(record: Record) -> Script:
    """The entry script, opened and followed; where it only executes another file, that one."""
    assert record.entry
    layers = opened(record.entry)
    for name in [folder_checks.file_run(record, each) for _, each in layers[-1].files]:
        if (record.folder / name).is_file() and name in record.files:
            layers += opened(record.folder / name)
    beside = [path for path in record.scripts if path != record.entry and path.parent == record.folder]
    script = follow(record.entry.name, layers, _modules(layers[-1].tree, beside), record.settings)
    return script._replace(printed=lambda lines: folder_logs.branch_ran(record, script, lines))


def _beside(path: Path, runs: bool) -> list[Finding]:
    """What a script beside the entry shows of the data; of one that the entry runs, how it counts bytes."""
    try:
        script = follow(path.name, opened(path), [])
    except BitgolfError:
        return []
    counts = (script_bytes.byte_tables, script_bytes.decoded_lengths) if runs else ()
    prepares = script_bytes.PREPARES
    return [each for check in (*counts, *prepares) for each in check(script)]
