"""One experiment, from a plain config to a folder with numbers, pictures and checkpoints."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vsattn.build import build
from vsattn.checkpoint import plain
from vsattn.environment import variable
from vsattn.errors import ConfigError, DataError
from vsattn.model import build_model
from vsattn.tokenizers.base import Tokenizer

from .base import Task
from .callbacks import Checkpoints
from .card import write_card
from .checks import faults as find_faults
from .cluster import folder_of_first, is_parallel, number_of_processes, proceed, rank, restarted, unfinished, waits
from .data.base import Data
from .finetune import find_origin, first_tokenizer, start
from .loggers import go_on
from .plots import curves
from .report import bootstrap, environment, peak_memory, show_tables, write_metrics
from .resuming import resumable
from .telling import quiet, written
from .training import Result, train

#: What a config must say; the rest may be left out.
REQUIRED = ("seed", "dim", "batch_size", "task", "data", "tokenizer", "encoder", "head", "trainer")

#: What PyTorch chose; a run of a sweep that names no number must not inherit that of the run before.
DEFAULT_THREADS = torch.get_num_threads()

#: How many training items a tokenizer is fitted on.
FIT_ITEMS = 5000


def run(
    config: dict[str, Any],
    folder: str | Path,
    *,
    started: float | None = None,
    resume: str | Path | None = None,
    past_its_end: bool = False,
) -> Result:
    """Run one experiment and write everything about it into ``folder``.

    Args:
        config: plain and resolved; the shipped ``conf`` shows every key.
        folder: made if need be; it must not hold an earlier run, unless that is to go on.
        started: `time.time()` when the process began, from which ``wall_seconds`` counts.
        resume: the ``last.ckpt`` of an earlier run in the same folder, which goes on from there.
        past_its_end: train on even where early stopping or a time limit had ended that run.

    Raises:
        ConfigError: before training, naming all faults of the config at once.
        CheckpointError: for a checkpoint that training cannot go on from.
        DataError: for data that are missing, cannot be read, or are others than before.
        Stopped: when asked to end by a signal; the message says how to go on.
        VsattnError: when the loss is not finite, or nothing can be written.
    """
    started = time.time() if started is None else started
    config, folder = plain(config), Path(folder)
    settings = config["trainer"] if isinstance(config.get("trainer"), dict) else {}
    first = rank(settings) == 0
    if waits(settings):
        folder = Path(folder_of_first())
    faults = [f"{name}: the config has none" for name in REQUIRED if config.get(name) is None] or find_faults(config)
    if faults:
        raise ConfigError("\n".join(faults))
    prepare(config)
    resume = resume or unfinished(folder)
    if resume is None and (folder / "config.yaml").exists() and first and not restarted():
        raise ConfigError(
            f"{folder} holds an earlier run (config.yaml is there); choose another folder, or resume={folder}"
        )
    before = None if resume is None else resumable(resume)
    task, data, lines = assemble(config, before)
    if before is not None and task.classes != before["vsattn"]["classes"]:
        raise DataError(f"the data have changed: {data.name} has other classes than the run in {folder} had")
    with contextlib.redirect_stdout(sys.stdout if first else io.StringIO()):
        announce(config, folder, task, data, lines)
    callbacks = parts(config.get("callbacks"), Callback, "callbacks", dirpath=str(folder / "checkpoints"))
    for callback in callbacks if past_its_end else ():
        if isinstance(callback, Checkpoints):
            callback.past_its_end = True
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if first:
        with written():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(text, encoding="utf-8")
        proceed(settings, folder)
    loggers = parts(config.get("logger"), Logger, "logger", save_dir=str(folder))
    if before is not None and first:
        with quiet():
            for logger in loggers:
                go_on(logger, before["global_step"])
    threads = config.get("num_threads")  # without a number, several processes share the cores
    with variable("OMP_NUM_THREADS", str(threads)) if threads else contextlib.nullcontext():
        result = train(
            task,
            data,
            folder=folder,
            batch_size=config["batch_size"],
            batch_vectors=config.get("batch_vectors"),
            num_workers=config.get("num_workers", 0),
            trainer=settings,
            callbacks=callbacks,
            loggers=loggers,
            seed=config["seed"],
            resume=resume,
        )
    if result.trainer.is_global_zero:
        with written():
            report(result, config, started)
    return result


def prepare(config: dict[str, Any]) -> None:
    """Set threads and seeds; without ``num_threads``, threads are as many as PyTorch chose at the start."""
    torch.set_num_threads(config.get("num_threads") or DEFAULT_THREADS)
    seed = config["seed"]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def assemble(config: dict[str, Any], before: dict[str, Any] | None = None) -> tuple[Task, Data, dict[str, str]]:
    """Find the data, and make tokenizer, model and task, with the weights that training starts from.

    Args:
        config: plain and resolved.
        before: the checkpoint of an earlier run, which is to go on.

    Returns:
        Task and data, and lines to print about the weights.

    Raises:
        CheckpointError, ConfigError: see :func:`~vsattn.tasks.finetune.find_origin` and `start` there.
        DataError: for data that are missing or cannot be read.
    """
    origin = find_origin(config) if before is None else None
    data: Data = build(config["data"], Data, path="data")
    data.setup(config["seed"])
    tokenizer: Tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer")
    if before is None:
        tokenizer = first_tokenizer(tokenizer, config, origin, data.fit_items(FIT_ITEMS))
    else:
        tokenizer.load_state(before["vsattn"]["tokenizer_state"])
    task = make_task(config, data, tokenizer)
    lines = start(task, origin, config, data)
    return task, data, lines if before is None else {**lines, "resuming": f"after step {before['global_step']}"}


def make_task(config: dict[str, Any], data: Data, tokenizer: Tokenizer) -> Task:
    """Build the model and the task around it."""
    classes = data.classes if tokenizer.writes is None else tokenizer.writes
    model = build_model(config, tokenizer, num_classes=len(classes))
    made = {
        name: build(config[name], slot, path=name)
        for name, slot in (("optimizer", Optimizer), ("schedule", LRScheduler))
        if config.get(name) is not None
    }
    given = {"model": model, "tokenizer": tokenizer, "classes": classes, "recipe": config, **made}
    given["beside_labels"] = getattr(data, "beside_labels", {})
    return build(config["task"], Task, path="task", **given)


def parts(group: dict[str, Any] | None, slot: type, path: str, **injected: Any) -> list[Any]:
    """Build a named group of parts, in order; an entry that is null is left out."""
    named = (group or {}).items()
    return [build(part, slot, path=f"{path}.{name}", **injected) for name, part in named if part is not None]


def announce(
    config: dict[str, Any], folder: Path, task: Task, data: Data, weights: dict[str, str] | None = None
) -> None:
    """Send two items through the model, so that what does not fit shows now, and print what will be done.

    Args:
        weights: lines about those that the model starts from.
    """
    pairs = [data.train[i] for i in range(min(2, len(data.train)))]
    batch = task.collate(pairs)
    task.eval()
    with torch.no_grad():
        vector_set = task.model.embedder(batch)  # type: ignore[operator, union-attr]
        output = task(batch)
        task.loss(output, batch)
        unused = task.unused(batch)
    task.train()
    shapes = {name: tuple(value.shape[1:]) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    inputs = " ".join(f"{name} {shape}" for name, shape in shapes.items() if name != "target")
    grid = f" in a grid of {vector_set.grid[0]} x {vector_set.grid[1]}" if vector_set.grid else ""
    parameters = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    names = [type(part).__name__ for part in (task.tokenizer, *_stages(task.model))]
    settings = config["trainer"]
    device = "cuda" if torch.cuda.is_available() and settings.get("accelerator") not in ("cpu",) else "cpu"
    lines = {
        "data": data.describe(),
        "input": f"{inputs} -> {vector_set.x.shape[1]} vectors of {vector_set.x.shape[2]}{grid} -> "
        f"output {tuple(output.shape[1:])}",
        "model": f"{' -> '.join(names)}, {parameters:,} parameters",
        "training": f"{_length(settings)}, batches of {_batches(config)}, "
        f"precision {settings.get('precision') or '32-true'}, seed {config['seed']}",
        "device": f"{device}, {torch.get_num_threads()} threads",
        "folder": str(folder),
    }
    if is_parallel(settings):
        lines["processes"] = str(number_of_processes(settings) or "one a device")
        norms = [name for name, part in task.model.named_modules() if isinstance(part, _BatchNorm)]
        apart = f"{', '.join(norms[:3])}: torch's own BatchNorm, so each process takes the statistics of its own share"
        lines |= {"note": apart} if norms and not settings.get("sync_batchnorm") else {}
    lines |= {"note": unused} if unused else {}
    lines |= weights or {}
    for name, text in lines.items():
        print(f"{name:9} {text}", flush=True)


def floor(task: Task, data: Data, seed: int) -> dict[str, Any]:
    """Return how well the task's trivial baseline does on the same test split, by name, where it has one."""
    correct = task.floor(data)
    if correct is None:
        return {}
    low, high = bootstrap(correct, seed=seed)
    accuracy = float(correct.mean())
    print(f"\nfloor     {task.floor_name}: {accuracy:.4f}, 95% interval {low:.4f} to {high:.4f}", flush=True)
    scores = {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}
    return {"floor/name": task.floor_name, **{f"floor/{name}": value for name, value in scores.items()}}


