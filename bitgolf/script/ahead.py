"""Scripts made by a process of its own, while the data of a run is made."""

import multiprocessing
from contextlib import suppress

import bitgolf
from bitgolf.base.events import NOTE, Event
from bitgolf.recipe import Recipe
from bitgolf.run.child import leave_ctrl_c_and_end_with_parent
from bitgolf.script.counted import plainly_packed
from bitgolf.script.kept import minified


class Ahead:
    """The two scripts that a run needs: its own, and the one with plain packing that its ledger counts from.

    They are kept in the user's cache, where the run finds them: see `kept`.
    """

    def __init__(self, recipe: Recipe) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.has_first = spawn.Event()
        self._process = spawn.Process(target=_make, args=(recipe, self.has_first), daemon=True)
        self._is_begun = False

    def beside(self, event: Event) -> Event:
        """The event as it is; the process begins with the first that is no note: data is being made."""
        if not self._is_begun and event.stage != NOTE:
            self._is_begun = True
            self._process.start()
        return event

    def wait(self, *, first: bool = False) -> None:
        """Until both scripts are made, or the run's own; no time where the process never began."""
        while self._is_begun and self._process.is_alive() and not (first and self.has_first.is_set()):
            self._process.join(0.05)


def _make(recipe: Recipe, has_first: "multiprocessing.synchronize.Event") -> None:
    leave_ctrl_c_and_end_with_parent()
    bitgolf.import_core()
    with suppress(Exception):  # the run itself meets it again, and says it
        minified(recipe)
        has_first.set()
        minified(plainly_packed(recipe))
