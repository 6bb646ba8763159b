"""Every setting of the model, and its named sizes. Knows nothing of how they are used."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import AutoConfig, PretrainedConfig

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 64, "heads": 4, "latent_dim": 32, "num_latents": 2, "memory_tokens": 2,
             "encoder_layers": 2, "decoder_layers": 2},
    "small": {"width": 256, "heads": 4, "latent_dim": 512, "num_latents": 4, "memory_tokens": 4,
              "encoder_layers": 4, "decoder_layers": 3},
    "base": {"width": 512, "heads": 8, "latent_dim": 512, "num_latents": 8, "memory_tokens": 4,
             "encoder_layers": 6, "decoder_layers": 4},
}  # fmt: skip


class MolCMIMConfig(PretrainedConfig):
    """Architecture of a :class:`molcmim.MolCMIMModel`.

    Parameters
    ----------
    vocab_size : int
        Entries of the tokenizer, special tokens included.
    vocab_hash : str
        ``molcmim.tokenizer.vocab_hash`` of the tokenizer the model was built for; loading refuses another one.
    notation : {"smiles", "selfies"}
        What the tokens spell.
    max_position_embeddings : int
        Longest token sequence, ``<s>`` and ``</s>`` included.
    width : int
        Model dimension of encoder and decoder.
    heads : int
        Attention heads; divides `width`.
    latent_dim : int
        D, dimension of the posterior and the prior.
    num_latents : int
        K, the learned vectors that read the molecule.
    memory_tokens : int
        M, the vectors that carry z into the decoder.
    encoder_layers, decoder_layers : int
        Depths.
    stem_kernel : int
        Width of the depthwise convolution that mixes neighbouring tokens before they are read; 0 for none.
    dropout : float
        Dropout on embeddings and residual branches while training.
    posterior : {"sampled", "learned", "point"}
        Whether the training posterior's logvar is drawn from U(-6, 0) per molecule or comes from the encoder, or z is
        mu(x) without noise.
    trained_decoder : bool
        Whether the objective trained the decoder; without, nothing can be decoded, and there is no informative
        embedding.
    num_descriptors : int
        Size of the descriptor vector that the chemistry factor log p(d | z) predicts; 0 for no such head.

    Raises
    ------
    ValueError
        If a setting is out of its range.
    """

    model_type = "molcmim"
    # What transformers' generation, which drives the decoder, asks for.
    attribute_map = {  # noqa: RUF012 - transformers' own way
        "hidden_size": "width",
        "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "heads",
    }

    def __init__(
        self,
        vocab_size: int = 256,
        vocab_hash: str = "",
        notation: str = "smiles",
        max_position_embeddings: int = 256,
        width: int = 256,
        heads: int = 4,
        latent_dim: int = 256,
        num_latents: int = 8,
        memory_tokens: int = 4,
        encoder_layers: int = 4,
        decoder_layers: int = 3,
        stem_kernel: int = 7,
        dropout: float = 0.0,
        posterior: str = "sampled",
        trained_decoder: bool = True,
        num_descriptors: int = 0,
        pad_token_id: int = 0,
        bos_token_id: int = 1,
        eos_token_id: int = 2,
        **kwargs: Any,
    ) -> None:
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(f"width must be a multiple of heads, got width={width}, heads={heads}")
        if posterior not in ("sampled", "learned", "point"):
            raise ValueError(f"posterior must be 'sampled', 'learned' or 'point', got {posterior!r}")
        if notation not in ("smiles", "selfies"):
            raise ValueError(f"notation must be 'smiles' or 'selfies', got {notation!r}")
        if min(latent_dim, num_latents, memory_tokens, encoder_layers, decoder_layers) < 1:
            raise ValueError("latent_dim, num_latents, memory_tokens and both depths must be at least 1")
        if stem_kernel < 0 or (stem_kernel and stem_kernel % 2 == 0):
            raise ValueError(f"stem_kernel must be odd (or 0 for none), got {stem_kernel}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if vocab_size <= max(pad_token_id, bos_token_id, eos_token_id) or num_descriptors < 0:
            raise ValueError(
                "vocab_size must hold the special tokens and num_descriptors be at least 0, "
                f"got {vocab_size} and {num_descriptors}"
            )
        if max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings must be at least 2, got {max_position_embeddings}")
        self.vocab_size = vocab_size
        self.vocab_hash = vocab_hash
        self.notation = notation
        self.max_position_embeddings = max_position_embeddings
        self.width = width
        self.heads = heads
        self.latent_dim = latent_dim
        self.num_latents = num_latents
        self.memory_tokens = memory_tokens
        self.encoder_layers = encoder_layers
        self.decoder_layers = decoder_layers
        self.stem_kernel = stem_kernel
        self.dropout = dropout
        self.posterior = posterior
        self.trained_decoder = trained_decoder
        self.num_descriptors = num_descriptors
        tokens: dict[str, Any] = {
            "pad_token_id": pad_token_id,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
        }
        super().__init__(**tokens, **kwargs)

    @property
    def embedding_dims(self) -> dict[str, int]:
        """Name -> columns of each embedding that the model has; see :func:`molcmim.featurizer.embed`."""
        dims = {"mean": self.latent_dim}
        if self.trained_decoder:
            dims |= {"informative": self.width, "both": self.latent_dim + self.width}
        return {**dims, "descriptors": self.num_descriptors} if self.num_descriptors else dims

    def embedding_dim(self, embedding: str) -> int:
        """Columns of one embedding; ValueError if the model has it not."""
        dims = self.embedding_dims
        if embedding not in dims:
            takes = {
                "descriptors": ": that takes training with the chemistry factor",
                **dict.fromkeys(("informative", "both"), ": that takes an objective that trains the decoder"),
            }
            why = takes.get(embedding, "")
            raise ValueError(f"embedding must be one of {', '.join(dims)} for this model, got {embedding!r}{why}")
        return dims[embedding]

    @classmethod
    def named(cls, size: str, **overrides: Any) -> MolCMIMConfig:
        """Build the configuration of a named size, single settings overridden.

        Raises
        ------
        ValueError
            If `size` is not one of :data:`SIZES`, or an override is no setting.
        """
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}; the named sizes are {', '.join(SIZES)}")
        known = [name for name in inspect.signature(cls).parameters if name != "kwargs"]
        if unknown := sorted(overrides.keys() - set(known)):
            raise ValueError(f"unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**{**SIZES[size], **overrides})


AutoConfig.register("molcmim", MolCMIMConfig, exist_ok=True)
