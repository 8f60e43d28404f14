"""What a run is given: the plan, its folder, whom to tell how far it is; models and data, opened once per process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultrafuser import zoo
from ultrafuser.recipe import Recipe
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Run, Store

if TYPE_CHECKING:
    from ultrafuser.baselines import Setting
    from ultrafuser.data import Conversation, ResponseDataset
    from ultrafuser.training.material import Material

Weights = Sequence[float] | None
Rows = list[list[Any]]  # the JSON form of cells.Item
Report = Callable[[str, int, int, float | None], None]


def silent(phase: str, done: int, total: int, loss: float | None) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Context:
    """Shared by the runs of one process; `of` gives a run its own folder and progress."""

    plan: Plan
    store: Store
    folder: Path = Path()
    report: Report = silent
    _materials: dict[str, Material] = field(default_factory=dict)
    _settings: dict[int, Setting] = field(default_factory=dict)
    _heldout: list[Conversation] = field(default_factory=list)

    def of(self, run: Run, report: Report) -> Context:
        """The context of one run."""
        return replace(self, folder=self.store.work(run), report=report)

    def path_of(self, result: Mapping[str, Any]) -> Path:
        """The model folder that an earlier run left, which its result holds as "folder"."""
        return self.store.folder / result["folder"]

    def build(self, recipe: Recipe) -> tuple[Any, Any]:
        """An untrained fused model and its tokenizer."""
        from ultrafuser.training.recipe_run import build_model

        return build_model(recipe, zoo.resolve_source)

    def material(self, recipe: Recipe, templates: Sequence[str], tokenizer: Any) -> Material:
        """The recipe's encoded data, cached for the runs of this process."""
        from ultrafuser.training.material import load_material

        key = repr((recipe.data, recipe.seed, recipe.max_length, list(templates)))
        if key not in self._materials:
            self._materials[key] = load_material(recipe, list(templates), tokenizer, zoo.resolve_data)
        return self._materials[key]

    def setting(self, seed: int) -> Setting:
        """What the baselines start from; its held-out data are those of every column. Cached by seed."""
        from ultrafuser.baselines import Setting

        if seed not in self._settings:
            opened = Setting.from_recipe(
                self.plan.open_recipe(seed),
                self.folder,
                base=self.plan.base,
                resolve=zoo.resolve_source,
                resolve_data=zoo.resolve_data,
            )
            self._settings[seed] = replace(
                opened,
                conversations=replace(opened.conversations, heldout=self.heldout),
                material=replace(
                    opened.material, heldout=self.heldout_set(list(opened.templates.values()), opened.tokenizer)
                ),
            )
        return self._settings[seed]

    def relative(self, folder: Path) -> str:
        """A model folder as results keep it: relative to the whole's folder where it lies in it."""
        return str(folder.relative_to(self.store.folder) if folder.is_relative_to(self.store.folder) else folder)

    @property
    def heldout(self) -> list[Conversation]:
        """The held-out conversations of every column, those that are too long in any template left out."""
        if not self._heldout:
            self._heldout.extend(self._read_heldout())
        return self._heldout

    def _read_heldout(self) -> list[Conversation]:
        from ultrafuser.data import ResponseDataset, load_conversations

        files = {name: self.plan.recipe["data"][name]["heldout"] for name in self.plan.domains} | self.plan.extra
        limit = self.plan.settings.heldout_limit
        found = [
            conversation
            for name, entries in files.items()
            if entries
            for conversation in load_conversations([zoo.resolve_data(e) for e in entries], name, limit=limit)
        ]
        if not found:
            raise ValueError("data: no held-out conversations to measure on; name some under data.DOMAIN.heldout")
        recipe = self.plan.open_recipe()
        model, tokenizer = self.build(recipe)
        templates = list(model.config.templates)
        whole = ResponseDataset.from_conversations(found, templates, tokenizer, max_length=recipe.max_length)
        fitting = {example.id for example in whole.examples}
        return [conversation for conversation in found if conversation.id in fitting]

    def heldout_set(self, templates: Sequence[str], tokenizer: Any) -> ResponseDataset:
        """The held-out conversations as a model with these templates reads them: the same ones for every model."""
        from ultrafuser.data import ResponseDataset

        present = {conversation.category for conversation in self.heldout}
        columns = [name for name in self.plan.columns if name in present]
        return ResponseDataset.from_conversations(self.heldout, list(templates), tokenizer, categories=columns)

    def measure(self, model: Any, tokenizer: Any, label: str, weightings: Mapping[str, Weights]) -> dict[str, Rows]:
        """Every held-out item under each weighting of a fused model (None asks its gate), in one pass."""
        dataset = self.heldout_set(model.config.templates, tokenizer)
        return self.read(model, dataset, f"measure {label}", weightings)

    def read(
        self, model: Any, dataset: ResponseDataset, phase: str, weightings: Mapping[str, Weights]
    ) -> dict[str, Rows]:
        """Any data set read by a fused model: rows of id, domain, nats, response tokens, mean weights."""
        from ultrafuser.training import evaluate_many

        self.report(phase, 0, len(dataset), None)
        found = evaluate_many(
            model,
            dataset,
            weightings,
            batch_size=self.plan.batch_size,
            progress=lambda done, total: self.report(phase, done, total, None),
        )
        return {
            name: [[e.id, e.category, e.loss_sum, e.n_tokens, list(e.weights)] for e in losses.per_example]
            for name, losses in found.items()
        }
