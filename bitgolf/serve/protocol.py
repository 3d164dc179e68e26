"""The OpenAI completions protocol: requests, answers and errors in its form.

Source: https://platform.openai.com/docs/api-reference/completions
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

TokenId = Annotated[int, Field(ge=0)]
Prompt = str | list[TokenId]


class RequestError(Exception):
    """A request that is refused: status of HTTP, what is wrong, and with which parameter."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class Completion(BaseModel):
    """What POST /v1/completions asks; top_k and min_p are bitgolf's own. Other names are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = ""
    max_tokens: int | None = Field(16, ge=0, le=100_000)
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    n: int | None = Field(1, ge=1, le=128)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=0)
    stream: bool | None = False
    echo: bool | None = False
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[Prompt]:
        """The texts to continue, or the tokens of them."""
        many = isinstance(self.prompt, list) and self.prompt and not isinstance(self.prompt[0], int)
        return cast("list[Prompt]", self.prompt if many else [self.prompt])

    @property
    def stops(self) -> list[str]:
        """The texts before which it ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


# What changes the answer and is not there: refused, unless it asks for nothing.
MISSING = ("suffix", "logit_bias", "best_of", "presence_penalty", "frequency_penalty")


def read_completion(body: Any) -> Completion:
    """The request in a JSON body. Raises RequestError, in one sentence, for anything else."""
    if not isinstance(body, dict):
        raise RequestError(400, "expected a JSON object as application/json")
    for name in MISSING:
        if body.get(name) and not (name == "best_of" and body[name] == body.get("n", 1)):
            raise RequestError(400, f"{name}: not there in this server", name)
    try:
        return Completion.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise RequestError(400, f"{name}: {first['msg']}, found {str(first['input'])[:60]!r}", name) from None


def error_body(error: RequestError) -> str:
    """An error as the protocol writes it."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    inner = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return json.dumps({"error": inner})


def events(answers: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Answers as server-sent events, and the end."""
    for answer in answers:
        yield f"data: {json.dumps(answer)}\n\n".encode()
    yield b"data: [DONE]\n\n"
