""".zuul.yaml is what Zuul reads, and names what there is."""

from __future__ import annotations

import configparser
import pathlib
import re
from typing import Any

import pytest
import yaml

from nova_trusted_clone.tempest_plugin import config as tempest_options

from .stage import ROOT

# Attributes of a job, of Zuul's documentation ("Job").


# Of the attributes of a job (Zuul's documentation, "Job") those that jobs here may use: a misspelt one is an error there.
ATTRIBUTES = {
    *("name", "parent", "description", "abstract", "voting", "timeout", "nodeset", "files"),
    *("irrelevant-files", "required-projects", "dependencies", "vars", "group-vars", "host-vars"),
    *("pre-run", "run", "post-run", "roles", "branches"),
}


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / ".zuul.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def jobs(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["job"]["name"]: entry["job"] for entry in entries if "job" in entry}


def test_it_has_one_project_and_jobs_and_nothing_else(entries: list[dict[str, Any]]) -> None:
    kinds = [kind for entry in entries for kind in entry]
    assert sorted(set(kinds)) == ["job", "project"]
    assert kinds.count("project") == 1


def test_jobs_have_attributes_that_zuul_knows(jobs: dict[str, dict[str, Any]]) -> None:
    for name, job in jobs.items():
        assert set(job) <= ATTRIBUTES, name
        assert job["parent"] and job["description"], name
        for expression in job.get("irrelevant-files", []):
            re.compile(expression)


def test_every_job_is_defined_and_run_before_a_merge(
    entries: list[dict[str, Any]], jobs: dict[str, dict[str, Any]]
) -> None:
    (project,) = [entry["project"] for entry in entries if "project" in entry]
    for pipeline in ("check", "gate"):
        assert set(project[pipeline]["jobs"]) == set(jobs)


def test_tox_has_the_environments_that_jobs_ask_for(jobs: dict[str, dict[str, Any]]) -> None:
    tox = configparser.RawConfigParser()
    tox.read(ROOT / "tox.ini")
    for job in jobs.values():
        wanted = job.get("vars", {}).get("tox_envlist")
        # "all": tempest's own, of the parent job.
        if job["parent"].startswith("openstack-tox") and wanted:
            assert f"testenv:{wanted}" in tox.sections()


def test_the_two_node_job_sets_what_the_plugin_knows(jobs: dict[str, dict[str, Any]]) -> None:
    job = jobs["nova-trusted-clone-multinode"]
    known = set(
        re.findall(r"^(TRUSTED_CLONE_\w+)=", (ROOT / "devstack/settings").read_text(), re.M)
    )
    nodes = (job["vars"], job["group-vars"]["subnode"])
    for settings in nodes:
        own = {one for one in settings["devstack_localrc"] if one.startswith("TRUSTED_CLONE_")}
        assert own <= known
    assert {one["devstack_localrc"]["TRUSTED_CLONE_NODES"] for one in nodes} == {2}
    tests = pathlib.Path(tempest_options.__file__).parent / "tests"
    names = [
        "nova_trusted_clone.tempest_plugin.tests."
        + ".".join(path.relative_to(tests).with_suffix("").parts)
        for path in tests.rglob("test_*.py")
    ]
    assert all(re.search(job["vars"]["tempest_test_regex"], name) for name in names)
