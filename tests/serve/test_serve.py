"""The official client and the server understand each other, errors included."""

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
import torch

from bitgolf.catalog.probes import perturbed
from bitgolf.net.model import ModelPlan
from bitgolf.report.sample import next_logits, sample
from bitgolf.serve.app import Writer, server

pytest.importorskip("bottle")
PLAN = ModelPlan(vocabulary_size=320, layers=2, width=32, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def writer(dataset):
    return Writer("tiny", perturbed(PLAN).eval(), dataset.tokenizer, 32)


@pytest.fixture(scope="module")
def address(writer):
    listening = server(writer, "127.0.0.1", 0)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/v1"
    listening.shutdown()
    listening.server_close()


def own(writer, **settings):
    given = {"tokens": 12, "temperature": 0.7, "top_p": 0.9, "seed": 5, "window": 32} | settings
    return "".join(sample(writer.model, writer.tokenizer, b"the people", **given))


def test_the_official_client_gets_what_sampling_gives(writer, address):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "bitgolf"
    asked = {"model": "tiny", "prompt": "the people", "max_tokens": 12}
    asked |= {"temperature": 0.7, "top_p": 0.9, "seed": 5}
    whole = client.completions.create(**asked)
    text = own(writer)
    assert whole.choices[0].text == text and whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    assert whole.usage.total_tokens == 12 + whole.usage.prompt_tokens
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for piece in pieces for choice in piece.choices) == text and len(pieces) > 5
    assert pieces[-1].usage == whole.usage and pieces[-2].choices[0].finish_reason == "length"
    stopped = client.completions.create(**asked, stop=text[3:5], echo=True).choices[0]
    assert stopped.text == "the people" + text[: text.index(text[3:5])] and stopped.finish_reason == "stop"
    several = client.completions.create(**asked | {"prompt": ["the people", "a"]}, n=2).choices
    assert [choice.index for choice in several] == [0, 1, 2, 3] and several[0].text == text
    assert several[1].text == own(writer, seed=6)
    ids = [int(token) for token in writer._tokens("the people")]
    of_ids = client.completions.create(**asked | {"prompt": ids}, echo=True).choices[0].text
    assert of_ids == "the people" + text
    assert client.completions.create(**asked | {"prompt": [ids, ids]}).choices[1].text == text
    for changed, kind, said in (
        ({"model": "gpt"}, openai.NotFoundError, "no model 'gpt'"),
        (
            {"max_tokens": -1},
            openai.BadRequestError,
            "max_tokens: Input should be greater than or equal to 0",
        ),
        ({"logprobs": 21}, openai.BadRequestError, "logprobs: Input should be less than or equal to 20"),
        ({"suffix": "."}, openai.BadRequestError, "suffix: not there"),
        ({"prompt": [1, "a"]}, openai.BadRequestError, "prompt: "),
        ({"prompt": [[1], [320]]}, openai.BadRequestError, "prompt: no token 320, there are 320"),
        ({"prompt": []}, openai.BadRequestError, "prompt: this model has no document start|prompt: "),
    ):
        with pytest.raises(kind, match=said) as raised:
            client.completions.create(**asked | changed)
        assert raised.value.type == "invalid_request_error"


def test_logprobs_are_those_of_the_model(writer, address):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    asked = {"model": "tiny", "prompt": "the people", "temperature": 0.7, "seed": 5}
    choice = client.completions.create(**asked, max_tokens=12, logprobs=3).choices[0]
    logprobs, ids = choice.logprobs, writer._tokens("the people")
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 12
    assert logprobs.text_offset == sorted(logprobs.text_offset) and logprobs.text_offset[0] == 0
    for name, begin in zip(logprobs.tokens, logprobs.text_offset):
        assert name.startswith("bytes:") or choice.text[begin:].startswith(name)
    first = torch.log_softmax(next_logits_of(writer, ids), -1)
    best = torch.topk(first, 3).values.tolist()
    assert sorted(logprobs.top_logprobs[0].values())[-3:] == pytest.approx(sorted(best), abs=1e-5)
    assert logprobs.top_logprobs[0][logprobs.tokens[0]] == logprobs.token_logprobs[0]
    assert all(3 <= len(each) <= 4 for each in logprobs.top_logprobs)
    pieces = list(client.completions.create(**asked, max_tokens=12, logprobs=3, stream=True))
    parts = [each.choices[0].logprobs for each in pieces if each.choices and each.choices[0].logprobs]
    assert [name for part in parts for name in part.tokens] == logprobs.tokens and len(parts) > 5
    assert [at for part in parts for at in part.text_offset] == logprobs.text_offset


def test_logprobs_end_where_the_text_is_stopped(writer, address):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    asked = {"model": "tiny", "prompt": "the people", "max_tokens": 12, "seed": 5, "logprobs": 0}
    text = client.completions.create(**asked).choices[0].text
    stopped = client.completions.create(**asked, stop=text[4:6]).choices[0]
    assert all(at < len(stopped.text) for at in stopped.logprobs.text_offset)
    assert all(
        list(each) == [name] for name, each in zip(stopped.logprobs.tokens, stopped.logprobs.top_logprobs)
    )


@pytest.mark.parametrize("prompt", ["the people", "the people of the world " * 12])
def test_an_echo_tells_what_the_prompt_cost(writer, address, prompt):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    asked = {"model": "tiny", "max_tokens": 0, "echo": True, "logprobs": 1}
    choice = client.completions.create(**asked, prompt=prompt).choices[0]
    ids = writer._tokens(prompt)
    assert choice.text == "".join(choice.logprobs.tokens) == prompt and choice.finish_reason == "length"
    assert len(choice.logprobs.tokens) == len(ids) - 1  # the start of the document is not in the text
    places = range(1, min(len(ids), writer.window))
    expected = [float(torch.log_softmax(next_logits_of(writer, ids[:at]), -1)[ids[at]]) for at in places]
    assert choice.logprobs.token_logprobs[: len(expected)] == pytest.approx(expected, abs=1e-4)
    assert None not in choice.logprobs.token_logprobs
    of_ids = client.completions.create(**asked, prompt=ids).choices[0].logprobs
    assert of_ids.token_logprobs == [None, *choice.logprobs.token_logprobs]


def next_logits_of(writer, ids):
    return torch.tensor(next_logits(writer.model, ids))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("completions", b"{", 400), ("completions", b"[]", 400), ("chat", b"{}", 404), ("models", b"{}", 405)],
)
def test_errors_are_json(address, path, body, status):
    request = urllib.request.Request(f"{address}/{path}", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code == status
    assert json.load(raised.value)["error"]["type"] == "invalid_request_error"


def test_a_program_is_told_in_one_object_where_it_listens():
    command = [sys.executable, "-m", "bitgolf", "serve", "demo", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = json.loads(child.stdout.readline())
        assert told["status"] == "listening" and told["window"] == 256
        with urllib.request.urlopen(told["url"] + "/models") as answer:
            assert json.load(answer)["data"][0]["id"] == told["model"]
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, "") and "Traceback" not in err
