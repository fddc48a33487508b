"""Multi30k: captions of photographs in four languages, the usual small test of translation."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from vsattn.errors import ConfigError, DataError

from .archives import FAILURES, download, sha256_of
from .parallel import MAX_WORDS, SPLITS, ParallelData, read_pairs

#: Where the maker keeps the files: ``raw/`` as they were written, ``tok/`` lower-cased, normalised and cut by Moses.
URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1"

LANGUAGES = ("de", "en", "fr", "cs")

#: Lines of the splits.
LINES = {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}

#: SHA-256 of the German and English files.
SHA256 = {
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "train.lc.norm.tok.de": "cb5a23529b65ec2061f1dc446192a9c37382b63cc75f81a0be59d34894b3a505",
    "train.lc.norm.tok.en": "08925f8e0572bcd5a006702fc5fe20e2d77c6917d4eebd576fc20de6693c2119",
    "val.lc.norm.tok.de": "97232bd273eceb7207f689527386a97e4be2616b18ada47576bdaf96c8ae1f00",
    "val.lc.norm.tok.en": "46573ce391ae227f1c72f873392436a20ef18e0a6d518098cfbd70b77c8572ec",
    "test_2016_flickr.lc.norm.tok.de": "c6a33d39d48f9f510de147651316cd9d918e09ad0219df734a2f16b6baccacc4",
    "test_2016_flickr.lc.norm.tok.en": "5b7f32627cf99eced828311b955dae9800bb52bc8b91cf8b6526829e605b29d2",
}


class Multi30k(ParallelData):
    """29,000 captions and their translations, tested on the 1,000 of Flickr 2016 (Elliott et al. 2016).

    Found under ``root``, in ``multi30k``, by the names that their maker gave the files, raw ones with or without
    ``.gz``; what is missing is downloaded. For non-commercial research.

    Args:
        root: the folder that holds the set's own folder.
        source, target: two of de, en, fr and cs.
        tokenised: the maker's tokens instead of raw text: lower-cased, normalised and cut by the Moses toolkit.
        download: fetch what is missing.
        max_words: see :class:`~vsattn.tasks.data.parallel.ParallelData`.

    Raises:
        ConfigError: for other languages.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        source: str = "de",
        target: str = "en",
        tokenised: bool = False,
        download: bool = True,
        max_words: int = MAX_WORDS,
    ) -> None:
        if source == target or not {source, target} <= {*LANGUAGES}:
            listed = ", ".join(LANGUAGES)
            raise ConfigError(f"data.source and data.target are two of {listed}, not {source!r} and {target!r}")
        super().__init__(source_language=source, target_language=target, tokenised=tokenised, max_words=max_words)
        self.folder, self.download = Path(root).expanduser() / "multi30k", download

    def setup(self, seed: int) -> None:
        """Find or download the files and read them; the seed changes nothing.

        Raises:
            DataError: when files are missing and cannot be downloaded, or see
                :func:`~vsattn.tasks.data.parallel.read_pairs`.
        """
        languages = self.source_language, self.target_language
        names = {split: [self._file(split, language) for language in languages] for split in LINES}
        wanted = [name for pair in names.values() for name in pair]
        missing = [name for name in wanted if self._found(name) is None]
        if missing:
            self._fetch(missing)
        paths = {name: path for name in wanted if (path := self._found(name)) is not None}
        read = {split: read_pairs(*(paths[name] for name in pair)) for split, pair in names.items()}
        known = all(SHA256.get(name, digest) == digest for name, digest in _digests(paths).items())
        self.as_released = known and {split: len(pairs) for split, pairs in read.items()} == LINES
        self.take(dict(zip(SPLITS, read.values(), strict=True)))

    def describe(self) -> str:
        """Also say when the files are not those of the maker."""
        return super().describe() + ("" if self.as_released else "; not the files of the official repository")

    def _file(self, split: str, language: str) -> str:
        return f"{split}.lc.norm.tok.{language}" if self.tokenised else f"{split}.{language}.gz"

    def _found(self, name: str) -> Path | None:
        """Return the file of that name, or the unpacked one."""
        places = self.folder / name, self.folder / name.removesuffix(".gz")
        return next((path for path in places if path.is_file()), None)

    def _fetch(self, names: list[str]) -> None:
        """Download files, all of them or none."""
        url = f"{URL}/{'tok' if self.tokenised else 'raw'}"
        try:
            if not self.download:
                raise DataError("data.download is false")
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".download-", dir=self.folder, ignore_cleanup_errors=True) as staging:
                fetched = {name: download(f"{url}/{name}", Path(staging, name)) for name in names}
                for name, digest in _digests(fetched).items():
                    if SHA256.get(name, digest) != digest:
                        raise DataError(f"the SHA-256 of {name} is {digest}, not {SHA256[name]}")
                for name, path in fetched.items():
                    os.replace(path, self.folder / name)
        except FAILURES as error:  # DataError is a ValueError
            listed = "\n".join(f"  {self.folder / name}" for name in names)
            raise DataError(
                f"Multi30k is not complete in {self.folder} and could not be downloaded from {url} "
                f"({' '.join(str(error).split())[:400]}). Point VSATTN_DATA or paths.data at a folder that holds it as "
                f"multi30k, or put these files there:\n{listed}"
            ) from error


def _digests(paths: dict[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file; an unpacked one has none."""
    return {name: sha256_of(path) for name, path in paths.items() if path.name == name}
