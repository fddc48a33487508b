"""The command: ``python -m vsattn.compare task=image``, one budget and several models; and what length costs."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsattn.errors import ConfigError, nearest
from vsattn.extensions import using
from vsattn.run import guarded
from vsattn.words import free_folder, option, quoted

USAGE = """\
Train a task's attention model and its baselines under one budget, and give one table and one picture.

  python -m vsattn.compare task=labeling                   every model of the task, every seed
  python -m vsattn.compare task=image compare.seeds=[0,1] trainer.max_epochs=20
  python -m vsattn.compare task=image models=attention,cnn
  python -m vsattn.compare task=image '+compare.models.wide=["dim=128"]'
  python -m vsattn.compare lengths                         time, memory and parameters of encoders against length

Words are those of python -m vsattn.run and hold for every model; models=NAME,NAME chooses among them. The task's config
lists under `compare` the models (each a list of words that are added), the seeds, and the metrics of the table. Each
run is a process and a folder of its own.

Options:
  -h, --help             show this and exit
  -o FOLDER              where everything goes; outputs/compare/TASK/DATE_TIME otherwise
  -cd, --config-dir DIR  a folder of your own config files; otherwise that of the variable VSATTN_CONFIG_DIR
"""

#: What `compare` in a task's config holds.
KEYS = ("seeds", "models", "metrics")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for a config that cannot be run, 1 when a run failed, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _run_words(words), "vsattn.compare")


def _run_words(words: list[str]) -> int:
    words, folder = option(words, "-o", "--output")
    if words[:1] == ["lengths"]:
        return _lengths(words[1:], folder)
    words, config_dir = option(words, "-cd", "--config-dir")
    with using(config_dir) as own:
        return _compare(words, folder, None if own is None else str(own))


def _lengths(words: list[str], folder: str | None) -> int:
    if words:
        raise ConfigError(f"lengths takes no words but -o FOLDER, not {' '.join(words)}")
    from vsattn.tasks.lengths import measure_all, report

    target = free_folder(folder, "compare", "lengths")
    target.mkdir(parents=True, exist_ok=True)
    report(measure_all(), target)
    return 0


def _compare(words: list[str], folder: str | None, config_dir: str | None) -> int:
    from vsattn.tasks.comparison import collect, report

    own = [] if config_dir is None else ["--config-dir", config_dir]
    chosen = [name for word in words if word.startswith("models=") for name in word.removeprefix("models=").split(",")]
    command = shlex.join(["python", "-m", "vsattn.compare", *words, *own])
    words = [word for word in words if not word.startswith("models=")]
    config, plan = _plan(words, chosen, config_dir)
    runs = {
        (name, seed): [*words, *extra, f"seed={seed}"]
        for name, extra in plan["models"].items()
        for seed in plan["seeds"]
    }
    _check(runs, config_dir)
    target = free_folder(folder, "compare", config["task"]["_target_"].split(".")[-2])
    target.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(plan['models'])} models x {len(plan['seeds'])} seeds: {', '.join(plan['models'])}; {target}", flush=True
    )
    failed = 0
    for (name, seed), arguments in runs.items():
        failed += not _run(arguments, own, target / name / f"seed_{seed}")
    rows = collect(target, plan["models"], plan["seeds"], plan["metrics"])
    for name in plan["metrics"]:
        if not any(row.get(name) for row in rows):
            print(f"no run has the metric {name}; see any metrics.json for the names", flush=True)
    report(rows, plan["metrics"], target, command=command)
    return 1 if failed else 0


def _plan(words: list[str], chosen: list[str], config_dir: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config of the words, and what is to be compared: all of its models, or the chosen ones."""
    from vsattn.compose import plain_config
    from vsattn.tasks.cluster import command_faults

    config, faults = plain_config(words, config_dir=config_dir)
    faults += command_faults(config.get("trainer"), several_runs="a comparison")
    if faults:
        raise ConfigError("\n".join(faults))
    plan = dict(config.get("compare") or {})
    if not plan:
        raise ConfigError("compare: this task's config lists nothing to compare; add +compare.models={NAME: [WORDS]}")
    faults = [f"compare.{key}: there is no such setting; {nearest(key, KEYS)}" for key in plan if key not in KEYS]
    faults += [f"compare.{key}: is missing" for key in KEYS if key not in plan]
    models: Any = plan.get("models")
    seeds, metrics = plan.get("seeds"), plan.get("metrics")
    if not isinstance(models, dict) or not models or not all(isinstance(m, list) for m in models.values()):
        faults.append(f"compare.models: names with lists of words, such as {{rnn: [encoder=rnn]}}, not {models!r}")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        faults.append(f"compare.seeds: a list of whole numbers, such as [0,1,2], not {seeds!r}")
    elif len(set(seeds)) < len(seeds):
        faults.append(f"compare.seeds: each seed once, unlike {seeds!r}")
    if not isinstance(metrics, list) or not metrics or not all(isinstance(name, str) for name in metrics):
        faults.append(f"compare.metrics: a list of names in metrics.json, such as [test/accuracy], not {metrics!r}")
    if faults:
        raise ConfigError("\n".join(faults))
    missing = [
        f"models={name}: there is no such model; {nearest(name, models)}" for name in chosen if name not in models
    ]
    if missing:
        raise ConfigError("\n".join(missing))
    return config, {**plan, "models": {name: models[name] for name in chosen or models}}


def _check(runs: dict[tuple[str, int], list[str]], config_dir: str | None) -> None:
    """Raise ConfigError with all that is wrong with any of the runs, before the first starts."""
    from vsattn.compose import plain_config
    from vsattn.tasks.checks import faults as faults_of

    faults = []
    checked: set[str] = set()
    for (name, _), words in runs.items():
        if name in checked:
            continue
        checked.add(name)
        config, found = plain_config(words, config_dir=config_dir)
        faults += [f"{name}: {fault}" for fault in [*found, *faults_of(config)]]
    if faults:
        raise ConfigError("\n".join(faults))


def _run(words: list[str], options: list[str], folder: Path) -> bool:
    """Run one model in a process of its own, whose words go to ``log.txt``, and say how it went."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    started = time.time()
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "vsattn.run", *words, *options, "hydra.run.dir=" + quoted(folder)]
        code = waited(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
    name = f"{folder.parent.name} {folder.name}"
    if code:
        last = (log.read_text(encoding="utf-8").strip().splitlines() or ["no word"])[-1]
        print(f"{name}: failed with exit code {code} ({last.strip()}); see {log}", flush=True)
    else:
        print(f"{name}: {time.time() - started:.0f} s", flush=True)
    return code == 0


def waited(run: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a run; asked to end, pass that on, and end when the run has, with its checkpoint.

    Raises:
        KeyboardInterrupt: after Ctrl-C, which a terminal has sent to the run too.
        SystemExit: after SIGTERM.
    """
    asked: list[BaseException] = []

    def leave(*_: Any) -> None:
        asked.append(SystemExit(143))
        run.terminate()

    before = signal.signal(signal.SIGTERM, leave)
    try:
        while run.returncode is None:
            try:
                run.wait()
            except KeyboardInterrupt as interrupt:
                asked.append(interrupt)
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked or run.returncode == 130:
        raise asked[0] if asked else KeyboardInterrupt
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
