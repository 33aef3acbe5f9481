"""The cloud as it is written down: configuration files, services, the order of steps. Nothing of it runs here."""

from __future__ import annotations

import configparser
import json
import pathlib

import pytest
from labkit.cloud import bringup, clients, compute, horizon, ini, nova, settings, trusted
from labkit.cloud.cloud import Cloud
from labkit.errors import LabError
from labkit.paths import LabPaths


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Cloud:
    return Cloud.at(LabPaths(tmp_path / "lab", tmp_path / "cache"))


def _read(path: pathlib.Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(path.read_text())
    return parser


def test_a_later_part_of_a_file_overrides_an_earlier_one(tmp_path: pathlib.Path) -> None:
    path = ini.write(
        tmp_path / "deep" / "file.conf",
        {"a": {"x": 1, "flag": True}, "b": {"gone": None}},
        {"a": {"x": 2}},
    )
    parsed = _read(path)
    assert dict(parsed["a"]) == {"x": "2", "flag": "true"}
    assert dict(parsed["b"]) == {}


def test_no_value_can_smuggle_in_a_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        ini.render({"a": {"x": "1\n[b]"}})


def test_every_service_has_a_name_of_its_own_and_a_log(cloud: Cloud) -> None:
    names = [service.name for service in cloud.services]
    assert len(names) == len(set(names))
    assert {service.log.parent for service in cloud.services} == {cloud.paths.log}
    assert cloud.service("nova-api").name == "nova-api"
    with pytest.raises(LabError, match=r"no service 'nova-apo'; there are: .*nova-api"):
        cloud.service("nova-apo")


@pytest.mark.parametrize("plain", [True, False])
def test_every_step_needs_only_steps_that_there_are(cloud: Cloud, plain: bool) -> None:
    """And everything that is waited for at the end comes after the APIs that tell of it."""
    plan = {step.name: step for step in bringup.plan(Cloud.at(cloud.paths, plain))}
    for step in plan.values():
        assert set(step.needs) <= set(plan), step.name
    assert ("enrolment" in plan) is not plain
    assert {"compute-host-a", "compute-host-b", "nova-api"} <= set(plan["hosts-known"].needs)


@pytest.mark.parametrize("service", ["nova-conductor", "nova-scheduler", "nova-api", "neutron"])
def test_who_asks_keystone_waits_for_its_user(cloud: Cloud, service: str) -> None:
    """Some ask once, at their start, and end when Keystone does not know them."""
    plan = {step.name: step for step in bringup.plan(cloud)}
    assert "identity" in plan[service].needs


def test_a_host_knows_no_database(cloud: Cloud) -> None:
    """What a host holds must not open the cloud's records to whoever takes the host over."""
    (host, _) = cloud.computes
    host.nova_files.mkdir(parents=True)
    compute.configure(host, trusted.compute_options(host))
    text = compute.config_file(host).read_text()
    assert "mysql" not in text
    parsed = _read(compute.config_file(host))
    assert parsed["DEFAULT"]["compute_driver"] == trusted.DRIVER
    assert parsed["libvirt"]["images_type"] == "qcow2"
    assert parsed["trusted_clone"]["host_id"] == host.name


def test_plain_nova_has_nothing_of_this_project(cloud: Cloud) -> None:
    control = cloud.control
    nova.configure(control, nova.NOVA_ROUTER)
    written = "".join(
        path.read_text() for path in nova.directory(control).glob("*.*") if path.is_file()
    )
    assert "trusted_clone" not in written


def test_the_trusted_api_replaces_novas_router_and_nothing_else(cloud: Cloud) -> None:
    control = cloud.control
    nova.configure(control, trusted.ROUTER, trusted.control_options(control))
    shipped = (settings.SHARED_CONFIG / "nova" / nova.PASTE).read_text()
    written = (nova.directory(control) / nova.PASTE).read_text()
    assert written.replace(trusted.ROUTER, nova.NOVA_ROUTER) == shipped
    assert written.count(trusted.ROUTER) == 1
    parsed = _read(nova.directory(control) / "nova.conf")
    assert parsed["trusted_clone_database"]["connection"].startswith("mysql+pymysql://")


def test_there_is_a_cloud_in_clouds_yaml_for_the_administrator_and_each_tenant(
    cloud: Cloud,
) -> None:
    cloud.control.conf.mkdir(parents=True)
    clients.write_clouds(cloud.control)
    clouds = json.loads(clients.clouds_file(cloud.control).read_text())["clouds"]
    assert set(clouds) == {"admin", "demo", "other"}
    assert clouds["demo"]["auth"]["project_name"] == "demo"


def test_the_dashboard_judges_by_the_operators_files_and_has_a_key_of_its_own(
    cloud: Cloud, tmp_path: pathlib.Path
) -> None:
    control = cloud.control
    horizon.configure(control)
    (file,) = control.conf.glob("horizon/local/local_settings.py")
    written = file.read_text().partition("ALLOWED_HOSTS")
    values: dict[str, object] = {}
    exec("".join(written[1:]), values)
    operator = control.paths.hosts / "operator"
    assert values["TRUSTED_CLONE_ANCHORS_FILE"] == str(operator / "anchors.pem")
    assert values["TRUSTED_CLONE_POLICY_FILES"] == [str(operator / "policy.json")]
    assert values["OPENSTACK_KEYSTONE_URL"] == settings.AUTH_URL
    assert values["DEBUG"] is False
    other = Cloud.at(LabPaths(tmp_path / "other", tmp_path / "cache")).control
    horizon.configure(other)
    assert (
        str(values["SECRET_KEY"])
        not in (other.conf / "horizon" / "local" / "local_settings.py").read_text()
    )


def test_a_cloud_and_a_bare_lab_can_be_up_at_one_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_DIR", str(tmp_path))
    lab, cloud = LabPaths.from_environment(), Cloud.from_environment().paths
    assert lab.run != cloud.run
    assert lab.hosts != cloud.hosts
    assert lab.cache == cloud.cache
