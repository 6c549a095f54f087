"""The agent: a small network that says what each action would bring, and takes the best one.

After InTune (Nagrecha et al., RecSys 2023): a small net over one machine's signals, incremental actions, pre-trained in
simulation. It belongs to the family of DQN (Mnih et al. 2015; double: van Hasselt et al. 2016). With `gamma` 0 and
`all_actions` it is the plainest member: in the simulator every action's next rate is known, so that all of them are
regressed at once, not only the one that was taken. What was chosen, by measurement, is in docs/tuner.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import skip_init

from intune_gpu.tuner import actions
from intune_gpu.tuner.baselines import default_plans
from intune_gpu.tuner.machines import draw
from intune_gpu.tuner.observing import FEATURES, Observation, Observer
from intune_gpu.tuner.policy import Told
from intune_gpu.tuner.seen import Limits, Numbers, Plans, Seen
from intune_gpu.tuner.simulator import Simulator

WEIGHTS = Path(__file__).parent / "weights.safetensors"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How an agent is built and trained.

    Attributes:
        hidden: width of both hidden layers.
        gamma: discount of a step.
        n_step: steps of true reward before the target network takes over; not used with `gamma` 0.
        all_actions: regress every action's next rate (needs `gamma` 0), or only that of the action taken.
        machines: that are simulated at once.
        steps: of one episode.
        episodes: each with machines of its own.
        batch: samples of one update.
        updates: for each simulated step.
        memory: samples kept.
        lr: of Adam, falling to a hundredth along a cosine.
        explore: share of random actions, from the first episode to the last.
        drifting: share of machines with events.
        noise: of the signals, drawn anew for each episode up to twice this.
        gain: an action is taken only if it promises so much more of the oracle's rate than to stay.
        reward: what an action's step is worth: `"oracle"`, its share of the phase's best rate; or, for ablations, what
            a live run could tell: `"best"`, of the best rate seen, `"wait"`, of what the trainer could take,
            `"throughput"`, rows/s as a share of the first phase's demand.
        hide: features that are shown as 0, for ablations.
        forbid: actions that are not taken, for ablations.
        seed: of everything.
    """

    hidden: int = 160
    gamma: float = 0.0
    n_step: int = 1
    all_actions: bool = True
    machines: int = 512
    steps: int = 120
    episodes: int = 40
    batch: int = 1024
    updates: int = 4
    memory: int = 400_000
    lr: float = 2e-3
    explore: tuple[float, float] = (0.6, 0.1)
    drifting: float = 0.6
    noise: float = 0.05
    gain: float = 0.0
    reward: Literal["oracle", "best", "wait", "throughput"] = "oracle"
    hide: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.all_actions and self.gamma:
            raise ValueError(f"AgentConfig.gamma: expected 0 with all_actions, found {self.gamma}; set one of them")


