"""Going back in a conversation: editing, asking again, switching between versions."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType

from .attached import escaped
from .talking import TalkingScreen
from .transcript import Transcript


class BranchingScreen(TalkingScreen):
    """Nothing is written over: what is changed becomes another version beside what was there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "again", "Again", show=False),
    ]

    async def action_again(self) -> None:
        """Makes the last reply anew."""
        leaf = self.conversation.tree.leaf
        if leaf is not None:
            await self.regenerate(leaf)

    async def go_to_branch(self, number: str | int | float | None = None) -> None:
        """To another version of the last message that has several; None: to the next, in turn."""
        tree = self.conversation.tree
        branching = [each.id for each in tree.path() if tree.position(each.id)[1] > 1]
        if not branching:
            await self.say("error", "there is one branch; /edit or /retry begins another")
        elif self._may_change():
            place, versions = tree.position(branching[-1])
            wanted = place % versions + 1 if number is None else int(number)
            self.conversation.switch(branching[-1], wanted - place)
            await self.transcript.show(self.conversation.entries())

    def edit_message(self, number: str | int | float | None = None) -> None:
        """Opens the own message of a number, or the last, in the composer."""
        own = [each for each in self.conversation.tree.path() if each.role == "user"]
        place = len(own) if number is None else int(number)
        if 0 < place <= len(own):
            self._open(own[place - 1].id, own[place - 1].content)
        else:
            self.notify(f"There are {len(own)} messages of yours.", markup=False)

    @on(Transcript.Edit)
    def _edit(self, event: Transcript.Edit) -> None:
        if event.entry.id is not None:
            self._open(event.entry.id, event.entry.text)

    @on(Transcript.Regenerate)
    async def _regenerate(self, event: Transcript.Regenerate) -> None:
        if event.entry.id is not None:
            await self.regenerate(event.entry.id)

    @on(Transcript.Switch)
    async def _switch(self, event: Transcript.Switch) -> None:
        if event.entry.id is None or not self._may_change():
            return
        place = self.transcript.selected
        self.conversation.switch(event.entry.id, event.step)
        await self.transcript.show(self.conversation.entries())
        if place is not None:
            await self.transcript.choose(place)

    def _open(self, id: int, text: str) -> None:
        self.composer.begin_edit(id, escaped(text))
        self.composer.focus()
