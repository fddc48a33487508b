"""Two processes train as one does: the same weights, measures, files and words, whoever starts the processes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import vsattn
from tests.together import CASES, run
from vsattn.errors import ConfigError
from vsattn.run import main
from vsattn.tasks.checks import trainer_faults
from vsattn.tasks.cluster import command_faults, is_parallel, number_of_processes, rank
from vsattn.tasks.data.images import Digits

#: Numbers are compared in double precision where a strategy can do it; what measures the losses is single.
EXACT, SINGLE = 1e-8, 5e-6
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
QUICK = ["task=image", "num_threads=1", "dim=16", "encoder.num_layers=1", "logger=none"]
QUICK += ["+trainer.limit_train_batches=3"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command, without what an earlier training in this process has left there."""
    ours = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    root = str(Path(__file__).resolve().parent.parent)
    return {**kept, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **more}


def command(words: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=500
    )


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # so that it is taken back, whatever a training sets
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, trained by two processes."""
    folder = tmp_path_factory.mktemp("pair")
    script = Path(__file__).with_name("together.py")
    done = command([*TORCHRUN, str(script), str(folder), *CASES], folder)
    assert done.returncode == 0, done.stderr
    return folder


def same(one: dict[str, Any], two: dict[str, Any], tolerance: float) -> None:
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name].to(value), value, rtol=0, atol=tolerance, msg=name)
    assert len(one["rows"]) == len(two["rows"]) == 3
    for first, second in zip(one["rows"], two["rows"], strict=True):
        measured = {name for name in first if name.startswith(("train/", "val/"))}
        assert len(measured) >= 4 and measured <= set(second)
        assert {name: second[name] for name in measured} == pytest.approx({n: first[n] for n in measured}, abs=SINGLE)
    assert two["metrics"] == pytest.approx(one["metrics"], abs=SINGLE)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, pair: Path, tmp_path: Path) -> None:
    two = torch.load(pair / f"{name}.pt", weights_only=False)
    same(run(name, tmp_path), two, SINGLE if name.startswith("resumed") or name.endswith("sharded") else EXACT)


def test_a_sharded_checkpoint_is_one_whole_file(pair: Path) -> None:
    found = torch.load(pair / "batch_norm_sharded.pt", weights_only=False)
    kept = vsattn.load(pair / "batch_norm_sharded_2" / "checkpoints" / "best.ckpt").model.state_dict()
    assert {f"model.{name}" for name in kept} == set(found["weights"])
    assert all(torch.equal(value, found["weights"][f"model.{name}"]) for name, value in kept.items())


def test_processes_that_are_started_for_the_training_bring_all_back(tmp_path: Path) -> None:
    spawned = run("image", tmp_path, strategy="ddp_spawn", devices=2)
    same(run("image", tmp_path), spawned, SINGLE)  # this process had the weights in single precision
    assert spawned["metrics"]["epochs"] == 3


def test_the_command_starts_the_others_and_judges_in_one(tmp_path: Path) -> None:
    done = command(["-m", "vsattn.run", *QUICK, *DDP, "trainer.max_epochs=2", "+trainer.limit_val_batches=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/2") == done.stdout.count("\nfolder ") == done.stdout.count(" s in all, ") == 1
    (folder,) = (tmp_path / "outputs" / "image").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    predictor, data = vsattn.load(folder), Digits()
    data.setup(0)
    items, targets = zip(*[data.test[i] for i in range(len(data.test))], strict=True)
    with torch.no_grad():
        logits = predictor.model.eval()(predictor.tokenizer.collate(list(items)))
    assert metrics["test/accuracy"] == pytest.approx(float((logits.argmax(-1) == torch.tensor(targets)).float().mean()))
    assert metrics["test/loss"] == pytest.approx(float(F.cross_entropy(logits, torch.tensor(targets))), abs=SINGLE)


def test_torchrun_shares_one_folder_and_shards(tmp_path: Path) -> None:
    words = ["-m", "vsattn.run", *QUICK, "trainer=fsdp", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
    done = command([*TORCHRUN, *words], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1
    (folder,) = (tmp_path / "outputs" / "image").iterdir()
    assert math.isfinite(json.loads((folder / "metrics.json").read_text())["test/loss"])


def test_a_fault_of_one_process_ends_all_and_is_told_once(tmp_path: Path) -> None:
    script = Path(__file__).with_name("together.py")
    began = time.monotonic()
    done = command([str(script), str(tmp_path), "broken"], tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("item 7 cannot be read") == 1 and "Traceback" not in done.stderr
    assert time.monotonic() - began < 120  # and not after a collective's half an hour


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts the two tasks of a Slurm job, which has an ``scontrol`` that notes its words."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    scontrol.chmod(0o755)
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **more: str) -> list[subprocess.Popen[str]]:
        common = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
        common |= {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", **more}
        common["PATH"] = f"{scontrol.parent}:{os.environ['PATH']}"
        for task in ("0", "1"):
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "vsattn.run", *QUICK, *words],
                    cwd=tmp_path,
                    env=environment(**common, SLURM_PROCID=task, SLURM_LOCALID=task),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return started[-2:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_slurm_job_is_queued_again_and_goes_on(job: Any, tmp_path: Path) -> None:
    words = ["trainer=slurm", "trainer.accelerator=cpu", "schedule=constant"]
    first, second = job(*words, "trainer.max_epochs=100000")
    lines = iter(first.stdout)
    assert any(line.startswith("epoch      2/") for line in lines)
    for process in (first, second):
        process.send_signal(signal.SIGUSR1)  # as --signal=SIGUSR1@90 lets Slurm do
    rest = "".join(lines)
    assert first.wait(100) == 143 and second.wait(100) in (0, 1)
    assert (tmp_path / "asked").read_text() == "requeue 4711\n" and "job 4711 is in the queue again" in rest
    folder = tmp_path / "outputs" / "image" / "slurm_4711"
    before = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    epoch = before["epoch"] + 3
    first, second = job(*words, f"trainer.max_epochs={epoch}", SLURM_RESTART_COUNT="1")
    out, other = first.communicate(timeout=300)[0], second.communicate(timeout=300)[0]
    assert first.returncode == second.returncode == 0, out + other
    assert "epoch 1/" not in out and f"epoch {epoch}/{epoch}" in out and "epoch" not in other
    assert (folder / "metrics.csv").read_text().count("\n") == epoch + 1


@pytest.mark.parametrize(
    ("words", "strategy"), [(DDP, "ddp"), (["trainer=fsdp", "trainer.devices=2"], "ModelParallel")]
)
def test_a_sweep_refuses_what_starts_the_command_again(
    words: list[str], strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "task=image", "seed=0,1", *words]) == 2
    told = capsys.readouterr().err
    assert strategy in told and "with --multirun use trainer.strategy=ddp_spawn" in told


def test_a_sweep_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (fault,) = command_faults({"strategy": "ddp", "devices": 2}, several_runs="--multirun")
    assert "without torchrun" in fault
    (fault,) = command_faults({"devices": 1}, several_runs="")
    assert "torchrun has started 2 processes" in fault and "trainer=ddp" in fault
    (fault,) = command_faults({"strategy": "ddp", "devices": 3}, several_runs="")
    assert "leave trainer.devices=3 out" in fault
    assert command_faults({"strategy": "ddp", "devices": 2}, several_runs="") == []


def test_a_command_called_from_python_cannot_be_started_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=image", *DDP]) == 2
    assert "called from Python: use trainer=ddp_spawn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "ddp_spwn"}, "did you mean 'ddp_spawn'?"),
        ({"strategy": "fsdp"}, "use trainer=fsdp"),
        ({"strategy": {"_target_": "os.system"}}, "os.system may not be built"),
        ({"strategy": {"_target_": "lightning.pytorch.strategies.ModelParallelStrategy"}}, "a checkpoint is one file"),
        ({"plugins": {"_target_": "torch.nn.Linear"}}, "is not a ClusterEnvironment"),
    ],
)
def test_strategies_that_cannot_be_are_told(settings: dict[str, Any], message: str) -> None:
    (fault,) = trainer_faults(settings)
    assert message in fault


def test_several_strategies_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for strategy in ("ddp", "ddp_fork", "ddp_notebook", "ddp_find_unused_parameters_true", "auto"):
        assert trainer_faults({"strategy": strategy, "devices": 2}) == []
    assert not is_parallel({"devices": 1}) and not is_parallel({"devices": [3]}) and is_parallel({"devices": 2})
    assert number_of_processes({"strategy": "ddp", "devices": 2, "num_nodes": 3}) == 6
    monkeypatch.setenv("SLURM_PROCID", "3")  # an independent run in a job of several tasks
    assert rank({"devices": 1}) == 0


def test_averages_need_whole_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="EMAWeightAveraging needs the whole weights"):
        run("batch_norm_sharded", tmp_path, average=True, devices=1)
