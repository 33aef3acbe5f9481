"""The three small files by which swtpm_setup finds the CA that certifies endorsement keys (swtpm-localca(8))."""

from __future__ import annotations

import dataclasses
import pathlib

LOCALCA = """\
statedir = {state}
signingkey = {key}
issuercert = {certificate}
certserial = {state}/certserial
"""
OPTIONS = """\
--platform-manufacturer {platform}
--platform-version 1.0
--platform-model QEMU
"""
SETUP = """\
create_certs_tool = /usr/bin/swtpm_localca
create_certs_tool_config = {config}
create_certs_tool_options = {options}
active_pcr_banks = sha256
"""


@dataclasses.dataclass(frozen=True)
class LocalAuthority:
    """A CA for swtpm_localca, which makes one in ``state`` when the key is not there."""

    key: pathlib.Path
    certificate: pathlib.Path
    state: pathlib.Path

    def write(
        self, directory: pathlib.Path, platform: str, visible_at: pathlib.Path | None = None
    ) -> pathlib.Path:
        """Write the files into ``directory`` in place (they may be bind-mounted) and return swtpm_setup's.

        :param visible_at: the directory under which swtpm_setup sees these files, when it is another
        """
        seen = visible_at or directory
        (directory / "swtpm-localca.conf").write_text(
            LOCALCA.format(state=self.state, key=self.key, certificate=self.certificate)
        )
        (directory / "swtpm-localca.options").write_text(OPTIONS.format(platform=platform))
        setup = directory / "swtpm_setup.conf"
        setup.write_text(
            SETUP.format(config=seen / "swtpm-localca.conf", options=seen / "swtpm-localca.options")
        )
        return setup
