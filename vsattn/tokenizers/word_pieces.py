"""Words by their pieces in context: BERT, read off at each word's first piece."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vsattn.environment import variable
from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.words import PADDING, Sentence, WordTokenizer, padded
from vsattn.vectorset import VectorSet

if TYPE_CHECKING:
    import tokenizers

#: What BERT's vocabulary names apart from pieces, in the order of a vocabulary that is learned here.
PAD, UNKNOWN, FIRST, LAST, MASK = SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

#: Words whose pieces are kept.
MAX_KEPT = 100_000


class WordPieces(WordTokenizer):
    """Words cut into pieces, a Transformer over all pieces of the sentence, and each word's first piece after it.

    That is how BERT labels words (Devlin et al. 2019, section 5.3): ``[CLS]``, the pieces, ``[SEP]``, each with its
    position. With ``encoder=identity`` a head reads its vectors as they are.

    Args:
        num_layers, num_heads, hidden_dim: of the Transformer; the width is the model's.
        activation: of its feed-forward.
        eps: of its norms, which come after each branch.
        dropout: on its branches and its input.
        max_pieces: positions, ``[CLS]`` and ``[SEP]`` included; in a longer sentence each word keeps its share of them.
        max_word: a longer word keeps so many pieces at its start.
        segments: token types; the first is used.
        vocab_size, min_count, lower: of a vocabulary that is learned from training sentences.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 3072,
        activation: Literal["gelu", "relu"] = "gelu",
        eps: float = 1e-12,
        dropout: float = 0.1,
        max_pieces: int = 512,
        max_word: int = 16,
        segments: int = 2,
        vocab_size: int = 8000,
        min_count: int = 2,
        lower: bool = False,
    ) -> None:
        super().__init__()
        if (
            min(num_layers, num_heads, hidden_dim, segments, max_word) < 1
            or max_pieces < 3
            or vocab_size <= len(SPECIALS)
        ):
            raise ConfigError(
                "num_layers, num_heads, hidden_dim, segments and max_word are at least 1, max_pieces at least 3 and "
                f"vocab_size above {len(SPECIALS)}; not {num_layers}, {num_heads}, {hidden_dim}, {segments}, "
                f"{max_word}, {max_pieces} and {vocab_size}"
            )
        self.num_layers, self.num_heads, self.hidden_dim = num_layers, num_heads, hidden_dim
        self.activation, self.eps, self.dropout = activation, eps, dropout
        self.max_pieces, self.max_word, self.segments = max_pieces, max_word, segments
        self.vocab_size, self.min_count, self.lower = vocab_size, min_count, lower

    def learn(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        from tokenizers import BertWordPieceTokenizer

        made = BertWordPieceTokenizer(lowercase=self.lower)
        words = (word for sentence in sentences for word in sentence)
        with variable("TOKENIZERS_PARALLELISM", "false"):
            made.train_from_iterator(
                words, self.vocab_size, self.min_count, special_tokens=SPECIALS, show_progress=False
            )
        return {"pieces": made.to_str()}

    def load_state(self, state: dict[str, Any]) -> WordPieces:
        import tokenizers

        try:
            found = tokenizers.Tokenizer.from_str(state["pieces"])
            found.no_truncation()
            found.no_padding()
        except Exception as error:  # the library raises Exception itself
            raise DataError(f"this is no state of WordPieces ({type(error).__name__}: {error})") from None
        rows = {name: found.token_to_id(name) for name in (UNKNOWN, FIRST, LAST)}
        missing = [name for name, row in rows.items() if row is None]
        if missing or not isinstance(state.get("max_length"), int):
            raise DataError(f"this is no state of WordPieces: {', '.join(missing) or 'max_length'} missing")
        super().load_state(state)
        self._pieces: tokenizers.Tokenizer = found
        self._special = {name: row for name, row in rows.items() if row is not None}
        self._rows: dict[str, list[int]] = {}
        return self

    def features(self, sentences: Sequence[Sentence], length: int, train: bool) -> dict[str, Tensor]:
        """Return ``piece (B, L)``, ``pieces (B,)``, how many are real, and ``first (B, N)``, each word's first."""
        rows, firsts = [], []
        for sentence in sentences:
            words, room = [self._cut(word) for word in sentence], self.max_pieces - 2
            if len(words) > room:
                raise DataError(
                    f"a sentence has {len(words)} words and max_pieces={self.max_pieces} leaves room for {room}: cut "
                    f"it, {' '.join(sentence[:5])} ..."
                )
            if sum(map(len, words)) > room:
                words = [word[: room // len(words)] for word in words]
            ends = list(accumulate(map(len, words), initial=1))
            rows.append([self._special[FIRST], *chain.from_iterable(words), self._special[LAST]])
            firsts.append(ends[:-1])
        counts = torch.tensor([len(row) for row in rows])
        return {"piece": padded(rows, int(counts.max())), "pieces": counts, "first": padded(firsts, length)}

    def decode(self, batch: dict[str, Tensor]) -> list[list[str]]:
        """Return the words of a batch as their pieces spell them."""
        found = []
        for row, count, first, mask in zip(*(batch[n].tolist() for n in ("piece", "pieces", "first", "mask"))):
            starts = [place for place, real in zip(first, mask, strict=True) if real]
            spans = zip(starts, [*starts[1:], count - 1], strict=True)
            names = [[str(self._pieces.id_to_token(i)) for i in row[a:b]] for a, b in spans]
            found.append(["".join(piece.removeprefix("##") for piece in word) for word in names])
        return found

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""
        return PieceEmbedder(self, dim, self._pieces.get_vocab_size())

    def _cut(self, word: str) -> list[int]:
        """Return the pieces of a word, at least one."""
        found = self._rows.get(word)
        if found is None:
            ids = self._pieces.encode(word, add_special_tokens=False).ids[: self.max_word]
            found = ids or [self._special[UNKNOWN]]
            if len(self._rows) < MAX_KEPT:
                self._rows[word] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}}


class PieceEmbedder(nn.Module):
    """BERT without its pooler, and which of its vectors are words."""

    def __init__(self, made: WordPieces, dim: int, rows: int) -> None:
        from vsattn.convert.bert import Bert, BertEmbedder
        from vsattn.encoders import TransformerEncoder
        from vsattn.layers import FeedForward, LayerNorm
        from vsattn.positions import Learned

        super().__init__()
        norm = partial(LayerNorm, eps=made.eps)
        embedder = BertEmbedder(
            nn.Embedding(rows, dim, padding_idx=PADDING),
            nn.Embedding(made.segments, dim),
            Learned(dim, max_length=made.max_pieces),
            norm(dim),
            dropout=made.dropout,
        )
        nn.init.normal_(embedder.words.weight, std=0.02)
        nn.init.normal_(embedder.segments.weight, std=0.02)
        encoder = TransformerEncoder(
            dim,
            made.num_layers,
            made.num_heads,
            feed_forward=partial(FeedForward, hidden_dim=made.hidden_dim, activation=made.activation),
            norm=norm,
            norm_placement="post",
            dropout=made.dropout,
        )
        encoder.dropout.p = 0.0  # the embedder has dropped already
        self.bert = Bert(embedder, encoder, None)

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map ``piece (B, L)`` and ``first (B, N)`` to the words' vectors ``(B, N, D)``."""
        piece, count = batch["piece"], batch["pieces"]
        real = torch.arange(piece.shape[1], device=piece.device) < count[:, None]
        return words_of(self.bert(piece, real), batch)


def words_of(pieces: VectorSet, batch: dict[str, Tensor]) -> VectorSet:
    """Return the vector of each word's first piece, ``(B, N, D)`` of ``(B, L, D)``."""
    first = batch["first"][..., None].expand(-1, -1, pieces.x.shape[2])
    return VectorSet(pieces.x.gather(1, first), batch["mask"], layout="sequence")
