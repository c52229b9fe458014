"""What a deployment can choose, as plain pydantic models; start-up turns them into arms, shapes and parts."""

from rcjax.config.admission import AdmissionSettings as AdmissionSettings
from rcjax.config.admission import CallerSettings as CallerSettings
from rcjax.config.arms import ArmSettings as ArmSettings
from rcjax.config.cache import CacheSettings as CacheSettings
from rcjax.config.cache import SemanticSettings as SemanticSettings
from rcjax.config.catalogue import CatalogueSettings as CatalogueSettings
from rcjax.config.catalogue import read_catalogue as read_catalogue
from rcjax.config.cluster import ClusterSettings as ClusterSettings
from rcjax.config.limits import Limits as Limits
from rcjax.config.mesh import MeshSettings as MeshSettings
from rcjax.config.mesh import SchedulerSettings as SchedulerSettings
from rcjax.config.server import ServerSettings as ServerSettings
from rcjax.config.settings import Settings as Settings
from rcjax.config.settings import load_settings as load_settings
from rcjax.config.shapes import ShapeSettings as ShapeSettings
from rcjax.config.shapes import ShapeSize as ShapeSize
from rcjax.config.snapshot import SnapshotSettings as SnapshotSettings
from rcjax.config.teacher import TeacherSettings as TeacherSettings
from rcjax.config.telemetry import TelemetrySettings as TelemetrySettings
from rcjax.config.train import ClearHistories as ClearHistories
from rcjax.config.train import Lora as Lora
from rcjax.config.train import NewModel as NewModel
from rcjax.config.train import TrainSettings as TrainSettings
