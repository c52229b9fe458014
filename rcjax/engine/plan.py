from rcjax.engine.planning import Change as Change
from rcjax.engine.planning import Plan as Plan
from rcjax.engine.planning import PlannedBlock as PlannedBlock
from rcjax.engine.planning import Stored as Stored
from rcjax.engine.planning import WritePlan as WritePlan
