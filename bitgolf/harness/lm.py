"""The model `bitgolf` for lm-evaluation-harness. Importing this module registers it."""

from collections.abc import Sequence

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from bitgolf.base.errors import BitgolfError
from bitgolf.harness.packed import Found, PackedModel, settings_of


@register_model("bitgolf")
class BitgolfLM(LM):
    """A packed model: `--model_args run=runs/demo`, or run=model.bin; window=N tokens at most.

    It decides by itself what it passes at once and on which device: those options change nothing.
    """

    def __init__(
        self,
        run: str = "",
        window: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(run, str) or not run or not isinstance(window, int):
            raise BitgolfError(
                "which model?", value={"run": run, "window": window}, way_out="--model_args run=RUN|ARTIFACT"
            )
        self.packed = PackedModel(run, window)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the cache of requests."""
        return self.packed.tokenizer.identity

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each continuation after its context, in nats, and whether it is what greedy decoding gives."""
        results = self.packed.loglikelihood([request.args for request in requests])
        self._remember("loglikelihood", requests, results)
        return [(each.loglikelihood, each.greedy) for each in results]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Of each whole text, by the windows of chunked scoring."""
        sums = [each.loglikelihood for each in self.packed.rolling([each.args[0] for each in requests])]
        self._remember("loglikelihood_rolling", requests, sums)
        return sums

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What comes after each context."""
        texts = []
        for context, given in (request.args for request in requests):
            texts.append(self.packed.continued(context, *settings_of(given)))
        self._remember("generate_until", requests, texts)
        return texts

    def _remember(self, kind: str, requests: list[Instance], results: Sequence[Found | float | str]) -> None:
        for request, each in zip(requests, results, strict=True):
            self.cache_hook.add_partial(kind, request.args, each)
