"""Autoregressive decoder p(x|z): teacher forcing, hidden states, key/value cache. Knows nothing of the encoder.

Shapes: b batch, t tokens, m memory tokens, d width, z latent dimension, v vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache

from molcmim.config import MolCMIMConfig
from molcmim.layers import Block, in_autocast


class Decoder(nn.Module):
    """Causal transformer over M memory tokens, linear in z, followed by the molecule's tokens.

    The memory stands at the front of the one sequence that self-attention sees. It costs M positions instead of a
    cross-attention in every layer, and right padding needs no mask at all.
    """

    def __init__(self, config: MolCMIMConfig) -> None:
        super().__init__()
        d, m = config.width, config.memory_tokens
        self.memory_tokens = m
        self.tokens = nn.Embedding(config.vocab_size, d, padding_idx=config.pad_token_id)
        self.positions = nn.Embedding(m + config.max_position_embeddings, d)
        self.memory = nn.Linear(config.latent_dim, m * d)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(d, config.heads, config.dropout, causal=True, layer_index=i) for i in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(d)
        self.to_vocabulary = nn.Linear(d, config.vocab_size, bias=False)

    def prompt(self, z: Float[Tensor, "b z"], ids: Int[Tensor, "b t"]) -> Float[Tensor, "b mt d"]:
        """Embed memory and tokens, in this order, without positions."""
        memory = self.memory(z.to(self.memory.weight.dtype)).unflatten(-1, (self.memory_tokens, -1))
        return torch.cat([memory.to(self.tokens.weight.dtype), self.tokens(ids)], dim=1)

    def run(self, x: Float[Tensor, "b q d"], cache: Cache | None = None) -> Float[Tensor, "b q d"]:
        """Hidden states of embedded positions that follow those in `cache`."""
        start = 0 if cache is None else cache.get_seq_length()
        x = in_autocast(self.dropout(x + self.positions.weight[start : start + x.shape[1]]))
        for block in self.blocks:
            x = block(x, cache)
        return self.norm(x)

    def forward(self, ids: Int[Tensor, "b t"], z: Float[Tensor, "b z"]) -> Float[Tensor, "b t d"]:
        """Teacher forcing: the hidden state at i has seen z and ``ids[:, : i + 1]``, and predicts the token after."""
        return self.run(self.prompt(z, ids))[:, self.memory_tokens :]
