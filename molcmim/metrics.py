"""What is measured on held-out molecules and on the machine. Knows the model and batches, no training.

Shapes: b batch, z latent dimension.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

from molcmim.config import MolCMIMConfig
from molcmim.data import BucketedBatches, DescriptorScale, TokenStore
from molcmim.decoding import decode_ids
from molcmim.model import MolCMIMModel
from molcmim.objectives import Objective

ACTIVE_VARIANCE = 0.01
BATCH_SIZE = 128
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
"""Dense bf16 FLOP/s by a part of the GPU's name (vendors' data sheets)."""


@dataclass(frozen=True)
class HeldOut:
    """How a model does on molecules it has not seen; what asks the decoder is NaN where none was trained.

    Attributes
    ----------
    exact_reconstruction : float
        Share of molecules whose target string comes back whole from z = mu by greedy decoding.
    token_accuracy : float
        Share of tokens that are the most probable under teacher forcing with z = mu.
    nats_per_token, bits_per_character : float
        -log p(x|mu), over predicted tokens and over the characters they spell: of a SELFIES model those of SELFIES,
        several times as many as SMILES has.
    active_dimensions : int
        Latent dimensions in which mu varies by more than 0.01 (Burda et al., arXiv 1509.00519).
    effective_rank : float
        Exponential of the entropy of the normalised singular values of centred mu (Roy & Vetterli, 2007).
    mean_cosine : float
        Mean cosine between mu of different molecules.
    descriptor_r2 : float
        Share of the standardised descriptors' variance that the chemistry factor explains; NaN without it.
    """

    exact_reconstruction: float
    token_accuracy: float
    nats_per_token: float
    bits_per_character: float
    active_dimensions: int
    effective_rank: float
    mean_cosine: float
    descriptor_r2: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


@torch.inference_mode()
def held_out(
    model: MolCMIMModel,
    batches: Iterable[dict[str, Tensor]],
    token_characters: Float[Tensor, " v"],
    decoder: bool = True,
) -> HeldOut:
    """Evaluate on batches as ``molcmim.data.BucketedBatches`` yields them, on the model's device and in its precision.

    `token_characters` holds how many characters each token spells (0 for special tokens). Without `decoder`, which a
    model that was trained without one has not learned to use, nothing is decoded.
    """
    training = model.training
    model.eval()
    exact = correct = tokens = nats = characters = 0.0
    mus, predicted, described = [], [], []
    for batch in batches:
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        target = batch["target_ids"]
        out = model(batch["input_ids"], target if decoder else None, batch["attention_mask"], sample=False)
        if out.log_px is not None:
            correct += out.num_correct.sum().item()
            tokens += out.num_tokens.sum().item()
            nats -= out.log_px.double().sum().item()
            characters += token_characters.to(target.device)[target].sum().item()
            decoded = decode_ids(model, out.mu, max_length=target.shape[1])
            decoded = F.pad(decoded, (0, target.shape[1] - decoded.shape[1]), value=model.config.pad_token_id)
            exact += (decoded == target).all(1).sum().item()
        if out.descriptors is not None and "descriptors" in batch:
            predicted.append(out.descriptors.cpu())
            described.append(batch["descriptors"].cpu())
        mus.append(out.mu.cpu())
    model.train(training)
    mu = torch.cat(mus)
    return HeldOut(
        exact_reconstruction=exact / len(mu) if tokens else math.nan,
        token_accuracy=correct / tokens if tokens else math.nan,
        nats_per_token=nats / tokens if tokens else math.nan,
        bits_per_character=nats / characters / math.log(2) if characters else math.nan,
        active_dimensions=int((mu.var(0, correction=min(1, len(mu) - 1)) > ACTIVE_VARIANCE).sum()),
        effective_rank=effective_rank(mu),
        mean_cosine=mean_cosine(mu),
        descriptor_r2=r_squared(torch.cat(predicted), torch.cat(described)) if described else math.nan,
    )


def held_out_batches(
    store: TokenStore,
    molecules: int | None = None,
    scale: DescriptorScale | None = None,
    random_spellings: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Molecules of a store, canonical in and out; with `random_spellings` one of the stored random spellings in.

    `molecules` of them, a random choice that is always the same; default all, in batches of similar length.
    `scale` is the training store's, which descriptors are standardised by.
    """
    # Sorting by length would make the first few batches a choice of lengths.
    window = 64 if molecules is None else 1
    mode, share = ("invariant", 0.0) if random_spellings else ("canonical", None)
    batches = BucketedBatches(
        store, BATCH_SIZE, mode=mode, drop_last=False, window=window, scale=scale, canonical_share=share
    )
    left = len(store) if molecules is None else molecules
    for i in range(len(batches)):
        if left <= 0:
            return
        batch = {name: tensor[:left] for name, tensor in batches[i].items()}
        left -= len(batch["target_ids"])
        yield batch


