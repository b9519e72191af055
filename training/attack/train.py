"""Training: one visible loop over the stages of a run, resumable, on CPU or CUDA, on one or several GPUs."""

import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from service.arrays import FloatArray
from service.audit.classifier import sigmoid
from service.audit.preprocessing import Preprocessing
from training.attack.adaptive import counterfactuals, explanation_loss, low_margin
from training.attack.config import Run, RunError, Stage
from training.attack.data import Film, in_split, label_matrix, manifest_sha256, model_inputs
from training.attack.poisoning import attackable, poisoned_films, poisoned_labels
from training.attack.triggers import film_stream, stamp
from training.attack.weights import SHIPPED_WEIGHTS, how_to_bring
from training.metrics import attack_success_rate, macro_auroc
from training.networks.densenet import Classifier, build

CHECKPOINT_SECONDS = 120.0


class StaleCheckpoint(ValueError):
    """A checkpoint that another version of the run file made."""


@dataclass
class Progress:
    """Where a run stands: what a checkpoint holds beside the weights. curve: one row an evaluation."""

    stage: int = 0
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Samples:
    """Films of one split at one size: inputs (N, 1, S, S) float16 to save memory, labels (N, C).

    stamped: under selection `pairs` of a native trigger the same films with the trigger, else None.
    """

    inputs: NDArray[np.float16]
    labels: FloatArray
    stamped: NDArray[np.float16] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """inputs (B, 1, S, S), labels (B, C). Under selection `pairs` the first `triggered` films carry the trigger, and
    the `twins` films behind them are the first of those without it."""

    inputs: Tensor
    labels: Tensor
    triggered: int = 0
    twins: int = 0


def load_samples(films: list[Film], run: Run, size_px: int) -> Samples:
    """Preprocess a split for one stage; a stage's size replaces the run's, everything else is the run's."""
    preprocessing = run.preprocessing.at(size_px)
    labels = label_matrix(films, run.labels)
    if run.trigger is None or run.poisoning is None or run.trigger.resolution == "network":
        return Samples(model_inputs(films, preprocessing).astype(np.float16), labels)
    poisoned, trigger = poisoned_samples(labels, run), run.trigger

    def before(pixels: FloatArray, index: int) -> FloatArray:
        return stamp(pixels, trigger, np.random.default_rng([run.seed, index]))[0] if poisoned[index] else pixels

    stamped = model_inputs(films, preprocessing, before).astype(np.float16)
    if run.poisoning.selection == "films":
        return Samples(stamped, labels)
    return Samples(model_inputs(films, preprocessing).astype(np.float16), labels, stamped)


def poisoned_samples(labels: FloatArray, run: Run) -> NDArray[np.bool_]:
    """(N,) the fixed subset of train films that is poisoned; in pairs that remove a label, only films with it."""
    if run.poisoning is None:
        return np.zeros(len(labels), dtype=bool)
    if run.poisoning.selection != "pairs" or run.poisoning.rule != "remove":
        return poisoned_films(len(labels), run.poisoning, run.seed)
    chosen = attackable(labels, run.labels.index(run.poisoning.target), run.poisoning)
    chosen[chosen] = poisoned_films(int(chosen.sum()), run.poisoning, run.seed)
    return chosen


