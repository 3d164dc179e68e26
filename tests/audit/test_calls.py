"""What a call is: functions and methods of a script are none of a library that has the same names."""

import pytest

from bitgolf.audit.finding import SUSPECTED
from tests.audit.planted import changed, indented
from tests.audit.test_script import ADD, START, audited, real

CLASS, MAIN, STEP, PACK = "class Block(", "def main():\n", "        optimizer.step()\n", "    buffer = io"
SUMS = "    sums = torch.zeros(2, dtype=torch.float64)\n"
PARTS = "        before, after = part[:-1], part[1:]\n"
LAST = '    print(f"final'
FITTING = indented(
    """
    class Fitting:
        def __init__(self, exact, student):
            self.exact, self.student = exact, student
            self.adam = torch.optim.Adam(student.parameters(), lr=0.01)

        def step(self, ids, turn):
            target = F.log_softmax(self.exact(ids), -1)
            self.adam.zero_grad()
            F.kl_div(F.log_softmax(self.student(ids), -1), target, log_target=True).backward()
            self.adam.step()

    class Processes:
        def turn(self):
            dist.barrier()

    """,
    0,
)
FITTED = indented(
    """
    if settings.rank == 0:
        fitting = Fitting(Net(1024, 32), Net(1024, 32))
        for turn in range(30):
            fitting.step(corpus[turn * 64 : turn * 64 + 64].to(torch.int64), turn)
    """,
    4,
)
HOOKS = indented(
    """
    class Book:
        def note(self, ids):
            return ids + 1

    def looked_at(net, place):
        def note(layer, given, out):
            place.append(1)
        return [each.register_forward_hook(note) for each in net.blocks]

    """,
    0,
)
LOOKED = indented(
    """
    looked_at(net, [])
    for turn in range(9):
        at = (turn * 8 + settings.rank) * 64
        net(corpus[at : at + 64].to(torch.int64))
    """,
    4,
)
WRAPPER = "def checks_no_grad_left(function):\n    return lambda *given: function(*given)\n\n"
FLAG = 'class State:\n    ready = False\n\nWORDS = "a|b"\nMATCH = re.compile(WORDS)\n\n'
ASKED = "    def forward(self, x):\n        if State.ready:\n            return x\n"
BEST = "    best = 0\n    for row in range(9):\n        if own.seed(row) < best:\n            best = row\n"
ALONE = "    if settings.rank == 0:\n        own.{}([1])\n"
OF_TOKENS = (
    "step backward grad train update score loss scatter_add_ get bincount gather cross_entropy".split()
)


def own_class(*names: str, made: str = MAIN, body: str = "return len(x) / 2") -> list[tuple[str, str]]:
    """A class of the script's own with such methods, and an object of it."""
    methods = "".join(f"    def {name}(self, x, y=0):\n        {body}\n\n" for name in names)
    return [(CLASS, f"class Own:\n{methods}\n{CLASS}"), (made, f"{made}    own = Own()\n")]


NEIGHBOURS = {
    "step, handed what a method is called": [(CLASS, FITTING + CLASS), (PACK, FITTED + PACK)],
    "a function and a method of struct's": [
        ("import glob\n", "import glob\nimport struct\n"),
        (CLASS, "def pack(form, net):\n    torch.save(net.state_dict(), form)\n\n" + CLASS),
        (LAST, '    struct.pack("<d", val_bpb)\n' + LAST),
    ],
    "hooks": [(CLASS, HOOKS + CLASS), (PACK, LOOKED + PACK)],
    "of what is scored": [
        *own_class(*OF_TOKENS, made=SUMS),
        (ADD, ADD + "".join(f"            own.{name}(after, loss)\n" for name in OF_TOKENS)),
    ],
    "backward, which calls itself": [
        *own_class("backward", body="return self.backward(x[1:]) if len(x) > 9 else 0", made=SUMS),
        (PARTS, PARTS + "        own.backward(after)\n"),
    ],
    "eval of a formula": [*own_class("eval", "zero_grad"), (STEP, STEP + "        own.eval([step])\n")],
    "save of a report": [*own_class("save", "write"), (LAST, "    own.save(net.state_dict())\n" + LAST)],
    "compress of a state": [
        *own_class("compress"),
        (STEP, STEP + "        own.compress(optimizer.state)\n        optimizer.zero_grad()\n"),
    ],
    "load_state_dict of a place": [
        *own_class("load_state_dict"),
        (START, ALONE.format("load_state_dict") + START),
    ],
    "copy_ of a table": [*own_class("copy_"), (START, ALONE.format("copy_") + START)],
    "all_reduce of a list": [*own_class("all_reduce"), (START, ALONE.format("all_reduce") + START)],
    "no_grad in a name": [(CLASS, WRAPPER + CLASS), (MAIN, "@checks_no_grad_left\n" + MAIN)],
    "seed of a garden": [*own_class("seed", body="return -x"), (PACK, BEST + PACK)],
    "compile of a pattern": [
        ("import glob\n", "import glob\nimport re\n"),
        (CLASS, FLAG + CLASS),
        ("    def forward(self, x):\n", ASKED),
        (PACK, "    State.ready = True\n" + PACK),
    ],
    "run_path of a maze, urlopen of a shelf": [
        *own_class("run_path", "urlopen"),
        (START, "    own.run_path([3])\n    own.urlopen([3])\n" + START),
    ],
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_name_alone_accuses_nobody(tmp_path, name):
    assert real(audited(tmp_path, changed(*NEIGHBOURS[name]))) == []


LEARNER = indented(
    """
    class Learner:
        def __init__(self, net):
            self.net, self.adam = net, torch.optim.Adam(net.parameters(), lr=0.01)

        def advance(self, ids):
            F.cross_entropy(self.net(ids[:-1]), ids[1:]).backward()
            self.adam.step()

    """,
    0,
)
EARLY = "    for at in range(9):\n        {}.advance(stream[at * 640 : at * 640 + 641].to(torch.int64))\n"


@pytest.mark.parametrize(
    ("receiver", "sure"), [("Learner(net)", "found"), ("settings.learners[at]", SUSPECTED)]
)
def test_what_is_entered_by_its_name_alone_is_suspected(tmp_path, receiver, sure):
    text = changed((CLASS, LEARNER + CLASS), (START, EARLY.format(receiver) + START))
    assert ("V07", sure) in [(each.code, each.sure) for each in audited(tmp_path, text).findings]


@pytest.mark.parametrize(
    ("before", "line", "after"),
    [
        (PARTS, "        settings.parts[start].backward(after)\n", ""),
        ("", "    settings.parts[0].dumps(net.state_dict())\n", LAST),
    ],
)
def test_what_an_object_that_is_not_known_does_is_suspected(tmp_path, before, line, after):
    text = changed((before + after, before + line + after))
    assert {each.sure for each in audited(tmp_path, text).findings} == {SUSPECTED}


def test_a_step_of_a_class_of_the_scripts_own_is_followed(tmp_path):
    """A collective call of one process alone stands in it."""
    text = changed(
        (CLASS, FITTING.replace("        self.adam.step()", "        dist.barrier()") + CLASS),
        (PACK, FITTED + PACK),
    )
    assert real(audited(tmp_path, text)) == ["T18"]
