"""What attention says, and how far to believe it.

Through the layers: `rollout`, `relevance`. Head by head: `head_measures`, `ablation`. Against what the model does when
vectors are taken away: `faithfulness`. Against what is known: `alignment_error_rate`, `pointing`.
"""

from vsattn.measures.ablation import Ablated, ablation
from vsattn.measures.alignment import align, alignment_error_rate, between_words, diagonal
from vsattn.measures.faithfulness import Curves, Difference, Verdict, faithfulness, verdicts
from vsattn.measures.flow import Step, logits_of, steps_of
from vsattn.measures.heads import head_measures
from vsattn.measures.intervals import mean_interval, ratio_interval
from vsattn.measures.orders import attributions, evenly, ranks
from vsattn.measures.pointing import Hits, Meant, Pointing, hits, pointing
from vsattn.measures.relevance import Relevance, relevance
from vsattn.measures.removal import Questions, ask, log_probability
from vsattn.measures.rollout import rollout, rollouts

__all__ = [
    "Ablated",
    "Curves",
    "Difference",
    "Hits",
    "Meant",
    "Pointing",
    "Questions",
    "Relevance",
    "Step",
    "Verdict",
    "ablation",
    "align",
    "alignment_error_rate",
    "ask",
    "attributions",
    "between_words",
    "diagonal",
    "evenly",
    "faithfulness",
    "head_measures",
    "hits",
    "log_probability",
    "logits_of",
    "mean_interval",
    "pointing",
    "ranks",
    "ratio_interval",
    "relevance",
    "rollout",
    "rollouts",
    "steps_of",
    "verdicts",
]
