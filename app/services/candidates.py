"""Which initializers a request can mean: the one it names, or under `auto` all that read what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain import InitializerInfo, InputSpec, Label, SupportSet, TaskOptions
from app.errors import InvalidInput, InvalidSupport, Issue
from app.services.selection import Candidate, expect_loss, level_priors, list_steps, order
from app.services.support_rules import check_counts, check_examples, check_options

_MAX_ISSUES = 20
_NUMBERS_HINT = 'numbers as labels ask for regression; classes are named by text, such as "0"'


@dataclass(frozen=True)
class Offer:
    """Initializers that read the same inputs and do the same kind of thing; of one that was named, there is one.

    is_auto: the service chooses among them, once the support set is known.
    """

    spec: InputSpec
    infos: tuple[InitializerInfo, ...]
    is_auto: bool = False

    @property
    def max_support(self) -> int:
        """The most examples that one of them takes."""
        return max(info.limits.max_support for info in self.infos)

    def admit(self, support: SupportSet, options: TaskOptions) -> InitializerInfo:
        """The initializer to begin with: the named one, or the one of the best prior among those that take the support set.

        Raises InvalidSupport, InvalidOptions; under `auto` with the reasons of all of them.
        """
        if self.is_auto:
            admitted = {info.ref: info for info in find_admitting(self.infos, support, options)}
            return admitted[list_candidates(list(admitted.values()), support, options)[0].ref]
        _check(support, options, self.infos[0])
        return self.infos[0]

    @property
    def mark(self) -> str:
        """What of it makes requests equal: the version, or all versions that there were to choose from."""
        return " ".join(["auto", *(str(info.ref) for info in self.infos)]) if self.is_auto else str(self.infos[0].ref)


def name_offer(info: InitializerInfo) -> Offer:
    """The offer of an initializer that a client named."""
    return Offer(info.input, (info,))


def list_offers(infos: Sequence[InitializerInfo], labels: Sequence[Label]) -> list[Offer]:
    """What `auto` can mean for these labels: numbers ask for regression, anything else for classes.

    The largest group of initializers that read the same inputs comes first, equal ones by shape. Raises InvalidSupport when none is
    installed.
    """
    kind = "regression" if labels and all(isinstance(label, int | float) for label in labels) else "classification"
    groups: dict[InputSpec, list[InitializerInfo]] = {}
    for info in infos:
        if info.kind == kind:
            groups.setdefault(info.input, []).append(info)
    if not groups:
        hint = f" ({_NUMBERS_HINT})" if kind == "regression" else ""
        raise _no_initializer(infos, f"no initializer is installed for {kind}{hint}", "#/support/labels")
    ordered = sorted(groups, key=lambda spec: (-len(groups[spec]), spec.kind, spec.shape))
    return [Offer(spec, tuple(groups[spec]), is_auto=True) for spec in ordered]


def choose_offer(offers: Sequence[Offer], shape: tuple[int, ...]) -> Offer:
    """The one that reads inputs of this shape. Raises InvalidSupport naming the shapes that are read."""
    found = [offer for offer in offers if offer.spec.shape == shape]
    if found:
        return found[0]
    infos = [info for offer in offers for info in offer.infos]
    hint = f" ({_NUMBERS_HINT})" if infos[0].kind == "regression" else ""
    raise _no_initializer(infos, f"shape {list(shape)}; no {infos[0].kind} initializer reads it{hint}", "#/support/inputs/0")


def find_admitting(infos: Sequence[InitializerInfo], support: SupportSet, options: TaskOptions) -> list[InitializerInfo]:
    """Those of one offer whose limits take the support set and the options. Raises the first one's fault with everyone's reasons."""
    admitted, faults = [], []
    for info in infos:
        try:
            _check(support, options, info)
            admitted.append(info)
        except InvalidInput as fault:
            faults.append((info, fault))
    if admitted:
        return admitted
    issues = _merge(faults)[:_MAX_ISSUES]
    raise type(faults[0][1])(f"No initializer takes this task: {issues[0].pointer}: {issues[0].detail}", issues=issues)


def list_candidates(infos: Sequence[InitializerInfo], support: SupportSet, options: TaskOptions) -> list[Candidate]:
    """Every initializer with every number of steps that is worth trying, the most promising first; a client's own steps are kept."""
    n_way = len(support.classes)
    losses = {info.ref: expect_loss(info, n_way, len(support.labels) / n_way) for info in infos if info.kind == "classification"}
    data = {info.ref: str(info.card.get("data")) for info in infos}
    priors = level_priors({ref: loss for ref, loss in losses.items() if loss is not None}, data)
    found = []
    for info in infos:
        steps_tried = [options.steps] if options.steps else list_steps(info)
        found += [Candidate(info.ref, steps, priors.get(info.ref)) for steps in steps_tried]
    return order(found)


def _check(support: SupportSet, options: TaskOptions, info: InitializerInfo) -> None:
    check_examples(support, info, pointer="#/support")
    check_counts(support, info, pointer="#/support")
    check_options(options, info)


def _merge(faults: Sequence[tuple[InitializerInfo, InvalidInput]]) -> list[Issue]:
    """Each fault once, in the words of the first that finds it, and how many others find the same of themselves."""
    alike: dict[Issue, list[Issue]] = {}
    for info, fault in faults:
        for issue in fault.issues:
            alike.setdefault(Issue(issue.pointer, issue.detail.replace(info.ref.name, "")), []).append(issue)
    return [_speak_for(list(dict.fromkeys(issues))) for issues in alike.values()]


def _speak_for(issues: Sequence[Issue]) -> Issue:
    first, others = issues[0], len(issues) - 1
    too = f" ({others} other initializer{'s' if others > 1 else ''} too)" if others else ""
    return Issue(first.pointer, first.detail + too)


def _no_initializer(infos: Sequence[InitializerInfo], what: str, pointer: str) -> InvalidSupport:
    read = ", ".join(f"{info.ref.name} ({info.kind}) reads {info.input.kind} {list(info.input.shape)}" for info in infos[:_MAX_ISSUES])
    return InvalidSupport(
        f"`auto` has nothing to choose from: {what}", issues=[Issue(pointer, f"{what}; {read or 'nothing is installed'}")]
    )
