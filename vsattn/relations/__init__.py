"""What a pair of vectors adds to attention beyond what the vectors say: where they stand, what joins them."""

from vsattn.relations.base import EdgePair, Pair, Relation
from vsattn.relations.distance import Alibi, RelativeVectors, T5Buckets
from vsattn.relations.edges import EdgeFeatures
from vsattn.relations.grid import Relative2d

__all__ = ["Alibi", "EdgeFeatures", "EdgePair", "Pair", "Relation", "Relative2d", "RelativeVectors", "T5Buckets"]
