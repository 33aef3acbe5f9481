"""Options of tempest.conf: whether the cloud has trusted clones, and what the tests need to judge them."""

from __future__ import annotations

from oslo_config import cfg

service_available = cfg.BoolOpt(
    "trusted_clone",
    default=False,
    help="Whether the cloud's compute API has trusted clones, and two hosts that can clone.",
)

group = cfg.OptGroup("trusted_clone", title="Trusted clones")

options = [
    cfg.StrOpt(
        "catalog_type",
        default="compute",
        help="Catalog type of the service: Nova's own, as the API is an extension of it.",
    ),
    cfg.StrOpt(
        "endpoint_type",
        default="publicURL",
        choices=["public", "admin", "internal", "publicURL", "adminURL", "internalURL"],
        help="The endpoint type to use.",
    ),
    cfg.StrOpt(
        "flavor_ref",
        default="",
        help="A flavor with a vTPM (hw:tpm_version=2.0). By default compute.flavor_ref, which needs one too unless the "
        "operator's policy allows servers without a vTPM.",
    ),
    cfg.StrOpt(
        "anchors_file",
        default="",
        help="The operator's anchors.pem. Without it and policy_file evidence is fetched and not verified.",
    ),
    cfg.StrOpt("policy_file", default="", help="The operator's policy.json."),
    cfg.BoolOpt(
        "vtpm_derive", default=False, help="Whether the operator's policy allows vtpm=derive."
    ),
    cfg.BoolOpt(
        "guest_login",
        default=True,
        help="Whether guests of the image can be logged into. Where they cannot, a server answers when it answers a ping.",
    ),
    cfg.IntOpt(
        "build_timeout",
        default=600,
        help="Seconds that a clone may take to be complete; emulated guests are slow.",
    ),
    cfg.IntOpt("build_interval", default=2, help="Seconds between two looks at a clone."),
]
