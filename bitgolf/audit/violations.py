"""The catalogue of violations and bugs of public entries: what each is, how bad, and what can see it."""

from typing import NamedTuple


class Violation(NamedTuple):
    """One kind of fault. severity: disqualifies, wrong score, quality or run wasted.

    seen_by: the layers (folder, script, log, artifact) that look for it; `run` and `data` are what a reader
    of files cannot see.
    """

    code: str
    severity: str
    title: str
    seen_by: str


SEVERITIES = {"D": "disqualifies", "S": "wrong score", "Q": "quality or size lost", "R": "run wasted"}
UNSEEN = {
    "run": "only a run shows it: flip tokens, sum the distribution, score with one process and two",
    "data": "only the shards show it: hash the documents of both splits, decode the tokens",
}

TABLE = """
V01 D a cache is mixed in for the correct token alone; no distribution | script
V02 D the target token is part of the key that is looked up | script
V03 D the text is scored a second time with what the first pass saw | script
V04 D tokens are learned before they are scored | script
V05 D something is fitted to the very tokens that are scored next (SLOT) | script
V06 D trained on validation text before the model is written | script
V07 D a warm-up trains on real validation tokens | script
V08 D a gate looks at a property of the token that it predicts | script
V09 D a mixing weight looks at the probability of the realised token | script
V10 D a token's probability is spread over its bytes and mixed there; no distribution over tokens | script
V11 D part of the validation text is reported as all of it | script log
V12 S other validation text than everybody's | log data
V13 D training and validation text overlap | script log data
V14 D validation text is in the training text, or the score is not one | log data
V15 S the last token of a document is mixed into the first of the next | script
V16 Q trained and evaluated with different contexts | script
V17 S targets are left out of the score or counted twice | script
V18 S one process's share of the score is reported as the whole | script
V19 S a score of zero, or none | log
B01 S the space before a word is counted twice | script log
B02 S byte tokens are counted as more than one byte | script log
B03 S the tokenizer has no piece for a lone space | log data
B04 S token bytes come from decoded text | script
B05 S the byte sidecar is missing and a table of pieces stands in | script log
B06 S the denominator is a transformed text, not the original | script log
B07 S documents without a start token | script data
B08 S control or unused tokens are counted as bytes | script
B09 D decoding the tokens does not give the text back | script
B10 S bits per byte without dividing by ln 2 | script log
B11 S padding is scored, or the score depends on the batch | script
K01 D more bytes than the budget | folder log
K02 D MiB taken for MB | folder script
K03 D code that is read when it runs is not counted | folder script
K04 D another compressor where one is missing, silently | script folder
K05 D the size of one seed stands for all | folder
K06 Q tensors in the file that nothing needs | artifact script
K07 D training took longer than the budget | log
K08 D the clock is set back | log script
K09 D calibration on training data after the budget was spent | log
K10 D evaluation took longer than the budget | log
K11 D figures, logs, seeds and script do not belong together | folder log
K12 R one seed ran on a slower machine | folder
K13 D logs are missing | folder
K14 D seeds were searched, or the best one is reported | folder script
T01 Q averages are summed in a 16-bit type | script
T02 Q an average that still holds its start | script log
T03 Q averaging begins before the warm-down | script
T04 Q a flag that the compiler has folded; the quantization noise never ran | script
T05 R recompiled again and again | script
T06 R environment variables are set after torch was imported | script
T07 Q trained on another grid than the exported one | script
T08 Q rows that became zero under a scale floor | artifact script
T09 Q outliers collapse the rest of a row | artifact
T10 Q a tensor in another set of bits than meant | artifact
T11 Q matrices without statistics | script log
T12 Q error feedback worse than plain rounding | script log
T13 S the score is not that of what was reloaded | script log
T14 Q parameters in no optimizer | script
T15 Q a warm-down that never comes, or always was | script
T16 R tensors of inference mode are trained | script
T17 S the model stays adapted, or is adapted and never scored | script
T18 R collective calls in a branch of one process | script
T19 R evaluation that looks like a hang, or loses the model | script
T20 R kernels that older cards do not have | script
T21 R a run without a result that counts as done | script log
"""


def _violation(line: str) -> Violation:
    words, seen_by = line.split(" | ")
    code, severity, title = words.split(" ", 2)
    return Violation(code, severity, title, seen_by)


VIOLATIONS = {each.code: each for each in map(_violation, TABLE.strip().splitlines())}
