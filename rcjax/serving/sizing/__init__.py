"""What a deployment takes and holds, worked out before anything is started (`rcjax plan`)."""

from rcjax.serving.sizing.chips import CHIPS as CHIPS
from rcjax.serving.sizing.chips import CPU as CPU
from rcjax.serving.sizing.chips import Chip as Chip
from rcjax.serving.sizing.chips import chip_of as chip_of
from rcjax.serving.sizing.report import Sizing as Sizing
from rcjax.serving.sizing.seconds import MODELLED as MODELLED
from rcjax.serving.sizing.seconds import TIMED as TIMED
from rcjax.serving.sizing.seconds import BuildRate as BuildRate
from rcjax.serving.sizing.sizing import size_deployment as size_deployment
from rcjax.serving.sizing.traffic import Traffic as Traffic
