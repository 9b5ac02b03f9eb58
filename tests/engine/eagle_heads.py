"""EAGLE-3 heads with small random weights, and what they give by the published description."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

EPS, THETA = 1e-5, 10000.0


@dataclass
class Shape:
    """Of a head for a model with these states and tokens."""

    target_hidden: int = 64
    hidden: int = 64
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    intermediate: int = 80
    vocab: int = 320
    draft_vocab: int = 200
    state_layers: tuple[int, ...] = (2, 4, 5)  # of eight layers: the published choice
    config: dict[str, object] = field(default_factory=dict)


class ReferenceHead:
    """The head in plain torch over whole sequences: Li et al., EAGLE-3 (arXiv 2503.01840), 3."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.shape = shape
        generator = torch.Generator().manual_seed(seed)

        def random(*size: int) -> Tensor:
            return torch.randn(size, generator=generator) * 0.2

        hidden, kv_size = shape.hidden, shape.num_kv_heads * shape.head_dim
        q_size = shape.num_heads * shape.head_dim
        known = torch.randperm(shape.vocab, generator=generator)[: shape.draft_vocab]
        self.targets = known.sort().values
        self.weights = {
            "embed_tokens.weight": random(shape.vocab, hidden),
            "fc.weight": random(hidden, 3 * shape.target_hidden),
            "midlayer.hidden_norm.weight": 1 + random(hidden),
            "midlayer.input_layernorm.weight": 1 + random(hidden),
            "midlayer.self_attn.q_proj.weight": random(q_size, 2 * hidden),
            "midlayer.self_attn.k_proj.weight": random(kv_size, 2 * hidden),
            "midlayer.self_attn.v_proj.weight": random(kv_size, 2 * hidden),
            "midlayer.self_attn.o_proj.weight": random(hidden, q_size),
            "midlayer.post_attention_layernorm.weight": 1 + random(hidden),
            "midlayer.mlp.gate_proj.weight": random(shape.intermediate, hidden),
            "midlayer.mlp.up_proj.weight": random(shape.intermediate, hidden),
            "midlayer.mlp.down_proj.weight": random(hidden, shape.intermediate),
            "norm.weight": 1 + random(hidden),
            "lm_head.weight": random(shape.draft_vocab, hidden),
        }

    def save(self, directory: Path, **config: object) -> Path:
        """A checkpoint of SpecForge's form."""
        shape = self.shape
        fields = {
            "architectures": ["LlamaForCausalLMEagle3"],
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "num_hidden_layers": 1,
            "max_position_embeddings": 128,
            "rms_norm_eps": EPS,
            "rope_theta": THETA,
            "vocab_size": shape.vocab,
            "draft_vocab_size": shape.draft_vocab,
            "torch_dtype": "float32",
            **(
                {"target_hidden_size": shape.target_hidden}
                if shape.hidden != shape.target_hidden
                else {}
            ),
            **shape.config,
            **config,
        }
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(fields))
        is_known = torch.zeros(shape.vocab, dtype=torch.bool)
        is_known[self.targets] = True
        maps = {"d2t": self.targets - torch.arange(shape.draft_vocab), "t2d": is_known}
        tensors = {name: weight.detach().contiguous() for name, weight in self.weights.items()}
        save_file({**tensors, **maps}, directory / "model.safetensors")
        return directory

    def states(self, model: torch.nn.Module, tokens: list[int]) -> Tensor:
        """[n, 3 * target_hidden], what transformers has in front of the layers."""
        with torch.no_grad():
            found = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        return torch.cat([found[layer][0] for layer in self.shape.state_layers], dim=-1)

    def layer(self, features: Tensor, tokens: Tensor) -> Tensor:
        """g [n, hidden] of features [n, hidden] and the tokens behind them."""
        weights = self.weights
        state = _norm(features, weights["midlayer.hidden_norm.weight"])
        token = weights["embed_tokens.weight"][tokens]
        token = _norm(token, weights["midlayer.input_layernorm.weight"])
        residual = state if self.shape.config.get("norm_before_residual") else features
        x = residual + self._attention(torch.cat((token, state), dim=-1))
        y = _norm(x, weights["midlayer.post_attention_layernorm.weight"])
        gate = functional.silu(y @ weights["midlayer.mlp.gate_proj.weight"].T)
        y = gate * (y @ weights["midlayer.mlp.up_proj.weight"].T)
        return x + y @ weights["midlayer.mlp.down_proj.weight"].T

    def own_logits(self, g: Tensor) -> Tensor:
        return _norm(g, self.weights["norm.weight"]) @ self.weights["lm_head.weight"].T

    def chain(self, states: Tensor, tokens: list[int], count: int, first: int = 0) -> list[Tensor]:
        """Logits [draft_vocab] of `count` greedy guesses behind known tokens, by a head whose
        context begins at `first`."""
        features = states[first : len(tokens) - 1] @ self.weights["fc.weight"].T
        behind, found = tokens[first + 1 :], []
        for _ in range(count):
            g = self.layer(features, torch.tensor(behind))[-1:]
            found.append(self.own_logits(g)[0])
            behind = [*behind, int(self.targets[found[-1].argmax()])]
            features = torch.cat((features, g))
        return found

    def learn(self, model: torch.nn.Module, text: list[int], num_steps: int) -> None:
        """Learns one text by heart: the token behind each position, then the one behind that
        from its own states (training-time test, 3.2), both of a draft vocabulary that has all."""
        states, tokens = self.states(model, text), torch.tensor(text)
        optimiser = torch.optim.Adam(self.weights.values(), lr=0.01)
        for weight in self.weights.values():
            weight.requires_grad_()
        for _ in range(num_steps):
            g = states[:-2] @ self.weights["fc.weight"].T
            loss = torch.zeros(())
            for depth in range(2):
                g = self.layer(g[: len(g) - depth], tokens[1 + depth : -1])
                loss = loss + functional.cross_entropy(self.own_logits(g), tokens[2 + depth :])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for weight in self.weights.values():
            weight.requires_grad_(requires_grad=False)

    def _attention(self, x: Tensor) -> Tensor:
        shape, weights, length = self.shape, self.weights, len(x)

        def split(name: str, heads: int) -> Tensor:
            out = x @ weights[f"midlayer.self_attn.{name}_proj.weight"].T
            return out.view(length, heads, shape.head_dim).transpose(0, 1)

        group = shape.num_heads // shape.num_kv_heads
        q = _turn(split("q", shape.num_heads))
        k = _turn(split("k", shape.num_kv_heads)).repeat_interleave(group, 0)
        v = split("v", shape.num_kv_heads).repeat_interleave(group, 0)
        scores = q @ k.transpose(1, 2) * shape.head_dim**-0.5
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        out = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        merged = out.transpose(0, 1).reshape(length, -1)
        return merged @ weights["midlayer.self_attn.o_proj.weight"].T


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def _turn(x: Tensor) -> Tensor:
    """Rotary encoding of [heads, n, head_dim]."""
    length, dim = x.shape[1:]
    speeds = THETA ** -(torch.arange(0, dim, 2) / dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), speeds).repeat(1, 2)
    low, high = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat((-high, low), dim=-1) * angles.sin()
