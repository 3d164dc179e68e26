"""The server: /v1/models and /v1/completions for one model, one request at a time."""

import importlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.net.model import Model
from bitgolf.public.optional import needs
from bitgolf.report.sample import until, written
from bitgolf.serve.logprobs import Logprobs, joined, logits_of_prompt
from bitgolf.serve.protocol import Completion, Prompt, RequestError, error_body, events, read_completion
from bitgolf.text.encoder import Encoder
from bitgolf.text.tokenizer import Tokenizer

LARGEST_BODY = 1 << 20  # bytes of a request


class Writer:
    """Continues texts with a model, one at a time."""

    def __init__(self, name: str, model: Model, tokenizer: Tokenizer, window: int) -> None:
        self.name, self.model, self.tokenizer, self.window = name, model, tokenizer, window
        self._encoder, self._busy = Encoder(tokenizer), threading.Lock()

    def answers(self, completion: Completion) -> Iterator[dict[str, Any]]:
        """The answer piece by piece, each in the form of the protocol; the last has the usage."""
        with self._busy:
            yield from self._answers(completion)

    def _answers(self, completion: Completion) -> Iterator[dict[str, Any]]:
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
        }
        seed = secrets.randbits(63) if completion.seed is None else completion.seed
        prompt_tokens = completion_tokens = 0
        for index, (prompt, turn) in enumerate(
            itertools.product(completion.prompts, range(completion.n or 1))
        ):
            ids = self._tokens(prompt)
            count = len(ids)
            pieces = self._pieces(completion, prompt, ids, np.random.default_rng(seed + turn))
            for piece in pieces:
                yield {**head, "choices": [{"index": index, **piece}]}
            prompt_tokens += count if turn == 0 else 0
            completion_tokens += len(ids) - count
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        yield {**head, "choices": [], "usage": {**usage, "total_tokens": prompt_tokens + completion_tokens}}

    def _tokens(self, prompt: Prompt) -> list[int]:
        """A prompt as tokens: a text after the start of a document, ids as they are."""
        if isinstance(prompt, str):
            start = [self.tokenizer.bos] * (self.tokenizer.bos >= 0)
            ids = start + [int(token) for token in self._encoder.encode(prompt.encode())]
        else:
            ids = list(prompt)
        if not ids:
            raise RequestError(400, "prompt: this model has no document start, give some text", "prompt")
        if max(ids) >= self.tokenizer.vocabulary_size:
            raise RequestError(
                400, f"prompt: no token {max(ids)}, there are {self.tokenizer.vocabulary_size}", "prompt"
            )
        return ids

    def _pieces(
        self, completion: Completion, prompt: Prompt, ids: list[int], draws: np.random.Generator
    ) -> Iterator[dict[str, Any]]:
        """Text and logprobs of one choice, the last with why it ended; ids: of the prompt, added to."""
        logprobs = self._logprobs(completion, prompt, ids)
        characters = 0

        def piece(text: str, ended: str | None = None, last: bool = False) -> dict[str, Any]:
            nonlocal characters
            characters += len(text)
            own = logprobs.take(None if last else characters) if logprobs else None
            return {"text": text, "finish_reason": ended, "logprobs": own}

        if completion.echo:
            text = prompt if isinstance(prompt, str) else self.tokenizer.decode(ids).decode(errors="replace")
            yield piece(text)
        temperature = 1.0 if completion.temperature is None else completion.temperature
        kept = (temperature, completion.top_k, completion.top_p or 1.0, completion.min_p)
        limit, count = 16 if completion.max_tokens is None else completion.max_tokens, len(ids)
        stopped = False

        def within() -> Iterator[str]:
            nonlocal stopped
            on_token = logprobs.add if logprobs else None
            texts = written(self.model, self.tokenizer, ids, limit, kept, draws, self.window, on_token)
            stopped = yield from until(texts, completion.stops)

        yield from (piece(text) for text in within() if text)
        yield piece("", "stop" if stopped or len(ids) - count < limit else "length", last=not stopped)

    def _logprobs(self, completion: Completion, prompt: Prompt, ids: list[int]) -> Logprobs | None:
        """Of the tokens to come, where they are asked for; with an echo those of the prompt stand in it."""
        if completion.logprobs is None:
            return None
        if not completion.echo:
            return Logprobs(self.tokenizer, ids, completion.logprobs)
        silent = int(isinstance(prompt, str) and self.tokenizer.bos >= 0)  # the start that nobody sent
        logprobs = Logprobs(self.tokenizer, ids[:silent], completion.logprobs)
        for token, logits in zip(ids[silent:], logits_of_prompt(self.model, ids, self.window)[silent:]):
            logprobs.add(token, logits)
        return logprobs

    def answer(self, completion: Completion) -> dict[str, Any]:
        """The whole answer."""
        choices: dict[int, dict[str, Any]] = {}
        answer: dict[str, Any] = {}
        for answer in self.answers(completion):
            for part in answer["choices"]:
                choice = choices.setdefault(part["index"], {**part, "text": "", "logprobs": None})
                choice["text"] += part["text"]
                choice["finish_reason"] = part["finish_reason"]
                choice["logprobs"] = joined(choice["logprobs"], part["logprobs"])
        return {**answer, "choices": [choices[index] for index in sorted(choices)]}


def application(writer: Writer) -> Callable[..., Any]:
    """The WSGI application."""
    needs("serve", "bottle")
    bottle = importlib.import_module("bottle")
    app = bottle.Bottle()
    bottle.BaseRequest.MEMFILE_MAX = LARGEST_BODY
    card = {"id": writer.name, "object": "model", "created": int(time.time()), "owned_by": "bitgolf"}

    def refused(error: Any) -> str:
        cause = error.exception
        bottle.response.content_type = "application/json"
        if isinstance(cause, RequestError):
            bottle.response.status = cause.status
            return error_body(cause)
        message = f"{bottle.request.method} {bottle.request.path}: {error.status_line}"
        return error_body(RequestError(error.status_code, message))

    app.default_error_handler = refused

    def check_model(name: str) -> None:
        if name != writer.name:
            raise RequestError(
                404, f"no model {name[:60]!r}; it is {writer.name!r}", "model", "model_not_found"
            )

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/<name>")
    def model(name: str) -> dict[str, Any]:
        check_model(name)
        return card

    @app.post("/v1/completions")
    def completions() -> Any:
        try:
            body = bottle.request.json
        except (ValueError, bottle.HTTPError):
            raise RequestError(400, "the body is not JSON") from None
        completion = read_completion(body)
        check_model(completion.model)
        if not completion.stream:
            return writer.answer(completion)
        bottle.response.content_type = "text/event-stream"
        return events(each for each in writer.answers(completion) if each["choices"] or _wants_usage(body))

    return app


def _wants_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # the screen is for what people ask for
        pass


def server(writer: Writer, host: str, port: int) -> WSGIServer:
    """A server that listens; `serve_forever` answers. Raises BitgolfError for a port that is taken."""
    app = application(writer)
    try:
        return make_server(host, port, app, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise BitgolfError(
            f"cannot listen: {error.strerror}", where=f"{host}:{port}", way_out="give another --port"
        ) from None