def token_characters(tokenizer: PreTrainedTokenizerFast) -> Float[Tensor, " v"]:
    """How many characters each token spells, 0 for special ones."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return torch.tensor([0.0 if i in special else float(len(token)) for i, token in enumerate(tokens)])


def r_squared(predicted: Float[Tensor, "b p"], true: Float[Tensor, "b p"]) -> float:
    """Share of the variance of all columns of `true` together that `predicted` explains."""
    return (1 - (predicted - true).square().sum() / (true - true.mean(0)).square().sum()).item()


def effective_rank(x: Float[Tensor, "b z"]) -> float:
    """Exponential of the entropy of the normalised singular values of centred `x` (Roy & Vetterli, 2007)."""
    singular = torch.linalg.svdvals((x - x.mean(0)).double())
    p = singular / singular.sum()
    return torch.special.entr(p).sum().exp().item()


def mean_cosine(x: Float[Tensor, "b z"]) -> float:
    """Mean cosine between different rows."""
    unit = F.normalize(x.double(), dim=-1)
    return ((unit.sum(0).square().sum() - len(x)) / (len(x) * (len(x) - 1))).item() if len(x) > 1 else math.nan


def training_flops(config: MolCMIMConfig, tokens: int, objective: Objective) -> float:
    """Floating-point operations to train on one molecule of `tokens` tokens: forward, and twice that backward.

    Both views and no decoder, where the objective has it so; a moving-average encoder runs forward only.
    """
    with torch.device("meta"):
        model = MolCMIMModel(config).train()
        ids = torch.ones(objective.views, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids, ids[:1] if objective.decoder else None, ids)
    trained = 3.0 * counter.get_total_flops()
    if not objective.moving_average:
        return trained
    with FlopCounterMode(display=False) as counter:
        model.encode(ids, ids)
    return trained + counter.get_total_flops()


@functools.cache
def peak_flops(device: torch.device) -> float:
    """FLOP/s that matrix products can reach: the data sheet's in bfloat16 for a known GPU, else measured."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = [peak for part, peak in PEAK_FLOPS.items() if part in name]
        if known:
            return known[0]
    dtype = torch.bfloat16 if bfloat16_pays(device) else torch.float32
    return 2.0 * 4096 * 1024 * 1024 / _seconds_of_product(4096, 1024, dtype, device)


@functools.cache
def bfloat16_pays(device: torch.device) -> bool:
    """Say whether products are not slower in bfloat16 than in float32; on a CPU without its instructions they crawl."""
    if device.type == "cuda":
        return True
    single, half = (_seconds_of_product(128, 512, dtype, device, 3) for dtype in (torch.float32, torch.bfloat16))
    return half < 2 * single


def _seconds_of_product(rows: int, width: int, dtype: torch.dtype, device: torch.device, times: int = 5) -> float:
    """Shortest time that the product of a (rows, width) and a square matrix took."""
    a, b = (torch.randn(n, width, device=device, dtype=dtype) for n in (rows, width))
    best = math.inf
    for _ in range(times):
        start = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - start)
    return best
