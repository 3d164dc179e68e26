"""The page of all runs below a folder: every run a row, failures with their reason, what nothing beats."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.study.board import columns_of, differing, flat, pareto, rows_below, write_board

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SPLIT = {"splits": {"train": {"tokens": 100, "text_bytes": 400}}}


def write(folder, recipe, result=None, steps=0):
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    if result is not None:
        (folder / "result.json").write_text(result if isinstance(result, str) else json.dumps(result))
    rows = ({"seconds": s, "nats_per_token": 5 - s / 10, "progress": s / 10} for s in range(1, steps + 1))
    lines = [json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"seconds": 3, "na']))


def score(bits, size, **more):
    return {
        "status": "ok", "bits_per_byte": bits, "total_bytes": size, "train_seconds": 60.5, "seed": 1337,
        "data": SPLIT, **more,
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    write(tmp_path / "a", {"model": {"layers": 4}, "name": "a"}, score(1.4, 900_000), steps=5)
    write(tmp_path / "b", {"model": {"layers": 5}, "name": "b"}, score(1.3, 990_000), steps=9)
    write(tmp_path / "c", {"model": {"layers": 4}}, score(1.5, 950_000, status="over budget"))
    write(tmp_path / "d", {}, {"status": "diverged", "error": "<b>the loss</b> is no number"})
    write(tmp_path / "e", {}, steps=3)
    write(tmp_path / "f", {}, "{half")
    write(tmp_path / "g", {}, {"status": ["odd"], "bits_per_byte": "x", "data": [1]})
    (tmp_path / "b" / "proof").mkdir()
    (tmp_path / "b" / "proof" / "certificate.json").write_text('{"bits_per_byte": 1.31}')
    write(tmp_path / "studies" / "runs" / "x-1", {}, score(1.35, 10**6))
    return tmp_path


def test_every_run_is_a_row_the_best_first(runs):
    rows = {row.name: row for row in rows_below(runs)}
    assert [*rows][:4] == ["b", "studies/runs/x-1", "a", "c"] and len(rows) == 8
    assert rows["b"].figures["proven"] == 1.31
    assert rows["b"].changes == "model.layers 5; beside a"
    assert rows["c"].changes == "as a" and rows["a"].changes == ""
    assert "950,000 of" in rows["c"].reason
    assert (rows["e"].status, rows["e"].reason) == ("not finished", "30% of the training")
    assert rows["f"].status == rows["g"].status == "unreadable"
    assert rows["b"].curve[1][0] == pytest.approx(4.9 / 4 / 0.6931, rel=1e-3)


def test_what_no_other_beats_in_both():
    points = [(2.0, 1.0), (1.0, 3.0), (3.0, 1.5), (1.0, 2.0), (4.0, 0.5)]
    assert pareto(points) == [3, 0, 4]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_holds_all_and_loads_nothing(runs, tmp_path):
    facts = write_board(runs, tmp_path / "board.html", 7)
    assert facts["runs"] == 8 and facts["without_score"] == 4 and facts["best"] == "b"
    text = (tmp_path / "board.html").read_text()
    page = Page(text)
    assert page.links == [] and page.tags.count("tr") == 1 + 8
    assert "&lt;b&gt;the loss" in text and "1337" in text and "1,337" not in text
    assert 'http-equiv="refresh" content="7"' in text
    assert text.count('class="plot"') == 3
    assert ">over budget: 950,000 of" in text and ">diverged: &lt;b&gt;the loss" in text


def test_what_all_runs_have_alike_is_said_once(runs):
    columns, alike = columns_of(rows_below(runs))
    assert "proven" in columns and "bits_per_byte" in columns and not alike
    columns, alike = columns_of([row for row in rows_below(runs) if row.name in ("a", "b")])
    assert "seed" not in columns and alike["seed"] == "1337" and "total_bytes" in columns


def test_one_run_alone_and_none(runs, tmp_path):
    assert [row.status for row in rows_below(runs / "a")] == ["ok"]
    write_board(runs / "e", tmp_path / "e.html")
    assert "No run has a score yet" in (tmp_path / "e.html").read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BitgolfError, match="no run below this folder"):
        rows_below(tmp_path / "empty")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium to open the page with")
def test_a_watched_page_loads_itself_again_and_stays_sorted(runs, tmp_path):
    page, asked = tmp_path / "board.html", []

    class Served(http.server.BaseHTTPRequestHandler):
        """A run ends between one look at the page and the next."""

        def do_GET(self):
            if self.path == "/":
                asked.append(self.path)
                if len(asked) == 2:
                    write(tmp_path / "late", {"name": "late"}, score(1.31, 800_000))
                write_board(tmp_path, page, 1)
                click = "<script>if (!sessionStorage.length) heads[1].firstChild.click()</script></body>"
                data = page.read_bytes().replace(b"</body>", click.encode())
                if len(asked) == 2:  # the browser is to come to an end
                    data = re.sub(rb"<meta http-equiv=.refresh[^>]*>", b"", data)
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(data)
            else:
                self.send_error(404)

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    address, profile = f"http://127.0.0.1:{server.server_port}/", f"--user-data-dir={tmp_path / 'profile'}"
    dom = subprocess.run([CHROMIUM, *options, profile, address], capture_output=True, text=True, timeout=120)
    server.shutdown()
    assert len(asked) >= 2 and ">late" in dom.stdout
    assert 'aria-sort="ascending"' in dom.stdout


def test_scores_of_several_texts_are_not_joined(runs, tmp_path):
    front = 'class="front" d="M'
    facts = write_board(runs, tmp_path / "one.html")
    assert front in (tmp_path / "one.html").read_text() and "texts" not in facts
    for name, dataset, bits in (("h", "/data/danish", 1.2), ("i", "/data/novels", 1.7)):
        write(runs / name, {}, score(bits, 10**6, dataset=dataset, text_bytes=5000))
    facts = write_board(runs, tmp_path / "two.html")
    page = (tmp_path / "two.html").read_text()
    assert facts["texts"] == 2 and "Scored on 2 texts" in page and front not in page
    assert "danish, 5,000 bytes" in page and "novels, 5,000 bytes" in page


def test_a_part_of_another_class_is_one_difference_and_several_are_named():
    before = {"name": "a", "score": {"windows": {"class": "Chunked", "length": 256}, "mixers": []}}
    parts = [{"class": "NgramCache", "weight": 0.1}, {"class": "BytePpm"}]
    after = {"name": "b", "score": {"windows": {"class": "Sliding", "stride": 64}, "mixers": parts}}
    said = differing(flat(after), flat(before), "a")
    assert said == "score.windows Sliding, score.mixers (NgramCache, BytePpm); beside a"
    other = {"name": "b", "score": {"windows": {"class": "Chunked", "length": 128}, "mixers": []}}
    assert differing(flat(other), flat(before), "a") == "score.windows.length 128; beside a"
