"""The DLRM: TorchRec's model over fbgemm's fused tables, sharded, with its optimizers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.fx
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from intune_gpu.core.errors import RecipeError
from intune_gpu.engine.batch import Batch
from intune_gpu.recipe import Recipe
from intune_gpu.train.config import ModelConfig, UsageError
from intune_gpu.train.place import Place

# First weights of the tables, uniform within this. TorchRec's own 1/sqrt(rows) starts so near to zero that products of
# embeddings, which is how a DLRM sees pairs of ids, hardly get going; far wider ones drown ids that are rarely seen.
INIT_RANGE = 0.08
EPS = 1e-8

Answer = tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

_INSTANCE_NAMES = frozenset(vars(nn.ModuleDict()))
_TABLE_OPTIMIZERS = {"adagrad": EmbOptimType.EXACT_ADAGRAD, "rowwise-adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD}


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        module: the sharded model; a batch in, loss and (loss, logits, labels) out.
        optimizer: steps the tables (fused into the backward pass) and the MLPs.
        table_optimizer: the part of it that holds the tables' state.
        mlp_optimizer: the other part.
    """

    module: DistributedModelParallel
    optimizer: CombinedOptimizer
    table_optimizer: Any
    mlp_optimizer: KeyedOptimizerWrapper


class ClickModel(nn.Module):
    """A DLRM, its loss, and dense features on a common scale.

    Args:
        dlrm: takes (B, max(D, 1)) float32 and the ids.
        dense: D, the number of dense features; with none, the DLRM gets a constant one instead.
        bf16_on: the kind of device whose dense layers compute in bfloat16; None computes in float32.
    """

    def __init__(self, dlrm: DLRM, dense: int, bf16_on: str | None = None) -> None:
        super().__init__()
        self.dense = dense
        self.bf16_on = bf16_on
        self.standardize = Standardize(dense)
        self.dlrm = dlrm

    def forward(self, batch: Batch) -> Answer:
        """Return the loss and, detached, (loss, logits, labels). A row without a label (NaN) counts nothing."""
        known = batch.label == batch.label
        dense = self.standardize(batch.dense, known) if self.dense else torch.ones_like(batch.label).unsqueeze(-1)
        with self._precision():
            logits = self.dlrm(dense, batch.sparse).squeeze(-1).float()
        label = torch.where(known, batch.label, 0.0)
        each = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        loss = torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)
        return loss, (loss.detach(), logits.detach(), batch.label)

    def _precision(self) -> AbstractContextManager[object]:
        # Weights, embeddings and what the optimizers keep stay float32: autocast rounds what goes into a product only.
        return torch.autocast(self.bf16_on, torch.bfloat16) if self.bf16_on else nullcontext()


