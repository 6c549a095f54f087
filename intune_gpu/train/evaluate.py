"""AUC and loss of a model on rows it has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from intune_gpu.engine.batch import Batch
from intune_gpu.recipe import Recipe
from intune_gpu.train.auc import exact_auc
from intune_gpu.train.checks import LateCheck
from intune_gpu.train.feed import on_host, trainable
from intune_gpu.train.model import Model
from intune_gpu.train.place import Place
from intune_gpu.train.stop import StopRequest


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        rows: rows with a label, on all ranks.
        auc: None where all of them are of one class.
        loss: mean binary cross-entropy; NaN of no rows.
        bad_rows: of this rank, left out.
        note: why there is no AUC.
    """

    rows: int
    auc: float | None
    loss: float
    bad_rows: int
    note: str | None


@torch.no_grad()
def evaluate(
    model: Model, batches: Iterable[Batch], recipe: Recipe, place: Place, stop: StopRequest
) -> Evaluation | None:
    """Rank all rows of all ranks by the model; every rank calls this, with equally many batches.

    The model must be free of a train pipeline (`detach`). It stays in evaluation mode.

    Returns:
        What was found; None where a signal asked for a stop.
    """
    model.module.eval()
    bad_rows = 0
    labels, logits = [torch.empty(0)], [torch.empty(0)]
    check = LateCheck(recipe)
    for number, batch in enumerate(batches):
        usable = trainable(batch, recipe, None if on_host(batch) else check, number)
        _, (_, answer, label) = model.module(usable.to(place.device))
        bad_rows = 0 if batch.cursor is None else batch.cursor.bad_rows
        labels.append(label.cpu())
        logits.append(answer.cpu())
        if place.any(stop.signal):
            return None
        if check.full:
            check.settle()
    check.settle()
    all_labels = place.gather(torch.cat(labels)).cpu()
    all_logits = place.gather(torch.cat(logits)).cpu()
    known = ~torch.isnan(all_labels)
    rows = int(known.sum())
    loss = torch.nn.functional.binary_cross_entropy_with_logits(all_logits[known], all_labels[known])
    auc = exact_auc(all_labels.numpy(), all_logits.numpy())
    note = None
    if auc is None:
        reason = "are all of one class" if all_logits.isfinite().all() else "got answers that are not numbers"
        note = f"the {rows:,} held-out rows {reason}" if rows else "no held-out row could be read"
    return Evaluation(rows, auc, float(loss), bad_rows, note)
