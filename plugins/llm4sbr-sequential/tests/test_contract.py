from __future__ import annotations

from llm4sbr.testing.backbones import BackboneContract


class TestCore(BackboneContract):
    name = "core"


class TestNiser(BackboneContract):
    name = "niser"


class TestLessr(BackboneContract):
    name = "lessr"


class TestAttenMixer(BackboneContract):
    name = "atten-mixer"
