"""Switches the panel on; a file of the same name in ``local/enabled`` that says otherwise wins."""

from nova_trusted_clone.client import errors

PANEL = "trusted_clones"
PANEL_DASHBOARD = "project"
PANEL_GROUP = "compute"
ADD_PANEL = "nova_trusted_clone.dashboard.panel.TrustedClones"
ADD_INSTALLED_APPS = ["nova_trusted_clone.dashboard"]
ADD_SCSS_FILES = ["dashboard/project/trusted_clones/trusted_clones.scss"]
ADD_JS_FILES = ["dashboard/project/trusted_clones/nonce.js"]
# What Horizon does with an error of the API: log in again, say that there is no such thing, show the message.
ADD_EXCEPTIONS = {
    "unauthorized": (errors.Unauthorized,),
    "not_found": (errors.NotFound,),
    "recoverable": (errors.ClientError,),
}
