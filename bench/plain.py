"""The yardstick: the baseline network and its optimizers in everyday torch, nothing hand-made.

The same tensors under the same names as bitgolf's model, so weights can be exchanged and results compared.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.net.model import ModelPlan
from bitgolf.net.position import Rope
from bitgolf.train.muon import orthogonalise_reference


class PlainAttention(nn.Module):
    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = plan.heads, plan.kv_heads, plan.width // plan.heads
        self.c_q = nn.Linear(plan.width, plan.width, bias=False)
        self.c_k = nn.Linear(plan.width, plan.kv_heads * self.head_width, bias=False)
        self.c_v = nn.Linear(plan.width, plan.kv_heads * self.head_width, bias=False)
        self.proj = nn.Linear(plan.width, plan.width, bias=False)
        self.q_gain = nn.Parameter(torch.full((plan.heads,), plan.qk_gain))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, width = x.shape
        q = self.c_q(x).view(batch, time, self.heads, -1).transpose(1, 2)
        k = self.c_k(x).view(batch, time, self.kv_heads, -1).transpose(1, 2)
        v = self.c_v(x).view(batch, time, self.kv_heads, -1).transpose(1, 2)
        q = turn(F.rms_norm(q, (self.head_width,), eps=1e-7), cos, sin)
        k = turn(F.rms_norm(k, (self.head_width,), eps=1e-7), cos, sin)
        q = q * self.q_gain.to(q.dtype)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.proj(y.transpose(1, 2).reshape(batch, time, width))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), -1)


class PlainMlp(nn.Module):
    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.fc = nn.Linear(plan.width, plan.hidden_width(), bias=False)
        self.proj = nn.Linear(plan.hidden_width(), plan.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.relu(self.fc(x)).square())


class PlainBlock(nn.Module):
    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.attn = PlainAttention(plan)
        self.mlp = PlainMlp(plan)
        self.attn_scale = nn.Parameter(torch.ones(plan.width))
        self.mlp_scale = nn.Parameter(torch.ones(plan.width))
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(plan.width), torch.zeros(plan.width))))

    def forward(self, x: Tensor, start: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        mix = self.resid_mix.to(x.dtype)
        x = mix[0] * x + mix[1] * start
        width = (x.shape[-1],)
        x = x + self.attn_scale.to(x.dtype) * self.attn(F.rms_norm(x, width, eps=1e-7), cos, sin)
        return x + self.mlp_scale.to(x.dtype) * self.mlp(F.rms_norm(x, width, eps=1e-7))


class PlainModel(nn.Module):
    """Float32, or mixed precision under `torch.autocast`; the stream is then bfloat16, as in public runs."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.plan = plan
        self.tok_emb = nn.Embedding(plan.vocabulary_size, plan.width)
        self.blocks = nn.ModuleList(PlainBlock(plan) for _ in range(plan.layers))
        self.skip_weights = nn.Parameter(torch.ones(plan.layers // 2, plan.width))

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(inputs).flatten(0, 1).float(), targets.flatten())

    def logits(self, inputs: Tensor) -> Tensor:
        plan = self.plan
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        assert isinstance(plan.position, Rope)
        tables = plan.position.tables(inputs.shape[1], 0, plan.width // plan.heads, inputs.device)
        start = F.rms_norm(self.tok_emb(inputs).to(dtype), (plan.width,), eps=1e-7)
        x, skips = start, []
        for number, block in enumerate(self.blocks):
            if number < plan.layers // 2:
                x = block(x, start, *tables)
                skips.append(x)
                continue
            if skips:
                x = x + self.skip_weights[number - plan.layers // 2].to(dtype) * skips.pop()
            x = block(x, start, *tables)
        logits = F.linear(F.rms_norm(x, (plan.width,), eps=1e-7), self.tok_emb.weight)
        return plan.logit_softcap * torch.tanh(logits / plan.logit_softcap)


class PlainScore:
    """Nats of the last positions of windows, the public way: whole windows, all logits, 32 at a time."""

    def __init__(self, plan: ModelPlan, weights: dict[str, Tensor], *, mixed: bool) -> None:
        self.mixed = mixed
        self.model = PlainModel(plan)
        self.model.load_state_dict(weights)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, windows: Sequence[tuple[int, int, int]]) -> Tensor:
        found = []
        for first in range(0, len(windows), 32):
            some = windows[first : first + 32]
            longest = max(end - start for start, end, _ in some)
            rows = torch.zeros(len(some), longest + 1, dtype=torch.int64)
            for row, (start, end, _) in zip(rows, some):
                row[: end - start + 1] = tokens[start : end + 1]
            with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
                logits = self.model.logits(rows[:, :-1])
            nats = F.cross_entropy(
                logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none"
            ).view(len(some), longest)
            found += [own[scored - start : end - start] for own, (start, end, scored) in zip(nats, some)]
        return torch.cat(found)


class PlainMuon:
    """Muon one matrix at a time, in bfloat16."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float) -> None:
        self.parameters, self.lr, self.momentum = parameters, lr, momentum
        self.buffers = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self) -> None:
        for parameter, buffer in zip(self.parameters, self.buffers):
            buffer.mul_(self.momentum).add_(parameter.grad)
            direction = parameter.grad.add(buffer, alpha=self.momentum)
            update = orthogonalise_reference(direction.bfloat16())
            rows, cols = parameter.shape
            parameter.add_(update.float(), alpha=-self.lr * math.sqrt(max(1, rows / cols)))


class PlainStep:
    """A training step of the plain model with the public groups and rates."""

    def __init__(self, plan: ModelPlan, weights: dict[str, Tensor], *, mixed: bool) -> None:
        self.mixed = mixed
        self.model = PlainModel(plan)
        self.model.load_state_dict(weights)
        named = dict(self.model.named_parameters())
        matrices = [p for name, p in named.items() if name.startswith("blocks.") and name.endswith("weight")]
        taken = {id(p) for p in (*matrices, self.model.tok_emb.weight)}
        others = [p for p in named.values() if id(p) not in taken]
        self.muon = PlainMuon(matrices, lr=0.04, momentum=0.85)
        groups = [{"params": [self.model.tok_emb.weight], "lr": 0.05}, {"params": others, "lr": 0.04}]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True)

    def __call__(self, inputs: Tensor, targets: Tensor) -> float:
        for parameter in self.model.parameters():
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            loss = self.model(inputs, targets)
        loss.backward()
        self.muon.step()
        self.adam.step()
        return loss.item()
