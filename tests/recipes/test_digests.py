"""The identities of the named recipes are fixed: after a change of one, its users have to build all artifacts again."""

import json
from pathlib import Path

import pytest

from raylabel.recipes.registry import NAMED, make, takes_data
from raylabel.store.artifact import digest, identity_of

GOLDEN = json.loads(Path(__file__).with_name("digests.json").read_text())
"""Digests of the recipes' identities with data in 'DIR'; one that changes needs a line in CHANGELOG.md."""


def test_every_named_recipe_has_a_digest():
    assert list(GOLDEN) == list(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_the_digest_is_unchanged(name: str):
    recipe = make(NAMED[name], "DIR" if takes_data(NAMED[name]) else "")
    assert digest(identity_of(recipe)) == GOLDEN[name], f"{name}: add a line to CHANGELOG.md, then update digests.json"
