"""Pull request #1718 as it was meant: the stack of #1716, its bigram table trained; some 0.4 MB too large.

bitgolf run pr1718_meant-laptop
bitgolf compare pr1718 pr1718_meant
"""

from bitgolf.recipe import Recipe
from bitgolf.recipes.pr1718 import pr1718


def pr1718_meant() -> Recipe:
    """`pr1718` but for the row that freezes its bigram table, which the script forgot to give an optimizer.

    The table then learns as the token table does. Trained, it takes bytes that its authors did not have: what
    they saw fit is a table of zeros.
    """
    forgotten, *rows = pr1718().optim.rows
    return pr1718().replace({"name": "pr1718_meant", "optim.rows": tuple(rows)})
