"""What the core's tests train on: token stores of known molecules, and a model that has learned 24 of them.

RDKit is not needed for it.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import numpy as np
import torch

from molcmim.config import MolCMIMConfig
from molcmim.data import DESCRIPTORS, MANIFEST, OFFSETS, TOKENIZER, TOKENS, StoreManifest
from molcmim.featurizer import Featurizer
from molcmim.latent import Posterior
from molcmim.model import MolCMIMModel
from molcmim.objectives import OBJECTIVES, Sample, Settings
from molcmim.optimizer import build_optimizer
from molcmim.tokenizer import Codec, load_tokenizer, vocab_hash

# 48 solvents, drugs, vitamins and amino acids: canonical SMILES and another spelling of the same molecule.
MOLECULES = [
    tuple(line.split())
    for line in r"""
    CC(=O)Oc1ccccc1C(=O)O O=C(C)Oc1ccccc1C(O)=O
    Cn1c(=O)c2c(ncn2C)n(C)c1=O O=c1n(c2ncn(c2c(=O)n1C)C)C
    CC(C)Cc1ccc(C(C)C(=O)O)cc1 C(C)(Cc1ccc(C(C)C(O)=O)cc1)C
    CC(=O)Nc1ccc(O)cc1 N(c1ccc(O)cc1)C(C)=O
    c1ccccc1 c1ccccc1
    CCO C(C)O
    CC(=O)O OC(C)=O
    c1ccc2ccccc2c1 c1cccc2ccccc12
    C1CCCCC1 C1CCCCC1
    Cc1ccccc1 c1ccccc1C
    Nc1ccccc1 c1ccccc1N
    Oc1ccccc1 c1ccccc1O
    O=Cc1ccccc1 c1ccccc1C=O
    CC(C)=O O=C(C)C
    CCOC(C)=O C(OC(=O)C)C
    CN(C)C=O N(C)(C=O)C
    CS(C)=O O=S(C)C
    ClC(Cl)Cl C(Cl)(Cl)Cl
    c1ccncc1 c1cccnc1
    c1cc[nH]c1 c1ccc[nH]1
    c1ccoc1 c1ccco1
    c1ccsc1 c1cccs1
    C1COCCN1 C1CNCCO1
    C1CCNCC1 C1CCCNC1
    NCC(=O)O C(N)C(O)=O
    C[C@H](N)C(=O)O [C@H](C(O)=O)(N)C
    N[C@@H](Cc1ccccc1)C(=O)O c1cccc(C[C@H](N)C(=O)O)c1
    OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O O[C@H]1C(O[C@@H]([C@H]([C@@H]1O)O)CO)O
    NC(N)=O O=C(N)N
    CNC[C@H](O)c1ccc(O)c(O)c1 C(NC)[C@H](O)c1cc(O)c(cc1)O
    NCCc1ccc(O)c(O)c1 c1(ccc(c(c1)O)O)CCN
    NCCc1c[nH]c2ccc(O)cc12 C(c1c2c([nH]c1)ccc(O)c2)CN
    CN1CCC[C@H]1c1cccnc1 c1c(cncc1)[C@@H]1CCCN1C
    COc1cc(C=O)ccc1O c1c(c(ccc1C=O)O)OC
    C=C(C)C1CC=C(C)CC1 C(=C)(C1CCC(=CC1)C)C
    O=C(O)c1cccnc1 c1c(C(O)=O)cncc1
    NC(=O)c1cccnc1 c1c(C(=O)N)cncc1
    Cc1ncc(CO)c(CO)c1O c1(CO)c(CO)cnc(c1O)C
    Clc1ccccc1 c1ccccc1Cl
    Brc1ccccc1 c1ccccc1Br
    FC(F)(F)c1ccccc1 C(c1ccccc1)(F)(F)F
    C[N+](C)(C)CCO OCC[N+](C)(C)C
    O=[N+]([O-])c1ccccc1 c1c([N+]([O-])=O)cccc1
    CC(C)(C)O C(C)(O)(C)C
    CCN(CC)CC C(C)N(CC)CC
    C/C=C/C=O C(/C)=C\C=O
    Nc1ccc(S(N)(=O)=O)cc1 c1cc(N)ccc1S(N)(=O)=O
    CCCCCCCC(=O)O C(C)CCCCCC(O)=O
