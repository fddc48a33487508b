"""What loggers are told beside the measures of training: the config first, and the scores of the test last."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger


def go_on(logger: Logger, step: int) -> None:
    """Let Lightning's CSV logger, which begins its file anew, go on after the rows of the steps before this one."""
    if not isinstance(logger, CSVLogger) or not (path := Path(logger.log_dir, "metrics.csv")).is_file():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    logger.experiment.metrics = rows  # the file is removed as the experiment is made
    logger.save()


@contextmanager
def informed(loggers: Sequence[Logger], recipe: dict[str, Any] | None) -> Iterator[None]:
    """Tell loggers the plain config that a training follows, and end them as failed when it fails.

    TensorBoard shows configs beside scores only, so it keeps this one until :func:`tell_scores`.
    """
    for logger in loggers:
        logger.log_hyperparams(recipe or {})
    try:
        yield
    except BaseException:
        _end(loggers, failed=True)
        raise


def tell_scores(loggers: Sequence[Logger], metrics: dict[str, Any], step: int, recipe: dict[str, Any] | None) -> None:
    """Tell loggers the scores ``test/...`` of the whole test set, and end them."""
    scores = {key: value for key, value in metrics.items() if key.startswith("test/") and key.count("/") == 1}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(recipe or {}, scores, step)
        else:
            logger.log_metrics(scores, step)
    _end(loggers, failed=False)


def _end(loggers: Sequence[Logger], *, failed: bool) -> None:
    for logger in loggers:
        logger.finalize("failed" if failed else "success")
        if isinstance(logger, WandbLogger):  # the next run of a sweep would be written into this one
            logger.experiment.finish(exit_code=int(failed))
