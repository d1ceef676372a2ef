"""The application on Ray Serve, for more than one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normgate.lazily import missing
from normgate.serving.errors import ServingError

if TYPE_CHECKING:
    import os

    from starlette.applications import Starlette

    from normgate.serving.options import Options


def ray_application(gate: str | os.PathLike[str], options: Options | None = None, **settings: Any) -> Any:
    """A gate as an application for `ray.serve.run`; each replica loads the gate and has a queue and counts of its own.

    Args:
        gate: its folder, at the same place on each machine.
        options: limits and additions. With a shift alarm, divide its delta by the number of replicas.
        settings: of Ray's deployment, such as `num_replicas` and `ray_actor_options`.

    Raises:
        ServingError: Ray Serve is not installed, or several replicas were to keep their alarms in one file.
    """
    several = settings.get("num_replicas") not in (None, 1) or settings.get("autoscaling_config") is not None
    if options is not None and options.shift_state is not None and several:
        raise ServingError("replicas have an alarm each, and one file cannot keep them: leave out shift_state")
    if missing("ray") or missing("ray.serve"):
        raise ServingError("more than one machine needs Ray Serve: pip install 'normgate[ray]'")
    from ray import serve

    place = str(gate)

    def build() -> Starlette:
        from normgate.serving.application import create_application

        return create_application(place, options)

    deployment: Any = serve.deployment(**{"name": "normgate", "max_ongoing_requests": 256, **settings})
    return deployment(serve.ingress(build)()).bind()
