"""What a router goes by: from settings to what it lets in, the owners of items and the policy that chooses slices."""

from rcjax.cache.placement import Placement
from rcjax.config import AdmissionSettings, CallerSettings, MeshSettings, SchedulerSettings
from rcjax.serving.admission_limits import AdmissionLimits, CallerLimits
from rcjax.serving.owners import Everywhere, Hashed, ItemOwners, OwnerRule, Placed
from rcjax.serving.scheduler import Affinity, HitOnly, LeastLoaded, Policy, RoundRobin, Time


def owners_of(settings: MeshSettings) -> ItemOwners:
    """ValueError for a file that is no placement, or one on another number of slices."""
    return ItemOwners(_rule(settings))


def _rule(settings: MeshSettings) -> OwnerRule:
    file = settings.placement_file
    if file is None:
        return Everywhere(settings.slices) if settings.placement == "all" else Hashed(settings.slices)
    try:
        placement = Placement.load(file)
    except FileNotFoundError as error:
        raise ValueError(
            f"mesh.placement={str(file)!r} is no file; give all, hash, or what rcjax place wrote"
        ) from error
    if placement.num_slices != settings.slices:
        raise ValueError(
            f"mesh.placement={str(file)!r} is on {placement.num_slices} slices, and mesh.slices={settings.slices}; "
            f"compute one with rcjax place --slices {settings.slices}"
        )
    return Placed(placement)


def policy_of(settings: SchedulerSettings) -> Policy:
    policies: dict[str, Policy] = {
        "time": Time(),
        "affinity": Affinity(settings.alpha, settings.beta),
        "round_robin": RoundRobin(),
        "least_loaded": LeastLoaded(),
        "hit_only": HitOnly(),
    }
    return policies[settings.policy]


def limits_of(settings: AdmissionSettings) -> AdmissionLimits:
    return AdmissionLimits(
        max_queue_s=settings.max_queue_s,
        max_writes_s=settings.max_writes_s,
        default_deadline_s=settings.default_deadline_s,
        default_caller=_caller_limits(settings.default_caller),
        callers={name: _caller_limits(one) for name, one in settings.callers.items()},
    )


def _caller_limits(settings: CallerSettings) -> CallerLimits:
    return CallerLimits(settings.arms, settings.requests_per_s, settings.burst)
