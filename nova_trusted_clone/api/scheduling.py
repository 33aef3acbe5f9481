"""Nova's conductor, asked for each server of a request alone, so that each has other hosts to go to.

Of servers that are scheduled together Nova takes no host that one of them was given as an alternative for another
(nova.scheduler.manager, ``_get_alternate_hosts``). As many clones as there are hosts would have none left: one that its host
refuses would end, whatever room the others have. And where there is room for some of them only, none would come to be.

Leans on nova.conductor.api.ComputeTaskAPI, through which nova.compute.api.API hands servers to the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nova.conductor import api as conductor


class EachAlone(conductor.ComputeTaskAPI):
    """As Nova's, but servers that were made by one request are scheduled one by one."""

    def schedule_and_build_instances(
        self,
        context: Any,
        build_requests: Sequence[Any],
        request_spec: Sequence[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As Nova's, once for each server.

        :param request_spec: one for each of ``build_requests``, in their order
        """
        for request, spec in zip(build_requests, request_spec, strict=True):
            super().schedule_and_build_instances(context, [request], [spec], *args, **kwargs)
