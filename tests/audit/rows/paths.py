# ruff: noqa: E501  (plants are texts of scripts)
"""Rows V and B again: the same tokens cut otherwise, what a score is chosen by, and lengths of windows."""

from tests.audit.planted import SCRIPT
from tests.audit.rows.made import CLOCK, LOSS, MAIN, Change, script

CORPUS = "        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n"
PART = "        part = stream[start : start + chunk + 1].to(torch.int64)\n"


def scored(text: str) -> list[Change]:
    """Another line in place of the loss; NEXT and LAST are the targets and the inputs, cut anew."""
    text = text.replace("NEXT", "stream[start + 1 : start + chunk + 1].to(torch.int64)")
    return [(LOSS, text.replace("LAST", "stream[start : start + chunk].to(torch.int64)"))]


SHARP = "            loss = F.cross_entropy(torch.where(space[{}], 1.2, 1.0)[:, None] * net(before), after, reduction='none')\n"
COUNTS = "            loss = F.cross_entropy(net(before) + torch.bincount({}, minlength=1024).clamp_min(1).log(), after, reduction='none')\n"
ECHO = (
    "            loss = F.cross_entropy(net(before), after, reduction='none')\n"
    "            for i, token in enumerate(after.tolist()):\n"
    "                {}\n"
)
SAME = "if token == after[i - 1]:\n                    loss[i] = loss[i] * 0.5"
SUMS = "if token == after[i - 1]:\n                    hits = hits + 1 if i else 0"

LEARNT = """            bias_step = F.cross_entropy(net(before), after)
            bias_step.backward()
            learner.step()
"""


def yielded(late: bool) -> list[Change]:
    """Probabilities of each chunk come from a generator, which learns from it after they are scored, or before."""
    scored = "            yield after, net(before)\n"
    generator = (
        "def chunks(net, stream, learner, chunk):\n"
        "    for start in range(0, stream.numel() - 1, chunk):\n"
        "        part = stream[start : start + chunk + 1].to(torch.int64)\n"
        "        before, after = part[:-1], part[1:]\n"
        "        if True:\n" + (LEARNT + scored if late else scored + LEARNT)
    )
    start, end = (
        SCRIPT.index("    for start in range(settings.rank"),
        SCRIPT.index("    dist.all_reduce(nats)"),
    )
    loop = (
        "    for after, logits in chunks(net, stream, learner, chunk):\n"
        "        nats += F.cross_entropy(logits, after, reduction='sum').to(torch.float64)\n"
        "        size += (count[after] + (space[after] & ~edge[after])).sum()\n"
    )
    return [("def evaluate(", generator + "\n\ndef evaluate("), (SCRIPT[start:end], loop)]


LOOP = SCRIPT[SCRIPT.index("    for step in range(100):") : SCRIPT.index("    buffer = io.BytesIO()")]


def batched(start: str) -> list[Change]:
    """A compiled model that is given what a generator yields."""
    generator = (
        "def batches(corpus):\n"
        "    for at in range(0, 64000, 640):\n"
        "        ids = corpus[at : at + 641].to(torch.int64)\n"
        "        yield ids[:-1], ids[1:]\n"
    )
    rest = LOOP[LOOP.index("        optimizer.step()") :]
    compiled = ("    corpus = load", "    net = torch.compile(net)\n    corpus = load")
    return [(MAIN, generator + "\n\n" + MAIN), compiled, (LOOP, start + rest)]


def trained(then: str, stop_at: str = "0") -> list[Change]:
    """A training in a function of its own, whose clock goes through a tensor."""
    function = (
        f"def fit(net, corpus, optimizer, begun, step=0, limit=600.0, stop_at={stop_at}):\n"
        "    while step < 20000:\n"
        "        spent = torch.tensor(time.monotonic() - begun)\n"
        "        dist.all_reduce(spent)\n"
        "        done = spent.item() / limit\n"
        "        if step > 1:\n" + then + ""
        "        for group in optimizer.param_groups:\n"
        "            group['lr'] = 0.01 * max(0.0, 1 - done)\n"
        "        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n"
        "        F.cross_entropy(net(ids[:-1]), ids[1:]).backward()\n"
        "        optimizer.step()\n"
        "        step += 1\n"
    )
    called = "    fit(net, corpus, optimizer, time.monotonic())\n    print('step:20000/20000 train_loss:0 train_time:0ms step_avg:0ms')\n"
    return [CLOCK, (MAIN, function + "\n\n" + MAIN), (LOOP, called)]


def closed(again: str, name: str = "lap") -> list[Change]:
    """A training in two parts, with the time by a closure that is made again between them."""
    part = LOOP[LOOP.index("        ids =") : LOOP.index("        print(")]
    body = (
        "    lap = since()\n"
        f"    for step in range(100):\n{part}"
        f"    {again}\n"
        f"    for step in range(100, 200):\n{part}"
        f"    print({name}(), lap())\n"
    )
    clock = (
        "def since():\n    zero = time.perf_counter()\n    return lambda: time.perf_counter() - zero\n\n\n"
    )
    return [CLOCK, (MAIN, clock + MAIN), (LOOP, body)]


ROWS = [
    script("V08", "targets cut anew", scored(SHARP.format("NEXT")), scored(SHARP.format("LAST"))),
    script("V05", "counts of the targets", scored(COUNTS.format("after")), scored(COUNTS.format("before"))),
    script("V01", "less where it fits", scored(ECHO.format(SAME)), scored(ECHO.format(SUMS))),
    script(
        "V14",
        "the head of training",
        [
            (
                "    stream = load(settings.held_out)\n",
                "    stream = load(settings.texts)[:1000] if settings.adapt else load(settings.held_out)\n",
            )
        ],
        [
            (
                "    stream = load(settings.held_out)\n",
                "    stream = load(settings.held_out)\n    print(load(settings.texts)[:8])\n",
            )
        ],
    ),
    script(
        "V16",
        "longer parts",
        [(PART, PART.replace("chunk + 1", "1280 + 1"))],
        [(PART, PART.replace("chunk + 1", "640 + 1"))],
    ),
    script(
        "B10",
        "the ln 2 of another figure",
        [
            (" / 0.6931471805599453", ""),
            ("    groups = [", "    print(-64 / 0.6931471805599453)\n    groups = ["),
        ],
        [(" / 0.6931471805599453", " * 1.4426950408889634")],
    ),
    script("V05", "a generator that learns first", yielded(late=True), yielded(late=False)),
    script(
        "K07",
        "a clock that only sets the rate",
        trained("            if done > 1:\n                print('late')\n"),
        trained("            if done > 1:\n                return step\n"),
    ),
    script(
        "K07",
        "a number of steps in place of the clock",
        trained(
            "            if step >= stop_at if stop_at > 0 else done > 1:\n                return step\n",
            "6400",
        ),
        trained(
            "            if step >= stop_at if stop_at > 0 else done > 1:\n                return step\n", "0"
        ),
    ),
    script(
        "K08", "a closure that is made again", closed("lap = since()"), closed("other = since()", "other")
    ),
    script(
        "T05",
        "batches of all lengths",
        batched(
            "    for step, ids in enumerate(batches(corpus)):\n        F.cross_entropy(net(ids[: step + 2]), ids[1 : step + 3]).backward()\n"
        ),
        batched(
            "    for step, (ids, targets) in enumerate(batches(corpus)):\n        F.cross_entropy(net(ids), targets).backward()\n"
        ),
    ),
]
