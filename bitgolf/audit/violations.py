# ruff: noqa: E501  (a table)
"""The catalogue of violations and bugs of public entries: what each is, how bad, what can see it, what to do."""

from typing import NamedTuple


class Violation(NamedTuple):
    """One kind of fault. severity: disqualifies, wrong score, quality or run wasted.

    seen_by: the layers (folder, script, log, artifact) that look for it; `run` and `data` are what a reader
    of files cannot see. expected, way_out: of a finding that says nothing else.
    """

    code: str
    severity: str
    title: str
    seen_by: str
    expected: str
    way_out: str


SEVERITIES = {"D": "disqualifies", "S": "wrong score", "Q": "quality or size lost", "R": "run wasted"}
UNSEEN = {
    "run": "only a run shows it: flip tokens, sum the distribution, score with one process and two",
    "data": "only the shards show it: hash the documents of both splits, decode the tokens",
}

TABLE = """
V01 D a cache is mixed in for the correct token alone; no distribution | script
    probabilities of all tokens that sum to one | normalise over the vocabulary, then mix
V02 D the target token is part of the key that is looked up | script
    a distribution over all tokens, fixed before the token is looked at | count every token of the vocabulary in the context, and normalise
V03 D the text is scored a second time with what the first pass saw | script
    one pass from left to right, one score for each token | keep the first score; look up, score, then learn or count, chunk by chunk
V04 D tokens are learned before they are scored | script
    a token is scored before anything is fitted to it | score a chunk, then train on it
V05 D something is fitted to the very tokens that are scored next (SLOT) | script
    a score that depends on nothing that comes after it | score a chunk, then train on it; let no score look ahead
V06 D trained on validation text before the model is written | script
    no validation token is read before the model is written | adapt after packing, and only to what was scored
V07 D a warm-up trains on real validation tokens | script
    synthetic tokens in a rehearsal | rehearse on random tokens
V08 D a gate looks at a property of the token that it predicts | script
    a prediction that is fixed before the token is looked at | ask the property of the token before, or of every token of the vocabulary
V09 D a mixing weight looks at the probability of the realised token | script
    a weight that is known before the token is | take it from the whole distribution, or from tokens before
V10 D a token's probability is spread over its bytes and mixed there; no distribution over tokens | script
    a distribution over tokens that sums to one | sum the probabilities of all tokens that begin with a byte
V11 D part of the validation text is reported as all of it | script log
    all of them are scored | score the whole split, or name the part beside the score
V12 S other validation text than everybody's | log data
    the text that everybody scores | take the whole validation split of the challenge, in its order
V13 D training and validation text overlap | script log data
    no text that is in both splits | hash the documents of both splits
V14 D validation text is in the training text, or the score is not one | log data
    training text that is no validation text | look for validation text in training, or a distribution that does not sum to one
V15 S the last token of a document is mixed into the first of the next | script
    nothing of the document before | mask it where a document begins
V16 Q trained and evaluated with different contexts | script
    the length and the window of the training | train at the length of the evaluation for some steps, or scale the rotary tables
V17 S targets are left out of the score or counted twice | script
    every target scored once | sum over tokens, whole windows or not, and divide by all tokens once
V18 S one process's share of the score is reported as the whole | script
    the same score by any number of processes | add up losses, tokens and bytes of all processes with all_reduce
V19 S a score of zero, or none | artifact log
    a number above zero | look at the evaluation loop
B01 S the space before a word is counted twice | script log
    each space once | leave the + 1 to the place that knows the token before
B02 S byte tokens are counted as more than one byte | script log
    one byte for each byte token | take the bytes of the pieces, not of decoded text; their sum over a text is its length
B03 S the tokenizer has no piece for a lone space | log data
    a piece for a lone space, or bytes counted from the text | train the tokenizer with it, and sum the bytes of the tokens against the text
B04 S token bytes come from decoded text | script
    the bytes of the piece: half of a character decodes to another one of three bytes | take them from the tokenizer's pieces
B05 S the byte sidecar is missing and a table of pieces stands in | script log
    an error: the table counts other bytes | raise, and name the file
B06 S the denominator is a transformed text, not the original | script log
    bytes of the original text | count before the change
B07 S documents without a start token | script data
    a start token before each document | put it in front of the tokens of each document
B08 S control or unused tokens are counted as bytes | script
    no byte for them | ask the tokenizer with is_control, is_unknown and is_unused
B09 D decoding the tokens does not give the text back | script
    tokens that decode to the text | use a transformation that can be undone, and show that it was
B10 S bits per byte without dividing by ln 2 | script log
    nats / ln 2 / bytes: a uniform guess of a byte is 8.000 | divide by math.log(2)
B11 S padding is scored, or the score depends on the batch | script
    targets alone: the score of a text does not depend on its batch | use ignore_index or a mask, and compare one text alone and in a batch
K01 D more bytes than the budget | folder log
    no more bytes than the budget | count all that ships: model, code and what it reads
K02 D MiB taken for MB | folder script
    16,000,000 decimal bytes | count in decimal bytes
K03 D code that is read when it runs is not counted | folder script
    nothing is read or run that is not counted | ship one script with all that it needs, and count it
K04 D another compressor where one is missing, silently | script folder
    an error: another compressor gives another size | import it without a fallback, and name it in requirements.txt
K05 D the size of one seed stands for all | folder
    the largest over the seeds | report the largest
K06 Q tensors in the file that nothing needs | artifact script
    a file of what the score needs | leave it out of what is packed
K07 D training took longer than the budget | log
    training within its seconds | stop by the clock, not by steps, and leave a guard band
K08 D the clock is set back | log script
    one clock, from the first step on | start it once, or restore the weights and the optimizer after a rehearsal
K09 D calibration on training data after the budget was spent | log
    calibration within the seconds of training | keep so many seconds back before the clock ends the training
K10 D evaluation took longer than the budget | log
    evaluation within its seconds | score with longer strides, or adapt less
K11 D figures, logs, seeds and script do not belong together | folder log
    files and figures of the same runs | take every figure and every file from the runs that are reported
K12 R one seed ran on a slower machine | folder log
    a machine as fast as those of the other seeds | run it again on a machine as fast, or say so
K13 D logs are missing | folder
    a log of every run that is reported | add it
K14 D seeds were searched, or the best one is reported | folder script
    seeds named in advance, all of them reported | report the mean, and every seed beside it
T01 Q averages are summed in a 16-bit type | script
    float32 sums | keep averages in float32
T02 Q an average that still holds its start | script log
    an average of trained weights, no worse than the last ones | begin it later, take a smaller decay, or divide by 1 - decay ** steps
T03 Q averaging begins before the warm-down | script
    averages of the warm-down | begin when the rate has begun to fall
T04 Q a flag that the compiler has folded; the quantization noise never ran | script
    a graph that sees the flag: the compiler takes class attributes for constants | compile again after setting it, or keep the flag in a tensor
T05 R recompiled again and again | script
    a graph that is compiled once | compile each length before the clock starts; keep counters in a tensor, or outside of the model
T06 R environment variables are set after torch was imported | script
    before the import, which reads it | set it at the top
T07 Q trained on another grid than the exported one | script
    the levels of the export | one quantizer for both
T08 Q rows that became zero under a scale floor | artifact script
    rows that were trained | a floor of scales that only keeps zero from dividing, 1e-12; look at rows that are zero after packing
T09 Q outliers collapse the rest of a row | artifact
    a scale that most of a row can use | clip by a percentile or by the deviation
T10 Q a tensor in another set of bits than meant | artifact
    the table of tokens on as many levels: it was put with the others by an edit (#1086) | compare the plan of quantization with that of the run before
T11 Q matrices without statistics | script log
    statistics of every matrix that is quantized | call the layer, whose hooks see its inputs then, and count the matrices without statistics
T12 Q error feedback worse than plain rounding | script log
    an error below that of plain rounding, for every matrix | round both ways, and keep the better one
T13 S the score is not that of what was reloaded | script log
    the score of what was read again from the file | load the packed model into a fresh one, then score
T14 Q parameters in no optimizer | script
    every parameter in one group | add it to a group, or say that it stays as it starts
T15 Q a warm-down that never comes, or always was | script
    a warm-down that ends when the training does | let it follow the share of time that has passed
T16 R tensors of inference mode are trained | script
    training outside of no_grad and inference_mode | take it out, or wrap it in torch.enable_grad()
T17 S the model stays adapted, or is adapted and never scored | script
    what is adapted is scored, and the packed model after it restored | score before each step, and restore the weights before another evaluation
T18 R collective calls in a branch of one process | script
    every process makes every collective call, and all hold one model | take it out of the branch; all_reduce gradients before the step
T19 R evaluation that looks like a hang, or loses the model | script
    save, then score: an evaluation that fails loses the run | write the weights first
T20 R kernels that older cards do not have | script
    another kernel where it is missing, and a line that says which one ran | ask for it, and fall back with a word
T21 R a run without a result that counts as done | folder script log
    an error, or a run that ends with a score | let every failure end the run, and ask for its result
"""


def _violation(lines: tuple[str, str]) -> Violation:
    heading, seen_by = lines[0].split(" | ")
    code, severity, title = heading.split(" ", 2)
    expected, way_out = lines[1].strip().split(" | ")
    return Violation(code, severity, title, seen_by, expected, way_out)


_lines = TABLE.strip().splitlines()
VIOLATIONS = {each.code: each for each in map(_violation, zip(_lines[::2], _lines[1::2]))}
