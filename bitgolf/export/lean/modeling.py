"""The network for transformers: `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)`."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from bitgolf.net.kernels import AttentionMask, attend_last, split_heads
from bitgolf.net.model import Model, ModelPlan

PLAN = ModelPlan()  # an export writes that of its model here


class BitgolfConfig(PretrainedConfig):
    """Nothing to choose: the shape stands in the code.

    keeps_cache: whether keys and values may be kept; no where those of a token change as others follow.
    """

    model_type = "bitgolf"
    keeps_cache = False


class BitgolfForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits of the next token after each."""

    config_class = BitgolfConfig

    def __init__(self, config: BitgolfConfig) -> None:
        super().__init__(config)
        self.model = Model(PLAN)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DynamicCache | None = None,
        past_key_values: DynamicCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        **others: object,
    ) -> CausalLMOutputWithPast:
        """input_ids, labels: (batch, time); logits: (batch, time, vocabulary), float32.

        cache: of the tokens before these; older versions of transformers call it past_key_values.
        """
        if attention_mask is not None and not attention_mask.bool().all():
            raise ValueError("rows of different lengths: this model has no padding; give them one by one")
        cache = past_key_values if cache is None else cache
        if not self.config.keeps_cache or use_cache is False or labels is not None:
            cache = None
        elif cache is None or cache.get_seq_length() == 0:
            cache = DynamicCache()
        hidden = self.model.hidden(input_ids) if cache is None else self.following(input_ids, cache)
        logits = self.model.logits_of(hidden)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss, logits, cache)

    def following(self, input_ids: Tensor, cache: DynamicCache) -> Tensor:
        """Final states of tokens after those in the cache, which takes them up.

        Its first layer are the tokens themselves, so that whatever sorts or cuts keys does so with them.
        """
        before = cache.get_seq_length()
        column = input_ids[:, None, :, None].float()
        seen = cache.update(column, column, 0)[0][:, 0, :, 0].long()
        back = min(before, len(PLAN.embed))  # each of them looks one token back
        start = self.model.embedded(seen[:, before - back :])[:, back:]
        attend = CachedAttention(cache)
        return self.model.through(start, self.model.context(seen, start, attend.attend))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **others: Any) -> dict[str, object]:
        """The tokens that the cache lacks; all of them, the last ones, where more came than a window has."""
        window = self.config.max_position_embeddings
        if input_ids.shape[1] > window or not self.config.keeps_cache or others.get("use_cache") is False:
            return {"input_ids": input_ids[:, -window:], "use_cache": False}
        name = "cache" if "cache" in others else "past_key_values"
        cache = others.get(name)
        cached_tokens = 0 if cache is None else cache.get_seq_length()
        return {"input_ids": input_ids[:, cached_tokens:], name: cache}


class CachedAttention:
    """Causal attention over all that came before, one attention of a pass after the other."""

    def __init__(self, cache: DynamicCache) -> None:
        self.cache, self.layer = cache, 0

    def attend(self, heads: Tensor, queries: int, mask: AttentionMask) -> Tensor:
        """See `split_heads`."""
        q, keys, values = split_heads(heads, queries)
        rows = heads.shape[1]
        self.layer += 1
        own = (each.unflatten(0, (-1, rows)).transpose(0, 1) for each in (keys, values))
        k, v = (each.transpose(0, 1).flatten(0, 1) for each in self.cache.update(*own, self.layer))
        return attend_last(q, k, v, mask)
