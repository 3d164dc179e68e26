"""Pull request #1718 as it was scored: test-time training on each chunk once it is scored; 1.0789 bpb.

bitgolf run pr1718_ttt-laptop
bitgolf compare pr1718 pr1718_ttt
"""

from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.recipe import Recipe
from bitgolf.recipes.pr1718 import pr1718
from bitgolf.train.optim import SgdRule


def pr1718_ttt() -> Recipe:
    """`pr1718` with the test-time training of #1716: three epochs of SGD over each chunk of 32,768 tokens.

    Rate 0.005, cosine over the chunks, momentum 0.9, gradients no longer than 1, all tensors, from the packed
    weights. A chunk is 16 sequences, fewer than a batch of 32: one step an epoch, 3,711 in 1,238 chunks.
    """
    adapter = ScoreFirst(epochs=3, rule=SgdRule(lr=0.005))
    return pr1718().replace({"name": "pr1718_ttt", "score.adapter": adapter})
