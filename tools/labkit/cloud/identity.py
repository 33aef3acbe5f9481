"""Users, projects, roles and endpoints."""

from __future__ import annotations

from openstack.connection import Connection

from labkit.cloud import settings


def set_up(admin: Connection) -> None:
    """Make the users of all services, the tenants, and the catalog."""
    keystone = admin.identity
    roles = {role.name: role for role in keystone.roles()}
    service_role = roles.get("service") or keystone.create_role(name="service")
    services = keystone.create_project(name="service", domain_id="default")
    for name in settings.SERVICE_USERS:
        user = keystone.create_user(
            name=name, password=settings.PASSWORD, default_project_id=services.id
        )
        for role in (roles["admin"], service_role):
            keystone.assign_project_role_to_user(services, user, role)
    for name in settings.TENANTS:
        project = keystone.create_project(name=name, domain_id="default")
        user = keystone.create_user(
            name=name, password=settings.PASSWORD, default_project_id=project.id
        )
        keystone.assign_project_role_to_user(project, user, roles["member"])
    for kind, name, url in settings.ENDPOINTS:
        service = keystone.create_service(name=name, type=kind)
        for interface in ("public", "internal"):
            keystone.create_endpoint(
                service_id=service.id,
                interface=interface,
                url=url,
                region_id=settings.REGION,
            )
