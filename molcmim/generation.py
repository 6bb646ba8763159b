"""Latent codes -> molecules: transformers' generation over our decoder. Knows ids and codes, no chemistry.

Shapes: b batch, z latent dimension, t tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from molcmim.config import MolCMIMConfig
from molcmim.decoder import Decoder
from molcmim.model import MolCMIMModel


class LatentDecoder(PreTrainedModel, GenerationMixin):
    """A model's decoder in the shape that transformers' ``generate`` drives: a causal model with a soft prompt.

    The prompt is the memory tokens of z and ``<s>``, given as ``inputs_embeds``. Shares the model's weights.
    """

    config_class = MolCMIMConfig
    _supports_sdpa = True

    def __init__(self, config: MolCMIMConfig, decoder: Decoder) -> None:
        super().__init__(config)
        self.decoder = decoder

    def get_input_embeddings(self) -> torch.nn.Module:
        """Token embeddings of the decoder."""
        return self.decoder.tokens

    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 1,
        **unused: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token after the given ones, which follow those in the cache."""
        x = self.decoder.tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = DynamicCache() if use_cache and past_key_values is None else past_key_values
        hidden = self.decoder.run(x, cache if use_cache else None)[:, -logits_to_keep:]
        return CausalLMOutputWithPast(logits=self.decoder.to_vocabulary(hidden).float(), past_key_values=cache)


@torch.inference_mode()
def decode_ids(
    model: MolCMIMModel, z: Float[Tensor, "b z"], max_length: int | None = None, **settings: Any
) -> Int[Tensor, "b t"]:
    """Decode latent codes to token ids, greedily unless `settings` say otherwise.

    Parameters
    ----------
    model : MolCMIMModel
        In evaluation mode.
    z : Tensor
        (b, z) codes.
    max_length : int, optional
        Longest result, ``<s>`` and ``</s>`` included; default the model's.
    **settings
        Fields of transformers' ``GenerationConfig`` (``do_sample``, ``num_beams``, ``top_p``, ...).

    Returns
    -------
    Tensor
        (b, t) ids from ``<s>`` on, padded on the right after ``</s>``.
    """
    config = model.config
    start = torch.full((len(z), 1), config.bos_token_id, device=z.device)
    # At each step a fixed prompt length is followed by new tokens only, so no attention mask is ever needed.
    generation = GenerationConfig(
        max_new_tokens=(max_length or config.max_position_embeddings) - 1,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        **settings,
    )
    prompt = model.decoder.prompt(z, start)
    decoder = LatentDecoder(config, model.decoder).eval()
    new = decoder.generate(inputs_embeds=prompt, generation_config=generation)
    copies = len(new) // len(z)
    return torch.cat([start.repeat_interleave(copies, 0), new], dim=1)


def decode(
    model: MolCMIMModel, tokenizer: PreTrainedTokenizerFast, z: Float[Tensor, "b z"], **settings: Any
) -> list[str]:
    """Decode latent codes to strings in the model's notation, as they come: nothing is checked or repaired.

    Parameters
    ----------
    model, tokenizer
        As ``molcmim.checkpoint.load`` gives them.
    z : Tensor
        (b, z) codes.
    **settings
        As for :func:`decode_ids`.
    """
    return tokenizer.batch_decode(decode_ids(model, z, **settings), skip_special_tokens=True)
