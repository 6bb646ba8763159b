"""The whole model: encoder, posterior, decoder as one transformers PreTrainedModel. Knows no objective.

Shapes: b batch, t tokens, d width, z latent dimension, p descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from molcmim.config import MolCMIMConfig
from molcmim.decoder import Decoder
from molcmim.encoder import Encoder, Read, Stem
from molcmim.latent import LOGVAR_MAX, LOGVAR_MIN, Posterior
from molcmim.layers import Block


@dataclass
class MolCMIMOutput:
    """What one pass over a batch yields; all float32 but the counts. n is b unless some rows were encoded only.

    Attributes
    ----------
    mu, logvar : Tensor
        (n, z) parameters of the posterior that z was drawn from.
    z : Tensor
        (n, z) the latent code.
    log_px : Tensor or None
        (b,) log p(x|z) in nats, summed over the predicted tokens; None if nothing was decoded.
    num_tokens : Tensor or None
        (b,) predicted tokens of each molecule, ``</s>`` included.
    num_correct : Tensor or None
        (b,) of these, how many were the most probable.
    descriptors : Tensor or None
        (n, p) mean of p(d|z), if the model has that head.
    """

    mu: Float[Tensor, "n z"]
    logvar: Float[Tensor, "n z"]
    z: Float[Tensor, "n z"]
    log_px: Float[Tensor, " b"] | None
    num_tokens: Int[Tensor, " b"] | None
    num_correct: Int[Tensor, " b"] | None
    descriptors: Float[Tensor, "n p"] | None


class MolCMIMModel(PreTrainedModel):
    """Mutual Information Machine over molecular strings.

    A Perceiver encoder maps tokens to the posterior q(z|x), a causal decoder maps z back to tokens.

    Parameters
    ----------
    config : MolCMIMConfig
        Architecture.
    """

    config: MolCMIMConfig
    config_class = MolCMIMConfig
    base_model_prefix = "molcmim"
    _supports_sdpa = True

    def __init__(self, config: MolCMIMConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.to_mu = nn.Linear(config.num_latents * config.width, config.latent_dim)
        self.to_logvar = (
            nn.Linear(config.num_latents * config.width, config.latent_dim) if config.posterior == "learned" else None
        )
        self.decoder = Decoder(config)
        self.to_descriptors = nn.Linear(config.latent_dim, config.num_descriptors) if config.num_descriptors else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # GPT-2's N(0, 0.02), at every depth; a depthwise filter has few inputs and starts larger.
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Linear) else 0.2)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, Encoder):
            nn.init.normal_(module.latents, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def compile_layers(self) -> None:
        """Have ``torch.compile`` make each kind of layer for the model's device, once, when it is first run.

        The layers are nearly all of the time, and compiling them takes seconds where the whole model takes minutes.
        The stem stays as it is on a CPU: torch makes a convolution anew for each length, and no faster.
        """
        kinds = (Block, Read, Stem) if self.device.type == "cuda" else (Block, Read)
        for module in self.modules():
            if isinstance(module, kinds):
                module.compile(dynamic=True)

    def encode(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"] | None = None,
    ) -> Posterior:
        """Posterior q(z|x) of right-padded molecules.

        Under ``posterior="sampled"`` the logvar is one draw of U(-6, 0) a molecule while training, and -6 (the
        narrowest of them) otherwise; under "point", whose z is mu, it is -6 as well.
        """
        latents = self.encoder(input_ids, attention_mask).flatten(1)
        mu = self.to_mu(latents).float()
        if self.to_logvar is not None:
            logvar = self.to_logvar(latents).float().clamp(LOGVAR_MIN, LOGVAR_MAX)
        elif self.training and self.config.posterior == "sampled":
            logvar = torch.empty_like(mu[:, :1]).uniform_(LOGVAR_MIN, LOGVAR_MAX).expand_as(mu)
        else:
            logvar = torch.full_like(mu, LOGVAR_MIN)
        return Posterior(mu, logvar)

    def decode_hidden(self, target_ids: Int[Tensor, "b t"], z: Float[Tensor, "b z"]) -> Float[Tensor, "b s d"]:
        """Last hidden states under teacher forcing, right before the vocabulary projection.

        State i has seen z and ``target_ids[:, : i + 1]`` and predicts ``target_ids[:, i + 1]``; s = t - 1.
        """
        return self.decoder(target_ids[:, :-1], z)

    def forward(
        self,
        input_ids: Int[Tensor, "n t"],
        target_ids: Int[Tensor, "b u"] | None,
        attention_mask: Int[Tensor, "n t"] | Bool[Tensor, "n t"] | None = None,
        sample: bool = True,
    ) -> MolCMIMOutput:
        """Encode `input_ids`, draw z (or take mu, if not `sample`), and score `target_ids` under the decoder.

        There may be fewer targets than inputs: they belong to the first rows, and the others are encoded only. None:
        the decoder is not run.
        """
        posterior = self.encode(input_ids, attention_mask)
        z = posterior.rsample() if sample and self.config.posterior != "point" else posterior.mu
        head = self.to_descriptors
        descriptors = None if head is None else head(z.to(head.weight.dtype)).float()
        if target_ids is None:
            return MolCMIMOutput(posterior.mu, posterior.logvar, z, None, None, None, descriptors)
        logits = self.decoder.to_vocabulary(self.decode_hidden(target_ids, z[: len(target_ids)])).float()
        labels = target_ids[:, 1:]
        predicted = labels != self.config.pad_token_id
        # One row a token: with the vocabulary in the middle it takes four times as long on a CPU.
        log_p = -F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels) * predicted
        return MolCMIMOutput(
            mu=posterior.mu,
            logvar=posterior.logvar,
            z=z,
            log_px=log_p.sum(1),
            num_tokens=predicted.sum(1),
            num_correct=((logits.argmax(-1) == labels) & predicted).sum(1),
            descriptors=descriptors,
        )


AutoModel.register(MolCMIMConfig, MolCMIMModel, exist_ok=True)