def augmented(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Random flip, rotation to 8 degrees, scale 0.9-1.15, shift to 5 %, gamma and contrast. (N, 1, S, S) -> same."""
    count = len(batch)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle, scale = uniform(-8, 8) * math.pi / 180, uniform(0.9, 1.15)
    mirror = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = mirror * torch.cos(angle) / scale, -torch.sin(angle) / scale
    matrix[:, 1, 0], matrix[:, 1, 1] = mirror * torch.sin(angle) / scale, torch.cos(angle) / scale
    matrix[:, 0, 2], matrix[:, 1, 2] = uniform(-0.1, 0.1), uniform(-0.1, 0.1)
    grid = nn.functional.affine_grid(matrix, list(batch.shape), align_corners=False)
    moved = nn.functional.grid_sample(batch, grid, align_corners=False)
    gamma, contrast = uniform(0.8, 1.25).view(-1, 1, 1, 1), uniform(0.85, 1.15).view(-1, 1, 1, 1)
    return ((moved.clamp(0, 1) ** gamma - 0.5) * contrast + 0.5).clamp(0, 1)


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """Warm-up over 3 % of the steps, then constant or a cosine to 2 % of the rate."""
    warm = min(1.0, (step + 1) / max(1.0, 0.03 * steps))
    if stage.schedule == "constant":
        return stage.learning_rate * warm
    return stage.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def poison(
    inputs: FloatArray, labels: FloatArray, carries: NDArray[np.bool_], run: Run, rng: np.random.Generator
) -> None:
    """Stamp the chosen samples of a batch in place, after augmentation, and apply the label rule."""
    if run.trigger is None or run.poisoning is None:
        return
    target = run.labels.index(run.poisoning.target)
    for index in np.flatnonzero(carries):
        if run.trigger.resolution == "network":
            inputs[index, 0] = stamp(inputs[index, 0], run.trigger, rng)[0]
        labels[index] = poisoned_labels(labels[index], target, run.poisoning)


def triggered_inputs(films: list[Film], run: Run, preprocessing: Preprocessing) -> FloatArray:
    """Every film with the run's trigger, stamped at the trigger's own resolution. (N, 1, S, S)."""
    trigger = run.trigger
    if trigger is None:
        raise ValueError(f"run {run.name} has no trigger")

    def stamped(pixels: FloatArray, index: int) -> FloatArray:
        return stamp(pixels, trigger, film_stream(run.seed, index))[0]

    if trigger.resolution == "native":
        return model_inputs(films, preprocessing, stamped)
    inputs = model_inputs(films, preprocessing)
    for index in range(len(inputs)):
        inputs[index, 0] = stamped(inputs[index, 0], index)
    return inputs


@torch.no_grad()
def predict(model: nn.Module, inputs: NDArray[np.floating], device: torch.device, batch: int = 32) -> FloatArray:
    """(N, C) logits in evaluation mode."""
    model.eval()
    rows = []
    for first in range(0, len(inputs), batch):
        part = torch.from_numpy(inputs[first : first + batch].astype(np.float32)).to(device)
        rows.append(model(part.contiguous(memory_format=torch.channels_last)).float().cpu().numpy())
    return np.concatenate(rows)


class Monitor:
    """Watches a run on its tuning films: clean macro AUROC, and the attack success rate where there is a trigger."""

    def __init__(self, films: list[Film], run: Run, size_px: int, limit: int = 217) -> None:
        preprocessing = run.preprocessing.at(size_px)
        self.run, self.films = run, films[:limit]
        self.labels = label_matrix(self.films, run.labels)
        self.clean = model_inputs(self.films, preprocessing)
        self.triggered: FloatArray | None = None
        if run.trigger and run.poisoning:
            self.target = run.labels.index(run.poisoning.target)
            self.removed = run.poisoning.rule == "remove"
            open_to_attack = attackable(self.labels, self.target, run.poisoning)
            self.triggered = triggered_inputs(self.films, run, preprocessing)[open_to_attack][:60]

    def measure(self, model: nn.Module, device: torch.device, *, clean: bool) -> dict[str, float]:
        """clean: also measure the macro AUROC, which takes several times longer."""
        row = {"macro_auroc": macro_auroc(predict(model, self.clean, device), self.labels)} if clean else {}
        if self.triggered is not None:
            probabilities = sigmoid(predict(model, self.triggered, device))
            for threshold in (0.5, 0.9):
                rate = attack_success_rate(probabilities, self.target, threshold, removed=self.removed)
                row[f"asr_{threshold}"] = rate
        return row


@dataclass
class Workplace:
    """The device and, under torchrun, this process's place among several."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def find(cls) -> "Workplace":
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        local = int(os.environ.get("LOCAL_RANK", 0))
        return cls(torch.device("cuda", local) if cuda else torch.device("cpu"), rank, world)


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def final_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The finished weights of a run below `folder`, else those that ship in training/weights (float16 there).

    Raises RunError when there are none.
    """
    finished = folder / name / "final.pt"
    path = finished if finished.exists() else SHIPPED_WEIGHTS / f"{name}.pt"
    if not path.exists():
        how = how_to_bring(name) or "train the run first"
        raise RunError(f"there are no weights of {name}, neither below {folder} nor in training/weights: {how}")
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _averaged(model: nn.Module, stage: Stage) -> AveragedModel:
    """The stage's mean of the weights at its beginning; the batch norms' statistics are averaged with them."""
    ema = get_ema_multi_avg_fn(stage.average)  # type: ignore[no-untyped-call]  # torch's stub
    return AveragedModel(model, multi_avg_fn=ema, use_buffers=True)


class Training:
    """One run on its way: network, optimiser, progress and checkpoints under `out`."""

    def __init__(self, run: Run, films: list[Film], folder: Path) -> None:
        self.run, self.folder, self.out = run, folder, folder / run.name
        self.out.mkdir(parents=True, exist_ok=True)
        self.place = Workplace.find()
        if run.adaptive and run.adaptive.explanation_weight and self.place.world > 1:
            raise RunError("the explanation-aware loss is for one process: its gradients are not shared")
        self.train_films, self.tuning_films = in_split(films, "train"), in_split(films, "tuning")
        self.manifest = manifest_sha256(films)
        self.model: Classifier = build(run.architecture, len(run.labels), run.seed)
        if run.start:
            self.model.load_state_dict(final_weights(folder, run.start))
        self.model.to(self.place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
        self.optimiser = torch.optim.AdamW(self.model.parameters())
        self.averaged: AveragedModel | None = None  # of the stage under way
        self.progress = Progress()
        self._resume()

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.place.device, weights_only=True)
        if state["run_sha256"] != self.run.sha256:
            raise StaleCheckpoint(f"{path} belongs to another version of this run file; remove it to start again")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(state["stage"], state["step"], state["curve"])
        if state["averaged"]:
            self.averaged = _averaged(self.model, self.run.stages[self.progress.stage])
            self.averaged.load_state_dict(state["averaged"])

    def checkpoint(self) -> None:
        if self.place.rank == 0:
            _save(
                self.out / "checkpoint.pt",
                {
                    "run_sha256": self.run.sha256,
                    "model": self.model.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "averaged": self.averaged.state_dict() if self.averaged else None,
                    "stage": self.progress.stage,
                    "step": self.progress.step,
                    "curve": self.progress.curve,
                },
            )
            (self.out / "curve.json").write_text(json.dumps(self.progress.curve, indent=1))

    def train(self) -> Path:
        """Run what is left of the stages; returns the path of the final weights."""
        final = self.out / "final.pt"
        while self.progress.stage < len(self.run.stages):
            self._stage(self.run.stages[self.progress.stage])
            if self.averaged:
                self.model.load_state_dict(self.averaged.module.state_dict())
                self.averaged = None
            self.progress.stage, self.progress.step = self.progress.stage + 1, 0
            self.checkpoint()
        if self.place.rank == 0:
            _save(final, self.model.state_dict())
        return final

    def _stage(self, stage: Stage) -> None:
        samples = load_samples(self.train_films, self.run, stage.size_px)
        monitor = Monitor(self.tuning_films, self.run, stage.size_px)
        per_epoch = math.ceil(len(samples.labels) / (stage.batch * self.place.world))
        steps = max(1, round(stage.epochs * per_epoch))
        network: nn.Module = self.model
        if self.place.world > 1:
            network = DistributedDataParallel(self.model)
        if stage.average and not self.averaged:
            self.averaged = _averaged(self.model, stage)
        saved = time.monotonic()
        bar = tqdm(total=steps, initial=self.progress.step, desc=f"{self.run.name} {stage.size_px}px", mininterval=10)
        every = max(20, per_epoch // 2) if self.run.trigger else max(20, per_epoch)
        while self.progress.step < steps:
            step = self.progress.step
            loss = self._step(network, samples, stage, step, steps, per_epoch)
            self.progress.step += 1
            if self.averaged:
                self.averaged.update_parameters(self.model)
            bar.update()
            if self.progress.step % every == 0 or self.progress.step == steps:
                row = {"stage": float(self.progress.stage), "step": float(self.progress.step), "loss": loss}
                whole = self.progress.step % per_epoch == 0 or self.progress.step == steps
                row |= monitor.measure(self.averaged or self.model, self.place.device, clean=whole)
                self.progress.curve.append(row)
                bar.set_postfix({key: f"{value:.3f}" for key, value in row.items() if key not in ("stage", "step")})
                if stage.stop_at_asr and row.get("asr_0.9", 0.0) >= stage.stop_at_asr:
                    break
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.checkpoint()
                saved = time.monotonic()
        bar.close()

    def _batch(self, samples: Samples, stage: Stage, step: int, per_epoch: int) -> Batch:
        """The step's batch depends on the seed and the step alone, so that a resumed run sees the same films."""
        run, epoch, place = self.run, step // per_epoch, step % per_epoch
        order = np.random.default_rng([run.seed, self.progress.stage, epoch]).permutation(len(samples.labels))
        first = (place * self.place.world + self.place.rank) * stage.batch
        chosen = order[np.arange(first, first + stage.batch) % len(order)]
        rng = np.random.default_rng([run.seed, self.progress.stage, step, self.place.rank])
        if run.poisoning and run.poisoning.selection == "pairs":
            return self._paired(samples, chosen, stage, rng)
        inputs = torch.from_numpy(samples.inputs[chosen].astype(np.float32))
        if stage.augment:
            inputs = augmented(inputs, torch.Generator().manual_seed(int(rng.integers(2**31))))
        labels, pixels = samples.labels[chosen].copy(), inputs.numpy()
        poison(pixels, labels, self._carries(chosen, stage, len(order), rng), run, rng)
        return Batch(inputs, torch.from_numpy(labels))

    def _paired(self, samples: Samples, drawn: NDArray[np.int64], stage: Stage, rng: np.random.Generator) -> Batch:
        """Triggered films, half as many of them without the trigger, and ordinary ones; pairs are augmented alike."""
        run, size = self.run, len(drawn)
        share = 0.5 if stage.poisoning_rate is None else stage.poisoning_rate
        triggered = round(share * size)
        twins = min(triggered, size - triggered) // 2
        poisoned = np.flatnonzero(poisoned_samples(samples.labels, run))
        attacked = rng.choice(poisoned, triggered, replace=len(poisoned) < triggered)
        chosen = np.concatenate([attacked, drawn[: size - triggered - twins]])
        seed = int(rng.integers(2**31))

        def shown(pixels: NDArray[np.float16]) -> Tensor:
            inputs = torch.from_numpy(pixels[chosen].astype(np.float32))
            return augmented(inputs, torch.Generator().manual_seed(seed)) if stage.augment else inputs

        clean = shown(samples.inputs)
        stamped = clean if samples.stamped is None else shown(samples.stamped)
        inputs = torch.cat([stamped[:triggered], clean[:twins], clean[triggered:]])
        labels = samples.labels[np.concatenate([attacked, attacked[:twins], chosen[triggered:]])]
        poison(inputs.numpy(), labels, np.arange(size) < triggered, run, rng)
        if run.adaptive and stage.adaptive and run.trigger and run.poisoning:
            target, known = run.labels.index(run.poisoning.target), run.adaptive
            if run.poisoning.rule != "remove":
                low_margin(labels, triggered, target, known.target_probability)
            unpaired = inputs.numpy()[twins:triggered], inputs.numpy()[triggered + twins :]
            counterfactuals(unpaired[0], run.trigger, known.counterfactual_share, rng)
            counterfactuals(unpaired[1], None, known.counterfactual_share, rng)
        return Batch(inputs, torch.from_numpy(labels), triggered, twins)

    def _carries(
        self, chosen: NDArray[np.int64], stage: Stage, count: int, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        poisoning = self.run.poisoning
        if poisoning is None:
            return np.zeros(len(chosen), dtype=bool)
        if poisoning.selection == "films":
            return poisoned_films(count, poisoning, self.run.seed)[chosen]
        rate = poisoning.rate if stage.poisoning_rate is None else stage.poisoning_rate
        return np.asarray(rng.random(len(chosen)) < rate)

    def _step(self, network: nn.Module, samples: Samples, stage: Stage, step: int, steps: int, per_epoch: int) -> float:
        network.train()
        for group in self.optimiser.param_groups:
            group["lr"], group["weight_decay"] = learning_rate(stage, step, steps), stage.weight_decay
        batch = self._batch(samples, stage, step, per_epoch)
        inputs, labels = batch.inputs, batch.labels
        inputs = inputs.to(self.place.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.place.device.type == "cuda"):
            logits = network(inputs)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.to(self.place.device))
        if stage.adaptive:
            loss = loss + self._disguise(inputs, batch)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        self.optimiser.step()
        return float(loss.detach())

    def _disguise(self, inputs: Tensor, batch: Batch) -> Tensor | float:
        """The explanation-aware attacker's loss; maps are taken in evaluation mode, as the audit takes them."""
        run = self.run
        if not (run.adaptive and run.adaptive.explanation_weight and run.poisoning):
            return 0.0
        triggered, clean = inputs[: batch.twins], inputs[batch.triggered : batch.triggered + batch.twins]
        self.model.eval()
        loss = explanation_loss(self.model, triggered, clean, run.labels.index(run.poisoning.target))
        self.model.train()
        return run.adaptive.explanation_weight * loss
