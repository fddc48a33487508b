"""Where a vector stands, told to the vectors (`Positions`) or to the queries and keys of attention (`Rotary`).

Sequences and grids: `Sinusoidal`, `Learned`, `OneHot`, `Rotary`. Graphs: `LaplacianEigenvectors`, `RandomWalk`.
"""

from vsattn.positions.base import Positions
from vsattn.positions.graphs import LaplacianEigenvectors, RandomWalk
from vsattn.positions.learned import Learned
from vsattn.positions.one_hot import OneHot
from vsattn.positions.rotary import Rotary
from vsattn.positions.sinusoidal import Sinusoidal

__all__ = ["LaplacianEigenvectors", "Learned", "OneHot", "Positions", "RandomWalk", "Rotary", "Sinusoidal"]