""".strip().splitlines()
]


def write_store(folder: Path, first: int = 0, last: int | None = None, descriptors: bool = False, **changes) -> Path:
    """Write `MOLECULES[first:last]`, two spellings each, as a store; its descriptors count C, N and O."""
    molecules = MOLECULES[first:last]
    tokenizer = load_tokenizer("smiles")
    tokens, offsets = Codec.of(tokenizer).encode([spelling for molecule in molecules for spelling in molecule])
    counts = np.array([[s.upper().count(element) for element in "CNO"] for s, _ in molecules], np.float32)
    folder.mkdir(parents=True)
    tokens.tofile(folder / TOKENS)
    np.save(folder / OFFSETS, offsets)
    if descriptors:
        np.save(folder / DESCRIPTORS, counts)
    manifest = {
        "notation": "smiles",
        "tokenizer": "smiles",
        "vocab_hash": vocab_hash(tokenizer),
        "num_molecules": len(molecules),
        "spellings": 2,
        "num_tokens": len(tokens),
        "max_tokens": int(np.diff(offsets).max()),
        "dtype": tokens.dtype.name,
        "joined": 0,
        "rejected": 0,
        "descriptor_names": ["carbons", "nitrogens", "oxygens"] if descriptors else [],
        "descriptor_mean": counts.mean(0).tolist() if descriptors else [],
        "descriptor_std": counts.std(0).tolist() if descriptors else [],
        "sources": [],
        "settings": {"max_length": 64},
    }
    tokenizer.save_pretrained(folder / TOKENIZER)
    (folder / MANIFEST).write_text(StoreManifest(**{**manifest, **changes}).dump())
    return folder


def batch_of(molecules: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Encode molecules: the second spelling is read, the canonical one is to be written."""
    canonical, other = (
        load_tokenizer("smiles")(list(spellings), padding=True, return_tensors="pt")
        for spellings in zip(*molecules, strict=True)
    )
    return {
        "input_ids": other["input_ids"],
        "attention_mask": other["attention_mask"],
        "target_ids": canonical["input_ids"],
    }


@functools.cache
def learned() -> tuple[MolCMIMModel, dict[str, torch.Tensor], list[float]]:
    """Train a small model on the 24 shortest molecules until it knows them; return it, its batch and the losses."""
    batch = batch_of(sorted(MOLECULES, key=lambda molecule: len(molecule[0]))[:24])
    torch.manual_seed(0)
    model = MolCMIMModel(MolCMIMConfig.named("tiny", stem_kernel=3)).train()
    optimizer = build_optimizer(model, lr=7e-3, weight_decay=0.0)
    losses, steps = [], 200
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 7e-3 * min(1, (step + 1) / 20, (steps - step) / 50)
        out = model(**batch)
        sample = Sample(out.log_px, out.num_tokens, out.z, Posterior(out.mu, out.logvar))
        loss = -sum(OBJECTIVES["cmim"](sample, Settings()).values()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), batch, losses


def known() -> Featurizer:
    """Return what :func:`learned` learned as a featurizer; of the 24 molecules it knows, generation is tested on."""
    network = copy.deepcopy(learned()[0])
    tokenizer = load_tokenizer("smiles")
    network.config.vocab_hash = vocab_hash(tokenizer)
    return Featurizer(network, tokenizer)


@torch.no_grad()
def chain_rule(network, z, ids):
    """Log p(x|z) of one sequence, token by token, each from its own uncached pass."""
    total = 0.0
    for i in range(1, len(ids)):
        logits = network.decoder.to_vocabulary(network.decoder(ids[None, :i], z[None])[0, -1])
        total += logits.log_softmax(-1)[ids[i]].item()
        if ids[i] == 2:
            break
    return total
