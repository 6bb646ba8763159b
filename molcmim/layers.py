"""Attention, feed-forward and the pre-norm block. Knows nothing of molecules or latents.

Shapes: b batch, q queries, t keys, d width, h heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.cache_utils import Cache


def attend(
    q: Float[Tensor, "b h q e"],
    k: Float[Tensor, "b h t e"],
    v: Float[Tensor, "b h t e"],
    mask: Bool[Tensor, "b 1 1 t"] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "b q d"]:
    """Scaled dot-product attention, heads merged; `mask` is True where a key may be read.

    `scale` multiplies the scores, by default with e ** -0.5.
    """
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(f"causal attention of {q.shape[2]} queries over {k.shape[2]} keys: feed them one at a time")
    # The CPU's fused kernel has a slow backward: a step at 48 tokens takes 1.4 times as long with it. A GPU's takes no
    # mask with heads as wide as the encoder's.
    if {"cpu": torch.is_grad_enabled(), "cuda": mask is not None}.get(q.device.type):
        scores = (q * (scale or q.shape[-1] ** -0.5)) @ k.transpose(-1, -2)
        if causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        out = scores.softmax(-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    return out.transpose(1, 2).flatten(2)


def in_autocast(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Bring what a residual stream begins with to autocast's precision, if it is on: moving it is most of its cost."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if on else x


def split_heads(x: Float[Tensor, "b t d"], heads: int) -> Float[Tensor, "b h t e"]:
    """Cut the width into `heads` slices."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention, optionally causal, with transformers' key/value cache."""

    def __init__(self, width: int, heads: int, causal: bool, layer_index: int = 0) -> None:
        super().__init__()
        self.heads, self.causal, self.layer_index = heads, causal, layer_index
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b q d"], cache: Cache | None = None) -> Float[Tensor, "b q d"]:
        """Attend; after a prefix that is in the cache, `x` is the one position that follows."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        if cache is not None:
            k, v = cache.update(k, v, self.layer_index)
        # One query after a cached prefix sees every key, so only a fresh sequence needs the causal mask.
        return self.out(attend(q, k, v, causal=self.causal and q.shape[2] > 1))


class MLP(nn.Module):
    """Two linear maps around a GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Apply position-wise."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then MLP, each on a residual branch."""

    def __init__(self, width: int, heads: int, dropout: float, causal: bool, layer_index: int = 0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal, layer_index)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b q d"], cache: Cache | None = None) -> Float[Tensor, "b q d"]:
        """Transform each position in the light of the others."""
        x = x + self.dropout(self.attention(self.attention_norm(x), cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
