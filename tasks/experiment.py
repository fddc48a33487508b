"""One whole run: from a plain config to a trained model, its figures, its pictures, and its checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from vsattn.build import build
from vsattn.checkpoint import payload
from vsattn.errors import ConfigError
from vsattn.model import build_model
from vsattn.tokenizers.base import Tokenizer

from .base import Task
from .data.base import Data
from .plots import draw_curves
from .report import environment, text_table, write_metrics
from .training import Result, train

#: At most so many training items are shown to a tokenizer's `fit`.
FIT_ITEMS = 5000


def run(config: dict[str, Any], folder: Path, *, started: float | None = None) -> Result:
    """Train and test what a config describes, and write all results into a folder.

    Args:
        config: plain and resolved; the keys are those of `conf/config.yaml`.
        folder: the run folder; made if it is not there. It must not hold another run.
        started: `time.time()` when the program started; None is now.

    Returns:
        The result; ``metrics.json`` in the folder holds the same figures.

    Raises:
        ConfigError, ShapeError: before training, for parts that cannot be built or do not go together.
        DataError: for data that are missing or cannot be read.
    """
    started = time.time() if started is None else started
    _open_folder(folder, config)
    if config.get("num_threads"):
        torch.set_num_threads(config["num_threads"])
    seed_everything(config["seed"], verbose=False)
    data: Data = build(config["data"], Data, path="data")
    data.setup(config["seed"])
    task = make_task(config, data)
    shapes = _try_out(task, data)
    print(_announcement(config, data, task, shapes, folder), flush=True)
    seed_everything(config["seed"], verbose=False)
    result = train(
        task,
        data,
        folder=folder,
        batch_size=config["batch_size"],
        num_workers=config["num_workers"],
        seed=config["seed"],
        trainer=config["trainer"],
        callbacks=_build_all(config, "callbacks", Callback, folder),
        loggers=_build_all(config, "logger", Logger, folder),
    )
    _write_report(result, config, folder, started)
    return result


def make_task(config: dict[str, Any], data: Data) -> Task:
    """Fit the tokenizer, build the model with the sizes that it found, and put both into a task."""
    tokenizer: Tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer")
    tokenizer.fit(data.fit_items(FIT_ITEMS))
    model = build_model(config, tokenizer, num_classes=len(data.classes))
    return build(
        config["task"],
        Task,
        path="task",
        model=model,
        tokenizer=tokenizer,
        classes=data.classes,
        optimizer=build(config["optimizer"], torch.optim.Optimizer, path="optimizer"),
        schedule=_schedule(config),
        payload=payload(config, tokenizer, data.classes),
    )


def _schedule(config: dict[str, Any]) -> Any:
    if config.get("schedule") is None:
        return None
    return build(config["schedule"], torch.optim.lr_scheduler.LRScheduler, path="schedule")


def _build_all(config: dict[str, Any], group: str, slot: type, folder: Path) -> list[Any]:
    """Build the named parts of a group; those that write are told the run folder."""
    places = {"dirpath": str(folder / "checkpoints"), "save_dir": str(folder)}
    named = {name: part for name, part in (config.get(group) or {}).items() if part is not None}
    return [build(part, slot, path=f"{group}.{name}", **places) for name, part in named.items()]


def _open_folder(folder: Path, config: dict[str, Any]) -> None:
    target = folder / "config.yaml"
    if target.exists():
        raise ConfigError(f"{folder} already holds a run; choose another folder with hydra.run.dir=FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _try_out(task: Task, data: Data) -> str:
    """Run two training items through the model, so that parts that do not go together show before the training."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        pairs = [data.train[i] for i in range(min(2, len(data.train)))]
        batch = task.collator(pairs, train=False)
        task.eval()
        vectors = task.model.embed(batch)
        logits = task.model(batch)
        task.train()
    grid = f" on a {vectors.grid[0]} x {vectors.grid[1]} grid" if vectors.grid else ""
    return f"{vectors.num_vectors} vectors of width {vectors.x.shape[-1]}{grid} -> {tuple(logits.shape[1:])}"


def _announcement(config: dict[str, Any], data: Data, task: Task, shapes: str, folder: Path) -> str:
    parameters = sum(p.numel() for p in task.model.parameters())
    settings = config["trainer"]
    device = settings.get("accelerator", "auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    names = {key: config[key]["_target_"].rsplit(".", 1)[-1] for key in ("tokenizer", "encoder", "head")}
    lines = [
        ("data", f"{data.name}: {len(data.train)} train, {len(data.val)} val, {len(data.test)} test; "
                 f"{len(data.classes)} classes"),
        ("model", " -> ".join(names.values()) + f", {parameters:,} parameters"),
        ("shapes", shapes),
        ("training", f"{settings.get('max_epochs', '?')} epochs, batches of {config['batch_size']}, seed {config['seed']}, "
                     f"{device}, {torch.get_num_threads()} threads, precision {settings.get('precision') or '32-true'}"),
        ("folder", str(folder)),
    ]  # fmt: skip
    return "\n".join(f"{name:9} {text}" for name, text in lines)


def _write_report(result: Result, config: dict[str, Any], folder: Path, started: float) -> None:
    task, metrics = result.task, result.metrics
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    drawn = [draw_curves(plots / "curves.png", task.history)] if task.history else []
    if not result.trainer.fast_dev_run:
        drawn += task.draw(plots, result.data.test)
    metrics.update(environment())
    metrics["parameters"] = sum(p.numel() for p in task.model.parameters())
    metrics["seed"] = config["seed"]
    metrics["device"] = str(result.trainer.strategy.root_device)
    metrics["threads"] = torch.get_num_threads()
    metrics["train_seconds"] = sum(row["seconds"] for row in task.history)
    metrics["wall_seconds"] = time.time() - started
    write_metrics(folder, metrics, task.history)
    header, rows = task.table()
    print("\n" + text_table(header, rows))
    print("\n" + _summary(metrics))
    print(f"\neverything lies in {folder}")
    checkpoints = [
        Path(callback.dirpath or "") / f"{name}.ckpt"
        for callback in result.trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        for name in ("best", "last")
    ]
    written = [*(p for p in checkpoints if p.is_file()), folder / "metrics.json", folder / "metrics.csv", *drawn]
    for path in written:
        print(f"  {path.relative_to(folder) if path.is_relative_to(folder) else path}")


def _summary(metrics: dict[str, Any]) -> str:
    """Return the figures that a person compares."""
    lines = []
    if "test/accuracy" in metrics:
        low, high = metrics.get("test/accuracy_low"), metrics.get("test/accuracy_high")
        lines.append(f"test accuracy  {metrics['test/accuracy']:.2%}  (95% interval {low:.2%} to {high:.2%})")
    if "val/accuracy" in metrics:
        lines.append(f"val accuracy   {metrics['val/accuracy']:.2%}  (epoch {metrics['best_epoch']})")
    lines.append(f"parameters     {metrics['parameters']:,}")
    lines.append(f"time           {metrics['wall_seconds']:.1f} s in all, {metrics['train_seconds']:.1f} s of training")
    return "\n".join(lines)


