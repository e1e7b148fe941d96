"""A few-shot method is one class: its settings, the grid they are searched on, what it needs, and ``fit``.

Neither this file nor a method's file imports torch before something is fitted, so that a config is checked without it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, create_model

from logitfusion.config.errors import shorten
from logitfusion.config.meanings import DescribedSchema
from logitfusion.config.section import LARGEST, LARGEST_WHOLE, Count, NonNegative, Section, number
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from logitfusion.clip.heads import Head, Support

OnEpoch = Callable[[int, Any], None] | None  # epoch (from 1), head
Views = Literal["all", "plain"]
Passes = Annotated[int, Field(ge=1, le=1_000_000)]  # over the images
Penalty = number(ge=1e-9, le=1e9)  # beyond, float32 keeps nothing but the penalty, or nothing of it


class FewShotSettings(Section):
    """The settings that all methods have; a method adds its own."""

    selection: Literal["fixed", "cross_validation"] = "fixed"
    """fixed: these values. cross_validation: the best of the method's grid on held-out parts of the support set."""
    folds: Count = 4
    """Parts of the support set in cross-validation: at most the largest class's images, and 2 from 400 images on."""

    @classmethod
    def having(cls, **defaults: Any) -> type[Self]:
        """The same settings with other defaults, by the names of the fields."""
        fields: dict[str, Any] = {}
        for name, default in defaults.items():
            field = cls.model_fields[name]
            fields[name] = (Annotated[field.annotation, *field.metadata, Field(alias=field.alias)], default)
        return create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)

    @classmethod
    @functools.cache
    def describe(cls) -> dict[str, dict[str, Any]]:
        """Key -> JSON schema (``default``, ``description``, range) of each setting, the method's own first."""
        properties = cls.model_json_schema(schema_generator=DescribedSchema)["properties"]
        return dict(sorted(properties.items(), key=lambda item: item[0] in FewShotSettings.model_fields))

    def changed(self, choice: Mapping[str, Any]) -> Self:
        """These settings with some others, by their keys."""
        return type(self)(**{**self.dump(), **choice})


class AdamWSettings(FewShotSettings):
    """The settings of methods that are trained in minibatches by AdamW, whose rate falls to 0 as a cosine."""

    epochs: Passes
    """Passes over the support set."""
    batch: Count
    """Images of a step."""
    learning_rate: NonNegative = 1e-3
    """At the first step."""
    weight_decay: NonNegative = 0.01
    """AdamW's, decoupled."""
    epsilon: NonNegative = 1e-4
    """AdamW's: added to the root of the squared gradients' mean."""


class FewShotMethod(ABC):
    """A few-shot method; its docstring is what lists print of it.

    Attributes:
        name: what configs, tables and head files call it.
        Settings: the class of its settings.
        grid: changes of the settings that cross-validation chooses among, by key; empty if there is nothing to choose.
        needs_auxiliary: whether it reads an auxiliary encoder's features by default.
        uses_auxiliary: whether it reads them where there are some, and does without them where there are none.
        by_epochs: whether ``fit`` calls ``on_epoch``.
        family: what a report draws it with: AMU and its ``parts``, AMU's ``ablation``, or its ``rivals``.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[FewShotSettings]] = FewShotSettings
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ()
    needs_auxiliary: ClassVar[bool] = False
    uses_auxiliary: ClassVar[bool] = False
    by_epochs: ClassVar[bool] = False
    family: ClassVar[Literal["parts", "ablation", "rivals"]] = "rivals"

    @abstractmethod
    def fit(self, support: Support, settings: Any, *, seed: int, on_epoch: OnEpoch = None) -> Head:
        """The head of these settings, fitted on the support set and nothing else.

        Args:
            settings: an object of ``Settings``.
            seed: of all randomness.
            on_epoch: called with the epoch (from 1) and the head after it; it has no effect on the fit.

        Raises:
            UserError: no auxiliary features, where they are needed.
        """

    def fit_all(self, support: Support, candidates: Sequence[Any], *, seed: int) -> Sequence[Head]:
        """The heads of several settings; a method that trains them together overrides this."""
        return [self.fit(support, settings, seed=seed) for settings in candidates]

    def fallback(self, support: Support, settings: Any) -> Any:
        """The settings to take where they were to be cross-validated and no image can be held out."""
        return settings

    def settings_of_part(self, settings: Any, share: float) -> Any:
        """Those with which a head of a share of the images, left-out ones being missing, is most like that of all."""
        return settings

    def reads_auxiliary(self, settings: Any) -> bool:
        """Whether the method can't do without an auxiliary encoder's features with these settings."""
        return self.needs_auxiliary

    def caution(self, settings: Any, classes: int) -> str | None:
        """What the method can't do with so many classes, in one sentence or two; None where there is nothing to say."""
        return None

    def passes(self, settings: Any) -> int:
        """How often a fit goes over the images at most: a measure of its cost."""
        return getattr(settings, "epochs", getattr(settings, "iterations", 1))

    def complete(self, given: Mapping[str, Any]) -> Any:
        """The settings with these changes, by their keys.

        Raises:
            UserError: names the setting that does not exist, can't have its value, or is left to cross-validation.
        """
        known = self.Settings.describe()
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise UserError(f"{self.name} has no setting {unknown[0]!r}; it has {', '.join(known)}.")
        try:
            settings = self.Settings(**given)
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            words = in_words(known[key], ends=True)
            raise UserError(f"{key} of {self.name} is {words}, not {shorten(given[key])}.") from None
        if settings.selection == "cross_validation":
            if not self.grid:
                raise UserError(f'{self.name} has nothing to be selected from: set its selection to "fixed".')
            values = settings.dump()
            taken = [key for key in self.grid[0] if values[key] != known[key]["default"]]
            if taken:
                raise UserError(
                    f"{self.name} chooses {taken[0]} by cross-validation; to set it, set selection to fixed too."
                )
        return settings


def in_words(schema: Mapping[str, Any], *, ends: bool = False) -> str:
    """What a setting may be, out of its JSON schema: ``a number of at least 0``.

    Args:
        ends: tell where the range of any number ends, too.
    """
    if not ends and schema.get("maximum") in (LARGEST, LARGEST_WHOLE):
        schema = {key: value for key, value in schema.items() if key != "maximum"}
    match schema:
        case {"anyOf": parts}:
            return " or ".join(in_words(part, ends=ends) for part in parts)
        case {"enum": names}:
            return f"one of {', '.join(names)}"
        case {"const": name}:
            return f'"{name}"'
        case {"type": "integer", "minimum": low, "maximum": high}:
            return f"a whole number from {low} to {high}"
        case {"type": "integer", "minimum": low}:
            return f"a whole number of at least {low}"
        case {"minimum": low, "maximum": high}:
            return f"a number from {low:g} to {high:g}"
        case {"minimum": low}:
            return f"a number of at least {low:g}"
        case {"exclusiveMinimum": 0, "maximum": high}:
            return f"a positive number of at most {high:g}"
        case {"exclusiveMinimum": 0}:
            return "a positive number"
        case _:
            return f"of type {schema['type']}"
