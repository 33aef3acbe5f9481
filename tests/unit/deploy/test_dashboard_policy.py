"""The policy files that Horizon reads say what nova-api's own rules say."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml
from nova.policies import base

from nova_trusted_clone import policies
from nova_trusted_clone.policies import trusted_clone as rules

CONF = pathlib.Path(__file__).resolve().parents[3] / "nova_trusted_clone" / "dashboard" / "conf"
OURS = {rule.name: rule for rule in policies.list_rules()}
SHIPPED = {
    row["name"]: row
    for row in yaml.safe_load((CONF / "default_policies" / "trusted_clone.yaml").read_text())
}


def test_every_rule_is_there_as_the_api_has_it():
    assert {name: SHIPPED[name]["check_str"] for name in OURS} == {
        name: rule.check_str for name, rule in OURS.items()
    }


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(OURS)))
def test_rules_of_novas_are_novas(name: str):
    known = {rule.name: rule.check_str for rule in base.list_rules()}
    assert SHIPPED[name]["check_str"] == known[name]


def test_no_rule_refers_to_one_that_is_missing():
    for row in SHIPPED.values():
        assert set(re.findall(r"rule:(\w+)", row["check_str"])) <= set(SHIPPED), row["name"]


def test_what_horizon_needs_of_a_rule_is_given():
    for row in SHIPPED.values():
        assert {"check_str", "description", "scope_types"} <= set(row)


def test_the_sample_names_every_rule_and_sets_none():
    text = (CONF / "trusted_clone_policy.yaml").read_text()
    assert yaml.safe_load(text) is None
    for name, rule in OURS.items():
        assert f'#"{name}": "{rule.check_str}"' in text


def test_the_dashboard_asks_for_rules_that_are_there():
    asked = set(re.findall(r'_rule\("([^"]+)"\)', (CONF.parent / "rules.py").read_text()))
    assert asked
    assert {rules.POLICY_ROOT % name for name in asked} <= set(OURS)
