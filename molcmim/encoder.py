"""Perceiver encoder: a molecule's tokens -> K latent vectors. Knows nothing of posteriors.

Shapes: b batch, t tokens, k latents, d width, h heads, e width of a head.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from molcmim.config import MolCMIMConfig
from molcmim.layers import Block, attend, in_autocast


class Read(nn.Module):
    """Multi-head cross-attention of the latents to the tokens, its key and value maps folded into the latents.

    A score q . (W_k x) is (W_k' q) . x, and a mean of W_v x is W_v times the mean of x: so K queries a head are mapped
    instead of all tokens, which costs K h instead of d products a token. A key's bias moves all scores of a query
    alike, which the softmax does not see.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b k d"],
        tokens: Float[Tensor, "b t d"],
        mask: Bool[Tensor, "b 1 1 t"],
        key: Float[Tensor, "h e d"],
        value: Float[Tensor, "h e d"],
        value_bias: Float[Tensor, "h e"],
    ) -> Float[Tensor, "b k d"]:
        """Add to each latent what it reads from the tokens."""
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1))
        query = torch.einsum("bkhe,hed->bkhd", query, key).flatten(1, 2)[:, None]
        seen = attend(query, tokens[:, None], tokens[:, None], mask, scale=key.shape[1] ** -0.5)
        read = torch.einsum("bkhd,hed->bkhe", seen.unflatten(1, (-1, self.heads)), value) + value_bias
        return x + self.dropout(self.out(read.flatten(2)))


class Encoder(nn.Module):
    """Perceiver encoder (Jaegle et al., arXiv 2103.03206) as MolMIM uses it (arXiv 2208.09016).

    K learned latent vectors read the tokens by cross-attention and then attend to each other, once a layer. The
    tokens themselves are not transformed between layers, so the cost grows linearly with the length of the molecule.
    """

    def __init__(self, config: MolCMIMConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.pad_token_id = config.pad_token_id
        self.tokens = nn.Embedding(config.vocab_size, d, padding_idx=config.pad_token_id)
        self.positions = nn.Embedding(config.max_position_embeddings, d)
        self.stem = Stem(d, config.stem_kernel) if config.stem_kernel else None
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.latents = nn.Parameter(torch.empty(config.num_latents, d))
        self.key_value = nn.Linear(d, config.encoder_layers * 2 * d)
        self.reads = nn.ModuleList(Read(d, config.heads, config.dropout) for _ in range(config.encoder_layers))
        self.blocks = nn.ModuleList(
            Block(d, config.heads, config.dropout, causal=False) for _ in range(config.encoder_layers)
        )
        self.final_norm = nn.LayerNorm(d)

    def forward(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Read molecules; padding (mask 0, or the pad id where no mask is given) is never seen."""
        mask = (input_ids != self.pad_token_id) if attention_mask is None else attention_mask.bool()
        if input_ids.shape[1] > len(self.positions.weight):
            raise ValueError(f"{input_ids.shape[1]} tokens; the model reads {len(self.positions.weight)} at most")
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        if self.stem is not None:
            x = self.stem(x, mask)
        x = in_autocast(self.dropout(self.norm(x)))
        heads = (len(self.reads), 2, self.heads, -1)  # layer, key or value, head
        weights, biases = self.key_value.weight.unflatten(0, heads), self.key_value.bias.unflatten(0, heads)
        latents = in_autocast(self.latents).expand(len(x), -1, -1)
        for read, block, (key, value), (_, bias) in zip(self.reads, self.blocks, weights, biases, strict=True):
            latents = block(read(latents, x, mask[:, None, None, :], key, value, bias))
        return self.final_norm(latents)


class Stem(nn.Module):
    """Depthwise convolution over neighbouring tokens, so that what is read are short strings, not lone letters."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Mix; padding enters as zeros, as if the sequence ended there."""
        y = self.norm(x) * mask[..., None]
        y = shifted(self.depthwise, y) if y.is_cuda else self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        return x + self.down(nn.functional.gelu(self.up(y), approximate="tanh"))


def shifted(depthwise: nn.Conv1d, y: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
    """Apply a depthwise convolution as a sum of shifted products, of which a GPU's compiler makes one kernel."""
    kernel, length = depthwise.kernel_size[0], y.shape[1]
    padded = nn.functional.pad(y, (0, 0, kernel // 2, kernel // 2))
    weights = depthwise.weight[:, 0].T  # (kernel, d)
    mixed = padded[:, :length] * weights[0]
    for i in range(1, kernel):
        mixed = mixed + padded[:, i : i + length] * weights[i]
    return mixed if depthwise.bias is None else mixed + depthwise.bias
