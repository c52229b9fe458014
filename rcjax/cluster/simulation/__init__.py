"""A discrete-event simulation of a cluster, which drives the dispatcher, policies, residency and owners that serve."""

from rcjax.cluster.arrivals import bursty_gaps as bursty_gaps
from rcjax.cluster.arrivals import poisson_gaps as poisson_gaps
from rcjax.cluster.simulation.arm import Reuse as Reuse
from rcjax.cluster.simulation.arm import SimulatedArm as SimulatedArm
from rcjax.cluster.simulation.capacity import capacity_per_s as capacity_per_s
from rcjax.cluster.simulation.cluster import Cluster as Cluster
from rcjax.cluster.simulation.cluster import simulate as simulate
from rcjax.cluster.simulation.costs import MODELLED_8B as MODELLED_8B
from rcjax.cluster.simulation.costs import CostTable as CostTable
from rcjax.cluster.simulation.costs import PassSize as PassSize
from rcjax.cluster.simulation.costs import TimedPass as TimedPass
from rcjax.cluster.simulation.outcome import Outcome as Outcome
from rcjax.cluster.simulation.sources import Link as Link
from rcjax.cluster.simulation.workload import Workload as Workload
from rcjax.cluster.simulation.workload import generated as generated
from rcjax.cluster.simulation.workload import recorded as recorded
