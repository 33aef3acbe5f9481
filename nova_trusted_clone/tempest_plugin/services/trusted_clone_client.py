"""The API's requests, each with the answer that it must have."""

from __future__ import annotations

import json
from typing import Any

from tempest.lib.common import rest_client


class TrustedCloneClient(rest_client.RestClient):
    """Not the product's own client: what this says of the API, it says independently."""

    def create(self, server_id: str, **wanted: Any) -> dict[str, Any]:
        """Clone a server; the group with its new servers and records."""
        response, body = self.post(
            f"servers/{server_id}/action", json.dumps({"trustedClone": wanted})
        )
        found: dict[str, Any] = self._content(202, response, body, "trusted_clones")
        return found

    def list_clones(self, server_id: str) -> list[dict[str, Any]]:
        """Every record in which the server is source or clone, newest first."""
        response, body = self.get(f"servers/{server_id}/trusted-clones")
        found: list[dict[str, Any]] = self._content(200, response, body, "trusted_clones")
        return found

    def show(self, server_id: str, clone_id: str) -> dict[str, Any]:
        """One record."""
        response, body = self.get(f"servers/{server_id}/trusted-clones/{clone_id}")
        found: dict[str, Any] = self._content(200, response, body, "trusted_clone")
        return found

    def evidence(self, server_id: str, clone_id: str) -> dict[str, Any]:
        """The evidence of a complete clone."""
        response, body = self.get(f"servers/{server_id}/trusted-clones/{clone_id}/evidence")
        found: dict[str, Any] = self._content(200, response, body, "evidence")
        return found

    def abort(self, server_id: str, clone_id: str) -> None:
        """End a clone that is not complete."""
        response, _body = self.delete(f"servers/{server_id}/trusted-clones/{clone_id}")
        self.expected_success(202, response.status)

    def _content(self, status: int, response: Any, body: Any, name: str) -> Any:
        self.expected_success(status, response.status)
        return json.loads(body)[name]
