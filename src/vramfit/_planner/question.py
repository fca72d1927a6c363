"""What one plan asks: the room that a model finds, and what was learned of it on the way.

In: a `Model`, cards, `Settings`, a margin. Out: `Question`, of which the searches ask for segments, chains of them, the host
beside them, and what is loaded beside the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .._base.errors import SettingsError
from .._devices import Gpu, Host
from .._estimate.estimate import Estimate, assemble, estimate
from .._llama.cparams import context_step, resolve, trained_ctx
from .._llama.host_memory import shared_card
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import devices, place, split_is_given
from .._llama.speculation import predicts
from .host import Beside
from .search import Chains, Split
from .segments import Learned, Segments

if TYPE_CHECKING:
    from .._estimate.company import CompanyBytes
    from .paired import Paired

__all__ = ["Question", "chosen", "contexts", "estimated"]


def contexts(model: Model, settings: Settings, max_ctx: int | None) -> range:
    """List the contexts to choose from, in tokens of all slots together."""
    if settings.n_ctx:
        return range(settings.n_ctx, settings.n_ctx + 1)
    step = context_step(settings)
    if max_ctx is None and not model.n_ctx_train:
        raise SettingsError("the header names no trained context; set max_ctx or n_ctx")
    most = trained_ctx(model, settings) if max_ctx is None else max_ctx
    return range(step, max(step, most // step * step) + 1, step)


@dataclass(slots=True)
class Question:
    """What stays the same while contexts and splits are tried, and what was learned on the way."""

    model: Model
    gpus: Sequence[Gpu]
    settings: Settings
    margin: int
    learned: Learned
    host: Host | None = None
    known: Segments | None = None  # once they were asked for
    host_known: Beside | None = None
    assumed: Split | None = (
        None  # the layers that a draft's are divided like, of the cards' bytes where `paired` is None
    )
    pair: Paired | None = None  # once it was asked for
    apart: CompanyBytes | None = None
    found: dict[Hashable, CompanyBytes] = field(default_factory=dict)
    padded: dict[int, int] = field(default_factory=dict)

    @property
    def used(self) -> tuple[int, ...]:
        """Indexes of the cards in use."""
        return devices(self.gpus, self.settings)

    @property
    def split_is_free(self) -> bool:
        """Whether the solver chooses the split."""
        return len(self.used) > 1 and not split_is_given(self.settings)

    def segments(self) -> Segments:
        """What answers how many bytes a run of layers takes on a card in use."""
        if self.known is None:
            settings = replace(self.settings, main_gpu=0)  # indexes count the cards in use
            used = [self.gpus[i] for i in self.used]
            self.known = Segments(self.model, used, settings, self.learned)
        return self.known

    def room(self) -> list[int]:
        """Bytes that may be taken on each card in use."""
        return [self.gpus[i].free - self.margin for i in self.used]

    @property
    def is_alone(self) -> bool:
        """Whether nothing is loaded beside the model."""
        return self.model.company is None and not predicts(self.settings)

    def beside(self) -> Beside:
        """The host beside the cards in use."""
        if self.host_known is None:
            self.host_known = Beside(
                self.model, self.gpus, self.settings, self.used, self.room(), self.margin, self.host,
                self.segments, self.given_split() if self.used else None,
                None if self.is_alone else self.company,
            )  # fmt: skip
            if self.paired() is not None:
                self.host_known.over, self.host_known.assume = self._over, self._assume
        return self.host_known

    def paired(self) -> Paired | None:
        """The model's layers with those of a draft that follow them; None where none do, or not by these alone.

        A draft that is told its cards takes the first of the shares, whatever card of the model they are. What is on the host
        counts on a card with the system's memory, and its buffer there depends on the whole split.
        """
        if self.pair is None and self.divides:
            from .._estimate.company import divided
            from .paired import paired

            found, segments = divided(self.model, self.gpus, self.settings), self.segments()
            if found is not None and segments.first < segments.last:
                told = found._replace(settings=replace(found.settings, main_gpu=0))
                self.pair = paired(segments, told, self.gpus, self._padded, self.learned)
        return self.pair

    @property
    def divides(self) -> bool:
        """Whether something beside the model may be divided over the cards as its layers are, which the solver chooses."""
        return not self.is_alone and self.split_is_free and shared_card(self.gpus) is None

    def _padded(self, n_ctx: int) -> int:
        if n_ctx not in self.padded:
            self.padded[n_ctx] = resolve(self.model, replace(self.settings, n_ctx=n_ctx)).n_ctx
        return self.padded[n_ctx]

    def _assume(self, split: Split) -> None:
        self.assumed = split

    def _over(self, room: Sequence[int]) -> Chains:
        """All splits over so much room; what of the company follows the layers is counted with them, the rest apart."""
        pair = self.paired()
        if pair is None:
            return Chains(self.segments(), room, self.given_split(), None if self.is_alone else self.company)
        if self.apart is None:
            from .._estimate.company import company_apart

            self.apart = company_apart(self.model, self.gpus, self.settings)
        apart = self.apart
        return Chains(pair, room, None, lambda n_ctx, most: apart)

    def chains(self, n_ctx: int) -> Chains:
        """All splits over the cards in use, for a context; beside no host, for any."""
        if self.beside().counts:
            return self.beside().chains(n_ctx)
        return self._over(self.room())

    def company(self, n_ctx: int, most: bool) -> CompanyBytes:
        """What is loaded beside the model takes of each card in use, and of the host (see `search.Company`)."""
        from .._estimate.company import CompanyBytes, company_at_least, company_bytes

        key = (n_ctx, most, self.assumed)
        if key not in self.found:
            settings = chosen(self, n_ctx, self.assumed)
            look, padded = (company_at_least if most else company_bytes), resolve(self.model, settings).n_ctx
            sizes = look(self.model, self.gpus, settings, padded, estimate, self.host)
            gpus, beside = (tuple(terms[i] for i in self.used) for terms in (sizes.gpus, sizes.beside))
            self.found[key] = CompanyBytes(gpus, beside, sizes.host)
        return self.found[key]

    def given_split(self) -> Split | None:
        """Layers on each card in use where the caller fixed the split."""
        if not split_is_given(self.settings):
            return None
        placement = place(self.model, self.gpus, self.settings)
        return tuple(map(placement.count, range(placement.n_devices)))


def chosen(q: Question, n_ctx: int, split: Split | None) -> Settings:
    """Put one context and the split found into the settings; a split given by the caller stays."""
    if split is None or not q.split_is_free:
        return replace(q.settings, n_ctx=n_ctx)
    return replace(q.settings, n_ctx=n_ctx, tensor_split=tuple(map(float, split)))


def estimated(q: Question, settings: Settings) -> Estimate:
    """Estimate the settings chosen; compute buffers are those that the search replayed."""
    if not q.used:
        return estimate(q.model, q.gpus, settings, host=q.host)
    placement = place(q.model, q.gpus, settings)
    counts = tuple(map(placement.count, range(placement.n_devices)))
    compute = q.segments().compute(counts, settings.n_ctx)
    return assemble(q.model, q.gpus, settings, resolve(q.model, settings), placement, compute, q.host)
