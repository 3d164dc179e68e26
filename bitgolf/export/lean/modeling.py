"""The network for transformers: `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)`."""

import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from bitgolf.net.model import Model, ModelPlan

PLAN = ModelPlan()  # an export writes that of its model here


class BitgolfConfig(PretrainedConfig):
    """Nothing to choose: the shape stands in the code."""

    model_type = "bitgolf"


class BitgolfForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits of the next token after each. It keeps no cache: each new token is a whole pass."""

    config_class = BitgolfConfig

    def __init__(self, config: BitgolfConfig) -> None:
        super().__init__(config)
        self.model = Model(PLAN)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **others: object,
    ) -> CausalLMOutput:
        """input_ids, labels: (batch, time); logits: (batch, time, vocabulary), float32."""
        if attention_mask is not None and not attention_mask.bool().all():
            raise ValueError("rows of different lengths: this model has no padding; give them one by one")
        logits = self.model.logits_of(self.model.hidden(input_ids))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **others: object) -> dict[str, Tensor]:
        """All tokens, or as many of the last as the model was trained on."""
        return {"input_ids": input_ids[:, -self.config.max_position_embeddings :]}
