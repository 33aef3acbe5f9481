"""Every error of this API on one page: which status it is, and what to do next.

Nova's own errors have the status that nova gives them when it creates a server. Whatever is not here is a fault of ours: 500.

Leans on nova.exception, and on nova.api.openstack.compute.servers for what a flavor and an image can have against each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from keystoneauth1 import exceptions as ksa
from neutronclient.common import exceptions as neutron
from nova import exception
from nova.api.openstack.compute import servers as novas
from oslo_log import log as logging
from webob import exc

from nova_trusted_clone.rpc import errors as rpc

LOG = logging.getLogger(__name__)
EXPECTED = (400, 403, 404, 409, 503)


class BadRequest(Exception):
    """The request is wrong, whatever the state of the cloud; the text names the field."""


class NotNow(Exception):
    """The request is well-formed, and cannot be done with the server, or the cloud, as it is."""


class Away(Exception):
    """A service that is needed does not answer."""


_NETWORKS = "Give other networks or ports, or leave networks out to use those of the server."
_PORT = "Make another port of type normal, or give networks."
_LATER = "Try again in a moment."
_OPERATOR = "Ask the operator of the cloud, with the request id of this reply."
_SHAPE = "The server's flavor or image cannot be scheduled anew: resize or rebuild it first."

Kinds = type[Exception] | tuple[type[Exception], ...]
# The first row that fits counts: a narrower error stands before a wider one.
TABLE: tuple[tuple[Kinds, type[exc.HTTPException], str], ...] = (
    # -- our own
    (BadRequest, exc.HTTPBadRequest, ""),
    (NotNow, exc.HTTPConflict, ""),
    (Away, exc.HTTPServiceUnavailable, _LATER),
    # -- the other services of trusted clones
    (rpc.NotFound, exc.HTTPNotFound, ""),
    (rpc.Conflict, exc.HTTPConflict, ""),
    (rpc.Invalid, exc.HTTPBadRequest, ""),
    (rpc.Refused, exc.HTTPConflict, _OPERATOR),
    (rpc.Unavailable, exc.HTTPServiceUnavailable, _LATER),
    # -- the server as it is
    (exception.InstanceNotFound, exc.HTTPNotFound, ""),
    (exception.InstanceIsLocked, exc.HTTPConflict, "Unlock it first."),
    (
        exception.InstanceInvalidState,
        exc.HTTPConflict,
        "A server can be cloned while it is ACTIVE and nothing else is being done with it.",
    ),
    (
        exception.ServiceUnavailable,
        exc.HTTPConflict,
        "The server's host does not report: try again when it does.",
    ),
    (exception.InstanceNotReady, exc.HTTPConflict, "Wait until the server has a host."),
    # -- quotas and policy of nova
    (
        exception.OverQuota,
        exc.HTTPForbidden,
        "Ask for fewer clones, delete what is not needed, or ask for more quota.",
    ),
    (exception.ExternalNetworkAttachForbidden, exc.HTTPForbidden, _NETWORKS),
    (
        exception.BootFromVolumeRequiredForZeroDiskFlavor,
        exc.HTTPForbidden,
        "Resize the server to a flavor with a disk.",
    ),
    # -- where the clones may be
    (
        exception.NoValidHost,
        exc.HTTPConflict,
        "Ask for another availability zone, free resources, or try again later.",
    ),
    (exception.ComputeHostNotFound, exc.HTTPBadRequest, "Name another host, or none."),
    # -- their interfaces
    (exception.PortInUse, exc.HTTPConflict, "Make another port, or give networks."),
    (exception.PortNotFound, exc.HTTPBadRequest, _NETWORKS),
    (exception.PortRequiresFixedIP, exc.HTTPBadRequest, "Give the port an address."),
    (exception.PortNotUsable, exc.HTTPBadRequest, _PORT),
    (
        exception.FixedIpAlreadyInUse,
        exc.HTTPBadRequest,
        "Give another fixed_ip, or none: a clone has an address of its own.",
    ),
    (exception.FixedIpNotFoundForAddress, exc.HTTPBadRequest, "Give another fixed_ip, or none."),
    (
        exception.InvalidFixedIpAndMaxCountRequest,
        exc.HTTPBadRequest,
        "Leave fixed_ip out, or ask for one clone at a time.",
    ),
    (
        exception.MultiplePortsNotApplicable,
        exc.HTTPBadRequest,
        "Give networks in place of ports, or ask for one clone at a time.",
    ),
    (exception.NetworkNotFound, exc.HTTPBadRequest, _NETWORKS),
    (exception.NetworkRequiresSubnet, exc.HTTPBadRequest, _NETWORKS),
    (exception.NetworkAmbiguous, exc.HTTPConflict, "Name the network by its id."),
    (exception.SecurityGroupNotFound, exc.HTTPBadRequest, "Give ports with groups of their own."),
    (exception.SecurityGroupCannotBeApplied, exc.HTTPBadRequest, _NETWORKS),
    (exception.NoUniqueMatch, exc.HTTPConflict, "Give ports with groups of their own."),
    (exception.ForbiddenPortsWithAccelerator, exc.HTTPBadRequest, _PORT),
    (exception.ForbiddenWithRemoteManagedPorts, exc.HTTPBadRequest, _PORT),
    (exception.DeviceProfileError, exc.HTTPBadRequest, _PORT),
    (exception.ExtendedResourceRequestOldCompute, exc.HTTPBadRequest, _PORT),
    # -- what is taken over from the server
    (exception.FlavorNotFound, exc.HTTPBadRequest, "Resize the server to a flavor that exists."),
    (exception.InvalidMetadata, exc.HTTPBadRequest, "Give other metadata."),
    (
        exception.InstanceUserDataMalformed,
        exc.HTTPBadRequest,
        "The server's user data cannot be read.",
    ),
    (exception.InstanceExists, exc.HTTPConflict, "Give another name."),
    (exception.InvalidBDM, exc.HTTPBadRequest, _SHAPE),
    (exception.CertificateValidationFailed, exc.HTTPBadRequest, _OPERATOR),
    (exception.MixedInstanceNotSupportByComputeService, exc.HTTPConflict, _OPERATOR),
    # -- services that nova leans on
    (exception.PlacementAPIConnectFailure, exc.HTTPServiceUnavailable, _LATER),
    (neutron.ConnectionFailed, exc.HTTPServiceUnavailable, _LATER),
    (ksa.ConnectFailure, exc.HTTPServiceUnavailable, _LATER),
    # -- every other thing that nova finds wrong: an unknown zone; a flavor that contradicts its image
    (exception.InvalidRequest, exc.HTTPBadRequest, ""),
    (novas.INVALID_FLAVOR_IMAGE_EXCEPTIONS, exc.HTTPBadRequest, _SHAPE),
    (exception.Invalid, exc.HTTPBadRequest, ""),
)

# What a service says about itself, its host or the broker is for operators: nova hides names of hosts from tenants.
_FOR_OPERATORS = (rpc.Refused, rpc.Unavailable)
_CODES_FOR_OPERATORS = frozenset(("trusted-clone.host.unable",))
_HIDDEN = {
    exc.HTTPConflict: "Trusted clones are not possible at present, for a reason that the log of nova-api has.",
    exc.HTTPServiceUnavailable: "A service that trusted clones need does not answer.",
}


@contextlib.contextmanager
def translated(context: Any) -> Iterator[None]:
    """Raise every error of the table as the HTTP error that it is."""
    try:
        yield
    except exc.HTTPException:
        raise
    except Exception as error:
        found = answer(error, for_operator=bool(context.is_admin))
        if found is None:
            raise
        raise found from error


def answer(error: Exception, *, for_operator: bool = False) -> exc.HTTPException | None:
    """Return the HTTP error for an error; None for a fault of ours.

    :param for_operator: whether names of hosts and states of services may be told
    """
    for kind, http, next_step in TABLE:
        if isinstance(error, kind):
            text = _text(error, http, for_operator)
            return http(explanation=f"{text} {next_step}".strip())
    return None


def _text(error: Exception, http: type[exc.HTTPException], for_operator: bool) -> str:
    if isinstance(error, exception.NovaException):
        return _sentence(error.format_message())
    if not isinstance(error, rpc.CloneError):
        return _sentence(str(error) or type(error).__name__)
    hidden = isinstance(error, _FOR_OPERATORS) or error.code in _CODES_FOR_OPERATORS
    if hidden and not for_operator:
        LOG.warning("Told to the client in general words only: %s (%s)", error.text, error.code)
        return f"{_HIDDEN[http]} ({error.code})"
    return f"{_sentence(error.text)} ({error.code})"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", ")")) else text + "."
