"""Latent codes -> token ids and their log-probabilities: a greedy loop, and transformers' generation for the rest.

Knows ids and codes, no strings and no chemistry. Shapes: b batch, n codes, z latent dimension, t tokens.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from molcmim.config import MolCMIMConfig
from molcmim.decoder import Decoder
from molcmim.model import MolCMIMModel

_DRAWING = threading.Lock()  # torch's random state, which is seeded for each batch, is the process's
TOKENS_PER_BATCH = {"cpu": 65_536, "cuda": 1_048_576}
"""Budget of a batch, every sequence taken at the model's full length."""
VALID_BEAMS = 10
"""Width of the beam that looks for a molecule where greedy decoding finds none, unless another is asked for."""
CROWDED = 0.75
"""Share of unfinished sequences below which greedy decoding goes on without the finished ones."""


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


class Decoded(NamedTuple):
    """Sequences that codes were decoded to."""

    ids: Int[Tensor, "b t"]
    """From ``<s>`` on, padded on the right."""
    log_px: Float[Tensor, " b"]
    """Log p(x|z) of the sequence, in nats."""
    finished: Bool[Tensor, " b"]
    """Whether ``</s>`` came before the model's length was used up."""


def decode_ids(
    model: MolCMIMModel, z: Float[Tensor, "b z"], max_length: int | None = None, **settings: Any
) -> Int[Tensor, "n t"]:
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
        (n, t) ids from ``<s>`` on, padded on the right after ``</s>``; n = b, times ``num_return_sequences``.
    """
    return _generate(model, z, max_length, settings)[0] if settings else _greedy(model, z, max_length).ids


@torch.inference_mode()
def _greedy(
    model: MolCMIMModel, z: Float[Tensor, "b z"], max_length: int | None = None, forbidden: Sequence[int] = ()
) -> Decoded:
    """Take the most probable token at each step.

    Transformers' generation carries finished sequences on to the end of the longest; this loop drops them, cache and
    all, where they are many.
    """
    decoder, config = model.decoder, model.config
    length = max_length or config.max_position_embeddings
    ids = torch.full((len(z), length), config.pad_token_id, device=z.device)
    ids[:, 0] = config.bos_token_id
    log_px = torch.zeros(len(z), dtype=torch.float32, device=z.device)
    finished = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    rows = torch.arange(len(z), device=z.device)
    cache = DynamicCache()
    x = decoder.prompt(z, ids[:, :1])
    step = 0
    while step + 1 < length and not finished.all():
        step += 1
        logits = decoder.to_vocabulary(decoder.run(x, cache)[:, -1]).float()
        allowed = logits.clone()
        allowed[:, list(forbidden)] = -torch.inf
        new = allowed.argmax(1)
        log_p = logits.gather(1, new[:, None])[:, 0] - logits.logsumexp(1)
        ended = finished[rows]
        ids[rows, step] = new.masked_fill(ended, config.pad_token_id)
        log_px[rows] += log_p.masked_fill(ended, 0)
        finished[rows] = ended | (new == config.eos_token_id)
        left = ~finished[rows]
        if left.sum() < CROWDED * len(rows):
            rows, new = rows[left], new[left]
            cache.batch_select_indices(left)
        x = decoder.tokens(new)[:, None]
    return Decoded(ids[:, : step + 1], log_px, finished)


@torch.inference_mode()
def _generate(
    model: MolCMIMModel, z: Float[Tensor, "b z"], max_length: int | None, settings: dict[str, Any]
) -> tuple[Int[Tensor, "n t"], tuple[Float[Tensor, "n v"], ...] | None]:
    """Ids, and with ``output_logits`` what the model said at each step before `settings` were applied to it."""
    config = model.config
    start = torch.full((len(z), 1), config.bos_token_id, device=z.device)
    # At each step a fixed prompt length is followed by new tokens only, so no attention mask is ever needed.
    generation = GenerationConfig(
        max_new_tokens=(max_length or config.max_position_embeddings) - 1,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        return_dict_in_generate=True,
        **settings,
    )
    prompt = model.decoder.prompt(z, start)
    decoder = LatentDecoder(config, model.decoder).eval()
    out = decoder.generate(inputs_embeds=prompt, generation_config=generation)
    end = out.sequences == config.eos_token_id
    # Beam search takes a padding id of 0 for none, and repeats </s> instead.
    new = out.sequences.masked_fill(end.cumsum(1) > end.int(), config.pad_token_id)
    return torch.cat([start.repeat_interleave(len(new) // len(z), 0), new], dim=1), out.logits


@torch.inference_mode()
def log_probability(model: MolCMIMModel, ids: Int[Tensor, "b t"], z: Float[Tensor, "b z"]) -> Float[Tensor, " b"]:
    """Log p(x|z) in nats of sequences that begin with ``<s>``, summed over all tokens after it but padding."""
    logits = model.decoder.to_vocabulary(model.decode_hidden(ids, z)).float().transpose(1, 2)
    return _sum_of_log_p(logits, ids, model.config.pad_token_id)


def _sum_of_log_p(logits: Float[Tensor, "b v s"], ids: Int[Tensor, "b t"], pad: int) -> Float[Tensor, " b"]:
    return -F.cross_entropy(logits, ids[:, 1:], reduction="none", ignore_index=pad).sum(1)


class Search(NamedTuple):
    """How strings are chosen from p(x|z)."""

    settings: dict[str, Any]
    """Fields of transformers' ``GenerationConfig``; none: greedy."""
    retry_beams: int = 0
    """Width of the beam search that whoever judges strings makes where the first is no molecule; 0: none."""
    corrections: int = 0
    """How often whoever encodes strings may decode again where a string's own code is not the one it came from."""


