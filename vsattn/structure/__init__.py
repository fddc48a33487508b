"""Who may attend to whom: a small algebra of structures, closed under ``&`` and ``|``.

A structure answers one question, ``allowed(query_set, key_set)``: may this query attend to this key?
Padding is not its business (the key mask always applies), nor are prefix vectors (they see and are seen
by every real vector); :func:`vsattn.attention.allowed_pairs` puts the three together.
"""

from vsattn.structure.base import And, Full, Or, Structure
from vsattn.structure.edges import EdgeList, Edges
from vsattn.structure.explicit import Dense, Segments
from vsattn.structure.order import Causal, Window

__all__ = ["And", "Causal", "Dense", "EdgeList", "Edges", "Full", "Or", "Segments", "Structure", "Window"]
