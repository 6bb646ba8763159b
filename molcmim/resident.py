"""A token store in the memory of an accelerator: the batches of molcmim.data, gathered there. Decides no batch.

Shapes: b batch, t tokens, n molecules, p descriptors.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from molcmim.data import PAD_ID, PAD_MULTIPLE, BucketedBatches

READ_AT_ONCE = 100_000
"""Molecules whose descriptors are standardised at a time."""


class ResidentBatches:
    """What a :class:`molcmim.data.BucketedBatches` yields, item for item, as tensors of a device.

    A batch costs the host a few small arrays of row numbers; tokens and descriptors never leave the device. While an
    epoch is trained on, the next one is shuffled in a thread.

    Parameters
    ----------
    batches : BucketedBatches
        What is in which batch. Its store must fit into the device's memory: a byte a token, 4 p bytes a molecule.
    device : torch.device
        Where to.
    """

    def __init__(self, batches: BucketedBatches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        store = batches.store
        kind = torch.uint8 if store.manifest.dtype == "uint8" else torch.int32
        self.tokens = torch.tensor(store.tokens, dtype=kind, device=device)
        self.offsets = torch.tensor(store.offsets, device=device)
        self.descriptors: Tensor | None = None
        if store.raw_descriptors is not None:
            parts = np.split(np.arange(len(store)), range(READ_AT_ONCE, len(store), READ_AT_ONCE))
            self.descriptors = torch.cat(
                [torch.from_numpy(store.descriptors(part, batches.scale)).to(device) for part in parts]
            )
        self._shuffler = ThreadPoolExecutor(1)
        self._plans: dict[int, Future[tuple[np.ndarray, np.ndarray]]] = {}

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        epoch, index = divmod(step, len(self))
        for ahead in (epoch, epoch + 1):
            if ahead not in self._plans:
                self._plans[ahead] = self._shuffler.submit(self.batches.shuffle, ahead)
        self._plans = {planned: plan for planned, plan in self._plans.items() if planned >= epoch}
        molecules = self.batches.cut(self._plans[epoch].result(), index)
        batch: dict[str, Tensor] = {}
        for name, rows in self.batches.rows(epoch, molecules).items():
            ids, mask = self._gather(rows)
            batch[name] = ids
            if name.startswith("input_ids"):
                batch[name.replace("input_ids", "attention_mask")] = mask
        batch.setdefault("target_ids", batch["input_ids"])
        if self.descriptors is not None:
            batch["descriptors"] = self.descriptors[self._send(molecules)]
        return batch

    def _gather(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return padded ids, int64 (b, t), and where they are no padding, bool (b, t)."""
        # The longest is looked up here, where the lengths are, so that the host need not wait for the device.
        width = -(-int(self.batches.store.lengths[rows].max()) // PAD_MULTIPLE) * PAD_MULTIPLE
        sent = self._send(rows)
        starts = self.offsets[sent]
        position = torch.arange(width, device=self.device)
        mask = position < (self.offsets[sent + 1] - starts)[:, None]
        index = (starts[:, None] + position).clamp_(max=len(self.tokens) - 1)
        return self.tokens[index].long().masked_fill_(~mask, PAD_ID), mask

    def _send(self, rows: np.ndarray) -> Tensor:
        sent = torch.from_numpy(rows)
        return sent.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else sent