def beam_search(beams: int, returned: int = 1) -> dict[str, Any]:
    """Fields of ``GenerationConfig`` for the best `returned` strings of a beam, ranked by log p(x|z)."""
    return {"num_beams": beams, "num_return_sequences": returned, "length_penalty": 0.0}


def parse_decoding(decoding: str) -> Search:
    """Read the name of a way to choose a string from p(x|z).

    Parameters
    ----------
    decoding : str
        ``greedy``: the most probable token at each step. ``beam:5``: the most probable string that a beam of 5
        finds. ``nucleus:0.9``: each token drawn from the fewest that together have probability 0.9 (Holtzman et
        al., arXiv 1904.09751); ``nucleus:1`` draws from p(x|z) itself. ``valid:10``: as ``greedy``, but where that
        gives no molecule, the most probable molecule among the strings of a beam of 10, if one of them is a
        molecule. ``nearest:10``: as ``valid:10``, but where the encoder gives that molecule another code, greedily
        up to 10 times more, each time from a code moved against what was missed, and then up to 3 times with a beam
        of 10; of all these molecules the one whose own code is nearest. For codes of molecules: a code that none has
        costs all of it. Without a number: these ones.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    method, colon, number = decoding.partition(":")
    with contextlib.suppress(ValueError):
        if decoding == "greedy":
            return Search({})
        if method == "beam" and (beams := int(number if colon else 5)) > 1:
            return Search(beam_search(beams))
        if method == "nucleus" and 0 < (top_p := float(number if colon else 0.9)) <= 1:
            return Search({"do_sample": True, "top_p": top_p, "top_k": 0})
        if method == "valid" and (beams := int(number if colon else VALID_BEAMS)) > 1:
            return Search({}, beams)
        if method == "nearest" and (corrections := int(number if colon else 10)) > 0:
            return Search({}, VALID_BEAMS, corrections)
    raise ValueError(
        "decoding must be greedy, beam:N or valid:N with a whole number N above 1, nearest:N with N above 0, or "
        f"nucleus:P with 0 < P <= 1, got {decoding!r}"
    )


def decode_batches(
    model: MolCMIMModel,
    z: Float[np.ndarray, "n z"],
    search: dict[str, Any] | None = None,
    forbidden: Sequence[int] = (),
    rng: np.random.Generator | None = None,
) -> Iterator[Decoded]:
    """Decode any number of codes, in order, as many at a time as a budget of tokens allows.

    With ``num_return_sequences`` each code's strings stand one below the other.

    Parameters
    ----------
    model
        In evaluation mode.
    z
        (n, z) codes.
    search
        See :attr:`Search.settings`.
    forbidden
        Ids that no sequence may hold. What they would have had stays part of p(x|z), which is not rescaled.
    rng
        Where draws come from; torch's own random state is left as it was.
    """
    search = search or {}
    # Beams change places at each step, so what their strings had is not among the logits of the steps.
    settings = {**search, "suppress_tokens": list(forbidden) or None, "output_logits": "num_beams" not in search}
    device = model.device
    rng = rng or np.random.default_rng()
    tokens = model.config.max_position_embeddings * settings.get("num_beams", 1)
    rows = max(1, TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"]) // tokens)
    for first in range(0, len(z), rows):
        codes = torch.from_numpy(z[first : first + rows]).to(device)
        if not search:
            yield _greedy(model, codes, forbidden=forbidden)
            continue
        with _DRAWING, torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**63)))
            found = _decode(model, codes, settings)
        yield found


@torch.inference_mode()
def _decode(model: MolCMIMModel, codes: Float[Tensor, "b z"], settings: dict[str, Any]) -> Decoded:
    ids, steps = _generate(model, codes, None, settings)
    if steps is None:
        log_px = log_probability(model, ids, codes.repeat_interleave(len(ids) // len(codes), 0))
    else:
        log_px = _sum_of_log_p(torch.stack(steps, dim=2), ids, model.config.pad_token_id)
    return Decoded(ids, log_px, (ids == model.config.eos_token_id).any(1))