class Standardize(nn.Module):
    """Bring each dense feature to mean 0 and deviation 1, by all labelled rows that any rank has trained so far.

    So a year or an income needs no `Scale` in the recipe. A batch counts before it is used; in evaluation none does.

    Args:
        dense: D, the number of features.
    """

    rows: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor  # sum of squares about the mean

    def __init__(self, dense: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dense, dtype=torch.float64))
        self.register_buffer("spread", torch.zeros(dense, dtype=torch.float64))

    def forward(self, dense: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return B x D float32.

        Args:
            dense: B x D float32.
            known: (B,) bool, the rows that count.
        """
        if self.training:
            rows, away, squares = _moments(dense.detach(), known, self.mean)
            self.rows += rows
            self.spread += squares - away**2 / self.rows.clamp(min=1)
            self.mean += away / self.rows.clamp(min=1)
        deviation = (self.spread / self.rows.clamp(min=1)).sqrt()
        scale = torch.where(deviation > 0, 1 / deviation, 1.0)
        return (dense - self.mean.float()) * scale.float()


@torch.fx.wrap  # one call to TorchRec's tracer, which cannot follow a collective
def _moments(dense: torch.Tensor, known: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the number of known rows of all ranks, and the sums of their distances from `mean` and of the squares."""
    away = (dense.double() - mean) * known.unsqueeze(-1)
    sums = torch.cat([known.sum().double().view(1), away.sum(dim=0), (away**2).sum(dim=0)])
    if dist.get_world_size() > 1:
        dist.all_reduce(sums)
    features = len(mean)
    return sums[0], sums[1 : features + 1], sums[features + 1 :]


def build(recipe: Recipe, config: ModelConfig, seed: int, place: Place) -> Model:
    """Make the model of a recipe, with the same first weights for the same seed and number of ranks.

    Args:
        recipe: names the features and the rows of their tables.
        config: sizes and learning rate.
        seed: of the first weights.
        place: the device and the ranks that share the tables; every rank calls this.

    Raises:
        RecipeError: there is no sparse feature.
        UsageError: this rank's tables and layers are larger than the memory.
    """
    if not recipe.num_embeddings:
        raise RecipeError(
            "recipe: expected at least one sparse feature for a DLRM, found dense ones only; "
            "add one under sparse, such as a number in buckets with Bucketize(borders)"
        )
    _check_size(recipe, config, place)
    torch.manual_seed(seed)
    if place.device.type == "cuda":
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")  # "high" is TF32
    bf16_on = place.device.type if config.precision == "bf16" else None
    module = ClickModel(_dlrm(recipe, config), len(recipe.dense_names), bf16_on)
    fused = {"optimizer": _TABLE_OPTIMIZERS[config.table_optimizer], "learning_rate": config.lr, "eps": EPS}
    sharder = EmbeddingBagCollectionSharder(fused_params=fused)
    model = DistributedModelParallel(
        module,
        env=ShardingEnv.from_process_group(dist.GroupMember.WORLD),
        device=place.device,
        plan=_plan(module, recipe, sharder, place),
        sharders=[sharder],
        init_data_parallel=place.world_size > 1,  # one rank has nobody to agree with on gradients
    )
    mlps = dict(in_backward_optimizer_filter(model.named_parameters()))
    mlp_optimizer = KeyedOptimizerWrapper(mlps, lambda p: torch.optim.Adagrad(p, lr=config.lr, eps=EPS))
    optimizer = CombinedOptimizer([model.fused_optimizer, mlp_optimizer])
    return Model(model, optimizer, model.fused_optimizer, mlp_optimizer)


def _check_size(recipe: Recipe, config: ModelConfig, place: Place) -> None:
    """Refuse what cannot be held, before a part of it is allocated and the system ends the process without a word."""
    if place.device.type == "cuda":
        memory: int = torch.cuda.get_device_properties(place.device).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    ranks = ranks_of_tables(recipe.num_embeddings, place.world_size)
    rows = sum(count for name, count in recipe.num_embeddings.items() if ranks[name] == place.rank)
    vectors = len(recipe.num_embeddings) + 1  # one of the dense features
    bottom = [max(1, len(recipe.dense_names)), *config.bottom_mlp, config.embedding_dim]
    top = [config.embedding_dim + vectors * (vectors - 1) // 2, *config.top_mlp, 1]
    tables = rows * (2 * config.embedding_dim if config.table_optimizer == "adagrad" else config.embedding_dim + 1)
    nbytes = 4 * (tables + 2 * sum(a * b for mlp in (bottom, top) for a, b in pairwise(mlp)))  # Adagrad's sums, too
    if nbytes > memory:
        raise UsageError(
            f"model: expected tables and layers that fit into {memory / 2**30:.1f} GiB of memory, found "
            f"{nbytes / 2**30:.1f} GiB; lower --num-buckets (or the recipe's), --embedding-dim or the layers' sizes"
        )


def _dlrm(recipe: Recipe, config: ModelConfig) -> DLRM:
    tables = [
        EmbeddingBagConfig(
            name=table_name(name),
            embedding_dim=config.embedding_dim,
            num_embeddings=rows,
            feature_names=[name],
            pooling=PoolingType.MEAN,  # a list of twenty weighs no more than a list of one
            init_fn=_init_table,
        )
        for name, rows in recipe.num_embeddings.items()
    ]
    return DLRM(
        EmbeddingBagCollection(tables, device=torch.device("meta")),
        dense_in_features=max(1, len(recipe.dense_names)),
        dense_arch_layer_sizes=[*config.bottom_mlp, config.embedding_dim],
        over_arch_layer_sizes=[*config.top_mlp, 1],
    )


def table_name(feature: str) -> str:
    """Return the name of a feature's table: the feature's own, unless torch could not have a module of that name.

    Two features never get the same one, and batches keep the feature's name. Torch refuses a dot, and whatever
    its dict of modules has as an attribute ("type", "keys"); "%" marks what stands for another name.
    """
    name = feature.replace("%", "%25").replace(".", "%2E")
    return f"%{name}" if hasattr(nn.ModuleDict, name) or name in _INSTANCE_NAMES else name


def _init_table(weights: torch.Tensor) -> torch.Tensor:
    return nn.init.uniform_(weights, -INIT_RANGE, INIT_RANGE)


def ranks_of_tables(rows: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Put each table, the largest first, whole on the rank that has the fewest rows so far.

    Args:
        rows: of each table.
        world_size: number of ranks.
    """
    load = [0] * world_size
    ranks: dict[str, int] = {}
    for name, count in sorted(rows.items(), key=lambda item: -item[1]):
        ranks[name] = load.index(min(load))
        load[ranks[name]] += count
    return ranks


def _plan(module: ClickModel, recipe: Recipe, sharder: EmbeddingBagCollectionSharder, place: Place) -> ShardingPlan:
    path = "dlrm.sparse_arch.embedding_bag_collection"
    ranks = ranks_of_tables(recipe.num_embeddings, place.world_size)
    plan = construct_module_sharding_plan(
        module.get_submodule(path),
        {table_name(name): table_wise(rank=ranks[name], compute_kernel="fused") for name in recipe.num_embeddings},
        sharder=sharder,
        local_size=place.local_world_size,
        world_size=place.world_size,
        device_type=place.device.type,
    )
    return ShardingPlan({path: plan})