def _length(settings: dict[str, Any]) -> str:
    """Say how long training may last."""
    if settings.get("fast_dev_run"):
        return "a few batches, to see whether everything runs"
    limits = {"epochs": settings.get("max_epochs"), "steps": settings.get("max_steps"), "": settings.get("max_time")}
    named = [f"{value} {name}".strip() for name, value in limits.items() if value not in (None, -1)]
    return f"up to {' or '.join(named)}" if named else "without a limit"


def _batches(config: dict[str, Any]) -> str:
    """Say how large batches are."""
    vectors = config.get("batch_vectors")
    return f"{config['batch_size']}" if vectors is None else f"up to {vectors} vectors"


def _stages(model: torch.nn.Module) -> list[Any]:
    found = [getattr(model, name, None) for name in ("positions", "encoder", "decoder", "head")]
    return [part for part in found if part is not None]


def report(result: Result, config: dict[str, Any], started: float) -> None:
    """Draw the plots, complete and write the metrics, and print the table and where everything lies."""
    task, folder, metrics = result.task, result.folder, result.metrics
    metrics["peak_memory_mb"] = peak_memory(result.trainer.strategy.root_device)
    metrics["parameters"] = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    if frozen := sum(p.numel() for p in task.model.parameters() if not p.requires_grad):
        metrics["parameters_frozen"] = frozen
    metrics["data/name"] = result.data.name
    metrics |= {f"data/{split}": len(getattr(result.data, split)) for split in ("train", "val", "test")}
    metrics["seed"] = config["seed"]
    metrics["device"] = str(result.trainer.strategy.root_device)
    metrics |= environment()
    # Before what is drawn and compared, so that no fault there loses it.
    write_metrics(metrics, folder / "metrics.json")
    kept = task.keep(folder, result.data)
    curves(result.rows, folder / "plots" / "curves.png", best_epoch=metrics.get("best_epoch"))
    task.draw(folder / "plots", result.data)
    metrics |= floor(task, result.data, config["seed"])
    show_tables(metrics)
    metrics["wall_seconds"] = time.time() - started
    write_metrics(metrics, folder / "metrics.json")
    write_card(folder)
    print(f"\n{metrics['wall_seconds']:.1f} s in all, {metrics['epochs']} epochs; everything lies in {folder}:")
    own = ["MODEL_CARD.md", *(file.name for file in kept)]
    for path in ("config.yaml", "metrics.json", "metrics.csv", *own, "checkpoints", "plots", "tensorboard"):
        if (folder / path).exists():
            inside = sorted(p.name for p in (folder / path).iterdir()) if (folder / path).is_dir() else []
            listed = f": {', '.join(inside)}" if inside and path != "tensorboard" else ""
            print(f"  {path}{listed}", flush=True)