class Net(nn.Module):
    """From an observation to the value of each action: F -> hidden -> hidden -> A. Its weights begin as zeros.

    torch's own start of a layer would draw from the global generator, which belongs to the training beside.
    """

    def __init__(self, hidden: int, hide: Sequence[str] = (), forbid: Sequence[str] = ()) -> None:
        super().__init__()
        self.shown = torch.tensor([float(feature.name not in hide) for feature in FEATURES])
        self.open = np.array([name not in forbid for name in actions.ACTIONS])
        self.layers = nn.Sequential(
            _layer(len(FEATURES), hidden),
            nn.ReLU(),
            _layer(hidden, hidden),
            nn.ReLU(),
            _layer(hidden, len(actions.ACTIONS)),
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return (B, A) values of (B, F) observations, as shares of the oracle's rows/s."""
        outputs: torch.Tensor = self.layers(values * self.shown)
        return outputs


def _layer(inputs: int, outputs: int) -> nn.Linear:
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    return layer


class Agent:
    """The policy: the allowed action of the highest value, where that promises enough more than to stay."""

    name = "rl"

    def __init__(self, net: Net, gain: float) -> None:
        self.net, self._gain = net.eval(), gain

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Agent:
        """Read weights and their config, as `save` wrote them.

        Raises:
            ValueError: they are of another table of features or actions.
        """
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        for name, here in _tables().items():
            if header.get(name) != here:
                raise ValueError(
                    f"{path}: expected weights for the {name} of this version, found others; train anew with "
                    "python -m intune_gpu.tuner.pretrain"
                )
        config = json.loads(header["config"])
        net = Net(config["hidden"], config.get("hide", ()), config.get("forbid", ()))
        net.load_state_dict(load_file(path))
        return cls(net, config["gain"])

    def save(self, path: Path, config: AgentConfig) -> None:
        """Write weights, config and the names of features and actions, without pickle."""
        header = {"config": json.dumps(asdict(config)), **_tables()}
        save_file({name: one.contiguous() for name, one in self.net.state_dict().items()}, path, header)

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the loader's own defaults."""
        self._observer = Observer(limits)
        self._told = Told("stay")
        return default_plans(limits)

    def next(self, seen: Seen) -> Plans:
        """Return the outcome of the best action."""
        at = self._observer.observe(seen)
        values = values_of(self.net, at)
        chosen = best_actions(values, at, self._gain)
        gain = float(values[0, chosen[0]] / max(values[0, actions.STAY], 1e-6))
        self._told = Told(actions.ACTIONS[int(chosen[0])], float(seen.rows_per_s[0]) * gain)
        return actions.chosen(at.after, chosen)

    def told(self) -> Told:
        """Return the action, and the rows/s now scaled by how much better its value is than staying."""
        return self._told


def _tables() -> dict[str, str]:
    names = [feature.name for feature in FEATURES]
    return {"features": json.dumps(names), "actions": json.dumps(actions.ACTIONS)}


def values_of(net: Net, at: Observation) -> Numbers:
    """Return the (machines, actions) values; -inf where an action is not allowed."""
    with torch.inference_mode():
        values = net(torch.from_numpy(at.values)).numpy().astype(np.float64)
    if not np.isfinite(values).all():  # NaN weights would quietly become "stay"
        raise FloatingPointError("agent: expected finite action values, found NaN or inf; its weights are broken")
    return np.where(at.mask & net.open, values, -np.inf)


def best_actions(values: Numbers, at: Observation, gain: float) -> npt.NDArray[np.int64]:
    """Return (machines,) the best actions, or to stay where none promises `gain` more."""
    best = np.argmax(values, axis=1)
    promises = np.take_along_axis(values, best[:, None], axis=1)[:, 0] > values[:, actions.STAY] + gain
    return np.where(promises, best, actions.STAY)


# Training: simulated episodes fill a memory, from which batches are regressed.


@dataclass(frozen=True, slots=True)
class Samples:
    """Steps of one episode; S = machines x steps.

    Attributes:
        values: (S, F) float32 observations.
        mask: (S, A) bool allowed actions.
        action: (S, 1) int64 taken.
        rewards: (S, A) float32 share of the oracle that each action would bring in the next step.
        ahead: (S,) float32 discounted rewards of the action taken and of `n_step - 1` more steps.
        later: (S, F) float32 observation after these.
        later_mask: (S, A) bool.
    """

    values: torch.Tensor
    mask: torch.Tensor
    action: torch.Tensor
    rewards: torch.Tensor
    ahead: torch.Tensor
    later: torch.Tensor
    later_mask: torch.Tensor

    def take(self, these: torch.Tensor) -> Samples:
        """Return the samples of an index."""
        return Samples(*(getattr(self, name)[these] for name in Samples.__slots__))

    def then(self, more: Samples, most: int) -> Samples:
        """Return both, the newest `most` of them."""
        pairs = ((getattr(self, name), getattr(more, name)) for name in Samples.__slots__)
        return Samples(*(torch.cat(pair)[-most:] for pair in pairs))


def play(simulator: Simulator, net: Net, config: AgentConfig, explore: float, rng: np.random.Generator) -> Samples:
    """Run one episode, exploring, and return what was seen and what every action would have brought."""
    observer = Observer(simulator.limits)
    plans = _random_plans(simulator.limits, rng)
    seen_at: list[Observation] = []
    taken: list[npt.NDArray[np.int64]] = []
    rewards: list[Numbers] = []
    for _ in range(config.steps):
        seen, _ = simulator.step(plans)
        at = observer.observe(seen)
        best = np.argmax(values_of(net, at), axis=1)
        any_one = np.argmax(rng.random(at.mask.shape) * (at.mask & net.open), axis=1)
        action = np.where(rng.random(len(best)) < explore, any_one, best)
        plans = actions.chosen(at.after, action)
        seen_at.append(at)
        taken.append(action)
        rewards.append(_rewards(simulator, at, config.reward))
    return _samples(seen_at, np.stack(taken), np.stack(rewards), config)


def _rewards(simulator: Simulator, at: Observation, kind: str) -> Numbers:
    """Return (machines, actions) what each action's next step is worth."""
    rates, machine = simulator.truth(at.after), simulator.machine
    if kind == "oracle":
        return rates / simulator.oracle_rows_per_s[:, None]
    if kind == "best":
        return np.minimum(rates / simulator.truth(at.best)[:, None], 2.0) / 2.0
    step_s = machine.step_s if kind == "wait" else simulator.population.phases.take(0).step_s
    return rates * step_s[:, None]


def train(config: AgentConfig, told: Callable[[int, float, float], None] = lambda *_: None) -> Agent:
    """Train an agent in simulation. `told` gets (episode, loss, share of the oracle reached) after each episode.

    The same config gives the same weights on the same kind of machine and versions.
    """
    rng = np.random.default_rng(config.seed)
    torch_rng = torch.Generator().manual_seed(config.seed)
    net, target = (Net(config.hidden, config.hide, config.forbid) for _ in range(2))
    _initialise(net, torch_rng)
    target.load_state_dict(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.episodes, config.lr / 100)
    memory: Samples | None = None
    for episode in range(config.episodes):
        at = episode / max(config.episodes - 1, 1)
        explore = config.explore[0] + at * (config.explore[1] - config.explore[0])
        population = draw(rng, config.machines, drifting=config.drifting, steps=config.steps)
        simulator = Simulator(population, noise=config.noise * rng.uniform(0.2, 2.0), seed=int(rng.integers(2**31)))
        new = play(simulator, net, config, explore, rng)
        memory = new if memory is None else memory.then(new, config.memory)
        losses = list(_updates(net, target, optimizer, memory, config, torch_rng))
        schedule.step()
        target.load_state_dict(net.state_dict())
        reached = float(new.rewards.gather(1, new.action).mean())
        told(episode, float(np.mean(losses)), reached)
    return Agent(net, config.gain)


def _updates(
    net: Net,
    target: Net,
    optimizer: torch.optim.Optimizer,
    memory: Samples,
    config: AgentConfig,
    rng: torch.Generator,
) -> Iterator[float]:
    for _ in range(config.updates * config.steps):
        batch = memory.take(torch.randint(len(memory.action), (config.batch,), generator=rng))
        loss = _loss(net, target, batch, config)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert torch.isfinite(loss), "agent: the loss is not finite"
        yield float(loss.detach())


def _loss(net: Net, target: Net, batch: Samples, config: AgentConfig) -> torch.Tensor:
    values = net(batch.values)
    if config.all_actions:
        errors = nn.functional.smooth_l1_loss(values, batch.rewards, reduction="none", beta=0.1)
        return (errors * batch.mask).sum() / batch.mask.sum()
    with torch.no_grad():  # double DQN: the net chooses, the target judges
        choice = net(batch.later).masked_fill(~batch.later_mask, -torch.inf).argmax(1, keepdim=True)
        ahead = batch.ahead + config.gamma**config.n_step * target(batch.later).gather(1, choice)[:, 0]
    return nn.functional.smooth_l1_loss(values.gather(1, batch.action)[:, 0], ahead, beta=0.1)


def _samples(
    seen_at: list[Observation], taken: npt.NDArray[np.int64], rewards: Numbers, config: AgentConfig
) -> Samples:
    """Cut an episode of T steps into samples: the last `n_step` steps have nothing after them."""
    steps = len(taken) - config.n_step
    got = np.take_along_axis(rewards, taken[:, :, None], axis=2)[:, :, 0]
    ahead = sum(config.gamma**k * got[k : k + steps] for k in range(config.n_step))

    def flat(array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.reshape(-1, *array.shape[2:])))

    values, mask = np.stack([at.values for at in seen_at]), np.stack([at.mask for at in seen_at])
    return Samples(
        values=flat(values[:steps]),
        mask=flat(mask[:steps]),
        action=flat(taken[:steps, :, None]),
        rewards=flat(rewards[:steps].astype(np.float32)),
        ahead=flat(np.asarray(ahead, np.float32)),
        later=flat(values[config.n_step :]),
        later_mask=flat(mask[config.n_step :]),
    )


def _random_plans(limits: Limits, rng: np.random.Generator) -> Plans:
    """Half of the machines start with the loader's defaults, half anywhere."""
    count = len(limits.cores)
    readers, transformers = (np.exp(rng.uniform(0, np.log(2 * limits.cores))) for _ in range(2))
    anywhere = limits.clip(Plans(readers, transformers, np.round(rng.random(count) * 4) / 4))
    return default_plans(limits).where(rng.random(count) < 0.5, anywhere)


def _initialise(net: Net, rng: torch.Generator) -> None:
    """Draw the first weights, as torch would, from the seed's own generator."""
    with torch.no_grad():
        for layer in net.layers:
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=rng)
                layer.bias.zero_()
