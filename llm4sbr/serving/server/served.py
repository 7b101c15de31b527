"""The models of one server: which one answers a request, and which ones only compute along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm4sbr.errors import InputError
from llm4sbr.serving.filters import Filters
from llm4sbr.serving.server.http import Refusal
from llm4sbr.serving.server.models import Model, Models
from llm4sbr.serving.server.named import NamedFilters
from llm4sbr.serving.server.split import Split

LONGEST_KEY = 200
"""Maximum length of a key in characters."""


class Served:
    """All models of a server.

    Args:
        models: name -> model, the first of which answers what no split and no request assigns.
        shares: as for `Split`; by default the first model has everything.
        shadows: names of models that compute what others answer. They are reached by name, but hold up
            neither the start nor the server's readiness.
        filters: named filters that change while the server runs, of all models.

    Raises:
        InputError: a share or shadow of a model that is not there, or a shadow that also has a share.
    """

    def __init__(
        self,
        models: Mapping[str, Models],
        shares: Mapping[str, float] | None = None,
        shadows: Sequence[str] = (),
        filters: NamedFilters | None = None,
    ) -> None:
        self.models = dict(models)
        self.filters = filters or NamedFilters()
        for name in (*(shares or ()), *shadows):
            if name not in self.models:
                raise InputError(f"{name!r:.60}: no such model; this server has {', '.join(self.models)}")
        answering = [name for name in self.models if name not in shadows]
        both = [name for name in shadows if (shares or {}).get(name)]
        if not answering or both:
            raise InputError(f"--shadow {(both or [*shadows])[0]}: answers; name another model beside it")
        self.split = Split(shares or {answering[0]: 1.0})
        self.shadows = [self.models[name] for name in dict.fromkeys(shadows)]
        self.answering = [self.models[name] for name in answering]

    def current_filters(self) -> list[Filters]:
        """Those of all models that are there."""
        return [one.current.filters for one in self.models.values() if one.ready]

    @property
    def ready(self) -> bool:
        """Whether every model that answers is warm."""
        return all(one.ready for one in self.answering)

    @property
    def refused(self) -> list[str]:
        """Models whose folder has a newer version that cannot be used."""
        return [name for name, one in self.models.items() if one.refused]

    def named(self, name: object) -> Models:
        """The model of that name; `Refusal` 404 if there is none."""
        found = self.models.get(name) if isinstance(name, str) else None
        if found is None:
            there = ", ".join(map(repr, self.models))
            raise Refusal(404, f"model {name!r:.60}: unknown; this server has {there}")
        return found

    def version(self, name: str, wanted: str = "") -> tuple[Models, Model]:
        """The model of that name and, if one is named, of that version; `Refusal` 404 if there is none.

        `1` is every model's current version, for clients that number versions.
        """
        models = self.named(name)
        model = models.current
        if wanted not in ("", "1", model.version):
            raise Refusal(404, f"version {wanted!r:.60}: not served; there is {model.version!r}")
        return models, model

    def choose(self, given: Mapping[str, Any], header: bytes | None) -> Models:
        """The model that answers a request for recommendations.

        Args:
            given: the request; its `model` names a model, its `sticky_key` a key that always gets the same.
            header: a key that counts if the request has none.

        Raises:
            Refusal: 400 a key that is none, 404 an unknown model.
        """
        if given.get("model") is not None:
            return self.named(given["model"])
        key = given.get("sticky_key")
        if key is None and header is not None:
            key = header.decode("latin-1")
        if key is not None and not (isinstance(key, str) and 1 <= len(key) <= LONGEST_KEY):
            raise Refusal(400, f"sticky_key: expected a text of 1 to {LONGEST_KEY} characters")
        return self.models[self.split.choose(key)]


def parse_models(texts: Sequence[str], name: str) -> dict[str, Path]:
    """`PATH` as the model `name`, or several `NAME=PATH`; a path that is there is one, with `=` or without.

    Raises:
        InputError: a name twice, or several models of which one has no name.
    """
    found: dict[str, Path] = {}
    for text in texts:
        given, equals, path = text.partition("=")
        named = bool(equals) and "/" not in given and not Path(text).exists()
        if not named and len(texts) > 1:
            raise InputError(f"{text:.100}: several models need names, such as A={text:.100}")
        key = given.strip() if named else name
        if not key or (not path.strip() and named) or ("," in key and named):
            raise InputError(f"{text:.100}: expected NAME=PATH, the name without a comma")
        if key in found:
            raise InputError(f"{key:.60}: two models have this name")
        found[key] = Path(path if named else text)
    return found
