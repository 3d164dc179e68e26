"""The official client and the server understand each other, errors included."""

import json
import threading
import urllib.error
import urllib.request

import pytest

from bitgolf.catalog.probes import perturbed
from bitgolf.net.model import ModelPlan
from bitgolf.report.sample import sample
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
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens: Input should be greater than or equal to 1"),
        ({"logprobs": 3}, openai.BadRequestError, "logprobs: not there"),
        ({"prompt": [1, "a"]}, openai.BadRequestError, "prompt: "),
        ({"prompt": [[1], [320]]}, openai.BadRequestError, "prompt: no token 320, there are 320"),
        ({"prompt": []}, openai.BadRequestError, "prompt: this model has no document start|prompt: "),
    ):
        with pytest.raises(kind, match=said) as raised:
            client.completions.create(**asked | changed)
        assert raised.value.type == "invalid_request_error"


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
