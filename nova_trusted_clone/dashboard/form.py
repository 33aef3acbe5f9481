"""The form that asks for clones."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from django.utils.html import format_html
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _
from horizon import forms, messages

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.values import CloneRequest, Created, Nic
from nova_trusted_clone.dashboard import cloud, faults
from nova_trusted_clone.dashboard.source import Source

# The limits of the API (api/schemas/trusted_clone.py).
MAX_NAME, MAX_COUNT = 255, 100
NONCE_BYTES = 16
Choices = Sequence[tuple[str, Any]]


class NonceInput(forms.TextInput):
    """A field with a button that fills it in the browser, with random bytes that nobody else has seen."""

    template_name = "trusted_clones/nonce_input.html"


class CloneForm(forms.SelfHandlingForm):
    """What to make of a server. Errors of the API appear beside the field that caused them."""

    name = forms.CharField(
        label=_("Name"),
        max_length=MAX_NAME,
        required=False,
        help_text=_("Several clones have their number added to it."),
    )
    count = forms.IntegerField(label=_("Count"), min_value=1, max_value=MAX_COUNT, initial=1)
    availability_zone = forms.ThemableChoiceField(label=_("Availability Zone"), required=False)
    vtpm = forms.ChoiceField(label=_("vTPM"), widget=forms.RadioSelect, required=False)
    memory = forms.ChoiceField(label=_("Memory"), widget=forms.RadioSelect, initial="lazy")
    nonce = forms.RegexField(
        r"^(?:[0-9a-fA-F]{2}){8,64}\Z",
        label=_("Nonce"),
        widget=NonceInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=_("The evidence has to carry it. Keep it: it proves that the evidence is yours."),
        error_messages={"invalid": _("16 to 128 hexadecimal digits are expected.")},
    )

    def __init__(
        self,
        request: Any,
        *args: Any,
        source: Source,
        zones: Sequence[str],
        networks: Choices,
        **more: Any,
    ) -> None:
        super().__init__(request, *args, **more)
        self.source = source
        self.fields["name"].widget.attrs["placeholder"] = f"{source.name}-clone"
        self.fields["count"].label = _count_label(source.room)
        self.fields["availability_zone"].choices = [
            ("", _now("Same as the instance")),
            *((zone, zone) for zone in zones),
        ]
        self._offer_vtpm()
        self.fields["memory"].choices = _memory_choices()
        self.fields["nonce"].initial = secrets.token_hex(NONCE_BYTES)
        self._offer_networks(networks)

    def handle(self, request: Any, data: dict[str, Any]) -> Created | None:
        """Ask for the clones; None with the error in its place."""
        try:
            made = cloud.clones(request).create(self.source.id, self._wish(data))
        except errors.Unauthorized:
            raise
        except errors.ClientError as error:
            self.add_error(*faults.placed(error, self.fields))
            return None
        _remember(request, made)
        messages.success(
            request,
            _now("Clones of %(name)s are being made. Keep their nonce: %(nonce)s")
            % {"name": self.source.name, "nonce": made.nonce.hex()},
        )
        return made

    # -- within -------------------------------------------------------------------------------------------------------

    def _offer_vtpm(self) -> None:
        """A server without a vTPM has clones without, and the API refuses the field."""
        if self.source.has_vtpm is False:
            del self.fields["vtpm"]
            return
        self.fields["vtpm"].choices = _vtpm_choices()
        self.fields["vtpm"].initial = "new" if self.source.has_vtpm else None

    def _offer_networks(self, networks: Choices) -> None:
        last = self.fields.pop("nonce")
        for index, interface in enumerate(self.source.interfaces):
            same = _now("Same as the instance: %s") % interface.network
            label = _now("Network of interface %(number)d (%(mac)s, %(address)s)")
            self.fields[f"network_{index}"] = forms.ThemableChoiceField(
                label=label
                % {"number": index + 1, "mac": interface.mac, "address": interface.address},
                choices=[("", same), *networks],
                required=False,
            )
        self.fields["nonce"] = last

    def _wish(self, data: dict[str, Any]) -> CloneRequest:
        return CloneRequest(
            name=data["name"] or None,
            count=data["count"],
            availability_zone=data["availability_zone"] or None,
            vtpm=data.get("vtpm") or None,
            memory=data["memory"],
            nonce=bytes.fromhex(data["nonce"]),
            networks=self._nics(data),
        )

    def _nics(self, data: dict[str, Any]) -> list[Nic] | None:
        """One for each interface, or none at all: the API knows no 'this one as before'."""
        chosen = [data[f"network_{index}"] for index in range(len(self.source.interfaces))]
        if not any(chosen):
            return None
        known = {label: key for key, label in self.fields["network_0"].choices}
        same = [known.get(interface.network, "") for interface in self.source.interfaces]
        return [Nic(network_id=wish or own) for wish, own in zip(chosen, same, strict=True)]


def _count_label(room: int | None) -> Any:
    if room is None:
        return _("Count")
    return _now("Count (the project's quota has room for %d)") % room


def _explained(title: Any, text: Any) -> Any:
    return format_html("<strong>{}</strong> – {}", title, text)


def _vtpm_choices() -> Choices:
    return (
        (
            "new",
            _explained(
                _now("New"), _now("a vTPM of its own that nobody has used; it holds nothing.")
            ),
        ),
        (
            "derive",
            _explained(
                _now("Derive"),
                _now("one with a new identity that opens what the instance's vTPM has sealed."),
            ),
        ),
    )


def _memory_choices() -> Choices:
    return (
        (
            "lazy",
            _explained(
                _now("Lazy"),
                _now("the clone runs at once; each page is verified before it is used."),
            ),
        ),
        ("eager", _explained(_now("Eager"), _now("it runs when all of it has been verified."))),
    )


def _remember(request: Any, made: Created) -> None:
    """Keep the nonce in the session of whoever gave it: their own word, not the cloud's, as long as they are logged in."""
    kept = request.session.get("trusted_clone_nonces", {})
    kept |= {clone.id: made.nonce.hex() for clone in made.clones}
    request.session["trusted_clone_nonces"] = dict(list(kept.items())[-200:])
